"""Projects, flags and cohorts in PostgreSQL, read: by id or key, page by page, their history, how they are published.

Nothing is written here. Invariant: every answer is bounded, and text that the database cannot hold is found nowhere.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

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
from gateway.stores.postgres_pool import PostgresPool

Fetch = Callable[..., Awaitable[list[Any]]]

_PROJECT: Final = "SELECT id, document::text FROM flagstone.projects WHERE id = $1"
_VERSION: Final = "SELECT version FROM flagstone.projects WHERE id = $1"
_ALL: Final = "SELECT id, document::text FROM flagstone.{table} WHERE project_id = $1 ORDER BY id"
_SOME: Final = """
SELECT id, document::text FROM flagstone.{table} WHERE project_id = $1 AND id = ANY($2::bigint[]) ORDER BY id
"""
_IDS_OF_KEYS: Final = "SELECT id FROM flagstone.flags WHERE project_id = $1 AND key = ANY($2::text[]) AND NOT deleted"
_FREE_ID: Final = """
SELECT greatest(
  0,
  (SELECT max(id) FROM flagstone.{table} WHERE project_id = $1),
  (SELECT max(item_id) FROM flagstone.audit WHERE project_id = $1 AND kind = $2)
) + 1
"""
_RECORD: Final = """
SELECT id, project_id, at, actor, request_id, kind, item_id, action, version,
  convert_to(before::text, 'UTF8'), convert_to(after::text, 'UTF8'), request_key
FROM flagstone.audit WHERE project_id = $1 AND kind = $2
"""
_RECORD_OF_REQUEST: Final = _RECORD + " AND request_key = $3"
_RECORD_OF_VERSION: Final = _RECORD + " AND item_id = $3 AND version = $4 ORDER BY id DESC LIMIT 1"
_HISTORY: Final = _RECORD + " AND item_id = $3 AND ($4::bigint IS NULL OR id < $4) ORDER BY id DESC LIMIT $5"
_PAGE: Final = """
WITH matching AS (
  SELECT id FROM flagstone.{table} WHERE {which} AND ($1 = '' OR strpos(lower({text}), lower($1::text)) > 0)
), page AS (
  SELECT id FROM matching ORDER BY id * $2::bigint LIMIT $3 OFFSET $4
)
SELECT counted.total, found.id, found.document
FROM (SELECT count(*) AS total FROM matching) AS counted
LEFT JOIN (SELECT id, document::text FROM page JOIN flagstone.{table} USING (id) WHERE {which}) AS found ON true
ORDER BY found.id * $2::bigint
"""
_PROJECTS: Final = _PAGE.format(table="projects", which="true", text="document ->> 'name'")
_COHORTS: Final = _PAGE.format(
    table="cohorts", which="project_id = $5 AND deleted = $6", text="coalesce(document ->> 'name', '')"
)
_FLAGS: Final = _PAGE.format(
    table="flags",
    which="project_id = $5 AND deleted = $6 AND ($7::boolean IS NULL OR active = $7)",
    text="concat_ws(chr(10), key, document ->> 'name')",
)
_PUBLICATION: Final = """
SELECT projects.id AS project_id, projects.version AS stored_version, published.version AS published_version,
  etag, bytes, flags, cohorts, members, published_at, dirty_since,
  coalesce(failures, 0) AS failures, coalesce(is_refused, false) AS is_refused, problem
FROM flagstone.projects
LEFT JOIN flagstone.published ON published.project_id = projects.id
LEFT JOIN flagstone.builds ON builds.project_id = projects.id
WHERE projects.id = $1
"""


class PostgresItems:
    def __init__(self, reader: PostgresPool) -> None:
        self._reader = reader

    async def list_projects(self, search: str = "", limit: int = 100, offset: int = 0) -> Page:
        return await self._page("project", _PROJECTS, search, 1, min(limit, MAX_PAGE), offset)

    async def read_items(
        self, project_id: int, kind: Kind, ids: Sequence[int] = (), keys: Sequence[str] = ()
    ) -> list[Item]:
        return await read_items(self._reader.fetch, project_id, ReadItems(kind, tuple(ids), tuple(keys)))

    async def list_items(self, project_id: int, query: ItemQuery) -> Page:
        which = (project_id, query.is_deleted, query.is_active)
        order = (-1 if query.is_newest_first else 1, min(query.limit, MAX_PAGE), query.offset)
        if query.kind == "flag":
            return await self._page("flag", _FLAGS, query.search, *order, *which)
        return await self._page("cohort", _COHORTS, query.search, *order, *which[:2])

    async def _page(self, kind: Kind, statement: str, search: str, *args: Any) -> Page:
        if not is_storable(search):
            return Page([], 0)
        rows = await self._reader.fetch(statement, search, *args)
        return Page([item(kind, id_, document) for _, id_, document in rows if id_ is not None], rows[0][0])

    async def history(
        self, project_id: int, kind: Kind, item_id: int, limit: int = 100, before_id: int | None = None
    ) -> list[AuditRecord]:
        rows = await self._reader.fetch(_HISTORY, project_id, kind, item_id, before_id, min(limit, MAX_PAGE))
        return [AuditRecord(*row) for row in rows]

    async def publication(self, project_id: int) -> Publication | None:
        rows = await self._reader.fetch(_PUBLICATION, project_id)
        return Publication(**dict(rows[0])) if rows else None


async def answer(fetch: Fetch, project_id: int, read: Read) -> Any:
    """What a Work is sent for what it asks."""
    if isinstance(read, ReadItems):
        return await read_items(fetch, project_id, read)
    if isinstance(read, ReadFreeId):
        rows = await fetch(_FREE_ID.format(table=TABLES[read.kind]), project_id, read.kind)
        return rows[0][0]
    if isinstance(read, ReadVersion):
        rows = await fetch(_VERSION, project_id)
        return rows[0][0]
    if read.request_key is None:
        rows = await fetch(_RECORD_OF_VERSION, project_id, read.kind, read.item_id, read.version)
    elif is_storable(read.request_key):
        rows = await fetch(_RECORD_OF_REQUEST, project_id, read.kind, read.request_key)
    else:
        rows = []
    return AuditRecord(*rows[0]) if rows else None


async def read_items(fetch: Fetch, project_id: int, read: ReadItems) -> list[Item]:
    if read.kind == "project":
        rows = await fetch(_PROJECT, project_id)
    elif read.is_all:
        rows = await fetch(_ALL.format(table=TABLES[read.kind]), project_id)
    else:
        ids = known_ids(read.ids)
        if read.keys and read.kind == "flag":
            ids += [id_ for (id_,) in await fetch(_IDS_OF_KEYS, project_id, storable(read.keys))]
        rows = await fetch(_SOME.format(table=TABLES[read.kind]), project_id, ids) if ids else []
    return [item(read.kind, id_, document) for id_, document in rows]
