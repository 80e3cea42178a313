"""Projects, flags and cohorts in SQLite, read: by id or key, page by page, their history, how they are published.

Nothing is written here; knows nothing of threads but the lane. Invariant: every answer is bounded.
"""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.editing_ports import (
    AuditRecord,
    Item,
    ItemQuery,
    Kind,
    Page,
    Publication,
    Read,
    ReadFreeId,
    ReadItems,
    ReadVersion,
)
from gateway.stores.items import MAX_PAGE, TABLES, is_storable, item, known_ids, storable
from gateway.stores.sqlite_lane import Lane

_PROJECT: Final = "SELECT id, document FROM projects WHERE id = ?"
_VERSION: Final = "SELECT version FROM projects WHERE id = ?"
_ALL: Final = "SELECT id, document FROM {table} WHERE project_id = ? ORDER BY id"
_SOME: Final = """
SELECT id, document FROM {table} WHERE project_id = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id
"""
_IDS_OF_KEYS: Final = """
SELECT id FROM flags INDEXED BY flags_by_key
WHERE project_id = ? AND key IN (SELECT value FROM json_each(?)) AND NOT deleted
"""
_FREE_ID: Final = """
SELECT max(
  coalesce((SELECT max(id) FROM {table} WHERE project_id = ?1), 0),
  coalesce((SELECT max(item_id) FROM audit WHERE project_id = ?1 AND kind = ?2), 0)
) + 1
"""
_RECORD: Final = """
SELECT id, project_id, at, actor, request_id, kind, item_id, action, version,
  CAST(before AS BLOB), CAST(after AS BLOB), request_key
FROM audit WHERE project_id = ?1 AND kind = ?2
"""
_RECORD_OF_REQUEST: Final = _RECORD + " AND request_key = ?3"
_RECORD_OF_VERSION: Final = _RECORD + " AND item_id = ?3 AND version = ?4 ORDER BY id DESC LIMIT 1"
_HISTORY: Final = _RECORD + " AND item_id = ?3 AND (?4 IS NULL OR id < ?4) ORDER BY id DESC LIMIT ?5"
_PAGE: Final = """
WITH matching AS MATERIALIZED (
  SELECT id FROM {table} WHERE {which} AND instr(lower({text}), lower(?1)) > 0
), page AS (
  SELECT id FROM matching ORDER BY id * ?2 LIMIT ?3 OFFSET ?4
)
SELECT total, found.id, found.document
FROM (SELECT count(*) AS total FROM matching)
LEFT JOIN (SELECT id, document FROM page JOIN {table} USING (id) WHERE {which}) AS found
ORDER BY found.id * ?2
"""
_NAME: Final = "coalesce(document ->> '$.name', '')"
_PROJECTS: Final = _PAGE.format(table="projects", which="true", text=_NAME)
_COHORTS: Final = _PAGE.format(table="cohorts", which="project_id = ?5 AND deleted = ?6", text=_NAME)
_FLAGS: Final = _PAGE.format(
    table="flags",
    which="project_id = ?5 AND deleted = ?6 AND (?7 IS NULL OR active = ?7)",
    text=f"key || char(10) || {_NAME}",
)
_PUBLICATION: Final = """
SELECT projects.id AS project_id, projects.version AS stored_version, published.version AS published_version,
  etag, bytes, flags, cohorts, members, published_at, dirty_since,
  coalesce(failures, 0) AS failures, coalesce(is_refused, 0) AS is_refused, problem
FROM projects
LEFT JOIN published ON published.project_id = projects.id
LEFT JOIN builds ON builds.project_id = projects.id
WHERE projects.id = ?
"""


class SqliteItems:
    def __init__(self, reads: Lane) -> None:
        self._reads = reads

    async def list_projects(self, search: str = "", limit: int = 100, offset: int = 0) -> Page:
        return await self._reads.run(_page, "project", _PROJECTS, search, 1, min(limit, MAX_PAGE), offset)

    async def read_items(
        self, project_id: int, kind: Kind, ids: Sequence[int] = (), keys: Sequence[str] = ()
    ) -> list[Item]:
        return await self._reads.run(read_items, project_id, ReadItems(kind, tuple(ids), tuple(keys)))

    async def list_items(self, project_id: int, query: ItemQuery) -> Page:
        which = (project_id, query.is_deleted, query.is_active)
        order = (-1 if query.is_newest_first else 1, min(query.limit, MAX_PAGE), query.offset)
        if query.kind == "flag":
            return await self._reads.run(_page, "flag", _FLAGS, query.search, *order, *which)
        return await self._reads.run(_page, "cohort", _COHORTS, query.search, *order, *which[:2])

    async def history(
        self, project_id: int, kind: Kind, item_id: int, limit: int = 100, before_id: int | None = None
    ) -> list[AuditRecord]:
        return await self._reads.run(_history, project_id, kind, item_id, before_id, min(limit, MAX_PAGE))

    async def publication(self, project_id: int) -> Publication | None:
        return await self._reads.run(_publication, project_id)


def answer(connection: sqlite3.Connection, project_id: int, read: Read) -> Any:
    """What a Work is sent for what it asks."""
    if isinstance(read, ReadItems):
        return read_items(connection, project_id, read)
    if isinstance(read, ReadFreeId):
        return connection.execute(_FREE_ID.format(table=TABLES[read.kind]), (project_id, read.kind)).fetchone()[0]
    if isinstance(read, ReadVersion):
        return connection.execute(_VERSION, (project_id,)).fetchone()[0]
    of_kind = (project_id, read.kind)
    if read.request_key is None:
        row = connection.execute(_RECORD_OF_VERSION, (*of_kind, read.item_id, read.version)).fetchone()
    elif is_storable(read.request_key):
        row = connection.execute(_RECORD_OF_REQUEST, (*of_kind, read.request_key)).fetchone()
    else:
        row = None
    return _record(row) if row else None


def read_items(connection: sqlite3.Connection, project_id: int, read: ReadItems) -> list[Item]:
    if read.kind == "project":
        rows = connection.execute(_PROJECT, (project_id,))
    elif read.is_all:
        rows = connection.execute(_ALL.format(table=TABLES[read.kind]), (project_id,))
    else:
        ids = known_ids(read.ids)
        if read.keys and read.kind == "flag":
            ids += [id_ for (id_,) in connection.execute(_IDS_OF_KEYS, (project_id, json(storable(read.keys))))]
        rows = connection.execute(_SOME.format(table=TABLES[read.kind]), (project_id, json(ids)))
    return [item(read.kind, id_, document) for id_, document in rows]


def _page(connection: sqlite3.Connection, kind: Kind, statement: str, search: str, *args: Any) -> Page:
    if not is_storable(search):
        return Page([], 0)
    rows = connection.execute(statement, (search, *args)).fetchall()
    return Page([item(kind, id_, document) for _, id_, document in rows if id_ is not None], rows[0][0])


def _history(connection: sqlite3.Connection, *args: Any) -> list[AuditRecord]:
    return [_record(row) for row in connection.execute(_HISTORY, args)]


def _publication(connection: sqlite3.Connection, project_id: int) -> Publication | None:
    cursor = connection.execute(_PUBLICATION, (project_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    named = {name: value for (name, *_), value in zip(cursor.description, row, strict=True)}
    for name in ("published_at", "dirty_since"):
        named[name] = None if named[name] is None else moment(named[name])
    return Publication(**{**named, "is_refused": bool(named["is_refused"])})


def _record(row: Any) -> AuditRecord:
    id_, project_id, at, *others = row
    return AuditRecord(id_, project_id, moment(at), *others)


def moment(ms: int) -> datetime:
    """The moment that is stored as milliseconds since 1970."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def milliseconds(at: datetime) -> int:
    """The same the other way."""
    return round(at.timestamp() * 1000)


def json(value: object) -> str:
    return msgspec.json.encode(value).decode()
