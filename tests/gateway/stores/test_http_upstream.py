"""Handing events on over HTTP: exactly as they came, once, and to nobody else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from config.address import Address
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.stores.http_upstream import MAX_ANSWER_BYTES, HttpUpstream

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server that keeps what it was sent, and answers as told."""

    def __init__(self, answer: bytes | Answer) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(size))
                if callable(self._answer):
                    await self._answer(writer)
                else:
                    writer.write(self._answer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def upstream_to(
    answer: bytes | Answer, path: str = "", timeout_ms: int = 30_000
) -> AsyncIterator[tuple[Peer, HttpUpstream]]:
    peer = Peer(answer)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    address = Address(f"http://127.0.0.1:{peer.port}{path}")
    try:
        async with HttpUpstream(address, timeout_ms=timeout_ms, max_connections=8) as upstream:
            yield peer, upstream
    finally:
        server.close()


@pytest.mark.parametrize("path", ["", "/", "/ingest/"])
async def test_send__request__arrives_as_it_came(path: str) -> None:
    """capture.upstream: method, path, query, headers and body, and none that are not given; after its own path."""
    async with upstream_to(OK, path) as (peer, upstream):
        assert await upstream.send("POST", b"/e/?a=%41+b&c", [(b"content-type", b"text/plain")], b"\x1f\x8b\x00")
        assert await upstream.send("GET", b"/e?data=x", [], b"")
    first, second = (head.split(b"\r\n") for head in peer.heads)
    assert first[0] == b"POST %s/e/?a=%%41+b&c HTTP/1.1" % path.rstrip("/").encode()
    host = b"host: 127.0.0.1:%d" % peer.port
    assert [line.lower() for line in first[1:-2]] == [host, b"content-type: text/plain", b"content-length: 3"]
    assert second[0].startswith(b"GET ")
    assert peer.bodies == [b"\x1f\x8b\x00", b""]
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, True), (204, True), (302, False), (400, False), (401, False), (413, False), (429, None), (503, None)],
)
async def test_send__answer__says_whether_it_was_taken(status: int, outcome: bool | None) -> None:
    """A refusal is the request's own fault, trouble is the upstream's; a redirect leads nowhere."""
    answer = b"HTTP/1.1 %d X\r\nlocation: http://127.0.0.1:1/\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n" % status
    async with upstream_to(answer) as (peer, upstream):
        if outcome is None:
            with pytest.raises(StoreUnavailable, match=f"answered {status}"):
                await upstream.send("POST", b"/e/", [], b"x")
        else:
            assert await upstream.send("POST", b"/e/", [], b"x") is outcome
            await upstream.send("POST", b"/e/", [], b"x")
            assert b"cookie" not in peer.heads[1]
    assert len(peer.heads) == (1 if outcome is None else 2)


async def test_send__upstream_is_not_there__is_unavailable() -> None:
    """A refused connection is told as what it is."""
    async with upstream_to(OK) as (peer, _):
        pass
    address = Address(f"http://127.0.0.1:{peer.port}")
    async with HttpUpstream(address, timeout_ms=30_000, max_connections=8) as upstream:
        with pytest.raises(StoreUnavailable, match="upstream: "):
            await upstream.send("POST", b"/e/", [], b"x")


async def test_send__upstream_says_nothing__times_out() -> None:
    """capture.timeout_ms: no phase of a request lasts longer."""

    async def silence(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with upstream_to(silence, timeout_ms=50) as (peer, upstream):
        with pytest.raises(StoreTimeout, match="ReadTimeout"):
            await upstream.send("POST", b"/e/", [], b"x")
        assert len(peer.heads) == 1


async def test_send__upstream_hangs_up__is_not_tried_again() -> None:
    """At most once: it may have taken the events before it went."""

    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with upstream_to(hang_up) as (peer, upstream):
        with pytest.raises(StoreError):
            await upstream.send("POST", b"/e/", [], b"x")
        assert len(peer.heads) == 1


async def test_send__answer_without_end__is_not_read() -> None:
    """What an upstream says is not worth more than a bounded look."""
    written = 0

    async def babble(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * MAX_ANSWER_BYTES)
            written += MAX_ANSWER_BYTES
            await writer.drain()

    async with upstream_to(babble) as (_, upstream):
        async with asyncio.timeout(30):
            assert await upstream.send("POST", b"/e/", [], b"x")
    assert written < 1_000_000_000


async def test_send__certificate__is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the machine's authorities, which can be named in SSL_CERT_FILE as for everything else."""
    import ssl

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    peer = Peer(OK)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=context)
    address = Address(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with HttpUpstream(address, timeout_ms=30_000, max_connections=8) as upstream:
        with pytest.raises(StoreUnavailable, match="certificate"):
            await upstream.send("POST", b"/e/", [], b"x")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with HttpUpstream(address, timeout_ms=30_000, max_connections=8) as upstream:
        assert await upstream.send("POST", b"/e/", [], b"x")
    server.close()
    assert peer.bodies == [b"x"]
