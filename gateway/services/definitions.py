"""Where definitions come from: the shared cache, then the store; and the disk, when neither can tell.

Holding and compiling them is in snapshots.py. Invariant: the shared cache is filled only where it was seen to lack
something, never when it failed, and no faster than its limits allow - however many processes are cold at once.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from msgspec import Struct

from config.backends import Redis
from gateway.errors import StoreError, StoreUnavailable
from gateway.metrics import Metrics
from gateway.ports import UNPUBLISHED, Definitions, DefinitionStore, LastGood, LastGoodStore, SharedCache
from gateway.resilience.guard import Guard
from gateway.resilience.token_bucket import TokenBucket
from gateway.telemetry import Outage, log_event

T = TypeVar("T")

MAX_TOKENS_PER_QUERY: Final = 500
VERSIONS_TIMEOUT_S: Final = 3.0
LOAD_TIMEOUT_S: Final = 10.0
CLAIM_TTL_S: Final = 2.0
CLAIM_WAITS: Final = 4
CLAIM_WAIT_S: Final = 0.1
"""How often, and how long each time, a process waits for the one that has claimed a load, before it loads as well."""


class Found(Struct, frozen=True):
    """Definitions, where they came from, and whether the shared cache was seen to lack them."""

    definitions: Definitions
    source: str
    is_fill_wanted: bool = False


class Versions(Struct, frozen=True):
    """Versions by token. Only when `is_complete` does a token left out belong to no project."""

    by_token: Mapping[str, int]
    is_complete: bool


class Shared(Struct):
    """The shared cache with what bounds its use."""

    cache: SharedCache
    guard: Guard
    timeout_s: float
    entries: TokenBucket
    bytes: TokenBucket

    def adopt(self, settings: Redis) -> None:
        """Keep to these bounds from the next call and the next fill on. A second's worth of fills may come at once."""
        self.timeout_s = settings.call_timeout_s
        self.entries.adopt(settings.max_fills_per_s, max(1.0, settings.max_fills_per_s))
        self.bytes.adopt(settings.max_fill_bytes_per_s, settings.max_fill_bytes_per_s)


class DefinitionService:
    def __init__(
        self,
        store: DefinitionStore,
        guard: Guard,
        metrics: Metrics,
        *,
        shared: Shared | None = None,
        disk: LastGoodStore | None = None,
    ) -> None:
        self._store = store
        self._guard = guard
        self._metrics = metrics
        self._shared = shared
        self._disk = disk
        self._store_outage = Outage("definition_store")
        self._cache_outage = Outage("shared_cache")

    def __repr__(self) -> str:
        return f"<DefinitionService {self._guard!r}, {self._shared!r}>"

    async def load(self, token: str, version: int | None = None) -> Found | None:
        """The definitions, of at least this version if one is given. None says that no project has the token.

        Raises StoreError when neither the shared cache has them nor the store can tell.
        """
        cached, is_missing = await self._cached(token, version)
        if cached is not None:
            return Found(cached, "redis")
        if is_missing and not await self._claim(token):
            cached = await self._wait_for_other(token, version)
            if cached is not None:
                return Found(cached, "redis")
        definitions = await self._from_store(partial(self._store.load_definitions, token), LOAD_TIMEOUT_S, token)
        if definitions is not None and definitions.version == UNPUBLISHED:
            # Nobody's failure, and therefore not told to the breaker: the project is there, and its first build is not.
            raise StoreUnavailable(f"project {definitions.project_id} is not published yet")
        self._metrics.loaded("store", "miss" if definitions is None else "hit")
        return None if definitions is None else Found(definitions, "store", is_fill_wanted=is_missing)

    async def versions(self, tokens: Sequence[str]) -> Versions:
        """The current versions as the store knows them, or else the shared cache. Raises StoreError if neither does."""
        chunks = [tokens[at : at + MAX_TOKENS_PER_QUERY] for at in range(0, len(tokens), MAX_TOKENS_PER_QUERY)]
        found: dict[str, int] = {}
        try:
            for chunk in chunks:
                ask = partial(self._store.definitions_versions, chunk)
                found |= await self._from_store(ask, VERSIONS_TIMEOUT_S)
            return Versions(found, is_complete=True)
        except StoreError:
            if self._shared is None:
                raise
            for chunk in chunks:
                found |= await self._from_cache(partial(self._shared.cache.definitions_versions, chunk))
            return Versions(found, is_complete=False)

    async def is_answering(self, time_left_s: float) -> bool:
        """Whether the store answers, or the disk has anything to start from."""
        try:
            # No project has this token; that the store says so is what matters.
            await self._from_store(partial(self._store.definitions_versions, [""]), time_left_s)
        except StoreError:
            return self._disk is not None and await self._disk.has_any()
        return True

    async def load_last_good(self, token: str) -> LastGood | None:
        """What the disk has, however old."""
        if self._disk is None:
            return None
        last = await self._disk.load_definitions(token)
        self._metrics.loaded("disk", "miss" if last is None else "hit")
        return last

    @property
    def has_disk(self) -> bool:
        return self._disk is not None

    def keep(self, token: str, definitions: Definitions) -> None:
        """These are current: they are what to start from, should everything else be down."""
        if self._disk is not None:
            self._disk.keep_definitions(token, definitions)

    async def fill(self, token: str, definitions: Definitions) -> None:
        """Offer to the shared cache what it lacks, as far as its limits allow. Raises nothing."""
        shared = self._shared
        if shared is None:
            return
        if shared.bytes.level() <= 0 or not shared.entries.take():
            self._metrics.filled("limited")
            return
        # Owed before it is known, so that fills under way at the same time see each other.
        owed = len(definitions.document)
        shared.bytes.owe(owed)
        try:
            written = await self._from_cache(partial(shared.cache.keep_definitions, token, definitions))
        except StoreError:
            self._metrics.filled("failed")
            return
        shared.bytes.owe(written - owed)
        self._metrics.filled("written" if written else "unneeded", written)

    async def forget(self, token: str) -> None:
        """No project has the token any more, as the store has said. Raises nothing."""
        if self._disk is not None:
            self._disk.forget_definitions(token)
        if self._shared is not None:
            cache = self._shared.cache
            try:
                await self._from_cache(partial(cache.forget_definitions, token))
            except StoreError:
                return  # Told of already; the entry expires by itself.

    async def _cached(self, token: str, version: int | None) -> tuple[Definitions | None, bool]:
        """The entry of the shared cache, if it will do; and whether it was seen to lack one that does."""
        if self._shared is None:
            return None, False
        cache = self._shared.cache
        try:
            cached = await self._from_cache(partial(cache.load_definitions, token))
        except StoreError:
            self._metrics.loaded("redis", "error")
            return None, False
        if cached is not None and (version is None or cached.version >= version):
            self._metrics.loaded("redis", "hit")
            return cached, False
        self._metrics.loaded("redis", "miss")
        return None, True

    async def _claim(self, token: str) -> bool:
        assert self._shared is not None  # noqa: S101 - an entry was found missing in it
        cache = self._shared.cache
        try:
            return await self._from_cache(partial(cache.claim, token, CLAIM_TTL_S))
        except StoreError:
            return True  # Who cannot ask for leave does not need it.

    async def _wait_for_other(self, token: str, version: int | None) -> Definitions | None:
        """What the process that has the claim puts into the shared cache, if it does so soon."""
        for _ in range(CLAIM_WAITS):
            await asyncio.sleep(CLAIM_WAIT_S)
            cached, is_missing = await self._cached(token, version)
            if cached is not None or not is_missing:
                return cached
        return None

    async def _from_store(
        self, call: Callable[[], Coroutine[Any, Any, T]], timeout_s: float, key: str | None = None
    ) -> T:
        try:
            found = await self._guard.call(call, timeout_s, key)
        except Exception as error:
            self._metrics.loaded("store", "error")
            raise _told(self._store_outage, error) from error
        self._store_outage.succeeded()
        return found

    async def _from_cache(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        assert self._shared is not None  # noqa: S101 - called with a call of it
        try:
            found = await self._shared.guard.call(call, self._shared.timeout_s)
        except Exception as error:
            raise _told(self._cache_outage, error) from error
        self._cache_outage.succeeded()
        return found


def _told(outage: Outage, error: Exception) -> StoreError:
    """The error as a StoreError, logged when an outage begins; a bug in an adapter is logged each time."""
    if isinstance(error, StoreError):
        outage.failed(error)
        return error
    log_event("adapter_crashed", logging.ERROR, exception=error)
    return StoreError(f"{type(error).__name__}: {error}")
