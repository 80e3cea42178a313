"""Token -> Snapshot from this process's memory, kept up to date in the background.

Where definitions come from is in definitions.py. A snapshot once held is served whatever happens to the stores;
refreshing is separate work that replaces it or leaves it. Invariant: a token is refused as unknown only when the store
has said so, never because the store failed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from config.settings import Snapshots
from evaluator.definitions import InvalidDefinitions
from evaluator.snapshot import Snapshot
from gateway.errors import AuthenticationFailed, StoreError, Unavailable
from gateway.metrics import Metrics
from gateway.ports import Clock, Deadline, Definitions
from gateway.resilience.places import Places
from gateway.services.absent import Absent, AbsentTokens
from gateway.services.compiling import Compiler, tell
from gateway.services.definitions import DefinitionService, Found, Versions
from gateway.services.held import Held, HeldSnapshots, spread_of_process
from gateway.standing import Freshness
from gateway.telemetry import log_event

T = TypeVar("T")

MAX_TOKEN_CHARACTERS: Final = 256
MAX_FIRST_LOADS: Final = 256
"""How many projects not held may be on their way at once; beyond that a slow store is not asked for more."""
MAX_FILLS: Final = 64
DISK_GRACE_S: Final = 0.1
"""How long a first request waits for fresh definitions before older ones from disk will do."""
RETRY_S: Final = 1.0
CRASH_PAUSE_S: Final = 1.0
TOLD_SPREAD_S: Final = 0.05
"""Over how long processes that were told of a change spread their questions."""
CLOSE_TIMEOUT_S: Final = 1.0
"""How long closing waits for tasks it cancelled; an adapter that does not react must not hold the process."""


class SnapshotService:
    """Use as an async context manager: it owns its background tasks and cancels them when closed."""

    def __init__(
        self,
        definitions: DefinitionService,
        compiler: Compiler,
        settings: Snapshots,
        clock: Clock,
        metrics: Metrics,
        *,
        spread: Callable[[str], float] | None = None,
    ) -> None:
        self._definitions = definitions
        self._compiler = compiler
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._spread = spread or spread_of_process()
        self.on_change: Callable[[str, Snapshot | None], None] = lambda _token, _snapshot: None
        """Told of each snapshot from when it is held, and of None for a token of no project."""
        self._held = HeldSnapshots(settings.max_bytes, settings.max_projects, metrics.snapshot_evictions.inc)
        self._absent = AbsentTokens(settings.max_unknown_tokens)
        self._first_loads: dict[str, asyncio.Task[Held | Absent]] = {}
        # Apart, so that a request for a project not held does not wait until all changed ones are loaded.
        self._loads = Places(settings.max_loads)
        self._reloads = Places(settings.max_loads)
        self._fills = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_due = asyncio.Event()
        self._refreshed_at = clock.monotonic()
        metrics.at_scrape(self._measure)

    def __repr__(self) -> str:
        return f"<SnapshotService {len(self._held)} held, {len(self._absent)} absent, {len(self._tasks)} tasks>"

    async def __aenter__(self) -> "SnapshotService":
        self._spawn(self._keep_refreshing())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)

    def adopt(self, settings: Snapshots) -> None:
        """Keep to these from now on; what is held stays, as far as there is room."""
        now = self._clock.monotonic()
        self._settings = settings
        self._held = self._held.resized(settings.max_bytes, settings.max_projects)
        self._held.check_within(now, settings.refresh_s)
        self._absent = self._absent.resized(settings.max_unknown_tokens, now + settings.unknown_token_ttl_s)
        self._loads.resize(settings.max_loads)
        self._reloads.resize(settings.max_loads)
        self._is_due.set()

    async def get(self, token: str, deadline: Deadline) -> Held:
        """The project's snapshot, possibly a moment old. Only the first request for a project waits for a store.

        Raises AuthenticationFailed when no project has the token, Unavailable when that cannot be told by the deadline.
        """
        held = self._held.get(token)
        if held is None:
            return await self._first(token, deadline)
        now = self._clock.monotonic()
        if now >= held.check_at and not held.is_loading:
            self._is_due.set()
        if self._settings.on_hard_ttl == "fail" and now - held.confirmed_at > self._settings.hard_ttl_s:
            raise Unavailable
        return held

    def age_s(self, held: Held) -> float:
        """Seconds since the store last said that this is current, or since it came from the shared cache."""
        return self._clock.monotonic() - held.confirmed_at

    @property
    def has_disk(self) -> bool:
        return self._definitions.has_disk

    def freshness(self) -> Freshness:
        """How current the definitions of all projects are that are held, or that somebody asked for in vain."""
        now = self._clock.monotonic()
        return self._held.freshness(now, self._settings, unavailable=self._absent.unavailable(now))

    async def is_ready(self, deadline: Deadline) -> bool:
        """Whether a snapshot can be evaluated now: one is held and not too old, or there is somewhere to get one."""
        if not self._held:
            return await self._definitions.is_answering(deadline.remaining_s())
        if self._settings.on_hard_ttl == "serve":
            return True
        return min(self.age_s(held) for held in self._held.everything.values()) <= self._settings.hard_ttl_s

    def told(self, project_id: int | None) -> None:
        """This project changed; None: any may have."""
        soon = self._clock.monotonic()
        for held in self._held.everything.values():
            if project_id in (None, held.snapshot.project_id):
                # After a gap in the messages everything is due, and is spread over the usual time.
                within_s = self._settings.refresh_s if project_id is None else TOLD_SPREAD_S
                held.check_at = min(held.check_at, soon + held.spread * within_s)
        self._is_due.set()

    async def _first(self, token: str, deadline: Deadline) -> Held:
        absent = self._absent.get(token)
        if absent is not None and self._clock.monotonic() < absent.until:
            raise self._refusal(absent)
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise AuthenticationFailed
        load = self._first_loads.get(token)
        if load is None:
            if len(self._first_loads) >= MAX_FIRST_LOADS:
                raise Unavailable
            load = self._first_loads[token] = self._spawn(self._load_first(token))
            load.add_done_callback(lambda _: self._first_loads.pop(token))
        # Not cancelled with the request: others may wait for it, and the next request will want it.
        await asyncio.wait({load}, timeout=max(0.0, deadline.remaining_s()))
        if not load.done():
            raise Unavailable
        outcome = load.result()
        if isinstance(outcome, Absent):
            raise self._refusal(outcome)
        return outcome

    def _refusal(self, absent: Absent) -> AuthenticationFailed | Unavailable:
        if absent.error is AuthenticationFailed:
            self._metrics.unknown_tokens.inc()
        return absent.error()

    async def _load_first(self, token: str) -> Held | Absent:
        """From the stores, or else from disk; what the stores say later still replaces that."""
        remote = self._spawn(self._load(token))
        if self._definitions.has_disk:
            await asyncio.wait({remote}, timeout=DISK_GRACE_S)
            if not remote.done() or isinstance(remote.result(), Absent):
                held = await self._from_disk(token, remote)
                if held is not None:
                    return held
        return await asyncio.shield(remote)

    async def _from_disk(self, token: str, remote: "asyncio.Task[Held | Absent]") -> Held | None:
        absent = self._absent.get(token)
        if absent is not None and absent.error is AuthenticationFailed:
            return None
        last = await self._definitions.load_last_good(token)
        if last is None:
            return None
        try:
            snapshot = await self._compiler.compile(token, last.definitions, "disk")
        except InvalidDefinitions as error:
            tell(token, error)
            return None
        if remote.done() and not isinstance(fresher := remote.result(), Absent):
            return fresher
        age_s = max(0.0, (self._clock.now() - last.kept_at).total_seconds())
        held = self._hold(token, snapshot, last.definitions, "disk", self._clock.monotonic() - age_s)
        self._absent.pop(token, None)
        if remote.done():
            held.put_off(self._clock.monotonic())
        else:
            held.is_loading = True  # Until `remote` ends, which then says how it stands.
        return held

    async def _load(self, token: str) -> Held | Absent:
        """The project, now held; or why not. Takes its place among the loads under way."""
        now = self._clock.monotonic
        try:
            async with self._loads:
                found = await self._definitions.load(token)
                if found is None:
                    return await self._forget(token)
                snapshot = await self._compiler.compile(token, found.definitions, found.source)
        except Exception as error:  # Whatever broke is a 503 for now, or older definitions; and tried again soon.
            tell(token, error)
            held = self._held.everything.get(token)
            if held is not None:
                held.is_loading = False
                held.put_off(now())
                return held
            return self._remember(token, Unavailable, RETRY_S)
        held = self._hold(token, snapshot, found.definitions, found.source, now())
        if found.source == "store":
            held.confirm(now(), self._settings.refresh_s)
        self._absent.pop(token, None)
        self._pass_on(token, found)
        return held

    async def _reload(self, token: str, held: Held, version: int) -> None:
        """Load the version that the stores have by now."""
        now = self._clock.monotonic
        try:
            async with self._reloads:
                found = await self._definitions.load(token, version)
                if found is None:
                    await self._forget(token)
                    return
                if found.definitions.version < held.seen_version:
                    held.wait(now(), self._settings.refresh_s)  # From a replica that lags behind, or an older cache.
                    return
                held.seen_version = found.definitions.version
                snapshot = await self._compiler.compile(token, found.definitions, found.source)
        except Exception as error:  # Whatever broke, the snapshot held stays, and this is tried again.
            tell(token, error)
            held.put_off(now())
            return
        finally:
            held.is_loading = False
        if self._held.everything.get(token) is held:
            self._hold(token, snapshot, found.definitions, found.source, now())
            held.confirm(now(), self._settings.refresh_s)
            self._metrics.served(self._clock.now().timestamp() - found.definitions.version / 1000)
        self._pass_on(token, found)

    def _hold(self, token: str, snapshot: Snapshot, definitions: Definitions, source: str, confirmed_at: float) -> Held:
        held = self._held.everything.get(token)
        if held is None:
            held = Held(snapshot, definitions, source, confirmed_at, self._spread(token))
        else:
            held.replace(snapshot, definitions, source, confirmed_at)
        held.is_loading = False
        self._held[token] = held  # Again, for its size is another.
        self.on_change(token, snapshot)
        return held

    def _pass_on(self, token: str, found: Found) -> None:
        """Keep what was found for a cold start, and for the other processes if they lack it."""
        self._definitions.keep(token, found.definitions)
        if found.is_fill_wanted and self._fills < MAX_FILLS:
            self._fills += 1
            self._spawn(self._definitions.fill(token, found.definitions)).add_done_callback(self._filled)

    def _filled(self, _: object) -> None:
        self._fills -= 1

    async def _keep_refreshing(self) -> None:
        while True:
            try:
                async with asyncio.timeout(min(1.0, self._settings.refresh_s / 4)):
                    await self._is_due.wait()
            except TimeoutError:
                pass
            self._is_due.clear()
            try:
                await self._refresh()
                self._refreshed_at = self._clock.monotonic()
            except Exception as error:  # Refreshing must not stop for good because it failed once.
                log_event("refresh_crashed", logging.ERROR, exception=error)
                await asyncio.sleep(CRASH_PAUSE_S)

    async def _refresh(self) -> None:
        """Compare with the stores whatever is due, in one go, and load what has changed."""
        now = self._clock.monotonic()
        held = self._held.everything.items()
        due = {token: it for token, it in held if now >= it.check_at and not it.is_loading}
        if not due:
            return
        try:
            versions = await self._definitions.versions(list(due))
        except StoreError:  # Told of where it happened.
            versions = None
        now = self._clock.monotonic()
        for token, it in due.items():
            if self._held.everything.get(token) is not it:
                continue
            if versions is None:
                it.put_off(now)
            else:
                await self._compare(token, it, versions, now)

    async def _compare(self, token: str, held: Held, versions: Versions, now: float) -> None:
        version = versions.by_token.get(token)
        if version is None and versions.is_complete:
            await self._forget(token)
        elif version is None or version < held.seen_version:
            held.wait(now, self._settings.refresh_s)  # A replica, or the shared cache, knows less than we do.
        elif version != held.seen_version:
            held.is_loading = True
            self._spawn(self._reload(token, held, version))
        elif versions.is_complete:
            held.confirm(now, self._settings.refresh_s)
            self._definitions.keep(token, held.definitions)
        else:  # The same in the shared cache says nothing of the store.
            held.wait(now, self._settings.refresh_s)

    async def _forget(self, token: str) -> Absent:
        self._held.pop(token, None)
        self.on_change(token, None)
        absent = self._remember(token, AuthenticationFailed, self._settings.unknown_token_ttl_s)
        await self._definitions.forget(token)
        return absent

    def _remember(self, token: str, error: type[AuthenticationFailed | Unavailable], ttl_s: float) -> Absent:
        absent = self._absent[token] = Absent(error, self._clock.monotonic() + ttl_s)
        return absent

    def _measure(self) -> None:
        now = self._clock.monotonic()
        self._held.measure(now, self._metrics)
        self._metrics.heartbeat("refresh", now - self._refreshed_at)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
