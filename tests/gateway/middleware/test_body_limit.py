"""How much of a body is taken, for how long, and what the app gets of it."""

import asyncio

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.reload import Live
from config.settings import Requests, Settings
from gateway.metrics import Metrics
from gateway.middleware.body_limit import LimitBody
from gateway.middleware.record import RecordRequests
from tests.fakes import FakeClock
from tests.gateway.middleware.test_record import Sent, request
from tests.gateway.serving import part, receiving

GONE: Message = {"type": "http.disconnect"}


class Echo:
    """Keeps the messages it got."""

    def __init__(self) -> None:
        self.got: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.got.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def limited(app: ASGIApp, *, timeout_s: float) -> ASGIApp:
    """The app behind a limit of 10 bytes and of this time."""
    bounds = Requests(max_body_bytes=10, body_timeout_s=timeout_s)
    return RecordRequests(LimitBody(app), Live(Settings(requests=bounds)), FakeClock(), Metrics())


async def post(*messages: Message, **headers: str) -> tuple[Sent, Echo]:
    """What is answered to a body of these parts, whose sender then hangs up, and what the app got of it."""
    sent, echo = Sent(), Echo()
    app = limited(echo, timeout_s=5)
    await app(request(**headers), receiving(*messages, GONE), sent)
    return sent, echo


@pytest.mark.parametrize("cut", [[b"0123456789"], [b"01234", b"", b"56789"], [b""]])
async def test_body_limit__body_within_the_limit__comes_in_one_piece(cut: list[bytes]) -> None:
    """However a body arrives, the app gets it whole, up to exactly the limit."""
    messages = [part(piece, more=True) for piece in cut[:-1]] + [part(cut[-1])]
    sent, echo = await post(*messages)
    assert sent[0]["status"] == 200
    assert echo.got == [part(b"".join(cut))]


@pytest.mark.parametrize("cut", [[b"0123456789a"], [b"012345", b"6789a"]])
async def test_body_limit__one_byte_too_many__is_413(cut: list[bytes]) -> None:
    """Bytes are counted as they come; beyond the limit the app does not run."""
    messages = [part(piece, more=True) for piece in cut[:-1]] + [part(cut[-1])]
    sent, echo = await post(*messages)
    assert sent[0]["status"] == 413
    assert sent.header(b"content-type") == b"text/plain; charset=utf-8"
    assert echo.got == []


@pytest.mark.parametrize("declared", ["10", "-1", "x", "", "9" * 5000])
async def test_body_limit__declared_length__is_never_trusted_to_be_small(declared: str) -> None:
    """What is declared does not replace counting."""
    sent, _ = await post(part(b"0" * 11), content_length=declared)
    assert sent[0]["status"] == 413


async def test_body_limit__body_stops_coming__is_408() -> None:
    """The whole body has one time limit, however it trickles."""
    sent, echo = Sent(), Echo()
    app = limited(echo, timeout_s=0.01)
    await app(request(), receiving(part(b"01", more=True)), sent)
    assert sent[0]["status"] == 408
    assert echo.got == []


async def test_body_limit__client_leaves_midway__does_not_run_the_app() -> None:
    """Half a body is never handed on."""
    sent, echo = await post(part(b"01", more=True))
    assert sent[0]["status"] == 400
    assert echo.got == []


async def test_body_limit__too_large__is_answered_once_the_body_has_ended() -> None:
    """A sender reads no answer before it has sent everything, so what is too much is read and dropped first."""
    left = [part(b"0" * 11, more=True), part(b"1", more=True), part(b"2")]
    read_before_the_answer = []

    async def send(_: Message) -> None:
        read_before_the_answer.append(not left)

    async def receive() -> Message:
        return left.pop(0)

    await limited(Echo(), timeout_s=5)(request(), receive, send)
    assert read_before_the_answer == [True, True]


async def test_body_limit__after_a_timeout__what_still_comes_is_dropped_until_the_client_is_gone() -> None:
    """What comes after a 408 is taken off the engine's hands."""
    late = [part(b"1", more=True), part(b"2", more=True), GONE]
    has_answered = asyncio.Event()

    async def send(_: Message) -> None:
        has_answered.set()

    async def receive() -> Message:
        await has_answered.wait()
        return late.pop(0)

    await limited(Echo(), timeout_s=0.01)(request(), receive, send)
    assert late == []
