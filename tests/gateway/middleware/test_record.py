"""One line per request, whatever happens to it, and one id."""

import asyncio
import logging
import uuid
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from config.reload import Live
from config.settings import Settings
from gateway.metrics import Metrics
from gateway.middleware.record import RecordRequests
from tests.fakes import FakeClock
from tests.gateway.serving import settle


class Sent(list[Message]):
    """What an app sent."""

    async def __call__(self, message: Message) -> None:
        self.append(message)

    def header(self, name: bytes) -> bytes | None:
        return dict(self[0]["headers"]).get(name)


def request(**headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "method": "GET", "path": "/x", "headers": named}


async def nothing() -> Message:
    raise AssertionError("nobody reads the body here")


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b""})


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.message == "request"]


async def test_record__request_answered__is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """The line of a request says what it was, how it ended and how long it took."""
    caplog.set_level(logging.INFO)
    clock = FakeClock()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(0.25)
        await answering(scope, receive, send)

    await RecordRequests(slow, Live(Settings()), clock, Metrics())(
        request(user_agent="posthog-node/5"), nothing, Sent()
    )
    (line,) = lines(caplog)
    told = {name: line[name] for name in ("method", "path", "status", "duration_ms", "is_cancelled", "user_agent")}
    assert told == {
        "method": "GET",
        "path": "/x",
        "status": 204,
        "duration_ms": 250.0,
        "is_cancelled": False,
        "user_agent": "posthog-node/5",
    }


async def test_record__request_cancelled__is_still_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A request that is cancelled midway is logged as such, and stays cancelled."""
    caplog.set_level(logging.INFO)

    async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(
        RecordRequests(hanging, Live(Settings()), FakeClock(), Metrics())(request(), nothing, Sent())
    )
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    (line,) = lines(caplog)
    assert (line["status"], line["is_cancelled"]) == (None, True)


async def test_record__app_crashes__is_still_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Even an exception that nothing below caught leaves a line."""
    caplog.set_level(logging.INFO)

    async def crashing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        await RecordRequests(crashing, Live(Settings()), FakeClock(), Metrics())(request(), nothing, Sent())
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize("form", ["{}", "{{{}}}", "urn:uuid:{}"])
async def test_record__uuid_in_the_request__is_its_id(form: str) -> None:
    """An id that a client or proxy gave is kept, in the usual spelling."""
    given = "3B0F3C1E-0D54-4B2A-9C59-2F1B6A7D9E10"
    sent = Sent()
    await RecordRequests(answering, Live(Settings()), FakeClock(), Metrics())(
        request(x_request_id=form.format(given)), nothing, sent
    )
    assert sent.header(b"x-request-id") == given.lower().encode()
    assert sent.header(b"a") == b"b"


@pytest.mark.parametrize("given", ["", "42", "x" * 36, "\xe9" * 32])
async def test_record__no_uuid_in_the_request__makes_a_new_id(given: str) -> None:
    """Anything that is no UUID is replaced, so that it never reaches a log or an answer."""
    ids = []
    for _ in range(2):
        sent = Sent()
        await RecordRequests(answering, Live(Settings()), FakeClock(), Metrics())(
            request(x_request_id=given), nothing, sent
        )
        ids.append(uuid.UUID((sent.header(b"x-request-id") or b"").decode()))
    assert ids[0] != ids[1]
    assert ids[0].version == 4


async def test_record__deadline__counts_from_arrival() -> None:
    """The budget of a request starts when it arrives, not when somebody first asks."""
    clock = FakeClock()
    remaining = []

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(0.4)
        remaining.append(scope["state"]["record"].deadline.remaining_s())

    await RecordRequests(late, Live(Settings()), clock, Metrics())(request(), nothing, Sent())
    assert remaining == [pytest.approx(0.6)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("250", 0.25), ("0", 0.0), ("5000", 1.0), ("99999999999999999999", 1.0), ("-5", 1.0), ("1.5", 1.0), ("", 1.0)],
)
async def test_record__client_has_less_time__shortens_the_deadline(given: str, expected: float) -> None:
    """A client may ask for an earlier answer, never for a later one; what is no number of milliseconds is ignored."""
    left: list[float] = []

    async def asking(scope: Scope, receive: Receive, send: Send) -> None:
        left.append(scope["state"]["record"].deadline.remaining_s())
        await answering(scope, receive, send)

    app = RecordRequests(asking, Live(Settings()), FakeClock(), Metrics())
    await app(request(x_request_timeout_ms=given), nothing, Sent())
    assert left == [pytest.approx(expected)]
