"""Announcements of changes by PostgreSQL, over a connection that does nothing else.

Listening again after a loss is the caller's. Invariant: a connection that has silently died is found out within
KEEP_ALIVE_S and the time to connect.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg

from config.address import Address
from config.backends import Pool
from gateway.errors import StoreUnavailable
from gateway.stores.postgres_pool import aborting, connect_options, translated

CHANNEL: Final = "flagstone_changes"
"""Tells of projects that have something new to be served."""
EDITS: Final = "flagstone_dirty"
"""Tells of projects that have something to be built."""
KEEP_ALIVE_S: Final = 10.0
MAX_UNREAD: Final = 10_000
"""Changes told faster than they are read; beyond that, everything is taken to have changed."""


class PostgresFeed:
    def __init__(self, url: Address, settings: Pool, channel: str = CHANNEL) -> None:
        self._url = url
        self._settings = settings
        self._channel = channel

    def __repr__(self) -> str:
        return f"<PostgresFeed {self._url}>"

    def adopt(self, settings: Pool) -> None:
        """Keep to these bounds from the next connection on."""
        self._settings = settings

    async def changes(self) -> AsyncIterator[int | None]:
        told: asyncio.Queue[int | None] = asyncio.Queue(MAX_UNREAD)
        lost = asyncio.Event()

        def hear(_: object, __: int, ___: str, payload: str) -> None:
            if told.full():
                lost.set()
            elif payload.isdigit():
                told.put_nowait(int(payload))

        with translated("feed"):
            connection: Any = await asyncpg.connect(**connect_options(self._url, self._settings))
            try:
                connection.add_termination_listener(lambda _: lost.set())
                async with aborting(connection, self._settings.connect_timeout_ms / 1000) as run:
                    await run(connection.add_listener(self._channel, hear))
                    yield None
                    while not lost.is_set():
                        try:
                            change = await asyncio.wait_for(_next(told, lost), KEEP_ALIVE_S)
                        except TimeoutError:
                            await run(connection.fetchval("SELECT 1"))
                        else:
                            yield change
                raise StoreUnavailable("feed: the connection was lost")
            finally:
                connection.terminate()


async def _next(told: "asyncio.Queue[int | None]", lost: asyncio.Event) -> int | None:
    """The next change; raises StoreUnavailable when there will be none."""
    getting, losing = asyncio.ensure_future(told.get()), asyncio.ensure_future(lost.wait())
    try:
        await asyncio.wait({getting, losing}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        raise StoreUnavailable("feed: the connection was lost")
    finally:
        getting.cancel()
        losing.cancel()
