"""One process that serves the app: bind, serve, announce, and stop in order.

What happens inside a request does not live here, nor which stores are behind it. Invariant: after a first SIGTERM or
SIGINT the process is gone within the drain timeout plus twice CLOSE_GRACE_S, whatever its clients do.
"""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from hypercorn.asyncio import run as engine_run
from hypercorn.asyncio import serve as run_engine
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config as EngineConfig
from hypercorn.events import Event
from hypercorn.utils import LifespanFailureError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.settings import Server
from gateway.errors import Stopping, reject
from gateway.telemetry import log_event

CLOSE_GRACE_S: Final = 2.0
"""How long connections may take to close once their requests were cut off."""

_BIND_ERRORS: Final = {
    errno.EADDRINUSE: "another process is using this port",
    errno.EACCES: "this user may not use this port",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


class _Connection(TCPServer):
    """A connection of the engine that ends when its client closes it, and when it is cancelled.

    The engine's own waits for the keep-alive timeout first, with three tasks: clients that connect anew for each
    request would pile up by the thousand. Cancelled, it waits for its client to read what was written.
    """

    async def protocol_send(self, event: Event) -> None:
        try:
            await super().protocol_send(event)
        except asyncio.CancelledError:
            self.writer.transport.abort()
            raise

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            await self.idle_task.stop()


vars(engine_run)["TCPServer"] = _Connection


class CannotServe(Exception):
    """The process cannot start serving; its text is one sentence for the operator."""


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket for the address, bound here so that a failure is told plainly. Raises CannotServe."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise CannotServe(f"Cannot listen on {host}: this machine knows no such host") from None
    try:
        # A restarted server must not wait for the old one's closed connections to expire.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Two sockets may be bound to one address until one listens, so only listening proves that the port is ours.
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        why = _BIND_ERRORS.get(error.errno or 0, error.strerror)
        raise CannotServe(f"Cannot listen on {host}:{port}: {why}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """The address to reach the listener at; with port 0 configured, this has the real port."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


Aside = tuple[ASGIApp, socket.socket]
"""A second app on a listener of its own, for operators; it goes on until the first has stopped."""


async def serve(
    app: ASGIApp, server: Server, listener: socket.socket, announce: Callable[[], None], aside: Aside | None = None
) -> int:
    """The exit code, once told to stop: 0 when all went in order, 1 when connections had to be left open.

    `announce` is called when requests are answered. The first SIGTERM or SIGINT lets requests in flight finish until
    the drain timeout; a second one cuts them off. The listener belongs to the engine from here on.
    """
    loop = asyncio.get_running_loop()
    drain = Drain(app)
    stop = asyncio.Event()

    async def until_told_to_stop() -> None:
        # The engine waits for this trigger once its startup is over, which makes it the moment to announce.
        announce()
        await stop.wait()

    engine = loop.create_task(
        run_engine(drain, _engine_config(server, listener), shutdown_trigger=until_told_to_stop, mode="asgi")  # type: ignore[arg-type]
    )

    def end_drain() -> None:
        drain.cut_off()
        loop.call_later(CLOSE_GRACE_S, engine.cancel)

    def on_signal() -> None:
        if stop.is_set():
            end_drain()
            return
        stop.set()
        drain.begin()
        loop.call_later(server.drain_timeout_s, end_drain)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        async with _served_aside(server, aside):
            await engine
    except asyncio.CancelledError:
        log_event("connections_left_open", logging.ERROR, grace_s=CLOSE_GRACE_S)
        return 1
    except LifespanFailureError as error:
        # The engine raises this while the app's own exception is on its way out, and that one says what is wrong.
        raise error.__context__ or error from None
    return 0


@asynccontextmanager
async def _served_aside(server: Server, aside: Aside | None) -> AsyncIterator[None]:
    """Serves the second app meanwhile. Its failing is told of, and costs the first one nothing."""
    if aside is None:
        yield
        return
    app, listener = aside
    stop = asyncio.Event()

    async def run() -> None:
        try:
            await run_engine(app, _engine_config(server, listener), shutdown_trigger=stop.wait, mode="asgi")  # type: ignore[arg-type]
        except Exception as error:
            if stop.is_set():
                return  # The engine trips over its own cancelling.
            log_event("metrics_listener_crashed", logging.ERROR, exception=error)

    engine = asyncio.create_task(run())
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait({engine}, timeout=CLOSE_GRACE_S)
        engine.cancel()


def _engine_config(server: Server, listener: socket.socket) -> EngineConfig:
    engine = EngineConfig()
    engine.bind = [f"fd://{listener.detach()}"]
    engine.backlog = server.backlog
    engine.keep_alive_timeout = server.keep_alive_timeout_s
    # Ours ends first: the engine's own limit is ignored by Python 3.12 and later, and answers with an empty 500 before.
    engine.graceful_timeout = server.drain_timeout_s + 2 * CLOSE_GRACE_S
    engine.include_server_header = False
    engine.accesslog = None
    engine.errorlog = logging.getLogger("hypercorn.error")
    engine.errorlog.setLevel(logging.WARNING)  # Its announcement would repeat ours.
    return engine


class Drain:
    """The app, with its requests in flight known: they can be told to close their connections, and be cut off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._requests: set[asyncio.Task[object]] = set()
        self._is_stopping = False
        self._is_over = False

    def __repr__(self) -> str:
        state = "over" if self._is_over else "stopping" if self._is_stopping else "serving"
        return f"<Drain {state}, {len(self._requests)} in flight>"

    def begin(self) -> None:
        """From now on answers ask their client to use another connection."""
        self._is_stopping = True
        log_event("stopping", requests_in_flight=len(self._requests))

    def cut_off(self) -> None:
        """Cancel, once, what is still in flight; a request that has not begun its answer gets a 503."""
        if self._is_over:
            return
        self._is_over = True
        if self._requests:
            log_event("requests_cut_off", logging.WARNING, requests=len(self._requests))
        for request in self._requests:
            request.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = asyncio.current_task()
        if scope["type"] != "http" or request is None:
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_onwards(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                if self._is_stopping and scope["http_version"] == "1.1":
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        self._requests.add(request)
        try:
            await self._app(scope, receive, send_onwards)
        except asyncio.CancelledError:
            if has_begun or not self._is_over:
                raise
            request.uncancel()
            await reject(_with_cors(scope, send_onwards), Stopping())
        finally:
            self._requests.discard(request)


def _with_cors(scope: Scope, send: Send) -> Send:
    """Lets a browser read what is sent from out here, beyond the middleware that does so for every other answer."""
    origin = next((value for name, value in scope["headers"] if name == b"origin"), None)

    async def send_with_cors(message: Message) -> None:
        if origin and message["type"] == "http.response.start":
            allowed = [(b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true")]
            message["headers"] = [*message["headers"], *allowed, (b"vary", b"Origin")]
        await send(message)

    return send_with_cors
