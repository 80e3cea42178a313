"""Building and publishing on PostgreSQL: who builds what, the parts of documents, and one state of a project to read.

Invariant: whatever is done for a job locks its row and checks its lease in the statement that does it; a worker that
was given up changes nothing any more. Rows are locked in the order project, build, as editors do.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, Literal

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
from gateway.stores.postgres_feed import CHANNEL
from gateway.stores.postgres_pool import PostgresPool

FIRST_ROWS: Final = 50
BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 1 << 20
"""Documents are read in batches of at most so many, and of about this size or a single larger one."""

_LEASED: Final = """
UPDATE flagstone.builds SET lease = gen_random_uuid()::text, leased_until = now() + $2
WHERE project_id = ANY(ARRAY(SELECT project_id FROM due))
RETURNING project_id, lease, now(), (SELECT version FROM flagstone.projects WHERE id = project_id), dirty_since,
  pace_ms, coalesce(dirty_since < rest_until, false), failures
"""
_CLAIM: Final = f"""
WITH due AS (
  SELECT project_id FROM flagstone.builds
  WHERE dirty_since IS NOT NULL AND greatest(dirty_since, rest_until) <= now() AND leased_until <= now()
  ORDER BY greatest(dirty_since, rest_until) LIMIT $1 FOR UPDATE SKIP LOCKED
) {_LEASED}"""
_CLAIM_UNVERIFIED: Final = f"""
WITH due AS (
  SELECT project_id FROM flagstone.builds
  WHERE dirty_since IS NULL AND verified_at <= now() - $3::interval AND leased_until <= now()
  ORDER BY verified_at LIMIT $1 FOR UPDATE SKIP LOCKED
) {_LEASED}"""
_PUBLISHED: Final = """
SELECT token, build, published.version, etag, bytes, flags, cohorts
FROM flagstone.published JOIN flagstone.projects ON id = project_id WHERE project_id = $1
"""
_FENCE: Final = """
project AS (
  SELECT id FROM flagstone.projects WHERE id = $1 FOR KEY SHARE
), fence AS (
  SELECT project_id FROM flagstone.builds JOIN project ON project_id = id WHERE lease = $2 FOR UPDATE OF builds
)"""
_PUT_PART: Final = "INSERT INTO flagstone.published_parts (project_id, build, number, part) VALUES ($1, $2, $3, $4)"
_READ_PART: Final = "SELECT part FROM flagstone.published_parts WHERE project_id = $1 AND build = $2 AND number = $3"
_PUT_IN_FORCE: Final = f"""
WITH {_FENCE}, parts AS (
  SELECT count(*) AS number, coalesce(sum(length(part)), 0) AS bytes
  FROM flagstone.published_parts WHERE project_id = $1 AND build = $2
), put AS (
  INSERT INTO flagstone.published (project_id, version, build, etag, bytes, flags, cohorts)
  SELECT fence.project_id, $3, $2, $4, $5, $6, $7 FROM fence, parts WHERE parts.number = $8 AND parts.bytes = $5
  ON CONFLICT (project_id) DO UPDATE SET
    version = excluded.version, build = excluded.build, etag = excluded.etag, bytes = excluded.bytes,
    flags = excluded.flags, cohorts = excluded.cohorts, published_at = excluded.published_at
  WHERE published.version < excluded.version
  RETURNING project_id
)
SELECT EXISTS (SELECT FROM put) FROM fence
"""
# Later writes of the project wait here, so that one on its way is seen.
_HOLD: Final = """
project AS (
  SELECT id, version <= $3 AS is_current FROM flagstone.projects WHERE id = $1 FOR SHARE
)"""
_SWEEP: Final = """
swept AS (
  DELETE FROM flagstone.published_parts USING done
  WHERE published_parts.project_id = done.project_id
    AND build NOT IN (SELECT build FROM flagstone.published WHERE project_id = $1)
)"""
_FINISH: Final = f"""
WITH {_HOLD}, done AS (
  UPDATE flagstone.builds SET
    lease = NULL, leased_until = '-infinity', failures = 0, problem = NULL, is_refused = false,
    pace_ms = $4, rest_until = clock_timestamp() + $4::bigint * interval '1 ms',
    verified_at = CASE WHEN $5 THEN clock_timestamp() ELSE '-infinity' END,
    dirty_since = CASE WHEN is_current THEN NULL ELSE greatest(dirty_since, $6) END
  FROM project WHERE project_id = id AND lease = $2
  RETURNING project_id, is_current
), {_SWEEP}
SELECT is_current, CASE WHEN $7 THEN pg_notify($8, project_id::text) END FROM done
"""
_FAIL: Final = f"""
WITH {_HOLD}, done AS (
  UPDATE flagstone.builds SET
    lease = NULL, leased_until = '-infinity', failures = failures + 1, problem = $4, is_refused = $5,
    pace_ms = $6, dirty_since = coalesce(dirty_since, clock_timestamp()),
    rest_until = clock_timestamp() + CASE WHEN is_current THEN $7 ELSE least($7, $6::bigint * interval '1 ms') END
  FROM project WHERE project_id = id AND lease = $2
  RETURNING project_id
), {_SWEEP}
SELECT project_id FROM done
"""
_COUNT_MEMBERS: Final = """
UPDATE flagstone.published SET members = (
  SELECT count(*) FROM flagstone.cohort_members JOIN flagstone.persons ON persons.id = person_id
  WHERE persons.project_id = $1
) WHERE project_id = $1
"""
_MARK_DIRTY: Final = """
UPDATE flagstone.projects SET version = flagstone.next_version(greatest(
  version, (SELECT version FROM flagstone.published WHERE project_id = id)
)) WHERE id = $1
"""
_BACKLOG: Final = """
WITH typical AS (
  SELECT bytes FROM flagstone.published ORDER BY bytes LIMIT 1 OFFSET (SELECT count(*) / 2 FROM flagstone.published)
), large AS (
  SELECT project_id, bytes FROM flagstone.published
  WHERE bytes > greatest($1::bigint, $2::bigint * (SELECT bytes FROM typical)) ORDER BY bytes DESC LIMIT $3
)
SELECT
  (SELECT count(*) FROM flagstone.builds WHERE dirty_since IS NOT NULL),
  (SELECT coalesce(extract(epoch FROM now() - min(dirty_since)), 0)::float8
   FROM flagstone.builds WHERE dirty_since IS NOT NULL),
  (SELECT count(*) FROM flagstone.builds WHERE problem IS NOT NULL AND is_refused),
  (SELECT count(*) FROM flagstone.builds WHERE problem IS NOT NULL AND NOT is_refused),
  (SELECT count(*) FROM flagstone.published),
  (SELECT coalesce((SELECT bytes FROM typical), 0)),
  ARRAY(SELECT project_id FROM large),
  ARRAY(SELECT bytes FROM large)
"""
_SHELL: Final = "SELECT version, token, document::text FROM flagstone.projects WHERE id = $1"
_BATCH: Final = """
SELECT id, document FROM (
  SELECT id, document::text,
    sum(octet_length(document::text)) OVER (ORDER BY id) - octet_length(document::text) AS before
  FROM flagstone.{table} WHERE project_id = $1 AND id > $2 AND NOT deleted ORDER BY id LIMIT $3
) AS rows WHERE before < $4 ORDER BY id
"""
_ITEMS: Final = {kind: _BATCH.format(table=f"{kind}s") for kind in ("flag", "cohort")}


class PostgresBuilds:
    """BuildStore over a pool of its own, on the primary."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    def __repr__(self) -> str:
        return f"<PostgresBuilds {self._pool}>"

    async def claim(self, limit: int, lease_s: float) -> list[Job]:
        return _jobs(await self._pool.fetch(_CLAIM, limit, timedelta(seconds=lease_s)))

    async def claim_unverified(self, limit: int, lease_s: float, older_than_s: float) -> list[Job]:
        lease, age = timedelta(seconds=lease_s), timedelta(seconds=older_than_s)
        return _jobs(await self._pool.fetch(_CLAIM_UNVERIFIED, limit, lease, age))

    @asynccontextmanager
    async def read_project(self, project_id: int, build: str) -> AsyncIterator[Source | None]:
        async with self._pool.transaction(isolation="repeatable_read") as transaction:
            rows = await transaction.fetch(_SHELL, project_id)
            yield _Source(transaction, (project_id, build), *rows[0]) if rows else None

    async def published(self, project_id: int) -> Published | None:
        rows = await self._pool.fetch(_PUBLISHED, project_id)
        if not rows:
            return None
        names = ("token", "build", "version", "etag", "bytes", "flags", "cohorts")
        return Published(project_id=project_id, **dict(zip(names, rows[0], strict=True)))

    async def read_part(self, published: Published, number: int) -> bytes | None:
        rows = await self._pool.fetch(_READ_PART, published.project_id, published.build, number)
        return rows[0][0] if rows else None

    async def put_in_force(self, job: Job, published: Published, parts: int) -> bool:
        numbers = (published.bytes, published.flags, published.cohorts, parts)
        (is_done,) = await self._fenced(job, _PUT_IN_FORCE, published.version, published.etag, *numbers)
        return bool(is_done)

    async def finish(self, job: Job, version: int, *, pace_ms: int, is_announced: bool, is_verified: bool) -> bool:
        is_current, _ = await self._fenced(
            job, _FINISH, version, pace_ms, is_verified, job.leased_at, is_announced, CHANNEL
        )
        return bool(is_current)

    async def fail(self, job: Job, problem: str, *, rest_s: float, pace_ms: int, is_refused: bool) -> None:
        await self._fenced(job, _FAIL, job.version, problem, is_refused, pace_ms, timedelta(seconds=rest_s))

    async def count_members(self, project_id: int) -> None:
        await self._pool.fetch(_COUNT_MEMBERS, project_id)

    async def mark_dirty(self, project_id: int) -> None:
        await self._pool.fetch(_MARK_DIRTY, project_id)

    async def backlog(self) -> Backlog:
        rows = await self._pool.fetch(_BACKLOG, ANOMALOUS_FROM_BYTES, ANOMALOUS_FACTOR, MAX_ANOMALOUS)
        dirty, oldest_s, refused, failing, projects, typical_bytes, ids, sizes = rows[0]
        anomalous = list(zip(ids, sizes, strict=True))
        return Backlog(dirty, oldest_s, refused, failing, projects, typical_bytes, anomalous)

    async def _fenced(self, job: Job, statement: str, *args: object) -> Any:
        """The only row of a statement, which is there if the job is its holder's. Raises LeaseLost."""
        rows = await self._pool.fetch(statement, job.project_id, job.lease, *args)
        if not rows:
            raise LeaseLost
        return rows[0]


def _jobs(rows: Sequence[Any]) -> list[Job]:
    names = ("project_id", "lease", "leased_at", "version", "dirty_since", "pace_ms", "is_hot", "failures")
    return [Job(**dict(zip(names, row, strict=True))) for row in rows]


class _Source:
    def __init__(self, transaction: Any, build: tuple[int, str], version: int, token: str, shell: str) -> None:
        self._transaction = transaction
        self._build = build
        self.version = version
        self.token = token
        self.shell = shell.encode()

    async def items(self, kind: Literal["flag", "cohort"]) -> AsyncIterator[Sequence[bytes]]:
        last_id, limit = -(1 << 63), FIRST_ROWS
        while True:
            rows = await self._transaction.fetch(_ITEMS[kind], self._build[0], last_id, limit, BATCH_BYTES)
            if not rows:
                return
            yield [document.encode() for _, document in rows]
            last_id = rows[-1][0]
            # The database measures as many as this, however few of them are as large as a batch may be.
            limit = min(2 * len(rows), BATCH_ROWS)

    async def put_part(self, number: int, part: bytes) -> None:
        await self._transaction.fetch(_PUT_PART, *self._build, number, part)
