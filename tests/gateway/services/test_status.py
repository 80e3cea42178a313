"""How the service stands, as found out from what is known; and when that counts."""

import logging
from pathlib import Path

import pytest

from config.address import Address
from config.backends import Redis, Store
from config.reload import Live
from config.settings import Settings, Snapshots
from gateway.errors import StoreUnavailable, Unavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline
from gateway.resilience.breaker import Breaker, BreakerPolicy
from gateway.resilience.call_watch import NEEDED_S, CallWatch
from gateway.resilience.guard import Outcome
from gateway.services.status import SHED_S, Finding, StatusService, finding, of_load
from gateway.standing import EFFECTS, Level, Standing
from gateway.wiring import open_services
from tests.fakes import FakeClock
from tests.gateway.assembly import services, snapshots_of
from tests.gateway.serving import TOKEN, one_project


class Bench:
    """A status over problems that a test sets, by the names of parts."""

    def __init__(self, *names: str) -> None:
        self.clock = FakeClock()
        self.problems: dict[str, str | None] = dict.fromkeys(names)
        self.status = StatusService(Live(Settings()), self.clock)
        for name in names:
            self.status.watch(name, lambda name=name: finding(self.problems[name]))  # type: ignore[misc]


def deadline(clock: FakeClock) -> Deadline:
    return Deadline(clock, 1.0)


def found(status: StatusService, name: str) -> Standing:
    """How this part stands now."""
    return next(it for it in status.report().standings if it.name == name)


def test_look__something_comes_and_goes__is_told_with_its_beginning(caplog: pytest.LogCaptureFixture) -> None:
    """Since when something is so is remembered for as long as it is, and each change is one line in the log."""
    caplog.set_level(logging.INFO)
    bench = Bench("redis", "persons")
    began = bench.clock.now()
    bench.clock.advance(5)
    assert (bench.status.report().level, bench.status.report().since) == (Level.OK, began)
    bench.problems["redis"] = "it burns"
    down = bench.clock.now()
    bench.status.look()
    bench.clock.advance(5)
    report = bench.status.report()
    assert (report.level, report.since) == (Level.DEGRADED, down)
    redis = found(bench.status, "redis")
    assert (redis.level, redis.since, redis.why) == (Level.DEGRADED, down, "it burns")
    bench.problems["redis"] = None
    assert bench.status.report().since == bench.clock.now()
    told = [vars(it)["fields"] for it in caplog.records if it.message == "status_changed"]
    assert [(it["before"], it["status"], it["affected"]) for it in told] == [
        ("ok", "degraded", "redis"),
        ("degraded", "ok", None),
    ]


def test_felt__only_what_callers_notice__counts() -> None:
    """Callers are not told of an outage that changes nothing for them."""
    bench = Bench("redis", "persons")
    bench.problems["redis"] = "it burns"
    bench.status.look()
    assert (bench.status.felt().level, bench.status.felt().standings) == (Level.OK, ())
    bench.clock.advance(5)
    bench.problems["persons"] = "so do they"
    bench.status.look()
    felt = bench.status.felt()
    assert (felt.level, felt.since, [it.name for it in felt.standings]) == (
        Level.DEGRADED,
        bench.clock.now(),
        ["persons"],
    )


def test_look__one_check_crashes__the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in one part hides no other, and makes no outage."""
    bench = Bench("persons")
    bench.problems["persons"] = "they burn"

    def crash() -> Finding:
        raise RuntimeError("a bug")

    bench.status.watch("disk", crash)
    bench.status.look()
    assert found(bench.status, "disk").level is Level.UNKNOWN
    assert found(bench.status, "persons").level is Level.DEGRADED
    assert "status_check_crashed" in caplog.messages


def test_calls__fail_twice__are_told_until_one_succeeds() -> None:
    """One failed call is chance; two in a row are told, with what the last one was."""
    clock = FakeClock()
    watch = CallWatch(Breaker(BreakerPolicy(), clock), clock)
    status = StatusService(Live(Settings()), clock)
    status.watch_calls({"persons": watch})
    seen = []
    for outcome in (Outcome.TIMEOUT, Outcome.ERROR, Outcome.GONE, Outcome.OK):
        watch.called(outcome)
        seen.append((found(status, "persons").level, found(status, "persons").why))
    failed = (Level.DEGRADED, "the last call failed")
    assert seen == [(Level.OK, None), failed, failed, (Level.OK, None)]


def test_calls__nobody_needs_it_any_more__counts_for_nothing() -> None:
    """A breaker that is open, and that nobody has met for a minute, says nothing about now."""
    clock = FakeClock()
    breaker = Breaker(BreakerPolicy(min_calls=1), clock)
    watch = CallWatch(breaker, clock)
    status = StatusService(Live(Settings()), clock)
    status.watch_calls({"keys": watch})
    ticket = breaker.admit()
    assert ticket is not None
    ticket.failed()
    watch.called(Outcome.BUSY)
    keys = found(status, "keys")
    assert (keys.level, keys.breaker, keys.why) == (Level.DEGRADED, "open", "all connections are busy")
    clock.advance(NEEDED_S - 1)
    watch.called(Outcome.OPEN)
    clock.advance(2)
    assert found(status, "keys").level is Level.DEGRADED
    clock.advance(NEEDED_S)
    assert (found(status, "keys").level, status.report().level) == (Level.UNKNOWN, Level.OK)


def test_load__requests_refused__is_told_for_a_while() -> None:
    """A single refusal shows for some seconds, so that whoever looks finds it."""
    clock, metrics = FakeClock(), Metrics()
    check = of_load(metrics, clock)
    assert check().level is Level.OK
    metrics.shed("flags", "full")
    assert check().level is Level.DEGRADED
    clock.advance(SHED_S - 1)
    assert check().level is Level.DEGRADED
    clock.advance(1)
    assert check().level is Level.OK


@pytest.mark.parametrize(
    ("on_hard_ttl", "levels"),
    [("serve", (Level.DEGRADED, Level.OK)), ("fail", (Level.DEGRADED, Level.FAILING))],
)
async def test_snapshots__grow_old__are_stale_then_expired(on_hard_ttl: str, levels: tuple[Level, Level]) -> None:
    """snapshots.on_hard_ttl: old definitions are told of, and count as none where they are not answered from."""
    clock, store = FakeClock(), one_project()
    settings = Snapshots(refresh_s=5, hard_ttl_s=100, on_hard_ttl=on_hard_ttl)  # type: ignore[arg-type]
    status = StatusService(Live(Settings(snapshots=settings)), clock)
    async with snapshots_of(store, clock, settings) as snapshots:
        status.watch_snapshots(snapshots)
        await snapshots.get(TOKEN, deadline(clock))
        assert (status.report().snapshots.fresh, status.report().level) == (1, Level.OK)
        clock.advance(60)
        assert (status.report().snapshots.stale, status.report().level) == (1, Level.DEGRADED)
        clock.advance(100)
        assert status.report().snapshots.expired == 1
        assert (found(status, "snapshots").level, found(status, "projects").level) == levels


async def test_projects__cannot_be_had__is_failing_when_there_is_none() -> None:
    """Where nothing can be answered the service fails; where other projects can, it is degraded."""
    clock, store = FakeClock(), one_project()
    async with services(Settings(), store, clock=clock) as opened:
        status, snapshots = opened["status"], opened["snapshots"]
        store.error = StoreUnavailable("x")
        assert found(status, "projects").level is Level.OK
        with pytest.raises(Unavailable):
            await snapshots.get("phc_other", deadline(clock))
        cold = found(status, "projects")
        assert (cold.level, cold.why, status.report().snapshots.unavailable) == (
            Level.FAILING,
            "projects that cannot be had: 1",
            1,
        )
        store.error = None
        await snapshots.get(TOKEN, deadline(clock))
        assert found(status, "projects").level is Level.DEGRADED
        clock.advance(90)
        assert found(status, "projects").level is Level.OK


async def test_projects__nothing_held_and_store_down__is_failing_before_anybody_asks() -> None:
    """A process that starts during an outage, and has nothing, says so."""
    clock, store = FakeClock(), one_project()
    store.error = StoreUnavailable("x")
    async with services(Settings(), store, clock=clock) as opened:
        for _ in range(2):
            assert not await opened["snapshots"].is_ready(deadline(clock))
        opened["status"].look()
        assert found(opened["status"], "definitions").level is Level.DEGRADED
        assert found(opened["status"], "projects").level is Level.FAILING


async def test_wiring__what_can_go_wrong__is_watched(tmp_path: Path) -> None:
    """Each part that this installation has is watched, under the name of what callers get."""
    settings = Settings(
        store=Store(url=Address(f"sqlite:{tmp_path / 'store.sqlite3'}")),
        redis=Redis(url=Address("redis://127.0.0.1:1")),
    )
    async with open_services(Live(settings), FakeClock(), Metrics()) as opened:
        names = {it.name: it.kind for it in opened["status"].report().standings}
    assert set(names) == {
        *("definitions", "persons", "writer", "keys", "redis", "limits", "quota", "snapshots", "projects"),
        *("overload", "address_limit", "builder", "feed_sqlite", "feed_redis"),
    }
    assert set(names.values()) <= EFFECTS.keys()
