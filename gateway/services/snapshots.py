"""Token -> Snapshot from this process's memory, kept up to date with the store in the background.

A snapshot once held is served whatever happens to the store; refreshing is separate work that replaces it or leaves
it. Invariant: a token is refused as unknown only when the store has said so, never because the store failed.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from cachetools import LRUCache
from msgspec import Struct

from config.settings import Snapshots
from evaluator.definitions import InvalidDefinitions
from evaluator.snapshot import Snapshot, build_snapshot
from evaluator.types import Encode
from gateway.errors import AuthenticationFailed, StoreError, Unavailable
from gateway.ports import Clock, Deadline, Definitions, DefinitionStore
from gateway.telemetry import Outage, log_event, masked

T = TypeVar("T")

MAX_TOKEN_CHARACTERS: Final = 256
MAX_FIRST_LOADS: Final = 256
"""How many projects not held may be on their way at once; beyond that a slow store is not asked for more."""
LOAD_TIMEOUT_S: Final = 10.0
"""When a load is given up. A request stops waiting for it at its own deadline, and the next one finds it under way."""
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 30.0
MAX_INLINE_BUILD_BYTES: Final = 32 * 1024
"""Larger documents take milliseconds to compile, so they are compiled beside the event loop."""
MAX_LOGGED_PROBLEMS: Final = 3
CLOSE_TIMEOUT_S: Final = 1.0
"""How long closing waits for tasks it cancelled; an adapter that does not react must not hold the process."""


class _Held:
    """A snapshot, when to compare it with the store next, and the version last seen there, usable or not."""

    __slots__ = ("check_at", "is_refreshing", "retry_s", "seen_version", "snapshot")

    def __init__(self, snapshot: Snapshot, check_at: float) -> None:
        self.snapshot = snapshot
        self.seen_version = snapshot.version
        self.check_at = check_at
        self.retry_s = RETRY_S
        self.is_refreshing = False


class _Absent(Struct, frozen=True):
    """Why there is no snapshot for a token, and until when this need not be asked again."""

    error: type[AuthenticationFailed | Unavailable]
    until: float


class SnapshotService:
    """Use as an async context manager: it owns its background tasks and cancels them when closed."""

    def __init__(self, store: DefinitionStore, encode: Encode, settings: Snapshots, clock: Clock) -> None:
        self._store = store
        self._encode = encode
        self._settings = settings
        self._clock = clock
        self._held: LRUCache[str, _Held] = LRUCache(settings.max_projects)
        # Apart from what is held, so that made-up tokens cannot push out a snapshot.
        self._absent: LRUCache[str, _Absent] = LRUCache(settings.max_unknown_tokens)
        self._first_loads: dict[str, asyncio.Task[Snapshot | _Absent]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outage = Outage("definition_store")

    def __repr__(self) -> str:
        return f"<SnapshotService {len(self._held)} held, {len(self._absent)} absent, {len(self._tasks)} tasks>"

    async def __aenter__(self) -> "SnapshotService":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)

    async def get(self, token: str, deadline: Deadline) -> Snapshot:
        """The project's snapshot, possibly a moment old. Only the first request for a project waits for the store.

        Raises AuthenticationFailed when no project has the token, Unavailable when that cannot be told by the deadline.
        """
        held = self._held.get(token)
        if held is None:
            return await self._first(token, deadline)
        if self._clock.monotonic() >= held.check_at and not held.is_refreshing:
            held.is_refreshing = True
            self._spawn(self._refresh(token, held))
        return held.snapshot

    async def is_ready(self, deadline: Deadline) -> bool:
        """Whether a snapshot can be had now: one is held, or the store answers."""
        if self._held:
            return True
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                # No project has this token; that the store says so is what matters.
                await self._store.definitions_version("")
        except (StoreError, TimeoutError) as error:
            self._outage.failed(error)
            return False
        self._outage.succeeded()
        return True

    async def _first(self, token: str, deadline: Deadline) -> Snapshot:
        absent = self._absent.get(token)
        if absent is not None and self._clock.monotonic() < absent.until:
            raise absent.error
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise AuthenticationFailed
        load = self._first_loads.get(token)
        if load is None:
            if len(self._first_loads) >= MAX_FIRST_LOADS:
                raise Unavailable
            load = self._first_loads[token] = self._spawn(self._load(token))
            load.add_done_callback(lambda _: self._first_loads.pop(token))
        # Not cancelled with the request: others may wait for it, and the next request will want it.
        await asyncio.wait({load}, timeout=max(0.0, deadline.remaining_s()))
        if not load.done():
            raise Unavailable
        outcome = load.result()
        if isinstance(outcome, _Absent):
            raise outcome.error
        return outcome

    async def _load(self, token: str) -> Snapshot | _Absent:
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                definitions = await self._store.load_definitions(token)
            self._outage.succeeded()
            if definitions is None:
                return self._forget(token)
            snapshot = await self._build(token, definitions)
        except Exception as error:  # Whatever broke is a 503 for now, and tried again soon.
            self._tell(token, error)
            return self._remember(token, Unavailable, RETRY_S)
        self._held[token] = _Held(snapshot, self._next_check())
        self._absent.pop(token, None)
        return snapshot

    async def _refresh(self, token: str, held: _Held) -> None:
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                version = await self._store.definitions_version(token)
                is_new = version not in (None, held.seen_version)
                definitions = await self._store.load_definitions(token) if is_new else None
            self._outage.succeeded()
            if version is None:
                self._forget(token)
            elif definitions is not None:
                held.seen_version = definitions.version
                held.snapshot = await self._build(token, definitions)
            held.retry_s = RETRY_S
            held.check_at = self._next_check()
        except Exception as error:  # Whatever broke, the snapshot held stays, and this is tried again.
            self._tell(token, error)
            held.check_at = self._clock.monotonic() + held.retry_s
            held.retry_s = min(held.retry_s * 2, MAX_RETRY_S)
        finally:
            held.is_refreshing = False

    async def _build(self, token: str, definitions: Definitions) -> Snapshot:
        document, version = definitions.document, definitions.version
        if len(document) > MAX_INLINE_BUILD_BYTES:
            snapshot = await asyncio.to_thread(build_snapshot, document, version, self._encode)
        else:
            snapshot = build_snapshot(document, version, self._encode)
        log_event(
            "snapshot_built",
            token=masked(token),
            project_id=snapshot.project_id,
            version=version,
            flags=len(snapshot.flags),
            problems=len(snapshot.problems),
            first_problems="; ".join(map(str, snapshot.problems[:MAX_LOGGED_PROBLEMS])),
        )
        return snapshot

    def _next_check(self) -> float:
        return self._clock.monotonic() + self._settings.refresh_s

    def _forget(self, token: str) -> _Absent:
        self._held.pop(token, None)
        return self._remember(token, AuthenticationFailed, self._settings.unknown_token_ttl_s)

    def _remember(self, token: str, error: type[AuthenticationFailed | Unavailable], ttl_s: float) -> _Absent:
        absent = self._absent[token] = _Absent(error, self._clock.monotonic() + ttl_s)
        return absent

    def _tell(self, token: str, error: Exception) -> None:
        match error:
            case StoreError() | TimeoutError():
                self._outage.failed(error)
            case InvalidDefinitions():
                log_event("definitions_rejected", logging.ERROR, token=masked(token), problems=str(error))
            case _:
                log_event("snapshot_crashed", logging.ERROR, token=masked(token), exception=error)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
