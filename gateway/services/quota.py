"""How many requests a project has left in its day or month, by the calendar in UTC.

Counted here at once, and brought soon after to a counter that all processes share, if there is one. Invariants: no
quota is over because something failed, and what was used is shared at most once, whatever becomes of a reply.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from msgspec import Struct

from config.backends import Redis
from config.clients import Quota
from config.rates import Rates
from config.reload import Live
from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.ports import Clock, Usage, UsageCounter
from gateway.resilience.guard import Guard
from gateway.telemetry import Outage, log_event

BATCH: Final = 500
"""Projects whose use is brought in one round trip."""
KEPT_S: Final = 3600
"""How long a shared count outlives its period, for processes whose clock is behind."""
CLOSE_TIMEOUT_S: Final = 1.0

Amounts = tuple[tuple[str, int], ...]
"""How much there is of each period, by the period's name."""


class SharedCounter(Struct):
    """A counter for all processes, what stands before it, and how long one call of it may take."""

    counter: UsageCounter
    guard: Guard
    timeout_s: float

    def adopt(self, settings: Redis) -> None:
        self.timeout_s = settings.call_timeout_s


class _Period(Struct, frozen=True):
    label: str
    starts_at: datetime
    ends_at: datetime


class _Used:
    """What a project used of a period: `known` with what others did, as last read, and `unsent`, which they lack."""

    __slots__ = ("known", "label", "unsent")

    def __init__(self, label: str) -> None:
        self.label = label
        self.known = 0
        self.unsent = 0


_Project = dict[str, _Used]
"""What is used of each period, by the period's name."""


class QuotaService:
    """Use as an async context manager: it owns the task that brings and reads what is shared."""

    def __init__(self, live: Live, clock: Clock, metrics: Metrics, shared: SharedCounter | None = None) -> None:
        self._live = live
        self._clock = clock
        self._metrics = metrics
        self._shared = shared
        self._periods = _periods_at(clock.now())
        self._projects: OrderedDict[str, _Project] = OrderedDict()
        self._unsent: dict[str, _Project] = {}
        self._follow(live.settings.quota)
        self._is_reached = False
        self._outage = Outage("quota_sync")
        self._beat_at = clock.monotonic()
        self._task: asyncio.Task[None] | None = None
        metrics.at_scrape(lambda: metrics.quota_projects.set(len(self._projects)))

    def __repr__(self) -> str:
        most = self._settings.max_projects
        return f"<QuotaService {len(self._projects)}/{most} projects, {len(self._unsent)} unsent>"

    async def __aenter__(self) -> "QuotaService":
        if self._shared is not None:
            self._metrics.at_scrape(lambda: self._metrics.heartbeat("quota", self._clock.monotonic() - self._beat_at))
            self._task = asyncio.create_task(self._keep_syncing())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._go_round()

    def spend(self, token: str, units: int = 1) -> bool:
        """Whether the project still had this much; if so, it has been counted."""
        if self._live.settings.quota is not self._settings:
            self._follow(self._live.settings.quota)
        if not self._has_quotas or not units:
            return True
        amounts = self._single.get(token, self._default)
        if not amounts:
            return True
        periods = self._current(self._clock.now())
        project = self._project(token)
        counts = [_used(project, name, periods[name].label) for name, _ in amounts]
        for used, (_, amount) in zip(counts, amounts, strict=True):
            if used.known + used.unsent + units > amount:
                self._metrics.over_quota.inc()
                return False
        for used in counts:
            used.unsent += units
        if self._shared is not None:
            self._keep_unsent(token, project)
        return True

    async def sync(self) -> None:
        """Bring to the others what was used here, and read what all of them used; what fails is for the next time."""
        shared = self._shared
        if shared is None:
            return
        for _ in range(0, len(self._unsent), BATCH):  # What comes meanwhile is for the next time.
            try:
                # What is sent into an outage would have to be taken for counted, so somebody must be there first.
                if not self._is_reached:
                    await shared.guard.call(shared.counter.reach, shared.timeout_s)
                self._is_reached = False
                is_taken = await shared.guard.call(lambda: self._bring(shared.counter), shared.timeout_s)
            except StoreError as error:
                self._outage.failed(error)
                self._metrics.quota_synced("failed")
                return
            self._is_reached = True
            self._outage.succeeded()
            self._metrics.quota_synced("ok" if is_taken else "refused")

    async def _bring(self, counter: UsageCounter) -> bool:
        """Whether one batch was counted whole. It is taken where it is sent: a call that is not made takes nothing."""
        now = self._clock.now()
        batch = []
        for token in list(islice(self._unsent, BATCH)):
            project = self._unsent.pop(token)
            for name, period in self._current(now).items():
                used = project.get(name)
                if used is not None and used.unsent and used.label == period.label:
                    ttl_s = int((period.ends_at - now).total_seconds()) + KEPT_S
                    usage = Usage(token, period.label, used.unsent, ttl_s)
                    used.known, used.unsent = used.known + usage.units, 0
                    batch.append((usage, project, used))
        try:
            totals = await counter.add([usage for usage, _, _ in batch]) if batch else ()
        except BaseException:  # Also when it was given up: it may have been counted, and is not brought again.
            self._metrics.quota_lost.inc(sum(usage.units for usage, _, _ in batch))
            raise
        for (usage, project, used), total in zip(batch, totals, strict=True):
            if total is not None:
                used.known = max(used.known, total)
            elif self._unsent.setdefault(usage.token, project) is project:
                used.known, used.unsent = used.known - usage.units, used.unsent + usage.units
            else:
                self._metrics.quota_lost.inc(usage.units)
        return None not in totals

    async def _keep_syncing(self) -> None:
        while True:
            await asyncio.sleep(self._live.settings.quota.sync_s)
            await self._go_round()

    async def _go_round(self) -> None:
        try:
            await self.sync()
        except Exception as error:  # A bug in an adapter must not end syncing for good.
            log_event("quota_sync_crashed", logging.ERROR, exception=error)
        self._beat_at = self._clock.monotonic()

    def _project(self, token: str) -> _Project:
        """What the project used; the one that was not asked for longest makes room for a new one."""
        project = self._projects.get(token)
        if project is not None:
            self._projects.move_to_end(token)
            return project
        project = self._projects[token] = self._unsent.get(token, {})
        while len(self._projects) > self._settings.max_projects:
            self._projects.popitem(last=False)
        return project

    def _keep_unsent(self, token: str, project: _Project) -> None:
        """Have it brought; beyond the bound, what waited longest is not brought any more."""
        if token not in self._unsent and len(self._unsent) >= self._settings.max_projects:
            for used in self._unsent.pop(next(iter(self._unsent))).values():
                self._metrics.quota_lost.inc(used.unsent)
                used.known, used.unsent = used.known + used.unsent, 0
        self._unsent[token] = project

    def _current(self, now: datetime) -> Mapping[str, _Period]:
        """The periods by name, of which new ones begin when it is time. A clock that was wrong may also go back."""
        day = self._periods["day"]
        if not day.starts_at <= now < day.ends_at:
            self._periods = _periods_at(now)
        return self._periods

    def _follow(self, settings: Quota) -> None:
        """Go by these settings from now on; what was used stays counted."""
        self._settings = settings
        self._default = _amounts(settings.project)
        self._single = {token: _amounts(settings.projects.get(token)) for token in settings.projects}
        self._has_quotas = bool(self._default) or any(self._single.values())


def _amounts(rates: Rates | None) -> Amounts:
    return tuple((item.GRANULARITY.name, item.amount) for item in rates.items) if rates else ()


def _used(project: _Project, name: str, label: str) -> _Used:
    """What the project used of the period with this name, which may have just begun."""
    used = project.get(name)
    if used is None or used.label != label:
        used = project[name] = _Used(label)
    return used


def _periods_at(now: datetime) -> Mapping[str, _Period]:
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    month = day.replace(day=1)
    return {
        "day": _Period(f"{day:%Y-%m-%d}", day, day + timedelta(days=1)),
        "month": _Period(f"{day:%Y-%m}", month, (month + timedelta(days=31)).replace(day=1)),
    }
