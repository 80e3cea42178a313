"""Requests in flight: their last words, and the bound on how long they may take."""

import asyncio
import logging
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.server.requests import InFlight
from tests.fakes import FakeClock
from tests.gateway.middleware.test_record import Sent, answering, nothing
from tests.gateway.serving import settle


def scope(version: str = "1.1", **state: Any) -> dict[str, Any]:
    return {"type": "http", "http_version": version, "headers": [(b"origin", b"https://a.example")], "state": state}


async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def connection_of(sent: list[Message]) -> bytes | None:
    return dict(sent[0]["headers"]).get(b"connection")


@pytest.mark.parametrize(("version", "said"), [("1.1", b"close"), ("2", None)])
async def test_answers__while_closing__ask_for_another_connection(version: str, said: bytes | None) -> None:
    """From then on each answer is the last of its connection, where the protocol has a word for it."""
    requests, sent = InFlight(answering, FakeClock().monotonic), Sent()
    requests.close_connections()
    await requests(scope(version), nothing, sent)
    assert connection_of(sent) == said
    assert requests.served == 1


async def test_answer__last_of_its_connection__says_so() -> None:
    """server.max_requests_per_connection: the last answer tells the client to connect anew."""
    requests = InFlight(answering, FakeClock().monotonic)
    last, other = Sent(), Sent()
    await requests(scope(is_last=True), nothing, last)
    await requests(scope(), nothing, other)
    assert (connection_of(last), connection_of(other)) == (b"close", None)


async def test_cut_off__request_without_an_answer__gets_a_503_that_browsers_can_read() -> None:
    """What is in flight when time is up is told to try again."""
    requests, sent = InFlight(hanging, FakeClock().monotonic), Sent()
    request = asyncio.ensure_future(requests(scope(), nothing, sent))
    await settle()
    assert repr(requests) == "<InFlight serving, 1 requests>"
    requests.cut_off()
    requests.cut_off()
    await request
    assert sent[0]["status"] == 503
    assert dict(sent[0]["headers"])[b"access-control-allow-origin"] == b"https://a.example"
    assert repr(requests) == "<InFlight over, 0 requests>"


async def test_sweep__request_older_than_any_may_be__is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong inside, no request lasts for ever."""
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    requests = InFlight(hanging, clock.monotonic)
    old = asyncio.ensure_future(requests(scope(), nothing, Sent()))
    await settle()
    clock.advance(30)
    young = asyncio.ensure_future(requests(scope(), nothing, Sent()))
    await settle()
    requests.sweep(20)
    await settle()
    assert old.cancelled()
    assert len(requests) == 1
    assert [record.message for record in caplog.records] == ["request_overdue"]
    young.cancel()
    await settle()


async def test_lifespan__passes_by() -> None:
    """Only requests are counted."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    requests = InFlight(app, FakeClock().monotonic)
    await requests({"type": "lifespan"}, nothing, Sent())
    assert (seen, requests.served) == (["lifespan"], 0)
