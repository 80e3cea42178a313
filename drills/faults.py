"""A TCP proxy with faults, to stand between the service and what it depends on.

It runs in a thread with a loop of its own, so that tests in any loop, and other processes, can go through it. Faults
are switched at any moment and affect connections that are open. Invariant: closing it leaves no thread and no socket.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, NamedTuple, cast

Mode = Literal["none", "delay", "blackhole", "refuse", "reset", "bandwidth", "slow_close"]

_RESET = struct.pack("ii", 1, 0)
CHUNK = 64 * 1024
SETTLE_S = 0.02


class Fault(NamedTuple):
    """What happens to bytes: `seconds` delays each piece, `jitter` adds up to that many more."""

    mode: Mode = "none"
    seconds: float = 0.0
    jitter: float = 0.0
    bytes_per_s: float = 0.0


class FaultProxy:
    """`with FaultProxy("127.0.0.1", port) as proxy:` listens at `proxy.port` until it is left."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._fault = Fault()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._taking_in: set[asyncio.Task[Any]] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.accepted = 0
        self.pieces_up = 0
        self.pieces_down = 0

    def __repr__(self) -> str:
        return f"<FaultProxy {self._fault.mode}, {self.open} open, {self.accepted} accepted>"

    @property
    def open(self) -> int:
        """Connections through the proxy now."""
        return len(self._connections)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def set(self, mode: Mode, *, seconds: float = 0.0, jitter: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """Switch to this fault. Refusing and resetting also cut what is open."""
        self._run(self._switch(Fault(mode, seconds, jitter, bytes_per_s)))

    def heal(self) -> None:
        """No fault from now on. What hung in a black hole is cut, as after a failover."""
        self._run(self._switch(Fault()))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _switch(self, fault: Fault) -> None:
        was, self._fault = self._fault, fault
        if fault.mode in ("refuse", "reset") or was.mode == "blackhole":
            self._cut()
        if fault.mode == "refuse":
            await self._deafen()
        elif self._listener is None:
            await self._listen()

    async def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1000)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        """Not asyncio's server: closed while it takes in a connection, it leaves that one's socket open."""
        with suppress(OSError):
            made, _ = listener.accept()
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=CHUNK), self._serve)
            taking_in = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, made))
            self._taking_in.add(taking_in)
            taking_in.add_done_callback(self._taking_in.discard)

    async def _deafen(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if self._taking_in:
            await asyncio.wait(self._taking_in)

    async def _close(self) -> None:
        await self._deafen()
        await asyncio.sleep(SETTLE_S)  # For what was just accepted to be known.
        self._cut()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=5)
        await asyncio.sleep(SETTLE_S)  # For transports to close their sockets.

    def _cut(self) -> None:
        for writer in self._writers:
            made: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(task)
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self._fault.mode in ("reset", "refuse"):
                self._cut()
                return
            while self._fault.mode == "blackhole":
                await asyncio.sleep(0.02)
                if writer.transport.is_closing():
                    return
            answers, upstream = await asyncio.open_connection(*self._target)
            self._writers.add(upstream)
            pumps = [
                asyncio.ensure_future(self._pump(reader, upstream, is_up=True)),
                asyncio.ensure_future(self._pump(answers, writer, is_up=False)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps, timeout=1)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for made in (writer, upstream):
                if made is not None:
                    self._writers.discard(made)
                    made.transport.abort() if self._fault.mode == "reset" else made.close()
            self._connections.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_up: bool) -> None:
        with suppress(OSError):
            while piece := await source.read(CHUNK):
                await self._hold(piece)
                if is_up:
                    self.pieces_up += 1
                else:
                    self.pieces_down += 1
                sink.write(piece)  # Counted before, so that nobody has a piece that is not.
                await sink.drain()
        await self._hold(b"")

    async def _hold(self, piece: bytes) -> None:
        """Return once the piece may go on. The end of a connection is an empty piece, and held like the others."""
        fault = self._fault
        if fault.mode == "delay":
            await asyncio.sleep(fault.seconds + fault.jitter * random.random())
        elif fault.mode == "bandwidth":
            await asyncio.sleep(len(piece) / fault.bytes_per_s)
        elif fault.mode == "slow_close" and not piece:
            await asyncio.sleep(fault.seconds)
        while self._fault.mode == "blackhole":
            await asyncio.sleep(0.02)
