"""A backend that answers, is busy, hangs or dies as a test says, and knows what it was asked.

Health checks are counted nowhere. Invariant: closing it leaves no thread, also of requests that hang.
"""

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal

Behaviour = Literal["answer", "busy", "hang", "die"]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # So that closing it waits for them.

    def handle_error(self, *_: object) -> None:
        """A health check that has read enough resets its connection."""


class Backend:
    """`with Backend() as backend:` listens at `backend.port`. `behaviour` and `is_ready` may change at any moment."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = "answer"
        self.is_ready = True
        self.requests = 0
        self._connections: set[socket.socket] = set()
        self._is_over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="backend")

    def __repr__(self) -> str:
        return f"<Backend {self.behaviour}, ready: {self.is_ready}, {self.requests} requests>"

    def __enter__(self) -> "Backend":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._server.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(5)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                backend._connections.add(self.connection)

            def finish(self) -> None:
                backend._connections.discard(self.connection)
                super().finish()

            def do_GET(self) -> None:
                assert self.path == "/_readiness"
                self._answer(200 if backend.is_ready else 503)

            def do_POST(self) -> None:
                backend.requests += 1
                self.rfile.read(int(self.headers["content-length"]))
                if backend.behaviour == "hang":
                    backend._is_over.wait(20)
                if backend.behaviour == "die":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                else:
                    self._answer(503 if backend.behaviour == "busy" else 200)

            def _answer(self, status: int) -> None:
                body = json.dumps({"port": backend.port}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return Handler
