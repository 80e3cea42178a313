"""A listener beside the one for clients, with few connections and every bound of the other: for what operators read.

Invariant: however many connect to it, it takes nothing from clients but the few connections it may have.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp

from config.server import Server
from gateway.server.acceptor import Acceptor
from gateway.server.connections import Connections
from gateway.server.engines import Serving, make_engine, name_of_engine

MAX_CONNECTIONS: Final = 64


class Aside:
    def __init__(self, listener: socket.socket, app: ASGIApp, server: Callable[[], Server]) -> None:
        self._connections = Connections(server, asyncio.get_running_loop().time)
        self._engine = make_engine(name_of_engine(server()), Serving(app, {}, self._connections, server))
        self._acceptor = Acceptor(listener, self._engine.make_protocol, self._connections, lambda: MAX_CONNECTIONS)

    def __repr__(self) -> str:
        return f"<Aside {self._connections!r}>"

    def begin(self) -> None:
        self._acceptor.begin()

    def sweep(self) -> None:
        """Called about once per second."""
        self._connections.sweep()
        self._engine.tick()

    async def close(self) -> None:
        await self._acceptor.close()
        self._connections.abort()
