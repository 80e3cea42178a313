"""How every store of builds is opened for its contract suite, and what editors and time do to it meanwhile.

Invariant: on a real store everything here is done by statements past the adapter; time passes by moving what is stored.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.backends import DefinitionsPool
from drills.servers import PgBouncer
from gateway.building_ports import BuildStore, Job, Published
from gateway.stores.postgres_builds import PostgresBuilds
from gateway.stores.postgres_pool import PostgresPool
from gateway.stores.postgres_transfer import Transfer
from gateway.stores.sqlite_builds import SqliteBuilds
from gateway.stores.sqlite_lane import Lane
from tests.fake_builds import FakeBuilds
from tests.fakes import FakeClock

ADAPTERS = ("fake", "sqlite", "postgres", "pgbouncer")
STORED = ADAPTERS[1:]
LEASE_S = 30.0
_MOMENTS = ("dirty_since", "rest_until", "leased_until", "verified_at")


class Bench:
    """A store of builds, with nothing in it at first."""

    builds: BuildStore

    async def edit(self, project_id: int, *flags: dict[str, Any], is_committed: bool = True, **members: Any) -> int:
        """The version after an edit: a project that was not there, with these members; or flags put into it."""
        raise NotImplementedError

    async def age(self, seconds: float) -> None:
        """Have time pass."""
        raise NotImplementedError

    async def builds_with_parts(self, project_id: int) -> set[str]:
        """Builds of which parts are stored."""
        raise NotImplementedError

    async def delete(self, project_id: int) -> None:
        """Have the project gone."""
        raise NotImplementedError

    async def claim(self, limit: int = 10) -> list[Job]:
        return await self.builds.claim(limit, LEASE_S)

    async def claim_one(self) -> Job:
        (job,) = await self.claim()
        return job

    async def claim_unverified(self, older_than_s: float = 0.0) -> list[Job]:
        return await self.builds.claim_unverified(10, LEASE_S, older_than_s)

    async def write(self, job: Job, *parts: bytes) -> Published:
        """These parts of a document that is not in force yet."""
        async with self.builds.read_project(job.project_id, job.lease) as source:
            assert source is not None
            for number, part in enumerate(parts):
                await source.put_part(number, part)
        size = sum(map(len, parts))
        return Published(
            project_id=job.project_id, token=source.token, build=job.lease, version=source.version, etag="e", bytes=size
        )

    async def publish(self, job: Job, *parts: bytes) -> Published:
        """The same, in force; the job is still to be given back."""
        published = await self.write(job, *parts)
        assert await self.builds.put_in_force(job, published, len(parts))
        return published

    async def finish(self, job: Job, version: int, pace_ms: int = 0, *, is_verified: bool = True) -> bool:
        return await self.builds.finish(job, version, pace_ms=pace_ms, is_announced=True, is_verified=is_verified)

    async def fail(self, job: Job, *, rest_s: float = 100.0, pace_ms: int = 0, is_refused: bool = False) -> None:
        await self.builds.fail(job, "no", rest_s=rest_s, pace_ms=pace_ms, is_refused=is_refused)

    async def read(self, project_id: int) -> bytes | None:
        """What is published."""
        published = await self.builds.published(project_id)
        if published is None:
            return None
        parts = []
        while (part := await self.builds.read_part(published, len(parts))) is not None:
            parts.append(part)
        return b"".join(parts)


class FakeBench(Bench):
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.builds: FakeBuilds = FakeBuilds(self.clock)

    async def edit(self, project_id: int, *flags: dict[str, Any], is_committed: bool = True, **members: Any) -> int:
        assert is_committed
        return self.builds.edit(project_id, *flags, **members)

    async def age(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def builds_with_parts(self, project_id: int) -> set[str]:
        return {build for id_, build in self.builds.parts if id_ == project_id}

    async def delete(self, project_id: int) -> None:
        for of_projects in (self.builds.projects, self.builds.rows, self.builds.in_force):
            of_projects.pop(project_id, None)


class StoredBench(Bench):
    """`run` runs statements in one transaction, and answers with the rows of the last one; `moved` is SQL for a moment
    that is so many seconds earlier."""

    def __init__(self, builds: BuildStore, run: Callable[..., Awaitable[Any]], moved: str) -> None:
        self.builds = builds
        self._run = run
        self._moved = moved
        self._version = 0

    async def edit(self, project_id: int, *flags: dict[str, Any], is_committed: bool = True, **members: Any) -> int:
        self._version = max(self._version + 1, int(time.time() * 1000))
        token = f"phc_{project_id}"
        shell = _text({"id": project_id, "token": token, **members})
        rows = [f"({project_id}, {flag['id']}, {_text(flag)})" for flag in flags]
        puts = [
            f"INSERT INTO flagstone.flags (project_id, id, document) VALUES {row}"
            " ON CONFLICT (project_id, id) DO UPDATE SET document = excluded.document"
            for row in rows
        ]
        statement = (
            "INSERT INTO flagstone.projects (id, token, version, document)"
            f" VALUES ({project_id}, '{token}', {self._version}, {shell})"
            " ON CONFLICT (id) DO UPDATE SET version = excluded.version"
        )
        await self._run(statement + (", document = excluded.document" if members else ""), *puts,
                        is_committed=is_committed)  # fmt: skip
        return self._version

    async def age(self, seconds: float) -> None:
        moved = ", ".join(f"{it} = {self._moved.format(it, seconds=seconds)}" for it in _MOMENTS)
        await self._run(f"UPDATE flagstone.builds SET {moved}")

    async def builds_with_parts(self, project_id: int) -> set[str]:
        rows = await self._run(f"SELECT build FROM flagstone.published_parts WHERE project_id = {project_id}")
        return {build for (build,) in rows}

    async def delete(self, project_id: int) -> None:
        await self._run(f"DELETE FROM flagstone.projects WHERE id = {project_id}")

    async def execute(self, *statements: str) -> list[Any]:
        """The rows of the last of these, run past the adapter."""
        return [tuple(row) for row in await self._run(*statements)]


def _text(document: dict[str, Any]) -> str:
    return "'" + msgspec.json.encode(document).decode().replace("'", "''") + "'"


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """The adapter that the parameter names, with nothing in it."""
    async with AsyncExitStack() as stack:
        if request.param == "fake":
            yield FakeBench()
        elif request.param == "sqlite":
            lanes = [await stack.enter_async_context(Lane(str(tmp_path / "store.sqlite3"), 5.0)) for _ in range(3)]

            async def in_sqlite(*statements: str, is_committed: bool = True) -> Any:
                return await lanes[0].run(_run_sqlite, statements, is_committed)

            yield StoredBench(SqliteBuilds(*lanes), in_sqlite, "{} - {seconds} * 1000")
        else:
            server = request.getfixturevalue(request.param)
            url = Address(server.url(request.getfixturevalue("database")))
            settings = DefinitionsPool(transaction_pooling=isinstance(server, PgBouncer))
            await Transfer(url, settings).migrate()
            pool = await stack.enter_async_context(PostgresPool("builder", url, settings))

            async def in_postgres(*statements: str, is_committed: bool = True) -> Any:
                return await _run_postgres(pool, statements, is_committed)

            yield StoredBench(PostgresBuilds(pool), in_postgres, "{} - {seconds} * interval '1 s'")


def _run_sqlite(connection: Any, statements: tuple[str, ...], is_committed: bool) -> Any:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            rows = connection.execute(statement.replace("flagstone.", "")).fetchall()
        if not is_committed:
            connection.rollback()
    return rows


class _RollBackError(Exception):
    pass


async def _run_postgres(pool: PostgresPool, statements: tuple[str, ...], is_committed: bool) -> Any:
    rows: Any = []
    try:
        async with pool.transaction() as transaction:
            for statement in statements:
                rows = await transaction.fetch(statement)
            if not is_committed:
                raise _RollBackError
    except _RollBackError:
        pass
    return rows
