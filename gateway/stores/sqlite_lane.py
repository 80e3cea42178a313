"""A connection to a SQLite file and the one thread that uses it: opening, migrating, waiting, and closing.

No queries of ours. Invariant: sqlite3's errors end here, and a call whose caller has gone keeps its place in the queue
until the thread has been through it, so that no more than MAX_WAITING calls ever wait.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import msgspec

from gateway.errors import StoreError, StoreTimeout, StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

MAX_WAITING: Final = 1000
RETRY_S: Final = 0.01

_KINDS: Final = {
    sqlite3.SQLITE_BUSY: StoreTimeout,
    sqlite3.SQLITE_LOCKED: StoreTimeout,
    sqlite3.SQLITE_CANTOPEN: StoreUnavailable,
    sqlite3.SQLITE_FULL: StoreUnavailable,
    sqlite3.SQLITE_IOERR: StoreUnavailable,
    sqlite3.SQLITE_READONLY: StoreUnavailable,
}
_PRIMARY_CODE: Final = 0xFF
"""The part of an error code that says what failed; the rest says where."""


class Lane:
    """Calls one after the other. `busy_timeout_s` is how long a write waits for the write of another connection."""

    def __init__(self, path: str, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<Lane {self._waiting}/{MAX_WAITING} waiting>"

    async def __aenter__(self) -> "Lane":
        try:
            await self._call(self._open)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns, called in the thread. It is called also when its caller goes away meanwhile."""
        return await self._call(lambda: work(self._connection, *args, **kwargs))

    async def _call(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise StoreUnavailable(f"{self._path}: {MAX_WAITING} calls are waiting already")
        self._waiting += 1
        call = asyncio.get_running_loop().run_in_executor(self._thread, work)
        call.add_done_callback(self._ended)
        with translated(self._path):
            return await asyncio.shield(call)

    def _ended(self, _: object) -> None:
        self._waiting -= 1

    def _open(self) -> None:
        folder = Path(self._path).parent
        if not folder.is_dir():
            raise StoreUnavailable(f"{self._path}: there is no directory {folder}")
        self._connection = sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None)
        self._turn_on_wal(self._connection)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        migrate(self._connection)

    def _turn_on_wal(self, connection: sqlite3.Connection) -> None:
        """Switch a new file to WAL. Several may do so at once, and then SQLite refuses at once instead of waiting."""
        ends_at = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= ends_at:
                    raise
                time.sleep(RETRY_S)
            else:
                return

    async def _close(self) -> None:
        self._thread.submit(self._disconnect)
        await asyncio.to_thread(self._thread.shutdown)

    def _disconnect(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()


def migrate(connection: sqlite3.Connection) -> None:
    """Apply what is missing of schema/sqlite/*.sql, in one transaction."""
    # Looked at without the write lock first: a service must start while another process imports.
    if not _missing(connection):
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY) STRICT")
        # Looked at again, for another process may have been first.
        for name, script in _missing(connection).items():
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?)", (name,))


def _statements(script: str) -> Iterator[str]:
    """Each statement of a script; those of a trigger belong to it."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _missing(connection: sqlite3.Connection) -> dict[str, str]:
    """Migrations that are not recorded, in their order, each with its statements."""
    is_new = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone() is None
    done = set() if is_new else {name for (name,) in connection.execute("SELECT name FROM migrations")}
    scripts = {
        file.name: file
        for file in (files("gateway.stores") / "schema" / "sqlite").iterdir()
        if file.name.endswith(".sql")
    }
    return {name: scripts[name].read_text() for name in sorted(scripts.keys() - done)}


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what sqlite3 raises, and what values it cannot hold, into StoreError, with the file in question."""
    try:
        yield
    except sqlite3.Error as error:
        # Errors of the module itself, such as using a closed connection, have no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY_CODE
        raise _KINDS.get(code, StoreError)(f"{path}: {error}") from error
    except (msgspec.MsgspecError, OverflowError, UnicodeError) as error:
        raise StoreError(f"{path}: {error}") from error
