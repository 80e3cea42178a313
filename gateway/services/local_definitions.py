"""Definitions as SDKs that evaluate by themselves get them: made once per project and version, and kept ready.

What is in them is the evaluator's. Invariant: what is kept has a bound in bytes; and however many ask at once, a
version is made once. While that takes too long, or fails, the last good one is served.
"""

import asyncio
import gzip
import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from cachetools import LRUCache
from msgspec import Struct

from config.settings import Snapshots
from evaluator.local_evaluation import local_definitions
from evaluator.remote_config import RemoteConfig, remote_configs
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline, Definitions
from gateway.services.compiling import MAX_INLINE_BYTES
from gateway.services.held import Held
from gateway.telemetry import log_event, masked

T = TypeVar("T")

GZIP_LEVEL: Final = 6
CLOSE_TIMEOUT_S: Final = 1.0
EtagOf = Callable[[bytes], bytes]


class Prepared(Struct, frozen=True):
    """What is answered from one version. `gzipped` is None where it would be no smaller; `configs` are by flag."""

    version: int
    etag: bytes
    body: bytes
    gzipped: bytes | None
    configs: Mapping[str, RemoteConfig]

    @property
    def size_bytes(self) -> int:
        return len(self.body) + len(self.gzipped or b"") + sum(len(it.payload) for it in self.configs.values())


class LocalDefinitionService:
    """Use as an async context manager: closing cancels what is being made."""

    def __init__(self, etag_of: EtagOf, settings: Snapshots, metrics: Metrics) -> None:
        self._etag_of = etag_of
        self._metrics = metrics
        self._prepared = _room_for(settings.max_local_bytes)
        # Kept longer than what they are the tags of, since most clients only ask whether theirs is the present one.
        self._etags: LRUCache[str, tuple[int, bytes]] = LRUCache(settings.max_projects)
        self._builds: dict[tuple[str, int], asyncio.Task[Prepared | None]] = {}
        metrics.at_scrape(lambda: metrics.local_definitions_bytes.set(self._prepared.currsize))

    def __repr__(self) -> str:
        return f"<LocalDefinitionService {len(self._prepared)} prepared, {len(self._builds)} being made>"

    async def __aenter__(self) -> "LocalDefinitionService":
        return self

    async def __aexit__(self, *_: object) -> None:
        builds = set(self._builds.values())
        for build in builds:
            build.cancel()
        if builds:
            await asyncio.wait(builds, timeout=CLOSE_TIMEOUT_S)

    def adopt(self, settings: Snapshots) -> None:
        """Keep this much from now on; what is kept stays, as far as there is room."""
        self._prepared = _moved(self._prepared, _room_for(settings.max_local_bytes))
        self._etags = _moved(self._etags, LRUCache(settings.max_projects))

    def etag(self, held: Held) -> bytes | None:
        """The tag of this version, if it is known, also of one that is not kept any more."""
        version, etag = self._etags.get(held.snapshot.token, (None, None))
        return etag if version == held.snapshot.version else None

    async def get(self, held: Held, deadline: Deadline) -> Prepared:
        """What is answered from this snapshot; or from the one before, when this cannot be had by the deadline.

        Raises Unavailable when there is neither.
        """
        token, version = held.snapshot.token, held.snapshot.version
        prepared = self._prepared.get(token)
        if prepared is not None and prepared.version == version:
            return prepared
        build = self._builds.get((token, version))
        if build is None:
            build = self._builds[token, version] = asyncio.create_task(self._build(token, held.definitions))
            build.add_done_callback(lambda _: self._builds.pop((token, version)))
        # Not cancelled with the request: the next one will want it.
        await asyncio.wait({build}, timeout=max(0.0, deadline.remaining_s()))
        if build.done() and not build.cancelled() and (made := build.result()) is not None:
            return made
        if prepared is None:
            raise Unavailable
        return prepared

    async def _build(self, token: str, definitions: Definitions) -> Prepared | None:
        try:
            if len(definitions.document) > MAX_INLINE_BYTES:
                prepared = await asyncio.to_thread(_prepare, definitions, self._etag_of)
            else:
                prepared = _prepare(definitions, self._etag_of)
        except Exception as error:  # Whatever broke, who asks gets what there was before, or a 503.
            self._metrics.local_definitions_built("failed")
            log_event("local_definitions_failed", logging.ERROR, token=masked(token), exception=error)
            return None
        self._metrics.local_definitions_built("ok")
        self._prepared[token] = prepared
        self._etags[token] = prepared.version, prepared.etag
        return prepared


def _room_for(most: int) -> LRUCache[str, Prepared]:
    return LRUCache(most, getsizeof=lambda it: min(it.size_bytes, most))


def _moved(source: LRUCache[str, T], target: LRUCache[str, T]) -> LRUCache[str, T]:
    """The target, with what was in the source, in the same order of use."""
    while source:
        token, kept = source.popitem()
        target[token] = kept
    return target


def _prepare(definitions: Definitions, etag_of: EtagOf) -> Prepared:
    body = local_definitions(definitions.document)
    gzipped = gzip.compress(body, GZIP_LEVEL, mtime=0)
    return Prepared(
        version=definitions.version,
        etag=etag_of(body),
        body=body,
        gzipped=gzipped if len(gzipped) < len(body) else None,
        configs=remote_configs(definitions.document),
    )
