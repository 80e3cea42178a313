"""Projects, flags and cohorts in SQLite, edited: in the thread that writes, with a record of every change.

Reading is in sqlite_items.py. Invariant: an edit takes the file's write lock before its first read, so that what was
decided on is what is replaced. One whose caller goes away is carried out all the same.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from gateway.editing_ports import Actor, Read, Work, Write
from gateway.errors import Conflict
from gateway.stores.batches import DELETED_AT_ONCE
from gateway.stores.items import (
    KEY_TAKEN,
    REQUEST_TAKEN,
    TABLES,
    TOKEN_TAKEN,
    Refused,
    asked,
    creation,
    deletion,
    item,
    token_of,
)
from gateway.stores.sqlite_items import SqliteItems, answer
from gateway.stores.sqlite_lane import Lane

_TAKEN: Final = {
    "projects.token": TOKEN_TAKEN,
    "flags.project_id, flags.key": KEY_TAKEN,
    "audit.project_id, audit.kind, audit.request_key": REQUEST_TAKEN,
}

_VERSION: Final = "SELECT version FROM projects WHERE id = ?"
_BUMP: Final = """
UPDATE projects SET version = max(version + 1, (SELECT ms FROM moment)) WHERE id = ? RETURNING version
"""
_PUT: Final = """
INSERT INTO {table} (project_id, id, document) VALUES (?, ?, ?)
ON CONFLICT (project_id, id) DO UPDATE SET document = excluded.document
"""
_PUT_PROJECT: Final = "UPDATE projects SET token = ?2, document = ?3 WHERE id = ?1"
_RECORD: Final = """
INSERT INTO audit (project_id, at, actor, request_id, request_key, kind, item_id, action, version, before, after)
SELECT ?, ms, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM moment
"""
_FREE_PROJECT_ID: Final = """
SELECT max(
  coalesce((SELECT max(id) FROM projects), 0),
  coalesce((SELECT max(project_id) FROM audit), 0)
) + 1
"""
_CREATE: Final = """
INSERT OR IGNORE INTO projects (id, token, version, document) SELECT ?, ?, ms, ? FROM moment
"""
_EMPTY: Final = (
    """
    DELETE FROM persons WHERE id IN (SELECT id FROM persons WHERE project_id = ? ORDER BY id LIMIT ?)
    """,
    """
    DELETE FROM groups WHERE (project_id, type, key) IN
      (SELECT project_id, type, key FROM groups WHERE project_id = ? ORDER BY type, key LIMIT ?)
    """,
)
_DELETE: Final = "DELETE FROM projects WHERE id = ? RETURNING id, document"


class SqliteEditing(SqliteItems):
    def __init__(self, writes: Lane, reads: Lane) -> None:
        super().__init__(reads)
        self._writes = writes

    async def edit(self, project_id: int, by: Actor, decide: Callable[[], Work]) -> int | None:
        try:
            return await self._writes.run(_edit, project_id, by, decide)
        except Refused as refused:
            raise refused.why from refused.why.__cause__

    async def create_project(self, document: bytes, token: str, by: Actor, project_id: int | None = None) -> int | None:
        return await self._writes.run(_create, document, token, by, project_id)

    async def delete_project(self, project_id: int, by: Actor) -> bool:
        """Persons and groups go first and in batches, as there may be a great many; if that ends early, repeating it
        goes on from there."""
        for statement in _EMPTY:
            while await self._writes.run(_delete_some, statement, project_id) >= DELETED_AT_ONCE:
                pass
        return await self._writes.run(_delete, project_id, by)


def _edit(connection: sqlite3.Connection, project_id: int, by: Actor, decide: Callable[[], Work]) -> int | None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute(_VERSION, (project_id,)).fetchone()
        if row is None:
            return None
        work = decide()
        try:
            step = asked(work)
            while isinstance(step, Read):
                step = asked(work, answer(connection, project_id, step))
        finally:
            work.close()
        if step:
            try:
                _write(connection, project_id, step)
                _record(connection, project_id, by, step)
            except sqlite3.IntegrityError as error:
                taken = str(error).partition("UNIQUE constraint failed: ")[2]
                if taken not in _TAKEN:
                    raise
                raise Conflict(_TAKEN[taken]) from error
            row = connection.execute(_BUMP, (project_id,)).fetchone()
    version: int = row[0]
    return version


def _create(
    connection: sqlite3.Connection, document: bytes, token: str, by: Actor, project_id: int | None
) -> int | None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if project_id is None:
            (project_id,) = connection.execute(_FREE_PROJECT_ID).fetchone()
        write = creation(document, project_id)
        if not connection.execute(_CREATE, (project_id, token, write.document.decode())).rowcount:
            return None
        _record(connection, project_id, by, [write])
    return project_id


def _delete_some(connection: sqlite3.Connection, statement: str, project_id: int) -> int:
    with connection:
        return connection.execute(statement, (project_id, DELETED_AT_ONCE)).rowcount


def _delete(connection: sqlite3.Connection, project_id: int, by: Actor) -> bool:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(_DELETE, (project_id,)).fetchall()
        for row in rows:
            _record(connection, project_id, by, [deletion(item("project", *row))])
    return bool(rows)


def _write(connection: sqlite3.Connection, project_id: int, writes: Sequence[Write]) -> None:
    for kind, table in TABLES.items():
        rows = [(project_id, write.id, write.document.decode()) for write in writes if write.kind == kind]
        connection.executemany(_PUT.format(table=table), rows)
    for write in writes:
        if write.kind == "project":
            connection.execute(_PUT_PROJECT, (project_id, token_of(write.document), write.document.decode()))


def _record(connection: sqlite3.Connection, project_id: int, by: Actor, writes: Sequence[Write]) -> None:
    connection.executemany(
        _RECORD,
        [
            (
                project_id, by.name, by.request_id, write.request_key, write.kind, write.id, write.action,
                write.version, write.before and write.before.decode(), write.document.decode() or None,
            )
            for write in writes
        ],
    )  # fmt: skip
