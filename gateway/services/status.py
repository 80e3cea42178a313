"""How this process stands: what is not as it should be, since when, and why.

Found out from what is known already - breakers, watches, ages - once per second; nobody is asked for it. Invariant:
telling it takes a moment, whatever is down, and one part that cannot be told hides no other.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from config.reload import Live
from gateway.metrics import Metrics
from gateway.ports import Clock
from gateway.resilience.call_watch import CallWatch
from gateway.services.limits import LimitService
from gateway.services.snapshots import SnapshotService
from gateway.standing import Freshness, Level, Standing, WorkerReport, worst
from gateway.telemetry import log_event

LOOK_S: Final = 1.0
SHED_S: Final = 10.0
"""How long after a refusal for want of room there still is too much to do."""
CLOSE_TIMEOUT_S: Final = 1.0


class Finding(Struct, frozen=True):
    """How something is, and why not better."""

    level: Level = Level.OK
    why: str | None = None
    breaker: str | None = None


Check = Callable[[], Finding]
WELL: Final = Finding()


def finding(problem: str | None) -> Finding:
    """Not well if there is a problem."""
    return WELL if problem is None else Finding(Level.DEGRADED, problem)


class StatusService:
    """Use as an async context manager, once everything is watched."""

    def __init__(self, live: Live, clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self._checks: dict[str, Check] = {}
        self._standings: dict[str, Standing] = {}
        self._level, self._since = Level.OK, clock.now()
        self._felt, self._felt_since = Level.OK, self._since
        self._snapshots = Freshness()
        self._task: asyncio.Task[None]

    def __repr__(self) -> str:
        return f"<StatusService {self._level}, {len(self._checks)} watched>"

    async def __aenter__(self) -> "StatusService":
        self._task = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)

    def watch(self, name: str, check: Check, kind: str | None = None) -> None:
        """Have `check` asked how `name` is; `kind` says what callers get, if the name does not."""
        self._checks[name] = check
        self._standings[name] = Standing(name=name, kind=kind or name, since=self._clock.now())

    def watch_calls(self, watches: Mapping[str, CallWatch]) -> None:
        """The same for dependencies that are called through a guard."""
        for name, watch in watches.items():
            self.watch(name, lambda watch=watch: _of_calls(watch))  # type: ignore[misc]

    def watch_snapshots(self, snapshots: SnapshotService) -> None:
        """The same for definitions in memory, and for projects of which there are none."""
        self.watch("snapshots", lambda: self._of_ages(snapshots.freshness()), "definitions")
        self.watch("projects", lambda: self._of_projects(snapshots.has_disk), "cold")

    def look(self) -> None:
        """Find out anew how everything is."""
        now = self._clock.now()
        for name, check in self._checks.items():
            try:
                found = check()
            except Exception as error:  # Whatever broke, the rest is still to be told.
                log_event("status_check_crashed", logging.ERROR, what=name, exception=error)
                found = Finding(Level.UNKNOWN, "it could not be found out")
            old = self._standings[name]
            since = old.since if old.level is found.level else now
            self._standings[name] = replace(old, level=found.level, since=since, why=found.why, breaker=found.breaker)
        standings = self._standings.values()
        level = worst(it.level for it in standings if it.level is not Level.UNKNOWN)
        if level is not self._level:
            affected = ", ".join(it.name for it in standings if it.effect is not None)
            log_event("status_changed", logging.WARNING if affected else logging.INFO, status=level.value,
                      before=self._level.value, affected=affected or None)  # fmt: skip
            self._level, self._since = level, now
        felt = worst(it.level for it in standings if it.is_felt)
        if felt is not self._felt:
            self._felt, self._felt_since = felt, now

    def report(self) -> WorkerReport:
        """All of it, for operators."""
        self.look()
        return WorkerReport(
            level=self._level,
            since=self._since,
            generation=self._live.generation,
            snapshots=self._snapshots,
            standings=tuple(self._standings.values()),
        )

    def felt(self) -> WorkerReport:
        """What callers notice anyway, as of the last look."""
        return WorkerReport(
            level=self._felt,
            since=self._felt_since,
            standings=tuple(it for it in self._standings.values() if it.is_felt),
        )

    def _of_ages(self, found: Freshness) -> Finding:
        self._snapshots = found
        old = found.stale + found.expired
        problem = f"projects not compared with the store for up to {found.oldest_s:.0f} s: {old}"
        return finding(problem if old else None)

    def _of_projects(self, has_disk: bool) -> Finding:
        found, settings = self._snapshots, self._live.settings.snapshots
        served = found.fresh + found.stale
        refused = found.unavailable
        if settings.on_hard_ttl == "fail":
            refused += found.expired
        else:
            served += found.expired
        if refused:
            return Finding(Level.DEGRADED if served else Level.FAILING, f"projects that cannot be had: {refused}")
        store = self._standings.get("definitions")
        if not served and not has_disk and store is not None and store.effect is not None:
            return Finding(Level.FAILING, "nothing is in memory, and the store does not answer")
        return WELL

    async def _keep_looking(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)


def of_load(metrics: Metrics, clock: Clock) -> Check:
    """Whether requests are being refused for want of room."""
    known, until = metrics.sheds, clock.monotonic()

    def check() -> Finding:
        nonlocal known, until
        if metrics.sheds != known:
            known, until = metrics.sheds, clock.monotonic() + SHED_S
        is_full = clock.monotonic() < until
        return finding("requests are being refused: more come than can be answered" if is_full else None)

    return check


def of_limits(limits: LimitService) -> Check:
    """Whether the limit on addresses is enforced."""
    return lambda: finding("; ".join(it.text for it in limits.suspicions()) or None)


def _of_calls(watch: CallWatch) -> Finding:
    level = Level.OK if watch.problem is None else Level.DEGRADED if watch.is_needed else Level.UNKNOWN
    return Finding(level, watch.problem, watch.breaker.value)
