"""Connections to one PostgreSQL server: opened when needed, handed out newest first, closed when nobody needs them.

What is asked over them is postgres_pool.py's. Invariants: never are more open than there may be, but for those that
were in use when that number was lowered; and nothing here waits for a server except to connect.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from gateway.errors import StoreUnavailable
from gateway.resilience.places import Places

IDLE_S: Final = 60.0
"""How long a connection that nobody needs stays open."""
MAX_USES: Final = 50_000
"""After so many a connection is replaced: what its server keeps for it is bounded, and the way there is found anew."""
CLOSE_TIMEOUT_S: Final = 1.0


class Connection:
    """One that is open, and what is known of it."""

    __slots__ = ("driver", "idle_since", "statement_timeout_ms", "uses")

    def __init__(self, driver: Any, statement_timeout_ms: int) -> None:
        self.driver = driver
        self.statement_timeout_ms = statement_timeout_ms
        """What its session keeps; meanwhile it may be given another."""
        self.uses = 0
        self.idle_since = 0.0


class Connections:
    """`connect` opens one. Needs `close` in the end."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], most: int) -> None:
        self._connect = connect
        self._places = Places(most)
        self._idle: list[Connection] = []
        """Those used last are at the end."""
        self._in_use: set[Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._sweep_at: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def most(self) -> int:
        return self._places.slots

    @property
    def in_use(self) -> int:
        """Also those that are being opened."""
        return self._places.in_use

    @property
    def idle(self) -> int:
        """Of those that were lost, the next call learns."""
        return sum(not connection.driver.is_closed() for connection in self._idle)

    def resize(self, most: int) -> None:
        """Have so many at most. What is in use is closed as it comes back, if it is too much then."""
        self._places.resize(most)
        while self._idle and self.in_use + self.idle > most:
            self._close(self._idle.pop(0))

    async def take(self) -> Connection:
        """One for the caller alone, who gives it back. Raises what connecting raises."""
        await self._places.take()
        try:
            connection = self._newest() or await self._opened()
        except BaseException:
            self._places.hand_on()
            raise
        self._in_use.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """One that was taken, closed or not."""
        self._in_use.discard(connection)
        connection.uses += 1
        is_one_too_many = self.in_use > self.most
        if connection.driver.is_closed():
            connection.driver.terminate()
        elif is_one_too_many or connection.uses >= MAX_USES or self._is_closed:
            self._close(connection)
        else:
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self._idle.append(connection)
            if self._sweep_at is None:
                self._sweep_at = loop.call_later(IDLE_S, self._sweep)
        self._places.hand_on()

    async def close(self) -> None:
        """End all of them, within a bounded time."""
        self._is_closed = True
        if self._sweep_at is not None:
            self._sweep_at.cancel()
        while self._idle:
            self._close(self._idle.pop())
        if closing := set(self._closing):
            await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)
        for connection in self._in_use:
            connection.driver.terminate()

    def _newest(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.driver.is_closed():
                return connection
            connection.driver.terminate()
        return None

    async def _opened(self) -> Connection:
        if self._is_closed:
            raise StoreUnavailable("closed")
        return await self._connect()

    def _sweep(self) -> None:
        """Close what nobody has needed, and look again when the next one is due."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._idle and now - self._idle[0].idle_since >= IDLE_S:
            self._close(self._idle.pop(0))
        left_s = IDLE_S - (now - self._idle[0].idle_since) if self._idle else 0.0
        self._sweep_at = loop.call_later(left_s, self._sweep) if self._idle else None

    def _close(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(_say_goodbye(connection.driver))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _say_goodbye(driver: Any) -> None:
    """Whatever becomes of it, the connection is gone then; without the goodbye its server would log an error."""
    try:
        with suppress(Exception):
            await driver.close(timeout=CLOSE_TIMEOUT_S)
    finally:
        driver.terminate()
