"""The shared cache in Redis: a pointer from token to project and version, and a document per version.

When to ask, and how much to fill, is decided above. Invariant: documents never change under their key, so a reader
finds a whole version or none; and a writer that lags behind does not put back an older one.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import mmh3

from config.backends import Redis
from gateway.ports import Definitions
from gateway.stores.envelope import Corrupt, pack, unpack
from gateway.stores.redis_client import CHANNEL, PREFIX, RedisAdapter, digest
from gateway.telemetry import log_event

OLD_VERSION_TTL_S: Final = 60
"""How long a version that was replaced stays for those who have just read its pointer."""
MAX_JITTER: Final = 0.1
"""Part of the time to live that is taken off at most, by the token, so that entries do not expire together."""


class RedisCache(RedisAdapter):
    """The shared cache, for those who serve."""

    async def load_definitions(self, token: str) -> Definitions | None:
        async with self._translated():
            pointer = read_pointer(await self._client.get(pointer_key(token)))
            raw = None if pointer is None else await self._client.get(document_key(*pointer))
            if pointer is None or raw is None:
                return None
            try:
                return unpack(raw)
            except Corrupt as error:
                log_event("redis_entry_corrupt", logging.WARNING, project_id=pointer[0], reason=error)
                # Gone, it is missing, and gets filled anew.
                await self._client.delete(document_key(*pointer))
                return None

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        async with self._translated(), self._client.pipeline(transaction=False) as pipeline:
            for token in tokens:
                pipeline.get(pointer_key(token))
            found = await pipeline.execute()
        pointers = {token: read_pointer(raw) for token, raw in zip(tokens, found, strict=True)}
        return {token: pointer[1] for token, pointer in pointers.items() if pointer is not None}

    async def claim(self, token: str, ttl_s: float) -> bool:
        async with self._translated():
            return bool(await self._client.set(_claim_key(token), b"1", nx=True, px=int(ttl_s * 1000)))

    async def keep_definitions(self, token: str, definitions: Definitions) -> int:
        version = (definitions.project_id, definitions.version)
        async with self._translated():
            before = read_pointer(await self._client.get(pointer_key(token)))
            if is_newer(before, version):
                return 0
            envelope = pack(definitions, compress_above_bytes=self._settings.compress_above_bytes)
            if not await self._client.set(document_key(*version), envelope, ex=ttl_of(self._settings, token), nx=True):
                envelope = b""  # Another process was first with the same version.
            await put_in_force(self._client, self._settings, token, version)
            await self._client.delete(_claim_key(token))
            if envelope:
                await self._client.publish(CHANNEL, definitions.project_id)
        return len(envelope)

    async def forget_definitions(self, token: str) -> None:
        async with self._translated():
            await self._client.delete(pointer_key(token))


_PUT_IN_FORCE: Final = """
local before = redis.call('GET', KEYS[1])
if before then
  local project, version = string.match(before, '^(%d+):(%d+)$')
  if project == ARGV[1] and tonumber(version) > tonumber(ARGV[2]) then return before end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'EX', ARGV[3])
return before
"""


async def put_in_force(client: Any, settings: Redis, token: str, version: tuple[int, int]) -> bool:
    """Have readers find this document, of a project and version, from now on; False when there is a newer one.

    In one step, for whoever looks first and writes then may put back what somebody else has replaced in between.
    """
    ttl_s = ttl_of(settings, token)
    before = read_pointer(await client.eval(_PUT_IN_FORCE, 1, pointer_key(token), *map(str, (*version, ttl_s))))
    if is_newer(before, version):
        return False
    await client.expire(document_key(*version), ttl_s)
    if before is not None and before != version:
        await client.expire(document_key(*before), OLD_VERSION_TTL_S)
    return True


def is_newer(found: tuple[int, int] | None, version: tuple[int, int]) -> bool:
    return found is not None and found[0] == version[0] and found[1] > version[1]


def ttl_of(settings: Redis, token: str) -> int:
    """How many seconds the entry of a token lives: not the same for all."""
    part = mmh3.hash(token, signed=False) / 2**32
    return max(1, int(settings.ttl_s * (1 - MAX_JITTER * part)))


def pointer_key(token: str) -> str:
    return f"{PREFIX}token:{digest(token)}"


def _claim_key(token: str) -> str:
    return f"{PREFIX}claim:{digest(token)}"


def document_key(project_id: int, version: int) -> str:
    """What stands in braces decides where a cluster keeps it, so that a document under way can take its place there."""
    return f"{PREFIX}definitions:{{{project_id}:{version}}}"


def read_pointer(raw: bytes | None) -> tuple[int, int] | None:
    """Project id and version; None also when somebody else wrote there."""
    if raw is None:
        return None
    project_id, _, version = raw.partition(b":")
    try:
        return int(project_id), int(version)
    except ValueError:
        return None
