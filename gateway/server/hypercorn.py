"""Hypercorn's HTTP/1.1 and HTTP/2, without its server: a protocol per connection.

Invariant: a connection ends when its client closes it, and when it is cancelled.
"""

import asyncio
import logging
from typing import Final

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from priority.priority import TooManyStreamsError

from gateway.server.connections import Connection
from gateway.server.engines import Serving
from gateway.telemetry import log_event

MAX_RECV: Final = 2**16


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
        self._tasks: set[asyncio.Task[None]] = set()

    def make_protocol(self) -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(MAX_RECV, self._loop)
        return asyncio.StreamReaderProtocol(reader, self._on_connection, self._loop)

    def tick(self) -> None:
        self._config.keep_alive_max_requests = self._serving.server().max_requests_per_connection

    def close_connections(self) -> None:
        task = self._loop.create_task(self._context.terminated.set())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._serving.connections.opened(writer.transport)  # type: ignore[arg-type]
        task = self._loop.create_task(self._run(connection, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Connection(
                self._app, self._loop, self._config, self._context, self._serving.state, reader, writer, connection
            )
        except Exception as error:
            if not _is_clients_doing(error):
                log_event("connection_crashed", logging.ERROR, exception=error)
            writer.transport.abort()
        finally:
            connection.closed()


def _is_clients_doing(error: Exception) -> bool:
    """Whether its streams were reset by the thousand: the engine stops at a bound, but takes that for a crash."""
    return isinstance(error, ExceptionGroup) and error.split(TooManyStreamsError)[1] is None


class _Connection(TCPServer):
    """A connection that keeps the books of `Connections`.

    The engine's own keeps three tasks until the keep-alive timeout after its client has gone; clients that connect
    anew for each request would pile up by the thousand. Cancelled, it waits for its client to read what was written.
    """

    def __init__(self, *args: object) -> None:
        *args_of_engine, connection = args
        super().__init__(*args_of_engine)  # type: ignore[arg-type]
        self._books: Connection = connection  # type: ignore[assignment]
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

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            if not isinstance(self.protocol.protocol, H2Protocol):  # Whose frames need not begin a request.
                self._books.head_began()
            await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())


class _NoTask:
    """In place of the engine's task for idle connections: the sweep of all of them ends those."""

    async def restart(self, *_: object) -> None:
        pass

    async def stop(self) -> None:
        pass
