"""The fault proxy itself, before an echo: each fault is what it says."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from drills.faults import FaultProxy, Mode

SOON_S = 5.0


class Echo(asyncio.Protocol):
    """One connection of a server that says everything back."""

    def __init__(self, connections: list[asyncio.Transport]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._connections.append(transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that says everything back."""
    connections: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(lambda: Echo(connections), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for transport in connections:
        transport.abort()
    await asyncio.sleep(0)  # For transports to close their sockets.


@pytest.fixture
def proxy(echo: int) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", echo) as proxy:
        yield proxy


class Line:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, what: bytes, within_s: float = SOON_S) -> bytes:
        """What comes back; nothing when the connection ends."""
        self._writer.write(what)
        return await asyncio.wait_for(self._reader.read(1 << 16), within_s)

    async def end(self, within_s: float = SOON_S) -> bytes:
        """Say that nothing follows, and wait for the other side to say the same."""
        self._writer.write_eof()
        return await asyncio.wait_for(self._reader.read(), within_s)

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Line]:
    line = Line(*await asyncio.open_connection("127.0.0.1", proxy.port))
    try:
        yield line
    finally:
        line.close()


async def test_proxy__without_a_fault__passes_everything(proxy: FaultProxy) -> None:
    """Bytes go through, and are counted."""
    async with connected(proxy) as line:
        assert await line.say(b"hello") == b"hello"
        assert (proxy.open, proxy.accepted, proxy.pieces_up, proxy.pieces_down) == (1, 1, 1, 1)
    assert "none" in repr(proxy)


@pytest.mark.parametrize(("mode", "options"), [("delay", {"seconds": 0.1}), ("bandwidth", {"bytes_per_s": 50})])
async def test_proxy__slowed__passes_everything_later(proxy: FaultProxy, mode: str, options: dict[str, float]) -> None:
    """Each piece waits, there and back."""
    async with connected(proxy) as line:
        await line.say(b"warm")
        await asyncio.to_thread(proxy.set, mode, **options)  # type: ignore[arg-type]
        began = time.monotonic()
        assert await line.say(b"hello") == b"hello"
        assert time.monotonic() - began >= 0.19


async def test_proxy__black_hole__swallows_and_cuts_when_healed(proxy: FaultProxy) -> None:
    """Connections are accepted and nothing passes, in the middle of one too; healing ends what hung."""
    async with connected(proxy) as line:
        await line.say(b"warm")
        await asyncio.to_thread(proxy.set, "blackhole")
        with pytest.raises(TimeoutError):
            await line.say(b"hello", 0.2)
        async with connected(proxy) as other:
            with pytest.raises(TimeoutError):
                await other.say(b"hello", 0.2)
        await asyncio.to_thread(proxy.heal)
        with pytest.raises(ConnectionResetError):
            await line.say(b"again")
    async with connected(proxy) as line:
        assert await line.say(b"hello") == b"hello"


async def test_proxy__black_hole__keeps_the_end_of_a_connection_to_itself(proxy: FaultProxy) -> None:
    """Neither side learns that the other has gone."""
    async with connected(proxy) as line:
        await line.say(b"warm")
        await asyncio.to_thread(proxy.set, "blackhole")
        with pytest.raises(TimeoutError):
            await line.end(0.2)


async def test_proxy__slow_close__passes_bytes_at_once_and_the_end_later(proxy: FaultProxy) -> None:
    """Only the end of a connection waits."""
    async with connected(proxy) as line:
        await asyncio.to_thread(proxy.set, "slow_close", seconds=0.2)
        began = time.monotonic()
        assert await line.say(b"hello") == b"hello"
        assert time.monotonic() - began < 0.2
        assert await line.end() == b""
        assert time.monotonic() - began >= 0.2


async def test_proxy__reset__cuts_old_and_new(proxy: FaultProxy) -> None:
    """Live connections are reset, and so is every new one."""
    async with connected(proxy) as line:
        await line.say(b"warm")
        await asyncio.to_thread(proxy.set, "reset")
        with pytest.raises(ConnectionResetError):
            await line.say(b"hello")
    with pytest.raises(ConnectionResetError):  # While connecting or right after.
        async with connected(proxy) as line:
            await line.say(b"hello")


async def test_proxy__refuse__closes_the_door_and_opens_it_again(proxy: FaultProxy) -> None:
    """Nobody listens until it is healed, and then at the same port."""
    await asyncio.to_thread(proxy.set, "refuse")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    await asyncio.to_thread(proxy.heal)
    async with connected(proxy) as line:
        assert await line.say(b"hello") == b"hello"


@pytest.mark.parametrize("mode", ["none", "delay", "blackhole", "refuse", "reset"])
async def test_proxy__left_with_any_fault__leaves_nothing(echo: int, mode: Mode) -> None:
    """Its thread ends and its port is closed, whatever was open."""
    with FaultProxy("127.0.0.1", echo) as proxy:
        async with connected(proxy) as line:
            await line.say(b"warm")
            await asyncio.to_thread(proxy.set, mode, seconds=60.0)
    assert "fault-proxy" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
