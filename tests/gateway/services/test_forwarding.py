"""Sending events on: from a bounded buffer, once at most, and every request's fate counted."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from config.clients import Capture
from gateway.errors import StoreError, StoreUnavailable
from gateway.metrics import Metrics
from gateway.resilience.guard import Guard
from gateway.services import forwarding
from gateway.services.forwarding import EVENT_BYTES, ForwardingService
from tests.fakes import FakeClock
from tests.gateway.assembly import guarded
from tests.gateway.serving import settle

HEADERS = [(b"content-type", b"application/json")]


class FakeUpstream:
    """Takes what it is sent; hangs while `gate` is closed, and fails with `error`."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes, object, bytes]] = []
        self.asked = 0
        self.is_willing = True
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, method: str, target: bytes, headers: object, body: bytes) -> bool:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.is_willing:
            self.taken.append((method, target, headers, body))
        return self.is_willing


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def upstream() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture
async def guard() -> AsyncIterator[Guard]:
    async with guarded(FakeClock(), "capture", min_calls=3) as guard:
        yield guard


@pytest.fixture
async def service(upstream: FakeUpstream, guard: Guard, metrics: Metrics) -> AsyncIterator[ForwardingService]:
    async with ForwardingService(upstream, guard, metrics, settings()) as service:
        yield service
        upstream.gate.set()


def settings(**changes: int) -> Capture:
    return Capture(**{"max_buffered_bytes": 4 * EVENT_BYTES, "max_in_flight": 2, **changes})


def forward(service: ForwardingService, body: bytes = b"", times: int = 1) -> None:
    for _ in range(times):
        service.forward("POST", b"/e/", HEADERS, body)


def counted(metrics: Metrics) -> dict[str, float]:
    """The fates that something met."""
    start = 'flagstone_event_requests_total{outcome="'
    rows = [row.removeprefix(start).split('"} ') for row in metrics.render().decode().splitlines()
            if row.startswith(start)]  # fmt: skip
    return {outcome: float(number) for outcome, number in rows if float(number)}


async def test_forward__upstream_works__is_sent_as_it_is_without_anybody_waiting(
    service: ForwardingService, upstream: FakeUpstream, metrics: Metrics
) -> None:
    """The caller goes on at once, and the request is with the upstream soon after."""
    service.forward("POST", b"/e/?ip=0", HEADERS, b"\x1f\x8b")
    assert (upstream.asked, service.buffered_bytes) == (0, EVENT_BYTES + 10)
    await settle()
    assert upstream.taken == [("POST", b"/e/?ip=0", HEADERS, b"\x1f\x8b")]
    assert counted(metrics) == {"forwarded": 1}
    assert repr(service) == "<Forwarding 0 waiting, 0 sending, 0 bytes>"


async def test_forward__upstream_refuses__is_told_apart_from_failing(
    service: ForwardingService, upstream: FakeUpstream, guard: Guard, metrics: Metrics
) -> None:
    """Whoever sends nonsense does not keep the events of others from being sent."""
    upstream.is_willing = False
    for _ in range(20):
        forward(service)
        await settle()
    assert counted(metrics) == {"refused": 20}
    assert guard.breaker.state == "closed"


async def test_forward__upstream_fails__is_lost_and_tried_once(
    service: ForwardingService, upstream: FakeUpstream, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Events are analytics: an upstream in trouble is not made to hear them twice; that is counted, and told once."""
    upstream.error = StoreError("answered 503")
    forward(service, times=2)
    await settle()
    assert (upstream.asked, counted(metrics)) == (2, {"failed": 2})
    assert [record.message for record in caplog.records] == ["event_upstream_failed"]


async def test_forward__upstream_is_dead__costs_nothing_until_it_is_back(upstream: FakeUpstream) -> None:
    """Once the breaker is open nothing is kept and nobody is asked; a probe finds out when that is over."""
    clock, metrics = FakeClock(), Metrics()
    async with (
        guarded(clock, "capture", min_calls=3) as guard,
        ForwardingService(upstream, guard, metrics, settings(max_buffered_bytes=1 << 20, max_in_flight=1)) as service,
    ):
        upstream.error = StoreUnavailable("refused")
        forward(service, times=10)
        await settle()
        assert (upstream.asked, counted(metrics)) == (3, {"failed": 3, "open": 7})
        upstream.error = None
        forward(service)
        await settle()
        assert (upstream.asked, service.buffered_bytes) == (3, 0)
        clock.advance(60)
        forward(service)
        await settle()
    assert counted(metrics) == {"failed": 3, "open": 8, "forwarded": 1}


@pytest.mark.parametrize(("most", "kept"), [(4, 4), (6, 6)])
async def test_forward__upstream_is_slow__keeps_what_there_is_room_for(
    upstream: FakeUpstream, guard: Guard, metrics: Metrics, most: int, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    """capture.max_buffered_bytes: what waits and what is being sent is no more than that; the rest is dropped, and
    told once each time there is no room."""
    upstream.gate.clear()
    bounds = settings(max_buffered_bytes=most * EVENT_BYTES + 100)
    async with ForwardingService(upstream, guard, metrics, bounds) as service:
        forward(service, times=9)
        await settle()
        assert (service.buffered_bytes, counted(metrics)) == (kept * (EVENT_BYTES + 3), {"full": 9 - kept})
        assert [record.message for record in caplog.records] == ["events_dropped"]
        upstream.gate.set()
        await settle()
        forward(service, b"x" * 98)
        assert counted(metrics) == {"full": 9 - kept, "forwarded": kept}
    assert counted(metrics) == {"full": 9 - kept, "forwarded": kept + 1}


@pytest.mark.parametrize("most", [1, 3])
async def test_forward__many_at_once__are_sent_by_so_many(
    upstream: FakeUpstream, guard: Guard, metrics: Metrics, most: int
) -> None:
    """capture.max_in_flight: the upstream never has more of our requests than that."""
    upstream.gate.clear()
    async with ForwardingService(
        upstream, guard, metrics, settings(max_in_flight=most, max_buffered_bytes=1 << 20)
    ) as service:
        forward(service, times=7)
        await settle()
        assert upstream.asked == most
        upstream.gate.set()
    assert counted(metrics) == {"forwarded": 7}


async def test_forward__upstream_takes_too_long__is_given_up(
    upstream: FakeUpstream, guard: Guard, metrics: Metrics
) -> None:
    """capture.timeout_ms: a request has that long, whatever the upstream does."""
    upstream.gate.clear()
    async with ForwardingService(upstream, guard, metrics, settings(timeout_ms=20)) as service:
        forward(service)
        async with asyncio.timeout(30):
            while service.buffered_bytes:
                await asyncio.sleep(0.005)
    assert counted(metrics) == {"failed": 1}


async def test_forward__adapter_crashes__is_told_and_does_not_end_the_sending(
    service: ForwardingService, upstream: FakeUpstream, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug must not pass unseen because nobody waits."""
    upstream.error = RuntimeError("a bug")
    forward(service)
    await settle()
    upstream.error = None
    forward(service)
    await settle()
    assert [record.message for record in caplog.records] == ["forwarding_crashed"]
    assert counted(metrics) == {"failed": 1, "forwarded": 1}


async def test_close__requests_waiting__are_sent_or_counted_as_dropped(
    upstream: FakeUpstream, guard: Guard, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orderly end empties the buffer if the upstream lets it; a hanging one does not hold the process."""
    monkeypatch.setattr(forwarding, "CLOSE_TIMEOUT_S", 0.02)
    before = asyncio.all_tasks()
    async with ForwardingService(upstream, guard, metrics, settings()) as service:
        forward(service, times=3)
    assert counted(metrics) == {"forwarded": 3}
    upstream.gate.clear()
    async with ForwardingService(upstream, guard, metrics, settings()) as service:
        forward(service, times=3)
    assert (counted(metrics), service.buffered_bytes) == ({"forwarded": 3, "stopped": 3}, 0)
    await settle()
    assert asyncio.all_tasks() == before
