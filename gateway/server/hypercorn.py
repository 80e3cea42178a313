"""Hypercorn's HTTP/1.1 and HTTP/2, without its server: a protocol per connection.

Invariant: a connection ends when its client closes it, and when it is cancelled.
"""

import asyncio
import logging
import re
from typing import Any, Final

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from priority.priority import TooManyStreamsError

from gateway.background import Background
from gateway.server.connections import Connection, Phase
from gateway.server.engines import Serving
from gateway.telemetry import log_event

MAX_RECV: Final = 2**16
CLOSING: Final = b"\r\nconnection: close\r\n"
_REQUEST: Final = re.compile(rb"(GET|POST|HEAD) (/[A-Za-z0-9_/.-]*)(?:\?[^ ]*)? HTTP/1\.1\r\n.*\r\n\r\n", re.DOTALL)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
"""Headers that say where a request ends; with more of them than one length the engine is to see it."""


class HypercornEngine:
    name = "hypercorn"

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._loop = asyncio.get_running_loop()
        self._app = ASGIWrapper(serving.app)  # type: ignore[arg-type]
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.keep_alive_max_requests = serving.server().max_requests_per_connection
        self._config.include_server_header = False
        self._config.accesslog = None
        self._config.errorlog = logging.getLogger("hypercorn.error")
        self._config.errorlog.setLevel(logging.ERROR)
        self._background = Background()

    def make_protocol(self) -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(MAX_RECV, self._loop)
        return asyncio.StreamReaderProtocol(reader, self._on_connection, self._loop)

    def tick(self) -> None:
        self._config.keep_alive_max_requests = self._serving.server().max_requests_per_connection

    def close_connections(self) -> None:
        self._background.spawn(self._context.terminated.set())

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._serving.connections.opened(writer.transport)  # type: ignore[arg-type]
        self._background.spawn(self._run(connection, reader, writer))

    async def _run(self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            engine = (self._app, self._loop, self._config, self._context, self._serving.state)
            await _Connection(*engine, reader, writer, connection, self._serving)
        except Exception as error:
            if not _is_clients_doing(error):
                log_event("connection_crashed", logging.ERROR, exception=error)
            writer.transport.abort()
        finally:
            connection.closed()


def _is_clients_doing(error: Exception) -> bool:
    """Whether it did not take part in ending TLS, or its streams were reset by the thousand: the engine stops at a
    bound, but takes that for a crash."""
    if isinstance(error, TimeoutError):
        return True
    return isinstance(error, ExceptionGroup) and error.split(TooManyStreamsError)[1] is None


class _Connection(TCPServer):
    """A connection that keeps the books of `Connections`.

    The engine's own keeps three tasks until the keep-alive timeout after its client has gone; clients that connect
    anew for each request would pile up by the thousand. Cancelled, it waits for its client to read what was written.
    """

    def __init__(self, *args: object) -> None:
        *args_of_engine, connection, serving = args
        super().__init__(*args_of_engine)  # type: ignore[arg-type]
        self._books: Connection = connection  # type: ignore[assignment]
        self._serving: Serving = serving  # type: ignore[assignment]
        self._asked: dict[str, Any] | None = None
        """The last request that was given a place before the engine read it."""
        self.idle_task = _NoTask()  # type: ignore[assignment]

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            if event.idle:
                self._books.request_ended()
            else:
                self._books.request_began()
            return
        try:
            await super().protocol_send(event)
        except asyncio.CancelledError:
            self.writer.transport.abort()
            raise

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            if self._asked is not None:
                self._serving.release(self._asked)

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            if isinstance(self.protocol.protocol, H2Protocol):  # Its frames need not begin a request.
                await self.protocol.handle(RawData(data))
                continue
            scope = _whole_request(data) if self._books.phase is Phase.IDLE else None
            if scope is not None and (refusal := self._serving.refuse(scope)) is not None:
                self.writer.write(refusal)
                await self.writer.drain()
                if CLOSING in refusal:
                    break
                continue
            self._books.head_began()
            if scope is None:
                await self.protocol.handle(RawData(data))
            else:
                await self._handle_placed(scope, data)
        await self.protocol.handle(Closed())

    async def _handle_placed(self, scope: dict[str, Any], data: bytes) -> None:
        """Have the engine read a request that has its place already, which it finds in its state."""
        self._asked, begun = scope, self._books.requests
        shared = self.protocol.state
        shared.update(scope["state"])
        try:
            await self.protocol.handle(RawData(data))
        finally:
            for name in scope["state"]:
                shared.pop(name, None)
            if self._books.requests == begun:  # The engine found something wrong with it.
                self._serving.release(scope)


def _whole_request(data: bytes) -> dict[str, Any] | None:
    """What can be told at once of a request that came in one piece; None when it had better be read properly.

    Reading one costs the engine as much as answering it: under overload, those let in would have to pay for that.
    """
    request = _REQUEST.match(data)
    if request is None:
        return None
    head, _, body = data.partition(b"\r\n\r\n")
    named = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    headers = [(name.lower(), value.strip()) for name, _, value in named]
    lengths = [value for name, value in headers if name in _FRAMING]
    if len(body) != (int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else -len(lengths)):
        return None
    method, path = request[1].decode(), request[2].decode()
    return {"method": method, "path": path, "http_version": "1.1", "headers": headers, "state": {}}


class _NoTask:
    """In place of the engine's task for idle connections: the sweep of all of them ends those."""

    async def restart(self, *_: object) -> None:
        pass

    async def stop(self) -> None:
        pass
