"""The embedded store: one SQLite file, asked from one thread of its own.

A request's read never waits behind an import, which writes over a connection of its own while readers see the state
before it. Invariant: sqlite3's errors end here, and no more than MAX_WAITING calls wait for the thread.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib.resources import files
from typing import Final, TypeVar

import msgspec

from gateway.document import Progress, WholeProject
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import Definitions, Person
from gateway.stores.sqlite_transfer import export_projects, import_projects, read_definitions

T = TypeVar("T")

MAX_WAITING: Final = 1000
BUSY_TIMEOUT_S: Final = 5.0
"""How long a write waits for another process's write. Reads wait for nobody, as the file is in WAL mode."""


class SqliteStore:
    """Every store port over one file. Use as an async context manager: it owns a thread and a connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._waiting = 0
        self._connection: sqlite3.Connection

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}, {self._waiting} waiting>"

    async def __aenter__(self) -> "SqliteStore":
        try:
            self._connection = await self._run(_open_migrated, self._path)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._thread.submit(self._connection.close)
        await asyncio.to_thread(self._thread.shutdown)

    async def load_definitions(self, token: str) -> Definitions | None:
        return await self._run(_load_definitions, self._connection, token)

    async def definitions_version(self, token: str) -> int | None:
        return await self._run(_definitions_version, self._connection, token)

    async def load_person(self, project_id: int, distinct_id: str) -> Person | None:
        return await self._run(_load_person, self._connection, project_id, distinct_id)

    async def load_groups(self, project_id: int, keys: Mapping[str, str]) -> Mapping[str, Mapping[str, object]]:
        return await self._run(_load_groups, self._connection, project_id, keys)

    async def load_overrides(self, project_id: int, distinct_ids: tuple[str, ...]) -> Mapping[str, str]:
        return await self._run(_load_overrides, self._connection, project_id, distinct_ids)

    async def save_overrides(
        self, project_id: int, distinct_ids: tuple[str, ...], hash_keys: Mapping[str, str]
    ) -> None:
        await self._run(_save_overrides, self._connection, project_id, distinct_ids, hash_keys)

    async def import_projects(self, projects: Sequence[WholeProject], progress: Progress) -> None:
        await self._apart(lambda connection: import_projects(connection, projects, progress))

    async def export_projects(self) -> list[WholeProject]:
        return await self._apart(export_projects)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        """Do the work in the store's thread. A caller that goes away leaves it to finish, or, if waiting, undone."""
        if self._waiting >= MAX_WAITING:
            raise StoreUnavailable(f"{self._path}: {MAX_WAITING} calls are waiting already")
        self._waiting += 1
        try:
            with translated(self._path):
                return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*arguments))
        finally:
            self._waiting -= 1

    async def _apart(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do long work over a connection and in a thread of its own, so that reads need not wait for it."""

        def connect_and_work() -> T:
            with closing(_connect(self._path)) as connection:
                return work(connection)

        with translated(self._path):
            return await asyncio.to_thread(connect_and_work)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what sqlite3 raises into StoreError, with the file in question."""
    try:
        yield
    except sqlite3.OperationalError as error:
        kind = StoreTimeout if "locked" in str(error) else StoreUnavailable
        raise kind(f"{path}: {error}") from error
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise StoreError(f"{path}: {error}") from error


def _connect(path: str) -> sqlite3.Connection:
    """A connection that may be opened in one thread and used in another, by one at a time."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _open_migrated(path: str) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        with connection:
            # Taken before looking, so that of two processes the second finds the work done.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY) STRICT")
            done = {name for (name,) in connection.execute("SELECT name FROM migrations")}
            schema = files("gateway.stores") / "schema"
            for migration in sorted(schema.iterdir(), key=lambda file: file.name):
                if migration.name.endswith(".sql") and migration.name not in done:
                    for statement in migration.read_text().split(";\n"):
                        connection.execute(statement)
                    connection.execute("INSERT INTO migrations VALUES (?)", (migration.name,))
    except BaseException:
        connection.close()
        raise
    return connection


def _load_definitions(connection: sqlite3.Connection, token: str) -> Definitions | None:
    with connection:
        connection.execute("BEGIN")  # One state for the several reads.
        row = connection.execute("SELECT id, version FROM projects WHERE token = ?", (token,)).fetchone()
        if row is None:
            return None
        return Definitions(version=row[1], document=msgspec.json.encode(read_definitions(connection, row[0])))


def _definitions_version(connection: sqlite3.Connection, token: str) -> int | None:
    row = connection.execute("SELECT version FROM projects WHERE token = ?", (token,)).fetchone()
    return None if row is None else int(row[0])


def _load_person(connection: sqlite3.Connection, project_id: int, distinct_id: str) -> Person | None:
    row = connection.execute(
        "SELECT properties, (SELECT json_group_array(cohort_id) FROM cohort_members WHERE person_id = persons.id)"
        " FROM distinct_ids JOIN persons ON persons.id = person_id"
        " WHERE distinct_ids.project_id = ? AND distinct_id = ?",
        (project_id, distinct_id),
    ).fetchone()
    if row is None:
        return None
    return Person(msgspec.json.decode(row[0]), frozenset(msgspec.json.decode(row[1])))


def _load_groups(
    connection: sqlite3.Connection, project_id: int, keys: Mapping[str, str]
) -> Mapping[str, Mapping[str, object]]:
    found: dict[str, Mapping[str, object]] = {}
    for kind, key in keys.items():
        row = connection.execute(
            "SELECT properties FROM groups WHERE project_id = ? AND type = ? AND key = ?", (project_id, kind, key)
        ).fetchone()
        if row is not None:
            found[kind] = msgspec.json.decode(row[0])
    return found


def _load_overrides(
    connection: sqlite3.Connection, project_id: int, distinct_ids: tuple[str, ...]
) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for distinct_id in reversed(distinct_ids):  # So that the person of the first id has the last word.
        found.update(
            connection.execute(
                "SELECT flag_key, hash_key FROM overrides JOIN distinct_ids USING (person_id)"
                " WHERE project_id = ? AND distinct_id = ?",
                (project_id, distinct_id),
            )
        )
    return found


def _save_overrides(
    connection: sqlite3.Connection, project_id: int, distinct_ids: tuple[str, ...], hash_keys: Mapping[str, str]
) -> None:
    rows = [(*pair, project_id, distinct_id) for distinct_id in distinct_ids for pair in hash_keys.items()]
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT OR IGNORE INTO overrides (person_id, flag_key, hash_key)"
            " SELECT person_id, ?, ? FROM distinct_ids WHERE project_id = ? AND distinct_id = ?",
            rows,
        )
