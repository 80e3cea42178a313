"""A pool of connections to PostgreSQL in which nothing waits for a server that does not answer.

No queries of ours; which connections are open is postgres_connections.py's. Invariant: a call that is cancelled or out
of time aborts its connection on the spot, because asking a hung server to cancel, as the driver does, waits for that
server; the driver's errors end here.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar

import asyncpg

from config.address import Address
from config.backends import Pool as PoolSettings
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.stores.postgres_connections import Connection, Connections

T = TypeVar("T")

APPLICATION: Final = "flagstone"

_UNAVAILABLE: Final = frozenset({"08", "28", "3D", "53", "57", "58"})
"""Classes of SQLSTATE that say that the server cannot serve us: connections, login, database, resources, operators."""
_MISSING_RELATION: Final = frozenset({"42P01", "3F000"})
_STATEMENT_CANCELLED: Final = "57014"
_GIVEN_UP: Final = frozenset({"40001", "40P01"})
MAX_TRIES: Final = 5
"""How often a transaction is tried that the database keeps giving up."""


class GivenUp(StoreError):
    """The database gave a transaction up for the sake of another one. Trying again is likely to succeed."""


class Taken(StoreError):
    """A value that must be unique is there already; `constraint` is the name of what says so."""

    def __init__(self, text: str, constraint: str) -> None:
        super().__init__(text)
        self.constraint = constraint


class PostgresPool:
    """Connects when first used. Use as an async context manager; neither end of it waits for the server."""

    def __init__(self, name: str, url: Address, settings: PoolSettings) -> None:
        self.name = name
        self._url = url
        self._settings = settings
        self._connections = Connections(self._connect, settings.max_connections)

    def __repr__(self) -> str:
        return f"<PostgresPool {self.name}, {self.in_use}/{self.max} in use, {self.idle} idle>"

    @property
    def max(self) -> int:
        return self._connections.most

    @property
    def in_use(self) -> int:
        return self._connections.in_use

    @property
    def idle(self) -> int:
        return self._connections.idle

    async def __aenter__(self) -> "PostgresPool":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connections.close()

    def adopt(self, settings: PoolSettings) -> None:
        """Keep to these bounds from the next call on. Connections that are open stay so, as far as there is room."""
        self._settings = settings
        self._connections.resize(settings.max_connections)

    async def fetch(self, statement: str, *args: object) -> list[Any]:
        """The rows of one statement, in one round trip once it is prepared. Raises StoreError."""
        timeout_s = self._settings.statement_timeout_ms / 1000
        with translated(self.name):
            taken = await self._take()
            try:
                async with aborting(taken.driver, timeout_s) as run:
                    rows: list[Any] = await run(taken.driver.fetch(statement, *args))
                return rows
            finally:
                self._connections.give_back(taken)

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator["Transaction"]:
        """A transaction, committed if all went well; what else is raised inside comes out as it is.

        `options` are the driver's: isolation, readonly. Raises StoreError.
        """
        timeout_s = self._settings.statement_timeout_ms / 1000
        with translated(self.name):
            taken = await self._take()
        is_over = False
        try:
            bounds = taken.driver.transaction(**options)
            transaction = Transaction(self.name, taken.driver, timeout_s)
            await transaction.run(bounds.start)
            try:
                yield transaction
                await transaction.run(bounds.commit)
                is_over = True
            except Exception:
                with suppress(StoreError):
                    await transaction.run(bounds.rollback)
                    is_over = True
                raise
        finally:
            if not is_over:  # Nobody else gets a connection in this state, if it still is one.
                taken.driver.terminate()
            self._connections.give_back(taken)

    async def repeated(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, called again as long as the database gives it up, MAX_TRIES times in all."""
        for _ in range(1, MAX_TRIES):
            with suppress(GivenUp):
                return await work()
        return await work()

    async def _take(self) -> Connection:
        """A connection whose session keeps to the bounds in force."""
        settings = self._settings
        async with asyncio.timeout(settings.acquire_timeout_ms / 1000):
            taken = await self._connections.take()
        timeout_ms = settings.statement_timeout_ms
        if taken.statement_timeout_ms != timeout_ms and not settings.transaction_pooling:
            try:
                async with aborting(taken.driver, timeout_ms / 1000) as run:
                    await run(taken.driver.execute(f"SET statement_timeout TO {timeout_ms}"))
            except BaseException:
                self._connections.give_back(taken)
                raise
            taken.statement_timeout_ms = timeout_ms
        return taken

    async def _connect(self) -> Connection:
        settings = self._settings
        driver = await asyncpg.connect(**connect_options(self._url, settings))
        return Connection(driver, settings.statement_timeout_ms)


class Transaction:
    """Statements of one transaction, each in the pool's time for a statement."""

    def __init__(self, name: str, connection: Any, timeout_s: float) -> None:
        self._name = name
        self._connection = connection
        self._timeout_s = timeout_s

    async def fetch(self, statement: str, *args: object) -> list[Any]:
        """The rows of a statement."""
        rows: list[Any] = await self.run(self._connection.fetch, statement, *args)
        return rows

    async def executemany(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each of the rows, one after the other."""
        await self.run(self._connection.executemany, statement, rows)

    async def run(self, call: Callable[..., Any], *args: object) -> Any:
        """What one call of the driver returns."""
        with translated(self._name):
            async with aborting(self._connection, self._timeout_s) as run:
                return await run(call(*args))


@asynccontextmanager
async def aborting(connection: Any, timeout_s: float) -> AsyncIterator[Any]:
    """Gives a function that awaits one call of the driver, and aborts the connection if that does not end in time."""

    async def run(call: Any) -> Any:
        # In a task of its own: cancelled directly, the driver would send the server a request to cancel, and wait.
        task = asyncio.ensure_future(call)
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
            if not done:
                raise TimeoutError(f"no answer within {timeout_s * 1000:.0f} ms")
            return task.result()
        finally:
            if not task.done():
                connection.terminate()
                task.add_done_callback(lambda it: it.cancelled() or it.exception())

    yield run


def connect_options(url: Address, settings: PoolSettings) -> dict[str, Any]:
    """What every connection of ours is opened with."""
    options: dict[str, Any] = {"dsn": url.reveal(), "timeout": settings.connect_timeout_ms / 1000}
    if settings.transaction_pooling:
        # The next statement may meet another connection: nothing may be set or prepared on this one.
        return {**options, "statement_cache_size": 0}
    timeout_ms = str(settings.statement_timeout_ms)
    return {**options, "server_settings": {"application_name": APPLICATION, "statement_timeout": timeout_ms}}


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn whatever the driver raises into StoreError. No text of it holds an address or what was asked."""
    try:
        yield
    except TimeoutError as error:
        raise StoreTimeout(f"{name}: {error or 'no connection in time'}") from None
    except asyncpg.PostgresError as error:
        state = str(getattr(error, "sqlstate", None) or "")
        if state == _STATEMENT_CANCELLED:
            raise StoreTimeout(f"{name}: {error}") from error
        if state in _GIVEN_UP:
            raise GivenUp(f"{name}: {error}") from error
        if isinstance(error, asyncpg.UniqueViolationError):
            raise Taken(f"{name}: {error}", str(getattr(error, "constraint_name", None) or "")) from error
        if state in _MISSING_RELATION:
            raise StoreError(f"{name}: {error}; `flagstone migrate` sets the database up") from error
        kind = StoreUnavailable if state[:2] in _UNAVAILABLE else StoreError
        raise kind(f"{name}: {error}") from error
    except asyncpg.DataError as error:
        raise StoreError(f"{name}: {error}") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise StoreUnavailable(
            f"{name}: {type(error).__name__}: {getattr(error, 'strerror', None) or error}"
        ) from error
    except (ValueError, TypeError) as error:
        # The driver's way of refusing an address, whose text might be in the error.
        raise StoreUnavailable(f"{name}: the address or its certificates cannot be used") from error
