"""The connections of one process, whichever engine speaks on them: how many, what they wait for, and for how long.

No HTTP is read here; the engines tell of the beginning and the end of requests. Invariant: what takes longer than its
bound ends at the next sweep, and a new connection finds a place as long as any other has no request under way.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from itertools import islice
from typing import Final

from config.server import Server

SWEEP_S: Final = 1.0
"""How often bounds are checked, and by how much they may be exceeded."""
LOOKED_AT: Final = 64
"""Idle connections looked at to find one to end, so that finding it takes no time however many there are."""


class Phase(Enum):
    IDLE = "idle"
    HEAD = "head"
    REQUEST = "request"


class Connection:
    """One connection. Its engine calls `head_began`, `request_began` and `request_ended`, and `closed` once."""

    __slots__ = ("_connections", "_stalled_since", "phase", "requests", "since", "transport")

    def __init__(self, connections: "Connections", transport: asyncio.Transport, now: float) -> None:
        self._connections = connections
        self._stalled_since: float | None = None
        self.transport = transport
        self.phase = Phase.IDLE
        self.since = now
        self.requests = 0

    def __repr__(self) -> str:
        return f"<Connection {self.phase.value}, {self.requests} requests>"

    def head_began(self) -> None:
        """Bytes have come while it was idle."""
        if self.phase is Phase.IDLE:
            self._connections.head_began(self)
            self._enter(Phase.HEAD)

    def request_began(self) -> None:
        """A head is complete."""
        if self.phase is not Phase.REQUEST:
            self._connections.request_began(self)
            self.phase = Phase.REQUEST
        self.requests += 1

    def request_ended(self) -> None:
        """The answer was handed over, and no other request is under way."""
        self._enter(Phase.IDLE)
        self._connections.became_idle(self)

    def closed(self) -> None:
        self._connections.closed(self)

    def is_used_up(self, max_requests: int) -> bool:
        """Whether this should be its last request."""
        return self.requests >= max_requests

    def is_overdue(self, now: float, server: Server) -> bool:
        """Whether its client takes longer for something than it may."""
        if self.phase is Phase.HEAD and now - self.since > server.header_timeout_s:
            return True
        if not self.transport.get_write_buffer_size():
            self._stalled_since = None
            return self.phase is Phase.IDLE and now - self.since > server.keep_alive_timeout_s
        if self._stalled_since is None:
            self._stalled_since = now
        return now - self._stalled_since > server.write_timeout_s

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.since = self._connections.now()


class Connections:
    """All of them. `on_ended` is told why one was ended here; `on_room` that there is room again."""

    def __init__(
        self, server: Callable[[], Server], now: Callable[[], float], on_ended: Callable[[str], None] = lambda _: None
    ) -> None:
        self._server = server
        self._on_ended = on_ended
        self.now = now
        self._all: set[Connection] = set()
        self.ever = 0
        self._idle: dict[Connection, None] = {}
        self._in_head: dict[Connection, None] = {}
        """As above, those that have been so for longest come first."""
        self.is_full = False
        self.on_room: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return f"<Connections {len(self._all)}, {len(self._idle)} of them idle>"

    @property
    def idle(self) -> int:
        return len(self._idle)

    def opened(self, transport: asyncio.Transport) -> Connection:
        connection = Connection(self, transport, self.now())
        self._all.add(connection)
        self.ever += 1
        self._idle[connection] = None
        return connection

    @property
    def can_make_room(self) -> bool:
        """Whether any of them is without a request."""
        return bool(self._idle or self._in_head)

    def head_began(self, connection: Connection) -> None:
        if connection in self._idle:  # One that was ended here already is in no list.
            del self._idle[connection]
            self._in_head[connection] = None

    def request_began(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._in_head.pop(connection, None)

    def became_idle(self, connection: Connection) -> None:
        if connection in self._all:
            self._idle[connection] = None
            if self.is_full:
                self.on_room()

    def closed(self, connection: Connection) -> None:
        self._forget(connection)
        self.on_room()

    def make_room(self) -> bool:
        """Close the one that has been idle for longest, else the one whose head takes longest; False without either.

        Heads sent slowly in every place would otherwise keep everybody else out until their time is over.
        """
        # An answer may still be on its way on those that have just become idle.
        flushed = (it for it in islice(self._idle, LOOKED_AT) if not it.transport.get_write_buffer_size())
        oldest = next(flushed, None) or next(iter(self._in_head or self._idle), None)
        if oldest is None:
            return False
        self._end(oldest, "evicted")
        return True

    def close_idle(self) -> None:
        """Close those that nothing is under way on."""
        idle, self._idle = self._idle, {}
        for connection in idle:
            connection.transport.close()

    def abort(self) -> int:
        """End all that are left, whatever they wait for; how many there were."""
        for connection in tuple(self._all):
            connection.transport.abort()
        return len(self._all)

    def sweep(self) -> None:
        """End what took too long."""
        now, server = self.now(), self._server()
        for connection in tuple(self._all):
            if connection.is_overdue(now, server):
                self._end(connection, "overdue")

    def _end(self, connection: Connection, reason: str) -> None:
        self._on_ended(reason)
        self._forget(connection)
        if connection.transport.get_write_buffer_size():
            connection.transport.abort()  # Closing would wait for the client to take what was written.
        else:
            connection.transport.close()

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)
        self._in_head.pop(connection, None)
