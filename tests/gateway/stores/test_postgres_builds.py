"""Building on PostgreSQL beside editors: whatever two transactions do to one project at once, nothing is lost or stuck.

The suite in tests/contracts says what holds for one after the other.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import asyncpg
import pytest

from config.address import Address
from config.backends import DefinitionsPool
from drills.servers import Postgres
from gateway.building_ports import LeaseLost
from gateway.stores import postgres_builds
from gateway.stores.postgres_builds import PostgresBuilds
from gateway.stores.postgres_pool import PostgresPool
from gateway.stores.postgres_transfer import Transfer
from tests.contracts.building import LEASE_S, Bench

PATIENCE_S = 10.0
EDIT = "UPDATE flagstone.projects SET version = flagstone.next_version(version) WHERE id = 1"
ADD = "INSERT INTO flagstone.projects (id, token, version, document) SELECT n, 't' || n, n, '{}' FROM generate_series"


class Beside(Bench):
    """A store of builds with one project, and a connection of somebody else."""

    def __init__(self, builds: PostgresBuilds, other: Any) -> None:
        self.builds = builds
        self.other = other

    async def until_waiting(self, work: Awaitable[Any]) -> asyncio.Future[Any]:
        """The work, begun, once it waits for the other connection's transaction."""
        begun = asyncio.ensure_future(work)
        ends_at = time.monotonic() + PATIENCE_S
        while not await self.other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not begun.done()
            assert time.monotonic() < ends_at
            await asyncio.sleep(0.005)
        return begun

    async def dirty(self) -> int:
        return (await self.builds.backlog()).dirty


@pytest.fixture
async def beside(postgres: Postgres, database: str) -> AsyncIterator[Beside]:
    url = postgres.url(database)
    await Transfer(Address(url), DefinitionsPool()).migrate()
    other = await asyncpg.connect(url, statement_cache_size=0)
    try:
        await other.execute(f"{ADD}(1, 1) AS n")
        async with PostgresPool("builder", Address(url), DefinitionsPool()) as pool:
            yield Beside(PostgresBuilds(pool), other)
    finally:
        await other.close()


@pytest.mark.parametrize("is_committed", [True, False])
async def test_finish__while_an_edit_is_under_way__waits_and_sees_it(beside: Beside, *, is_committed: bool) -> None:
    """An edit that is committed after finishing began is no less an edit; one that is rolled back leaves no mark."""
    job = await beside.claim_one()
    edit = beside.other.transaction()
    await edit.start()
    await beside.other.execute(EDIT)
    finishing = await beside.until_waiting(beside.finish(job, job.version))
    await (edit.commit() if is_committed else edit.rollback())
    assert await finishing is not is_committed
    assert await beside.dirty() == is_committed


async def test_finish__before_an_edit_raises_the_version__is_marked_anew(beside: Beside) -> None:
    """An edit whose first statements came before finishing, and the last one after it, is built as well."""
    job = await beside.claim_one()
    async with beside.other.transaction():
        await beside.other.execute("INSERT INTO flagstone.flags (project_id, id, document) VALUES (1, 1, '{}')")
        assert await beside.finish(job, job.version)
        await beside.other.execute(EDIT)
    assert await beside.dirty() == 1
    assert (await beside.claim_one()).version > job.version


async def test_fail__while_an_edit_is_under_way__waits_and_rests_the_shorter(beside: Beside) -> None:
    """The cure that was being written when the build failed is tried soon, too."""
    job = await beside.claim_one()
    async with beside.other.transaction():
        await beside.other.execute(EDIT)
        failing = await beside.until_waiting(beside.fail(job, rest_s=300, pace_ms=0))
    await failing
    assert (await beside.claim_one()).failures == 1


async def test_claim__of_a_project_being_edited__passes_over_it(beside: Beside) -> None:
    """Nobody waits for an editor, or for a long import, to build what others have edited."""
    await beside.other.execute(f"{ADD}(2, 3) AS n")
    async with beside.other.transaction():
        await beside.other.execute(EDIT)
        assert {job.project_id for job in await beside.claim()} == {2, 3}
    assert (await beside.claim_one()).project_id == 1


async def test_claim__by_many_at_once__gives_each_project_to_one(beside: Beside) -> None:
    """However many claim at once, no project is given twice, and none is left."""
    await beside.other.execute(f"{ADD}(2, 200) AS n")
    claims = await asyncio.gather(*(beside.claim(7) for _ in range(40)))
    given = [job.project_id for jobs in claims for job in jobs]
    given += [job.project_id for job in await beside.claim(200)]
    assert sorted(given) == list(range(1, 201))


@pytest.mark.parametrize("has_been_published", [True, False])
async def test_put_in_force__while_the_project_is_deleted__loses_the_lease(
    beside: Beside, *, has_been_published: bool
) -> None:
    """Whoever deletes a project takes its row first, and so does whoever publishes: neither blocks the other."""
    if has_been_published:
        job = await beside.claim_one()
        await beside.finish(job, (await beside.publish(job, b"x")).version)
        await beside.other.execute(EDIT)
    job = await beside.claim_one()
    published = await beside.write(job, b"xy")
    async with beside.other.transaction():
        await beside.other.execute("SELECT 1 FROM flagstone.projects WHERE id = 1 FOR UPDATE")
        publishing = await beside.until_waiting(beside.builds.put_in_force(job, published, 1))
        await beside.other.execute("DELETE FROM flagstone.projects WHERE id = 1")
    with pytest.raises(LeaseLost):
        await publishing
    assert await beside.other.fetchval("SELECT count(*) FROM flagstone.published_parts") == 0


async def test_put_in_force__by_a_holder_being_replaced__does_nothing(beside: Beside) -> None:
    """A lease that passes on in the very moment in which its holder publishes is lost."""
    job = await beside.claim_one()
    published = await beside.write(job, b"x")
    async with beside.other.transaction():
        await beside.other.execute("UPDATE flagstone.builds SET lease = 'another'")
        publishing = await beside.until_waiting(beside.builds.put_in_force(job, published, 1))
    with pytest.raises(LeaseLost):
        await publishing
    assert await beside.read(1) is None


async def test_parts__written_while_the_project_is_edited__do_not_wait(beside: Beside) -> None:
    """Reading and writing a document takes no lock that an editor needs, nor waits for one."""
    job = await beside.claim_one()
    async with beside.builds.read_project(1, job.lease) as source:
        assert source is not None
        await source.put_part(0, b"a")
        async with beside.other.transaction():
            await beside.other.execute(EDIT)
            await source.put_part(1, b"b")
        await source.put_part(2, b"c")
    assert source.version == job.version


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_claim__among_ten_thousand__looks_at_a_few(beside: Beside, mode: str) -> None:
    """The queue costs the same however long it is: each claim goes by indexes, whatever the planner knows."""
    await beside.other.execute(f"{ADD}(2, 10000) AS n")
    for statement, index, args, most in (
        (postgres_builds._CLAIM, "builds_dirty", "(bigint, interval)", "4, '30 s'"),
        (postgres_builds._CLAIM_UNVERIFIED, "builds_unverified", "(bigint, interval, interval)", "4, '30 s', '0 s'"),
    ):
        await beside.other.execute(f"SET plan_cache_mode = {mode}; PREPARE claim{args} AS {statement}")
        plan = "\n".join(row[0] for row in await beside.other.fetch(f"EXPLAIN EXECUTE claim({most})"))
        await beside.other.execute("DEALLOCATE claim")
        assert "Seq Scan" not in plan, plan
        assert index in plan
    began = time.monotonic()
    for _ in range(50):
        assert len(await beside.builds.claim(4, LEASE_S)) == 4
    assert time.monotonic() - began < 50 * 0.05


async def test_announcement__of_a_build_and_of_an_edit__is_heard(beside: Beside) -> None:
    """Builders are told of edits, and gateways of what was published, each in the moment it is committed."""
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    for channel in ("flagstone_dirty", "flagstone_changes"):
        await beside.other.add_listener(channel, lambda _, __, name, payload: heard.put_nowait((name, payload)))
    await beside.builds.mark_dirty(1)
    assert await asyncio.wait_for(heard.get(), PATIENCE_S) == ("flagstone_dirty", "1")
    job = await beside.claim_one()
    await beside.builds.finish(job, job.version, pace_ms=0, is_announced=False, is_verified=True)
    (job,) = await beside.claim_unverified()
    await beside.finish(job, job.version)
    assert await asyncio.wait_for(heard.get(), PATIENCE_S) == ("flagstone_changes", "1")
    assert heard.empty()
