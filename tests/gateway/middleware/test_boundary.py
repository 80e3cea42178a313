"""Where exceptions end."""

import logging

import msgspec
import pytest
from starlette.types import Message, Receive, Scope, Send

from config.reload import Live
from config.settings import Settings
from gateway.errors import GatewayError, MethodNotAllowed, MissingDistinctId, NotAuthenticated, Unavailable
from gateway.metrics import Metrics
from gateway.middleware.boundary import ErrorBoundary
from gateway.middleware.record import RecordRequests
from tests.fakes import FakeClock
from tests.gateway.middleware.test_record import Sent, lines, nothing, request


async def answer(error: Exception, *, begun: bool = False) -> Sent:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    sent = Sent()
    await RecordRequests(ErrorBoundary(failing), Live(Settings()), FakeClock(), Metrics())(request(), nothing, sent)
    return sent


def content(sent: list[Message]) -> object:
    body = sent[1]["body"]
    return msgspec.json.decode(body) if dict(sent[0]["headers"])[b"content-type"] == b"application/json" else body


async def test_boundary__json_error__is_sent_as_json() -> None:
    """An error whose clients read JSON has a type, a code, a sentence, and an empty attr."""
    sent = await answer(NotAuthenticated())
    assert sent[0]["status"] == 401
    assert content(sent) == {
        "type": "authentication_error",
        "code": "not_authenticated",
        "detail": "No API token provided. Please include a valid API token in your request.",
        "attr": None,
    }


async def test_boundary__text_error__is_sent_as_text() -> None:
    """An error whose clients show the text is nothing but its sentence."""
    sent = await answer(MissingDistinctId())
    assert sent[0]["status"] == 400
    assert sent.header(b"content-type") == b"text/plain; charset=utf-8"
    assert content(sent) == MissingDistinctId().detail.encode()
    assert sent.header(b"content-length") == str(len(MissingDistinctId().detail)).encode()


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [(Unavailable(), b"retry-after", b"1"), (MethodNotAllowed("GET, HEAD"), b"allow", b"GET, HEAD")],
)
async def test_boundary__error_with_a_header__sends_it(error: GatewayError, name: bytes, value: bytes) -> None:
    """When to try again, and what is allowed instead, are told in the header for it."""
    assert (await answer(error)).header(name) == value


async def test_boundary__unexpected_exception__is_a_json_500_that_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug is answered as an internal error with the request's id; what it was stands only in the log."""
    caplog.set_level(logging.INFO)
    sent = await answer(RuntimeError("secret detail"))
    assert sent[0]["status"] == 500
    assert content(sent) == {
        "type": "server_error",
        "code": "internal_error",
        "detail": "An internal error occurred. Please try again later.",
        "attr": None,
    }
    (line,) = lines(caplog)
    assert sent.header(b"x-request-id") == line["request_id"].encode()
    assert (line["status"], line["error"]) == (500, "internal_error")
    assert "secret detail" in caplog.text


async def test_boundary__answer_has_begun__does_not_begin_another() -> None:
    """Once an answer has begun, a crash can only break it off."""
    with pytest.raises(RuntimeError):
        await answer(RuntimeError("a bug"), begun=True)
