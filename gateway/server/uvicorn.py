"""uvicorn's HTTP/1.1 on httptools, without its server: a protocol per connection.

Invariant: what the parser takes in is bounded before the app sees a request: the size of a head, and the number of
requests sent ahead. httptools itself bounds neither.
"""

import asyncio
from email.utils import formatdate
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.server.connections import Connection
from gateway.server.engines import Serving

MAX_HEAD_BYTES: Final = 64 * 1024
"""Beyond what the wire guard takes, so that it is the one to answer; this is for heads and trailers that never end."""
MAX_PIPELINED: Final = 32
"""Requests sent ahead on one connection; honest clients send none."""

_CLOSING: Final = b"\r\nconnection: close\r\n"
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class UvicornEngine:
    name = "uvicorn"

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._config = Config(
            serving.app, http="httptools", ws="none", loop="none", lifespan="off", log_config=None, log_level="error",
            access_log=False, proxy_headers=False, server_header=False,
        )  # fmt: skip
        self._config.load()
        self._state = ServerState()
        self.tick()

    def make_protocol(self) -> asyncio.BaseProtocol:
        return _Protocol(self._config, self._state, self._serving)

    def tick(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    def close_connections(self) -> None:
        for connection in tuple(self._state.connections):
            connection.shutdown()


class _Protocol(HttpToolsProtocol):
    """A connection that keeps the books of `Connections`, and asks whether to refuse requests that came whole."""

    connection: Connection

    def __init__(self, config: Config, state: ServerState, serving: Serving) -> None:
        super().__init__(config, state, serving.state, asyncio.get_running_loop())  # type: ignore[arg-type]
        self._serving = serving
        self._head_bytes = 0  # Since a head or a piece of a body was complete.
        self._is_in_head = True
        self._arriving: tuple[RequestResponseCycle, Any] | None = None
        """A request whose body has not come with its head, until all that was received has been read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.connection = self._serving.connections.opened(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.connection.closed()

    def shutdown(self) -> None:
        # The engine's own closes idle connections at once, though a request may be on its way on them.
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._is_in_head:
            self.connection.head_began()
        super().data_received(data)
        if self._arriving is not None:
            (cycle, app), self._arriving = self._arriving, None
            super()._start_asgi_task(cycle, app)
        if self._head_bytes > MAX_HEAD_BYTES:
            if self._is_in_head and (self.cycle is None or self.cycle.response_complete):
                self.transport.write(_TOO_LARGE)  # Else it would be taken for the answer to an earlier request.
            self.transport.close()

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._head_bytes = 0
        self.connection.request_began()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests sent ahead")
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
            raise ValueError("another machine may take the body to end elsewhere")
        if self.connection.is_used_up(self._serving.server().max_requests_per_connection):
            self.scope["state"]["is_last"] = True
        super().on_headers_complete()
        # The parser hands over trailers like headers: they must not become some, as what a proxy has added comes last.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.scope["state"]["has_body"] = True
        self._is_in_head = True
        self._head_bytes = 0
        if self._arriving is not None and self._arriving[0] is self.cycle:
            (cycle, app), self._arriving = self._arriving, None
            self._begin(cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # Most bodies come with their head. The others are not asked about yet: they take no place while they arrive.
        if cycle.more_body:
            self._arriving = cycle, app
        else:
            self._begin(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:
        refusal = self._serving.refuse(cycle.scope)
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        # Written straight away: under overload, an answer that costs a task would cost those that are let in.
        self.transport.write(refusal)
        if self.flow.write_paused:  # Whoever asks on and on and reads no answer is no client.
            self.transport.abort()
            return
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive or _CLOSING in refusal:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        # As the engine's own, but without a timer for each connection: the sweep of all of them ends idle ones.
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.connection.request_ended()
