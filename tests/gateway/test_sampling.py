"""Which requests have a line in the log, and which request a line is about."""

import asyncio
import logging
import random
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from config.operating import Log
from config.reload import Live
from config.settings import Settings
from gateway.metrics import Metrics
from gateway.middleware.record import RecordRequests
from gateway.telemetry import RequestRecord, log_event
from tests.fakes import FakeClock
from tests.gateway.middleware.test_record import Sent, answering, lines, nothing, request
from tests.gateway.serving import settle

NEVER = Log(sample_ratio=0)


def record(log: Log, took_ms: float = 0.0, **known: Any) -> RequestRecord:
    """A request that was answered with 200, unless something else is known of it."""
    clock = FakeClock()
    made = RequestRecord(
        clock, Settings(log=log), 1.0, request_id="x", method="GET", path="/flags", user_agent="", arrived_at=None
    )
    clock.advance(took_ms / 1000)
    for name, value in {"status": 200, **known}.items():
        setattr(made, name, value)
    return made


def told(caplog: pytest.LogCaptureFixture, log: Log, took_ms: float = 0.0, **known: Any) -> list[dict[str, Any]]:
    """The lines that there are of such a request."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    record(log, took_ms, **known).emit()
    return lines(caplog)


def test_emit__usual_request__has_a_line_as_often_as_chosen(caplog: pytest.LogCaptureFixture) -> None:
    """log.sample_ratio: of usual requests so many have a line, which says how many it stands for."""
    caplog.set_level(logging.INFO)
    random.seed(7)
    for _ in range(2000):
        record(Log(sample_ratio=0.25)).emit()
    kept = lines(caplog)
    assert 400 < len(kept) < 600
    assert {line["sampled_at"] for line in kept} == {0.25}
    assert sum(1 / line["sampled_at"] for line in kept) == pytest.approx(2000, rel=0.2)


@pytest.mark.parametrize(("ratio", "expected"), [(0, 0), (1, 50)])
def test_emit__all_or_none__leaves_nothing_to_chance(
    caplog: pytest.LogCaptureFixture, ratio: float, expected: int
) -> None:
    """log.sample_ratio: 1 is a line for each request, 0 for none that is usual."""
    caplog.set_level(logging.INFO)
    for _ in range(50):
        record(Log(sample_ratio=ratio)).emit()
    assert len(lines(caplog)) == expected


@pytest.mark.parametrize(
    "known",
    [
        {"status": 400},
        {"status": 429},
        {"status": 503},
        {"status": None},
        {"missing": "timeout"},
        {"error": "internal_error"},
        {"is_cancelled": True},
    ],
    ids=str,
)
def test_emit__something_unusual__always_has_a_line(caplog: pytest.LogCaptureFixture, known: dict[str, Any]) -> None:
    """log.sample_ratio: whatever somebody may look for is there, and stands for itself alone."""
    assert [line["sampled_at"] for line in told(caplog, NEVER, **known)] == [1.0]


def test_emit__not_found__is_usual(caplog: pytest.LogCaptureFixture) -> None:
    """Paths that nobody serves are asked for all day."""
    assert told(caplog, NEVER, status=404) == []


@pytest.mark.parametrize(("slow_ms", "expected"), [(100, 1), (101, 0)])
def test_emit__slow_request__always_has_a_line(caplog: pytest.LogCaptureFixture, slow_ms: float, expected: int) -> None:
    """log.slow_ms: from this long on a request is one to look at."""
    log = Log(sample_ratio=0, slow_ms=slow_ms)
    assert len(told(caplog, log, took_ms=100.0)) == expected
    assert told(caplog, log, took_ms=100.0, is_stream=True) == []


async def test_emit__settings_reloaded__the_next_request_follows(caplog: pytest.LogCaptureFixture) -> None:
    """log.sample_ratio: a flood of lines can be stopped while the service runs."""
    caplog.set_level(logging.INFO)
    live = Live(Settings())
    app = RecordRequests(answering, live, FakeClock(), Metrics())
    await app(request(), nothing, Sent())
    live.settings = Settings(log=NEVER)
    await app(request(), nothing, Sent())
    assert len(lines(caplog)) == 1


async def test_log_event__within_a_request__has_its_id(caplog: pytest.LogCaptureFixture) -> None:
    """What a request causes is told with its id, also by work that it began and that goes on without it."""
    caplog.set_level(logging.INFO)
    begun = []

    async def later() -> None:
        log_event("later")

    async def causing(scope: Scope, receive: Receive, send: Send) -> None:
        log_event("at_once")
        begun.append(asyncio.create_task(later()))
        await answering(scope, receive, send)

    sent = Sent()
    await RecordRequests(causing, Live(Settings()), FakeClock(), Metrics())(request(), nothing, sent)
    await settle()
    log_event("after")
    header = sent.header(b"x-request-id")
    assert header is not None
    ids = {it.message: vars(it)["fields"].get("request_id") for it in caplog.records}
    assert ids == {"at_once": header.decode(), "request": header.decode(), "later": header.decode(), "after": None}
