"""Building and publishing on SQLite: who builds what, the parts of documents, and one state of a project to read.

Invariant: whatever is done for a job begins by checking its lease, in the transaction that does it; a worker that was
given up changes nothing any more.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from gateway.building_ports import (
    ANOMALOUS_FACTOR,
    ANOMALOUS_FROM_BYTES,
    MAX_ANOMALOUS,
    Backlog,
    Job,
    LeaseLost,
    Published,
    Source,
)
from gateway.stores.sqlite_items import milliseconds, moment
from gateway.stores.sqlite_lane import Lane

P = ParamSpec("P")
T = TypeVar("T")

BATCH_BYTES: Final = 1 << 20
"""Documents are read in batches of about this size, or a single larger one."""


class SqliteBuilds:
    """BuildStore over the lanes of the store, and one of its own in which a project can be read in one state."""

    def __init__(self, writes: Lane, reads: Lane, source: Lane) -> None:
        self._writes = writes
        self._reads = reads
        self._source = source
        self._reading = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SqliteBuilds, source {self._source}>"

    async def claim(self, limit: int, lease_s: float) -> list[Job]:
        return await self._writes.run(_claim, _DUE, (limit,), lease_s)

    async def claim_unverified(self, limit: int, lease_s: float, older_than_s: float) -> list[Job]:
        return await self._writes.run(_claim, _UNVERIFIED, (int(older_than_s * 1000), limit), lease_s)

    @asynccontextmanager
    async def read_project(self, project_id: int, build: str) -> AsyncIterator[Source | None]:
        """One at a time: the lane's one connection is in a transaction meanwhile."""
        async with self._reading:
            try:
                head = await self._source.run(_begin_reading, project_id)
                yield None if head is None else _Source((self._source, self._writes), (project_id, build), head)
            finally:
                await self._source.run(sqlite3.Connection.rollback)

    async def published(self, project_id: int) -> Published | None:
        return await self._reads.run(_published, project_id)

    async def read_part(self, published: Published, number: int) -> bytes | None:
        row = await self._reads.run(_one, _PART, (published.project_id, published.build, number))
        return None if row is None else row[0]

    async def put_in_force(self, job: Job, published: Published, parts: int) -> bool:
        return await self._write(_fenced, job, _put_in_force, published, parts)

    async def finish(self, job: Job, version: int, *, pace_ms: int, is_announced: bool, is_verified: bool) -> bool:  # noqa: ARG002
        """Announces nothing: gateways look at the file."""
        return await self._write(_fenced, job, _finish, version, pace_ms, is_verified)

    async def fail(self, job: Job, problem: str, *, rest_s: float, pace_ms: int, is_refused: bool) -> None:
        await self._write(_fenced, job, _fail, (problem, is_refused, pace_ms), int(rest_s * 1000))

    async def count_members(self, project_id: int) -> None:
        # Many take long to count, and neither readers nor writers are to wait for it.
        (members,) = await self._source.run(_one, _MEMBERS, (project_id,))
        await self._write(_put_members, project_id, members)

    async def mark_dirty(self, project_id: int) -> None:
        await self._write(_mark_dirty, project_id)

    async def backlog(self) -> Backlog:
        return await self._reads.run(_backlog)

    async def _write(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._writes.run(_transaction, lambda connection: work(connection, *args, **kwargs))


def _transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        return work(connection)


def _one(connection: sqlite3.Connection, statement: str, args: Sequence[object]) -> Any:
    return connection.execute(statement, args).fetchone()


_DUE: Final = """
SELECT project_id FROM builds, moment
WHERE dirty_since IS NOT NULL AND max(dirty_since, rest_until) <= ms AND leased_until <= ms
ORDER BY max(dirty_since, rest_until) LIMIT ?
"""
_UNVERIFIED: Final = """
SELECT project_id FROM builds, moment
WHERE dirty_since IS NULL AND verified_at <= ms - ? AND leased_until <= ms ORDER BY verified_at LIMIT ?
"""
_LEASE: Final = """
UPDATE builds SET lease = ?1, leased_until = ?2 + (SELECT ms FROM moment) WHERE project_id = ?3
RETURNING leased_until - ?2, (SELECT version FROM projects WHERE id = project_id), dirty_since, pace_ms,
  coalesce(dirty_since < rest_until, 0), failures
"""
_MEMBERS: Final = """
SELECT count(*) FROM cohort_members JOIN persons ON id = person_id WHERE persons.project_id = ?
"""
_PART: Final = "SELECT part FROM published_parts WHERE project_id = ? AND build = ? AND number = ?"


def _claim(connection: sqlite3.Connection, which: str, args: Sequence[int], lease_s: float) -> list[Job]:
    # To find nothing needs no lock, for which it might have to wait until another process is through with an import.
    if _one(connection, which, args) is None:
        return []

    def lease(connection: sqlite3.Connection) -> list[Job]:
        return [_lease(connection, id_, lease_s) for (id_,) in connection.execute(which, args).fetchall()]

    return _transaction(connection, lease)


def _lease(connection: sqlite3.Connection, project_id: int, lease_s: float) -> Job:
    lease = secrets.token_hex(8)
    leased = connection.execute(_LEASE, (lease, int(lease_s * 1000), project_id)).fetchall()
    leased_at, version, dirty_since, pace_ms, is_hot, failures = leased[0]
    return Job(
        project_id=project_id,
        lease=lease,
        leased_at=moment(leased_at),
        version=version,
        dirty_since=None if dirty_since is None else moment(dirty_since),
        pace_ms=pace_ms,
        is_hot=bool(is_hot),
        failures=failures,
    )


def _fenced(
    connection: sqlite3.Connection,
    job: Job,
    work: Callable[Concatenate[sqlite3.Connection, Job, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """What `work` returns, called while the job is its holder's. Raises LeaseLost."""
    row = _one(connection, "SELECT lease FROM builds WHERE project_id = ?", (job.project_id,))
    if row is None or row[0] != job.lease:
        raise LeaseLost
    return work(connection, job, *args, **kwargs)


def _published(connection: sqlite3.Connection, project_id: int) -> Published | None:
    row = _one(
        connection,
        "SELECT token, build, published.version, etag, bytes, flags, cohorts"
        " FROM published JOIN projects ON id = project_id WHERE project_id = ?",
        (project_id,),
    )
    if row is None:
        return None
    names = ("token", "build", "version", "etag", "bytes", "flags", "cohorts")
    return Published(project_id=project_id, **dict(zip(names, row, strict=True)))


def _put_part(connection: sqlite3.Connection, *row: object) -> None:
    connection.execute("INSERT INTO published_parts (project_id, build, number, part) VALUES (?, ?, ?, ?)", row)


def _put_in_force(connection: sqlite3.Connection, job: Job, published: Published, parts: int) -> bool:
    there = _one(
        connection,
        "SELECT count(*), coalesce(sum(length(part)), 0) FROM published_parts WHERE project_id = ? AND build = ?",
        (job.project_id, published.build),
    )
    if there != (parts, published.bytes):
        return False
    written = connection.execute(
        "INSERT INTO published (project_id, version, build, etag, bytes, flags, cohorts, published_at)"
        " SELECT ?, ?, ?, ?, ?, ?, ?, ms FROM moment WHERE true"
        " ON CONFLICT (project_id) DO UPDATE SET version = excluded.version, build = excluded.build,"
        " etag = excluded.etag, bytes = excluded.bytes, flags = excluded.flags, cohorts = excluded.cohorts,"
        " published_at = excluded.published_at WHERE published.version < excluded.version",
        (job.project_id, published.version, published.build, published.etag, published.bytes, published.flags,
         published.cohorts),
    ).rowcount  # fmt: skip
    return bool(written)


def _finish(connection: sqlite3.Connection, job: Job, version: int, pace_ms: int, is_verified: bool) -> bool:
    is_current = _is_current(connection, job.project_id, version)
    connection.execute(
        "UPDATE builds SET lease = NULL, leased_until = 0, failures = 0, problem = NULL, is_refused = 0, pace_ms = ?1,"
        " rest_until = ?1 + ms, verified_at = iif(?2, ms, 0),"
        " dirty_since = iif(?3, NULL, max(coalesce(dirty_since, 0), ?4)) FROM moment WHERE project_id = ?5",
        (pace_ms, is_verified, is_current, milliseconds(job.leased_at), job.project_id),
    )
    _sweep(connection, job.project_id)
    return is_current


def _fail(connection: sqlite3.Connection, job: Job, told: tuple[str, bool, int], rest_ms: int) -> None:
    pace_ms = told[-1]
    rest_ms = rest_ms if _is_current(connection, job.project_id, job.version) else min(rest_ms, pace_ms)
    connection.execute(
        "UPDATE builds SET lease = NULL, leased_until = 0, failures = failures + 1, problem = ?, is_refused = ?,"
        " pace_ms = ?, rest_until = ? + ms, dirty_since = coalesce(dirty_since, ms) FROM moment WHERE project_id = ?",
        (*told, rest_ms, job.project_id),
    )
    _sweep(connection, job.project_id)


def _is_current(connection: sqlite3.Connection, project_id: int, version: int) -> bool:
    return bool(_one(connection, "SELECT version <= ? FROM projects WHERE id = ?", (version, project_id))[0])


def _sweep(connection: sqlite3.Connection, project_id: int) -> None:
    connection.execute(
        "DELETE FROM published_parts WHERE project_id = ?1"
        " AND build NOT IN (SELECT build FROM published WHERE project_id = ?1)",
        (project_id,),
    )


def _put_members(connection: sqlite3.Connection, project_id: int, members: int) -> None:
    connection.execute("UPDATE published SET members = ? WHERE project_id = ?", (members, project_id))


def _mark_dirty(connection: sqlite3.Connection, project_id: int) -> None:
    connection.execute(
        "UPDATE projects SET version = max(version + 1, (SELECT ms FROM moment),"
        " 1 + coalesce((SELECT published.version FROM published WHERE project_id = id), 0)) WHERE id = ?",
        (project_id,),
    )


def _backlog(connection: sqlite3.Connection) -> Backlog:
    dirty, oldest_ms = _one(
        connection,
        "SELECT count(*), coalesce((SELECT ms FROM moment) - min(dirty_since), 0)"
        " FROM builds WHERE dirty_since IS NOT NULL",
        (),
    )
    refused, failing = _one(
        connection,
        "SELECT coalesce(sum(is_refused), 0), coalesce(sum(NOT is_refused), 0) FROM builds WHERE problem IS NOT NULL",
        (),
    )
    (projects,) = _one(connection, "SELECT count(*) FROM published", ())
    typical = _one(connection, "SELECT bytes FROM published ORDER BY bytes LIMIT 1 OFFSET ?", (projects // 2,))
    typical_bytes = 0 if typical is None else typical[0]
    anomalous = connection.execute(
        "SELECT project_id, bytes FROM published WHERE bytes > ? ORDER BY bytes DESC LIMIT ?",
        (max(ANOMALOUS_FROM_BYTES, ANOMALOUS_FACTOR * typical_bytes), MAX_ANOMALOUS),
    ).fetchall()
    return Backlog(dirty, oldest_ms / 1000, refused, failing, projects, typical_bytes, anomalous)


def _begin_reading(connection: sqlite3.Connection, project_id: int) -> tuple[int, str, bytes] | None:
    connection.execute("BEGIN")
    row = _one(connection, "SELECT version, token, document FROM projects WHERE id = ?", (project_id,))
    return None if row is None else (row[0], row[1], row[2].encode())


class _Source:
    def __init__(self, lanes: tuple[Lane, Lane], build: tuple[int, str], head: tuple[int, str, bytes]) -> None:
        self._lane, self._writes = lanes
        self._build = build
        self.version, self.token, self.shell = head

    async def items(self, kind: Literal["flag", "cohort"]) -> AsyncIterator[Sequence[bytes]]:
        last_id = -(1 << 63)
        while True:
            batch, last_id = await self._lane.run(_batch, f"{kind}s", self._build[0], last_id)
            if not batch:
                return
            yield batch

    async def put_part(self, number: int, part: bytes) -> None:
        """On the other connection: this one's state is older than what others write, which SQLite does not allow."""
        await self._writes.run(_put_part, *self._build, number, part)


def _batch(connection: sqlite3.Connection, table: str, project_id: int, after_id: int) -> tuple[list[bytes], int]:
    rows = connection.execute(
        f"SELECT id, document FROM {table} WHERE project_id = ? AND id > ? AND NOT deleted ORDER BY id",
        (project_id, after_id),
    )
    batch: list[bytes] = []
    size = 0
    for last_id, document in rows:  # Until it is enough, which leaves the rest unread.
        batch.append(document.encode())
        size += len(batch[-1])
        after_id = last_id
        if size >= BATCH_BYTES:
            break
    return batch, after_id
