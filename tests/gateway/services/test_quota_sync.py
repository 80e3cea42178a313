"""Sharing what was used: soon, in few round trips, at most once, and without ever refusing anybody for an error."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from config.address import Address
from config.backends import Redis
from config.clients import Quota
from config.rates import Rates
from config.reload import Live
from config.settings import Settings
from gateway.errors import StoreUnavailable
from gateway.metrics import Metrics
from gateway.resilience.guard import Guard
from gateway.services import quota
from gateway.services.quota import QuotaService, SharedCounter
from tests.fake_caches import FakeUsageCounter
from tests.fakes import FakeClock
from tests.gateway.assembly import guarded, services
from tests.gateway.serving import one_project, settle

TODAY = "2026-01-15"
PATIENCE_S = 30.0


class Process:
    """One of those that share a counter."""

    def __init__(
        self, counter: FakeUsageCounter, guard: Guard, limits: Quota | None = None, timeout_s: float = PATIENCE_S
    ) -> None:
        self.live = Live(Settings(quota=limits or Quota(project=Rates("10/day"))))
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.service = QuotaService(self.live, self.clock, self.metrics, SharedCounter(counter, guard, timeout_s))
        self.sync = self.service.sync

    def spend(self, times: int, token: str = "phc_a") -> int:
        """How often there was something left."""
        return sum(self.service.spend(token) for _ in range(times))

    def counted(self, name: str) -> float:
        rows = self.metrics.render().decode().splitlines()
        return next((float(row.split()[1]) for row in rows if row.startswith(f"flagstone_{name} ")), 0.0)


@pytest.fixture
def counter() -> FakeUsageCounter:
    return FakeUsageCounter()


@pytest.fixture
async def guard() -> AsyncIterator[Guard]:
    async with guarded(FakeClock(), "quota", slots=1) as guard:
        yield guard


@pytest.fixture
def process(counter: FakeUsageCounter, guard: Guard) -> Process:
    return Process(counter, guard)


async def test_sync__two_processes__share_one_quota(counter: FakeUsageCounter, guard: Guard) -> None:
    """What one used is missing for the other one too, once both have synced, and nothing is counted twice."""
    one, other = Process(counter, guard), Process(counter, guard)
    assert (one.spend(4), other.spend(3)) == (4, 3)
    await one.sync()
    await other.sync()
    assert other.spend(10) == 3
    await other.sync()
    assert counter.totals["phc_a", TODAY] == 10
    assert one.spend(1) == 1  # It has not heard yet: so much can be had beyond a quota.
    await one.sync()
    assert one.spend(1) == 0
    assert counter.totals["phc_a", TODAY] == 11


async def test_sync__nothing_was_used__asks_nobody(process: Process, counter: FakeUsageCounter) -> None:
    """A process without traffic costs the counter nothing, nor does a project that is over its quota."""
    await process.sync()
    assert process.spend(20) == 10
    await process.sync()
    assert counter.calls == ["reach", "add 1"]
    assert process.spend(20) == 0
    await process.sync()
    assert counter.calls == ["reach", "add 1"]
    assert process.counted('quota_syncs_total{outcome="ok"}') == 1


async def test_sync__many_projects__takes_few_round_trips(
    process: Process, counter: FakeUsageCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call has a bounded number of projects, and all of them get their turn."""
    monkeypatch.setattr(quota, "BATCH", 3)
    for number in range(7):
        process.spend(1, f"phc_{number}")
    await process.sync()
    assert counter.calls == ["reach", "add 3", "add 3", "add 1"]
    assert counter.totals.total() == 7


async def test_sync__day_and_month__are_brought_together(counter: FakeUsageCounter, guard: Guard) -> None:
    """Each period has a count of its own; that of a day which is over is of no use to anybody."""
    process = Process(counter, guard, Quota(project=Rates("10/day; 100/month")))
    process.spend(2)
    process.clock.advance(86_400)
    process.spend(1)
    await process.sync()
    assert counter.totals == {("phc_a", "2026-01-16"): 1, ("phc_a", "2026-01"): 3}


async def test_sync__outage__counts_on_and_brings_it_later(
    process: Process, counter: FakeUsageCounter, caplog: pytest.LogCaptureFixture
) -> None:
    """While nobody counts with it, a process goes by its own count, and loses nothing."""
    counter.error = StoreUnavailable("down")
    assert process.spend(6) == 6
    with caplog.at_level(logging.WARNING):
        await process.sync()
        await process.sync()
    assert [it.getMessage() for it in caplog.records] == ["quota_sync_failed"]
    assert process.spend(10) == 4
    assert process.counted('quota_syncs_total{outcome="failed"}') == 2
    counter.error = None
    await process.sync()
    assert counter.totals["phc_a", TODAY] == 10
    assert process.counted("quota_lost_total") == 0


async def test_sync__reply_is_lost__counts_once_at_most(process: Process, counter: FakeUsageCounter) -> None:
    """What may have been added is not added again; the process itself remembers it, and the rest comes later."""
    process.spend(4)
    counter.reply_error = StoreUnavailable("lost")
    await process.sync()
    process.spend(1)
    counter.error, counter.reply_error = StoreUnavailable("down"), None
    await process.sync()
    counter.error = None
    await process.sync()
    assert counter.totals["phc_a", TODAY] == 5
    assert process.counted("quota_lost_total") == 4
    assert process.spend(10) == 5


async def test_sync__units_did_not_arrive__are_still_counted_here(process: Process, counter: FakeUsageCounter) -> None:
    """A total lower than what this process knows, as after a restart of the counter, gives nobody his quota back."""
    assert process.spend(10) == 10
    await process.sync()
    counter.totals.clear()
    process.live.settings = Settings(quota=Quota(project=Rates("11/day")))
    assert process.spend(10) == 1
    await process.sync()
    assert counter.totals["phc_a", TODAY] == 1
    assert process.spend(1) == 0


async def test_sync__counter_refuses__keeps_it_for_later(process: Process, counter: FakeUsageCounter) -> None:
    """What was certainly not added is brought again, and does not keep others from being counted."""
    counter.refused = {"phc_a"}
    process.spend(3)
    process.spend(2, "phc_b")
    await process.sync()
    assert counter.totals == {("phc_b", TODAY): 2}
    assert process.counted('quota_syncs_total{outcome="refused"}') == 1
    assert process.spend(10) == 7
    counter.refused = set()
    await process.sync()
    assert counter.totals["phc_a", TODAY] == 10
    assert process.counted("quota_lost_total") == 0


async def test_sync__counter_hangs__is_given_up_in_time(counter: FakeUsageCounter, guard: Guard) -> None:
    """A counter that does not answer holds up nothing but its own task, and that for a bounded time."""
    process = Process(counter, guard, timeout_s=0.05)
    process.spend(1)
    counter.gate.clear()
    async with asyncio.timeout(PATIENCE_S):
        await process.sync()
    assert process.counted('quota_syncs_total{outcome="failed"}') == 1
    assert process.spend(10) == 9


async def test_sync__project_was_pushed_out__what_it_used_is_brought(counter: FakeUsageCounter, guard: Guard) -> None:
    """quota.max_projects: what a forgotten project used is shared all the same, and found there when it comes again."""
    process = Process(counter, guard, Quota(project=Rates("10/day"), max_projects=2))
    process.spend(4)
    for number in range(3):
        process.spend(1, f"phc_{number}")
        await process.sync()
    process.spend(1)
    await process.sync()
    assert process.spend(10) == 5
    assert process.counted("quota_lost_total") == 0


async def test_sync__too_many_projects_wait__the_first_is_not_brought(counter: FakeUsageCounter, guard: Guard) -> None:
    """During an outage no more is kept than is bounded; what is dropped then is counted."""
    process = Process(counter, guard, Quota(project=Rates("10/day"), max_projects=2))
    process.spend(3)
    process.spend(1, "phc_b")
    process.spend(1)
    process.spend(1, "phc_c")
    assert process.counted("quota_lost_total") == 4
    await process.sync()
    assert counter.totals == {("phc_b", TODAY): 1, ("phc_c", TODAY): 1}
    assert repr(process.service) == "<QuotaService 2/2 projects, 0 unsent>"


async def test_sync__project_was_pushed_out_meanwhile__refused_units_are_counted_as_lost(
    counter: FakeUsageCounter, guard: Guard
) -> None:
    """What a counter refuses of a project that is counted anew by then is dropped, and not counted twice."""
    process = Process(counter, guard, Quota(project=Rates("10/day"), max_projects=1))
    counter.refused = {"phc_a"}
    counter.gate.clear()
    process.spend(3)
    syncing = asyncio.ensure_future(process.sync())
    await settle()
    process.spend(1, "phc_b")
    process.spend(2)
    counter.gate.set()
    await syncing
    assert process.counted("quota_lost_total") == 3 + 1  # The other project's, for which there was no room either.


async def test_service__every_so_often__syncs(counter: FakeUsageCounter, guard: Guard) -> None:
    """quota.sync_s: what was used is shared that often; with a long one, nobody knows of it for long."""
    async with Process(counter, guard, Quota(project=Rates("10/day"), sync_s=60)).service as seldom:
        seldom.spend("phc_seldom")
        async with Process(counter, guard, Quota(project=Rates("10/day"), sync_s=0.05)).service as often:
            often.spend("phc_often")
            async with asyncio.timeout(PATIENCE_S):
                while not counter.totals:
                    await asyncio.sleep(0.01)
        assert set(counter.totals) == {("phc_often", TODAY)}


async def test_service__adapter_has_a_bug__goes_on(
    counter: FakeUsageCounter, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash is told in the log, the heart goes on beating, and the next round is made as if nothing had happened."""
    process = Process(counter, guard, Quota(project=Rates("10/day"), sync_s=0.05))
    counter.error = RuntimeError("bug")
    async with process.service, asyncio.timeout(PATIENCE_S):
        process.spend(1)
        while not caplog.records:
            await asyncio.sleep(0.01)
        counter.error = None
        process.clock.advance(5)
        while not counter.totals:
            await asyncio.sleep(0.01)
    assert caplog.records[0].getMessage() == "quota_sync_crashed"
    assert process.counted('heartbeat_age_seconds{task="quota"}') == 0


async def test_service__is_closed__brings_what_is_left(counter: FakeUsageCounter, guard: Guard) -> None:
    """A worker that is replaced takes nothing of what was counted with it."""
    process = Process(counter, guard)
    async with process.service:
        process.spend(3)
    assert counter.totals["phc_a", TODAY] == 3


@pytest.mark.parametrize("url", ["redis_server", "cluster_url"])
async def test_service__redis_is_set__counts_for_all(url: str, request: pytest.FixtureRequest) -> None:
    """redis.url: with it every process of a fleet counts the same quota, whatever kind of Redis it is."""
    server = request.getfixturevalue(url)
    fleet = Settings(
        redis=Redis(url=Address(server if isinstance(server, str) else server.url()), timeout_ms=2000),
        quota=Quota(project=Rates("10/day"), sync_s=60),
    )
    async with services(fleet, one_project()) as one:
        assert sum(one["quota"].spend("phc_a") for _ in range(6)) == 6
    async with services(fleet, one_project()) as other:
        other["quota"].spend("phc_a")
        await other["quota"].sync()
        assert sum(other["quota"].spend("phc_a") for _ in range(10)) == 3
