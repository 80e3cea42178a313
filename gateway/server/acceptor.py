"""Takes connections from a listening socket that several processes may share, and hands them to an engine.

Invariant: at the bound on connections the kernel keeps further ones waiting, and nothing that was accepted is lost.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from gateway.server.connections import Connections
from gateway.telemetry import log_event

AT_ONCE: Final = 16
"""Connections taken per turn: few, so that workers that share a listener also share a rush."""
PAUSE_S: Final = 0.5
"""After the system has refused one, as when it has no more descriptors."""
HANDSHAKE_TIMEOUT_S: Final = 10.0
_GONE: Final = {errno.ECONNABORTED, errno.EPROTO, errno.EINTR}


class Acceptor:
    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        connections: Connections,
        max_connections: Callable[[], int],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._connections = connections
        self._max_connections = max_connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._is_listening = False
        self._is_closed = False
        connections.on_room = self._resume

    def __repr__(self) -> str:
        return f"<Acceptor {'closed' if self._is_closed else 'accepting' if self._is_listening else 'full'}>"

    def begin(self) -> None:
        """Accept from now on."""
        self._resume()

    async def close(self) -> None:
        """Take what waits in the backlog already, then accept no more. Connections being set up are waited for."""
        self._pause()
        self._is_closed = True
        while self._accept_one():
            pass
        self._listener.close()
        if self._starting:
            await asyncio.wait(self._starting, timeout=HANDSHAKE_TIMEOUT_S)

    def _resume(self) -> None:
        if not self._is_listening and not self._is_closed and (self._has_room() or self._connections.idle):
            self._is_listening = True
            self._connections.is_full = False
            self._loop.add_reader(self._listener.fileno(), self._on_ready)

    def _pause(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._listener.fileno())

    def _has_room(self) -> bool:
        return len(self._connections) + len(self._starting) < self._max_connections()

    def _on_ready(self) -> None:
        for _ in range(AT_ONCE):
            if not (self._has_room() or self._connections.make_room()):
                self._pause()
                self._connections.is_full = True
                return
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Whether there was one."""
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _GONE:
                return True
            log_event("accept_failed", logging.ERROR, reason=error.strerror)
            self._pause()
            self._loop.call_later(PAUSE_S, self._resume)
            return False
        accepted.setblocking(False)
        task = self._loop.create_task(self._start(accepted))
        self._starting.add(task)
        task.add_done_callback(self._started)
        return True

    async def _start(self, accepted: socket.socket) -> None:
        handshake_s = HANDSHAKE_TIMEOUT_S if self._tls else None
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol, accepted, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except (OSError, ssl.SSLError):
            accepted.close()  # Whoever it was has gone, or speaks no TLS.

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        self._resume()
