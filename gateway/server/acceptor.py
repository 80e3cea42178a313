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

AT_ONCE: Final = 64
"""Connections taken per turn: not all, so that workers that share a listener also share a rush; but more than may come
in a turn of an overload, or the backlog fills with clients that have given up, and nobody else is ever served."""
PAUSE_S: Final = 0.5
"""After the system has refused one, as when it has no more descriptors."""
HANDSHAKE_TIMEOUT_S: Final = 10.0
GOODBYE_TIMEOUT_S: Final = 1.0
"""For a client to agree to the end of TLS. Until then it has a descriptor, though it is no longer counted."""
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
        self._starting: dict[asyncio.Task[None], None] = {}
        self._accepted = 0
        """So many, of which those that are still starting are in nobody's books yet."""
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
        if not self._is_listening and not self._is_closed and (self._has_room() or self._connections.can_make_room):
            self._is_listening = True
            self._connections.is_full = False
            self._loop.add_reader(self._listener.fileno(), self._on_ready)

    def _pause(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._listener.fileno())

    def _has_room(self) -> bool:
        starting = self._accepted - self._connections.ever
        return len(self._connections) + starting < self._max_connections()

    def _give_up_handshake(self) -> None:
        """End the one that takes longest. They too would keep everybody else out."""
        oldest = next(iter(self._starting))
        del self._starting[oldest]
        oldest.cancel()

    def _on_ready(self) -> None:
        for _ in range(AT_ONCE):
            is_full = not self._has_room()
            if is_full and not (self._connections.can_make_room or (self._tls and self._starting)):
                self._pause()
                self._connections.is_full = True
                return
            if not self._accept_one():
                return
            if is_full and not self._connections.make_room():  # Only now, when somebody has come for it.
                self._give_up_handshake()

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
        self._starting[task] = None
        self._accepted += 1
        task.add_done_callback(self._started)
        return True

    async def _start(self, accepted: socket.socket) -> None:
        handshake_s, goodbye_s = (HANDSHAKE_TIMEOUT_S, GOODBYE_TIMEOUT_S) if self._tls else (None, None)
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=handshake_s,
                ssl_shutdown_timeout=goodbye_s,
            )
        except (OSError, ssl.SSLError):
            self._accepted -= 1
            accepted.close()  # Whoever it was has gone, or speaks no TLS.
        except asyncio.CancelledError:
            self._accepted -= 1
            raise

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.pop(task, None)
        if not self._starting:
            self._accepted = self._connections.ever
        self._resume()
