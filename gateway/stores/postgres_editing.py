"""Projects, flags and cohorts in PostgreSQL, edited: one editor of a project at a time, with a record of every change.

Reading is in postgres_items.py. Invariant: whoever edits holds the project's row from before the first read, so that
what was decided on is what is replaced.
"""

import asyncio
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
from gateway.stores.postgres_items import PostgresItems, answer
from gateway.stores.postgres_pool import PostgresPool, Taken, Transaction

_TAKEN: Final = {"projects_token_key": TOKEN_TAKEN, "flags_by_key": KEY_TAKEN, "audit_by_request_key": REQUEST_TAKEN}

# Keeps other editors out, but not those who only need the project to stay, such as writers of persons.
_HOLD: Final = "SELECT version FROM flagstone.projects WHERE id = $1 FOR NO KEY UPDATE"
_BUMP: Final = """
UPDATE flagstone.projects SET version = flagstone.next_version(version) WHERE id = $1 RETURNING version
"""
_PUT: Final = """
INSERT INTO flagstone.{table} (project_id, id, document) VALUES ($1, $2, $3)
ON CONFLICT (project_id, id) DO UPDATE SET document = excluded.document
"""
_PUT_PROJECT: Final = "UPDATE flagstone.projects SET token = $2, document = $3 WHERE id = $1"
_RECORD: Final = """
INSERT INTO flagstone.audit
  (project_id, actor, request_id, request_key, kind, item_id, action, version, before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_CREATION_LOCK: Final = 0x66706A73
"""The advisory lock of those who create projects, so that each finds an id of its own."""
_FREE_PROJECT_ID: Final = """
SELECT greatest(0, (SELECT max(id) FROM flagstone.projects), (SELECT max(project_id) FROM flagstone.audit)) + 1
"""
_CREATE: Final = """
INSERT INTO flagstone.projects (id, token, version, document) VALUES ($1, $2, flagstone.next_version(0), $3)
ON CONFLICT DO NOTHING RETURNING id
"""
# Asked in this way, the database has no index to use but that of the project's persons.
_EMPTY: Final = (
    """
    WITH gone AS (
      DELETE FROM flagstone.persons
      WHERE id = ANY(ARRAY(
        SELECT id FROM flagstone.persons WHERE project_id BETWEEN $1 AND $1 ORDER BY project_id, id LIMIT $2
      )) RETURNING 1
    ) SELECT count(*) FROM gone
    """,
    """
    WITH gone AS (
      DELETE FROM flagstone.groups WHERE (project_id, type, key) IN (
        SELECT project_id, type, key FROM flagstone.groups WHERE project_id = $1 ORDER BY type, key LIMIT $2
      ) RETURNING 1
    ) SELECT count(*) FROM gone
    """,
)
_DELETE: Final = "DELETE FROM flagstone.projects WHERE id = $1 RETURNING id, document::text"


class PostgresEditing(PostgresItems):
    def __init__(self, writer: PostgresPool, reader: PostgresPool) -> None:
        super().__init__(reader)
        self._writer = writer

    async def edit(self, project_id: int, by: Actor, decide: Callable[[], Work]) -> int | None:
        try:
            return await self._writer.repeated(lambda: self._edit(project_id, by, decide))
        except Refused as refused:
            raise refused.why from refused.why.__cause__
        except Taken as taken:
            if taken.constraint not in _TAKEN:
                raise
            raise Conflict(_TAKEN[taken.constraint]) from taken

    async def _edit(self, project_id: int, by: Actor, decide: Callable[[], Work]) -> int | None:
        async with self._writer.transaction() as transaction:
            rows = await transaction.fetch(_HOLD, project_id)
            if not rows:
                return None
            work = decide()
            try:
                step = await _in_thread(work)
                while isinstance(step, Read):
                    step = await _in_thread(work, await answer(transaction.fetch, project_id, step))
            finally:
                work.close()
            if step:
                await _write(transaction, project_id, step)
                await _record(transaction, project_id, by, step)
                rows = await transaction.fetch(_BUMP, project_id)
        version: int = rows[0][0]
        return version

    async def create_project(self, document: bytes, token: str, by: Actor, project_id: int | None = None) -> int | None:
        async with self._writer.transaction() as transaction:
            await transaction.fetch("SELECT pg_advisory_xact_lock($1)", _CREATION_LOCK)
            if project_id is None:
                ((project_id,),) = await transaction.fetch(_FREE_PROJECT_ID)
            write = creation(document, project_id)
            if not await transaction.fetch(_CREATE, project_id, token, write.document.decode()):
                return None
            await _record(transaction, project_id, by, [write])
        return project_id

    async def delete_project(self, project_id: int, by: Actor) -> bool:
        """Persons and groups go first and in batches, as there may be a great many; if that ends early, repeating it
        goes on from there."""
        for statement in _EMPTY:
            deleted = DELETED_AT_ONCE
            while deleted >= DELETED_AT_ONCE:
                ((deleted,),) = await self._writer.fetch(statement, project_id, DELETED_AT_ONCE)
        async with self._writer.transaction() as transaction:
            rows = await transaction.fetch(_DELETE, project_id)
            for row in rows:
                await _record(transaction, project_id, by, [deletion(item("project", *row))])
        return bool(rows)


async def _in_thread(work: Work, answer: object = None) -> Read | Sequence[Write]:
    """The next step of a Work, taken where it holds up nobody: for thousands of flags one may take seconds.

    One that is under way is waited for when its caller is cancelled, as nothing can close it before.
    """
    step = asyncio.get_running_loop().run_in_executor(None, asked, work, answer)
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.wait({step})
        step.exception()  # Nobody is left to hear of it.
        raise


async def _write(transaction: Transaction, project_id: int, writes: Sequence[Write]) -> None:
    for kind, table in TABLES.items():
        rows = [(project_id, write.id, write.document.decode()) for write in writes if write.kind == kind]
        if rows:
            await transaction.executemany(_PUT.format(table=table), rows)
    for write in writes:
        if write.kind == "project":
            await transaction.fetch(_PUT_PROJECT, project_id, token_of(write.document), write.document.decode())


async def _record(transaction: Transaction, project_id: int, by: Actor, writes: Sequence[Write]) -> None:
    await transaction.executemany(
        _RECORD,
        [
            (
                project_id, by.name, by.request_id, write.request_key, write.kind, write.id, write.action,
                write.version, write.before and write.before.decode(), write.document.decode() or None,
            )
            for write in writes
        ],
    )  # fmt: skip
