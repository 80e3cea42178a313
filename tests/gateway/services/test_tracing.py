"""Sending spans on: together, from a bounded queue, and every span's fate counted."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from config.address import Address
from config.operating import Traces
from config.pairs import SecretPairs
from config.reload import Live
from config.settings import Settings
from gateway.errors import StoreError, StoreUnavailable
from gateway.metrics import Metrics
from gateway.services import tracing
from gateway.services.tracing import DUE_AT, MAX_BATCH, PAUSES_S, TracingService
from gateway.telemetry import RequestRecord
from gateway.traces import MAX_PARTS, Parent, Part, Trace, trace_here
from tests.fakes import FakeClock
from tests.gateway.serving import settle

CLOCK = FakeClock()


class FakeCollector:
    """Takes what it is sent; hangs while `gate` is closed, and fails with `errors`, one after the other."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.asked = 0
        self.is_willing = True
        self.errors: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.traces_seen: list[object] = []

    async def send(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        self.asked += 1
        self.headers.append(headers)
        self.traces_seen.append(trace_here.get())
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if self.is_willing:
            self.taken.append(body)
        return self.is_willing


class FakeEncoding:
    """Each request by the path of its record."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def spans(self, record: RequestRecord, trace: Trace, outcome: str, *, ended_ns: int, now: float) -> bytes:
        if self.error is not None:
            raise self.error
        return record.path.encode()

    def payload(self, requests: Iterable[bytes]) -> bytes:
        return b" ".join(requests)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def collector() -> FakeCollector:
    return FakeCollector()


@pytest.fixture
def encoding() -> FakeEncoding:
    return FakeEncoding()


@pytest.fixture
def live() -> Live:
    return Live(settings())


@pytest.fixture
async def service(
    collector: FakeCollector, encoding: FakeEncoding, live: Live, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TracingService]:
    """One that waits for nobody."""
    monkeypatch.setattr(tracing, "BATCH_S", 0)
    monkeypatch.setattr(tracing, "PAUSES_S", (0,) * len(PAUSES_S))
    async with TracingService(collector, encoding, live, CLOCK, metrics) as service:
        yield service
        collector.gate.set()


def settings(**changes: object) -> Settings:
    return Settings(traces=Traces(**{"url": Address("http://collector"), **changes}))


def end(service: TracingService, *paths: str, parts: int = 0) -> None:
    """Requests of these paths, each with so many parts."""
    for path in paths:
        record = RequestRecord(CLOCK, Settings(), 1, request_id="x", method="GET", path=path, user_agent="")
        record.trace = Trace(None)
        for _ in range(parts):
            record.trace.note(Part("body", 0, 0))
        service.ended(record, "whole")


def counted(metrics: Metrics) -> dict[str, float]:
    """The fates that spans met."""
    start = 'flagstone_trace_spans_total{outcome="'
    rows = [row.removeprefix(start).split('"} ') for row in metrics.render().decode().splitlines()
            if row.startswith(start)]  # fmt: skip
    return {outcome: float(number) for outcome, number in rows if float(number)}


async def until(service: TracingService) -> None:
    """Returns once everything has been sent, or dropped."""
    async with asyncio.timeout(30):
        while service.queued:
            await asyncio.sleep(0)


async def test_ended__collector_works__is_sent_with_others_without_anybody_waiting(
    service: TracingService, collector: FakeCollector, metrics: Metrics
) -> None:
    """The request goes on at once; what ended meanwhile goes in one call, made in no request's name."""
    trace_here.set(Trace(None))
    end(service, "/a", "/b", parts=2)
    assert (collector.asked, service.queued) == (0, 6)
    assert repr(service) == "<Tracing 6 spans queued, sending>"
    await until(service)
    assert collector.taken == [b"/a /b"]
    assert collector.traces_seen == [None]
    assert counted(metrics) == {"exported": 6}
    await settle()
    end(service, "/c")
    await until(service)
    assert collector.taken == [b"/a /b", b"/c"]
    assert repr(service).startswith("<Tracing 0 spans queued")


async def test_ended__many__go_in_several_calls(service: TracingService, collector: FakeCollector, live: Live) -> None:
    """No call is larger than a collector expects."""
    live.settings = settings(max_queued=2 * MAX_BATCH)
    end(service, *["/x"] * (MAX_BATCH + 10))
    await until(service)
    assert [len(body.split()) for body in collector.taken] == [MAX_BATCH, 10]


async def test_ended__queue_is_full__is_dropped_and_counted(
    service: TracingService, collector: FakeCollector, live: Live, metrics: Metrics
) -> None:
    """traces.max_queued: memory has a bound while a collector hangs, and a reload can move it."""
    live.settings = settings(max_queued=5)
    collector.gate.clear()
    end(service, "/a", "/b", parts=1)
    await settle()
    end(service, "/c", parts=1)
    end(service, "/d")
    assert (service.queued, counted(metrics)) == (5, {"full": 2})
    live.settings = settings(max_queued=6)
    end(service, "/e")
    collector.gate.set()
    await until(service)
    assert b" ".join(collector.taken) == b"/a /b /d /e"


async def test_ended__collector_is_away_for_a_while__gets_it_later(
    service: TracingService, collector: FakeCollector, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector that is restarted loses nothing; that it was away is told once, and that it is back."""
    collector.errors = [StoreUnavailable("answered 503"), TimeoutError()]
    end(service, "/a")
    await until(service)
    assert (collector.taken, counted(metrics)) == ([b"/a"], {"exported": 1})
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["trace_export_failed"]


async def test_ended__collector_is_gone__is_given_up_in_the_end(
    service: TracingService, collector: FakeCollector, metrics: Metrics
) -> None:
    """What cannot be sent makes room for what can."""
    collector.errors = [StoreError("no")] * len(PAUSES_S)
    end(service, "/a")
    await until(service)
    assert (collector.asked, counted(metrics)) == (len(PAUSES_S), {"failed": 1})


async def test_ended__collector_refuses__is_told_and_not_tried_again(
    service: TracingService, collector: FakeCollector, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong key will not be right the next time; the log says what to look at."""
    collector.is_willing = False
    end(service, "/a")
    await until(service)
    assert (collector.asked, counted(metrics)) == (1, {"refused": 1})
    (record,) = caplog.records
    assert "traces.headers" in vars(record)["fields"]["reason"]


async def test_ended__adapter_has_a_bug__costs_that_call_alone(
    service: TracingService, collector: FakeCollector, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for the sender, so it says itself that it fell, and goes on."""
    collector.errors = [RuntimeError("bug")]
    end(service, "/a")
    await until(service)
    end(service, "/b")
    await until(service)
    assert (collector.taken, counted(metrics)) == ([b"/b"], {"failed": 1, "exported": 1})
    assert [record.message for record in caplog.records] == ["trace_export_crashed"]


async def test_ended__encoding_has_a_bug__costs_no_answer(
    service: TracingService, encoding: FakeEncoding, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A request is answered whatever its trace is worth."""
    encoding.error = ValueError("out of range")
    end(service, "/a")
    assert (service.queued, counted(metrics)) == (0, {"failed": 1})
    assert [record.message for record in caplog.records] == ["trace_crashed"]


async def test_ended__hanging_collector__is_given_up_in_time(
    service: TracingService, collector: FakeCollector, live: Live, metrics: Metrics
) -> None:
    """traces.timeout_ms: no call lasts longer, and the time can be changed without a restart."""
    live.settings = settings(timeout_ms=1)
    collector.gate.clear()
    end(service, "/a")
    await until(service)
    assert (collector.asked, counted(metrics)) == (len(PAUSES_S), {"failed": 1})


async def test_ended__headers__go_with_every_call(
    service: TracingService, collector: FakeCollector, live: Live
) -> None:
    """traces.headers: keys for a vendor's collector, in force with the next call after a reload."""
    live.settings = settings(headers=SecretPairs("Authorization=Bearer%20abc,x-scope=1"))
    end(service, "/a")
    await until(service)
    own = (b"content-type", b"application/x-protobuf")
    assert collector.headers == [[own, (b"authorization", b"Bearer abc"), (b"x-scope", b"1")]]


async def test_ended__twice_or_not_sampled__is_one_or_none(service: TracingService, metrics: Metrics) -> None:
    """A stream ends for its trace when it has begun; what others do not record is not sent from here."""
    for parent in (None, Parent("1" * 32, "2" * 16, False, "")):
        record = RequestRecord(CLOCK, Settings(), 1, request_id="x", method="GET", path="/", user_agent="")
        service.ended(record, "whole")
        record.trace = Trace(parent)
        service.ended(record, "whole")
        record.trace.note(Part("body", 0, 0))
        service.ended(record, "whole")
        assert record.trace.parts == []
    await until(service)
    assert counted(metrics) == {"exported": 1}


@pytest.mark.parametrize("is_hanging", [False, True])
async def test_close__spans_wait__sends_them_if_that_is_quick(
    collector: FakeCollector, metrics: Metrics, live: Live, monkeypatch: pytest.MonkeyPatch, is_hanging: bool
) -> None:
    """Leaving sends what waits at once, and waits for no collector that hangs; nothing is uncounted."""
    monkeypatch.setattr(tracing, "CLOSE_TIMEOUT_S", 0.05 if is_hanging else 30)
    async with asyncio.timeout(30), TracingService(collector, FakeEncoding(), live, CLOCK, metrics) as service:
        if is_hanging:
            collector.gate.clear()
        end(service, *["/x"] * (DUE_AT + 10))
    assert service.queued == 0
    assert counted(metrics) == {"stopped" if is_hanging else "exported": DUE_AT + 10}


async def test_begin__chance__decides_about_those_nobody_decided_about(service: TracingService) -> None:
    """The part that is asked for, about."""
    found = sum(service.begin(None, 0.25) is not None for _ in range(4000))
    assert found == pytest.approx(1000, rel=0.2)
    parent = Parent("1" * 32, "2" * 16, True, "")
    assert service.begin(parent, 0.0) is not None


def test_trace__much_is_done__keeps_a_bounded_part() -> None:
    """A page for hundreds of people does not make hundreds of spans."""
    trace = Trace(None)
    for _ in range(2 * MAX_PARTS):
        trace.note(Part("evaluate", 0, 0))
    assert len(trace.parts) == MAX_PARTS
    assert repr(trace) == f"<Trace {trace.trace_id}, {MAX_PARTS} parts, open>"
