"""The embedded store: one SQLite file, read from one thread and written from another.

Threads, connections and errors are in sqlite_lane.py; editing and building have files of their own. Invariant: no read
waits for a write; during an import, or while a write waits for another process, readers are answered with the state
before it.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from gateway.document import Progress, WholeProject
from gateway.errors import StoreError
from gateway.ports import UNPUBLISHED, Definitions, FactsQuery, StoredFacts
from gateway.stores.sqlite_builds import SqliteBuilds
from gateway.stores.sqlite_lane import Lane
from gateway.stores.sqlite_managed import SqliteManaged
from gateway.stores.sqlite_transfer import export_projects, import_projects

BUSY_TIMEOUT_S: Final = 5.0
"""How long a write waits for another process's write. Reads wait for nobody, as the file is in WAL mode."""


class SqliteStore:
    """Every store port over one file. Use as an async context manager: it owns threads, each with a connection."""

    def __init__(self, path: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._path = path
        self._writes, self._reads, source = (Lane(path, busy_timeout_s) for _ in range(3))
        self._lanes = (self._writes, self._reads, source)
        self.builds = SqliteBuilds(self._writes, self._reads, source)
        self.managed = SqliteManaged(self._writes, self._reads)
        self._opened = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}, reads {self._reads}, writes {self._writes}>"

    async def __aenter__(self) -> "SqliteStore":
        async with AsyncExitStack() as opened:
            for lane in self._lanes:
                await opened.enter_async_context(lane)
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def load_definitions(self, token: str) -> Definitions | None:
        return await self._reads.run(_load_definitions, token)

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        return await self._reads.run(_definitions_versions, tokens)

    async def load_facts(self, query: FactsQuery) -> StoredFacts:
        return await self._reads.run(_load_facts, query)

    async def save_overrides(
        self, project_id: int, distinct_ids: tuple[str, ...], hash_keys: Mapping[str, str]
    ) -> None:
        await self._writes.run(_save_overrides, project_id, distinct_ids, hash_keys)

    async def import_projects(self, projects: Sequence[WholeProject], progress: Progress) -> None:
        """`progress` is called in the store's thread. An import whose caller goes away is rolled back."""
        is_given_up = threading.Event()

        def report(persons_stored: int, persons: int) -> None:
            if is_given_up.is_set():
                raise StoreError(f"{self._path}: the import was given up, and nothing is changed")
            progress(persons_stored, persons)

        try:
            await self._writes.run(import_projects, projects, report)
        except asyncio.CancelledError:
            is_given_up.set()
            raise

    async def export_projects(self) -> list[WholeProject]:
        # Not among the reads, which would have to wait for it.
        return await self._writes.run(export_projects)


def _load_definitions(connection: sqlite3.Connection, token: str) -> Definitions | None:
    with connection:
        connection.execute("BEGIN")  # One state for both reads.
        row = connection.execute(
            "SELECT id, published.version, build FROM projects LEFT JOIN published ON project_id = id WHERE token = ?",
            (token,),
        ).fetchone()
        if row is None or row[1] is None:
            return None if row is None else Definitions(row[0], UNPUBLISHED, b"")
        parts = connection.execute(
            "SELECT part FROM published_parts WHERE project_id = ? AND build = ? ORDER BY number", (row[0], row[2])
        )
        return Definitions(row[0], row[1], b"".join(part for (part,) in parts))


def _definitions_versions(connection: sqlite3.Connection, tokens: Sequence[str]) -> Mapping[str, int]:
    rows = connection.execute(
        "SELECT token, coalesce(published.version, ?) FROM projects LEFT JOIN published ON project_id = id"
        " WHERE token IN (SELECT value FROM json_each(?))",
        (UNPUBLISHED, msgspec.json.encode(tokens).decode()),
    )
    return dict(rows.fetchall())


def _load_facts(connection: sqlite3.Connection, query: FactsQuery) -> StoredFacts:
    properties, cohorts = _load_person(connection, query.project_id, query.distinct_ids[0])
    return StoredFacts(
        person_properties=properties,
        cohorts=cohorts,
        groups=_load_groups(connection, query.project_id, query.groups),
        overrides=_load_overrides(connection, query) if query.wants_overrides else {},
    )


def _load_person(
    connection: sqlite3.Connection, project_id: int, distinct_id: str
) -> tuple[Mapping[str, object], frozenset[int]]:
    row = connection.execute(
        "SELECT properties, (SELECT json_group_array(cohort_id) FROM cohort_members WHERE person_id = persons.id)"
        " FROM distinct_ids JOIN persons ON persons.id = person_id"
        " WHERE distinct_ids.project_id = ? AND distinct_id = ?",
        (project_id, distinct_id),
    ).fetchone()
    if row is None:
        return {}, frozenset()
    return msgspec.json.decode(row[0]), frozenset(msgspec.json.decode(row[1]))


def _load_groups(
    connection: sqlite3.Connection, project_id: int, groups: Iterable[tuple[str, str]]
) -> Mapping[str, Mapping[str, object]]:
    found: dict[str, Mapping[str, object]] = {}
    for kind, key in groups:
        row = connection.execute(
            "SELECT properties FROM groups WHERE project_id = ? AND type = ? AND key = ?", (project_id, kind, key)
        ).fetchone()
        if row is not None:
            found[kind] = msgspec.json.decode(row[0])
    return found


def _load_overrides(connection: sqlite3.Connection, query: FactsQuery) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for distinct_id in reversed(query.distinct_ids):  # So that the person of the first id has the last word.
        found.update(
            connection.execute(
                "SELECT flag_key, hash_key FROM overrides JOIN distinct_ids USING (person_id)"
                " WHERE project_id = ? AND distinct_id = ?",
                (query.project_id, distinct_id),
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
