"""Refusals that the engines write themselves, before the app hears of a request."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from config.server import Server
from gateway.server.acceptor import Acceptor
from gateway.server.connections import Connections
from gateway.server.engines import Serving, make_engine
from gateway.server.requests import InFlight

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
LAST = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy"


class Refusing:
    """A listener behind which an engine refuses what is asked of some paths."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, str]] = []
        self.answered: list[str] = []
        self.released: list[str] = []

    def refuse(self, scope: Any) -> bytes | None:
        if scope["path"] not in ("/full", "/last"):
            return None
        self.refused.append((scope["method"], scope["path"]))
        return LAST if scope["path"] == "/last" else REFUSAL

    def release(self, scope: Any) -> None:
        if scope["path"] not in self.answered:
            self.released.append(scope["path"])

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.answered.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def at(engine: str) -> AsyncIterator[tuple[Refusing, int]]:
    loop = asyncio.get_running_loop()
    door, server = Refusing(), Server()
    connections = Connections(lambda: server, loop.time)
    app = InFlight(door.app, loop.time)
    serving = Serving(app, {}, connections, lambda: server, door.refuse, door.release)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    acceptor = Acceptor(listener, make_engine(engine, serving).make_protocol, connections, lambda: 10)
    acceptor.begin()
    yield door, port
    await acceptor.close()
    connections.abort()
    async with asyncio.timeout(5):
        while connections:
            await asyncio.sleep(0.01)


def post(path: bytes, body: bytes = b"{}", *headers: bytes) -> bytes:
    lines = (b"POST %s HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(body), *headers, b"", body)
    return b"\r\n".join(lines)


async def told(port: int, *pieces: bytes, answers: int) -> bytes:
    """What comes back for these pieces, until there are so many answers or the connection ends."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = b""
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        while answer.count(b"HTTP/1.1 ") < answers and (part := await reader.read(65_536)):
            answer += part
        writer.close()
        await writer.wait_closed()
    return answer


async def test_refused__whole_request__never_reaches_the_app(at: tuple[Refusing, int]) -> None:
    """What came in one piece is answered at once, and the connection serves on."""
    door, port = at
    answer = await told(port, post(b"/full?v=2"), post(b"/"), post(b"/full"), answers=3)
    assert answer.count(b"HTTP/1.1 503") == 2
    assert b"HTTP/1.1 200" in answer
    assert door.refused == [("POST", "/full")] * 2
    assert door.answered == ["/"]


async def test_refused__for_the_last_time__ends_the_connection(at: tuple[Refusing, int]) -> None:
    """A refusal that says so is the last answer of its connection."""
    _, port = at
    assert await told(port, post(b"/last"), answers=2) == LAST


@pytest.mark.parametrize(
    "pieces",
    [
        [post(b"/full")[:-1], b"}"],
        [post(b"/full")[:20], post(b"/full")[20:]],
        [b"POST /full HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"0\r\n\r\n"],
    ],
)
async def test_asked__in_pieces__is_answered_once(at: tuple[Refusing, int], pieces: list[bytes]) -> None:
    """However a request is cut, it has one answer, by the engine or by the app."""
    door, port = at
    answer = await told(port, *pieces, answers=1)
    assert answer.count(b"HTTP/1.1 ") == len(door.refused) + len(door.answered) == 1


async def test_refused__two_requests_in_one_piece__have_two_answers(at: tuple[Refusing, int]) -> None:
    """Requests sent ahead are not swallowed by the refusal of the first."""
    door, port = at
    answer = await told(port, post(b"/full") + post(b"/"), answers=2)
    assert len(door.refused) + len(door.answered) == answer.count(b"HTTP/1.1 ") == 2


async def test_refused__client_that_reads_nothing__is_cut_off(at: tuple[Refusing, int]) -> None:
    """Answers that nobody reads do not pile up."""
    _, port = at
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.connect(("127.0.0.1", port))
        greedy.setblocking(False)
        sent = 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(3):
                while True:
                    await loop.sock_sendall(greedy, post(b"/full"))
                    sent += 1
        except (TimeoutError, ConnectionError):
            pass
    assert sent < 200_000


async def test_let_in__engine_finds_it_wrong__place_is_given_back(at: tuple[Refusing, int], engine: str) -> None:
    """A request that looked whole and is none keeps no place."""
    door, port = at
    answer = await told(port, b"POST /wrong HTTP/1.1\r\nHost: a\r\nHost: b\r\nBad Name: x\r\n\r\n", answers=1)
    assert answer.startswith(b"HTTP/1.1 400")
    assert door.answered == []
    if engine == "hypercorn":  # The other asks only about what it has read.
        async with asyncio.timeout(5):
            while not door.released:
                await asyncio.sleep(0.01)
