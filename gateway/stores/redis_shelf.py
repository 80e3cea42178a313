"""The builder's way into the shared cache: documents of any size, part by part, looked at as they arrived.

Keys and pointers are redis.py's. Invariant: nothing is found under a document's key before all of it is there and was
read back; each call is short, however long the document.
"""

import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from config.backends import Redis
from gateway.building_ports import PART_BYTES, Published
from gateway.errors import StoreError
from gateway.stores.envelope import Checking, Corrupt, Packing
from gateway.stores.redis import document_key, is_newer, pointer_key, put_in_force, read_pointer, ttl_of
from gateway.stores.redis_client import CHANNEL, RedisAdapter, connect

STAGING_TTL_S: Final = 60
"""How long a document that was begun and never finished stays."""
PATIENCE: Final = 10
"""Times the timeout of a call for one with a part: nobody waits for it."""


class RedisShelf(RedisAdapter):
    """The shared cache, for those who build."""

    async def holds(self, published: Published) -> bool:
        version = (published.project_id, published.version)
        pointer = await self._pointer(published)
        if pointer != version:
            return is_newer(pointer, version)
        try:
            await self._check(document_key(*version), published)
        except Corrupt:
            async with self._translated():
                await self._client.delete(document_key(*version))
            return False
        return True

    async def keep(self, published: Published, parts: AsyncIterator[bytes]) -> bool:
        version = (published.project_id, published.version)
        if is_newer(await self._pointer(published), version):
            return False
        key = document_key(*version)
        staging = f"{key}:{secrets.token_hex(8)}"
        packing = Packing(*version, published.bytes, compress_above_bytes=self._settings.compress_above_bytes)
        async for part in parts:
            await self._append(staging, packing.add(part))
        await self._append(staging, packing.end())
        try:
            await self._check(staging, published)
        except Corrupt as error:
            raise StoreError(f"redis: a document was read back as something else: {error}") from error
        async with self._translated():
            await self._client.expire(staging, ttl_of(self._settings, published.token))
            await self._client.rename(staging, key)
            is_kept = await put_in_force(self._client, self._settings, published.token, version)
            if is_kept:
                await self._client.publish(CHANNEL, published.project_id)
        return is_kept

    async def _pointer(self, published: Published) -> tuple[int, int] | None:
        async with self._translated():
            return read_pointer(await self._client.get(pointer_key(published.token)))

    async def _append(self, key: str, piece: bytes) -> None:
        if piece:
            async with self._translated():
                await self._client.append(key, piece)
                await self._client.expire(key, STAGING_TTL_S)

    async def _check(self, key: str, published: Published) -> None:
        """Read what is under the key. Raises Corrupt when that is not exactly what was published."""
        checking = Checking(published.project_id, published.version, published.bytes, published.etag)
        async for part in self._parts(key):
            checking.add(part)
        checking.end()

    async def _parts(self, key: str) -> AsyncIterator[bytes]:
        at = 0
        while True:
            async with self._translated():
                part: bytes = await self._client.getrange(key, at, at + PART_BYTES - 1)
            if part:
                yield part
            if len(part) < PART_BYTES:
                return
            at += PART_BYTES

    def _connect(self, settings: Redis) -> Any:
        return connect(_patient(settings))

    def _longest_s(self, settings: Redis) -> float:
        return _patient(settings).call_timeout_s


def _patient(settings: Redis) -> Redis:
    return msgspec.structs.replace(settings, timeout_ms=min(60_000, settings.timeout_ms * PATIENCE))
