"""What every store of builds promises of documents: whole or not at all, of one state, in pieces of bounded size.

Who may build which is in test_builds.py.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Coroutine, Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.builder import Builder as Settings
from gateway.builder_metrics import BuilderMetrics
from gateway.building_ports import PART_BYTES, Backlog, LeaseLost, Published
from gateway.services.builder import Builder
from gateway.stores.postgres_builds import PostgresBuilds
from gateway.stores.sqlite_builds import SqliteBuilds
from tests.builders import flag
from tests.contracts.building import ADAPTERS, LEASE_S, STORED, Bench, StoredBench, opened
from tests.fakes import FakeClock


@pytest.fixture(params=ADAPTERS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(request, tmp_path) as bench:
        yield bench


stored = pytest.mark.parametrize("bench", STORED, indirect=True)


async def test_document__being_built__is_not_read_before_it_is_in_force(bench: Bench) -> None:
    """Readers have the old document, whole, until they have the new one."""
    await bench.edit(1)
    job = await bench.claim_one()
    await bench.finish(job, (await bench.publish(job, b"old", b"er")).version)
    await bench.edit(1)
    job = await bench.claim_one()
    newer = await bench.write(job, b"new", b"er", b"!")
    assert await bench.read(1) == b"older"
    assert await bench.builds.put_in_force(job, newer, 3)
    assert await bench.read(1) == b"newer!"
    await bench.finish(job, newer.version)
    assert await bench.builds_with_parts(1) == {newer.build}


@pytest.mark.parametrize("wrong", [{"parts": 1}, {"parts": 3}, {"bytes": 4}])
async def test_put_in_force__without_all_its_parts__is_refused(bench: Bench, wrong: dict[str, Any]) -> None:
    """Nothing is read that is not whole."""
    await bench.edit(1)
    job = await bench.claim_one()
    published = await bench.write(job, b"ab", b"c")
    changes = {name: value for name, value in wrong.items() if name != "parts"}
    parts = wrong.get("parts", 2)
    assert not await bench.builds.put_in_force(job, msgspec.structs.replace(published, **changes), parts)
    assert await bench.read(1) is None


@pytest.mark.parametrize("by", [0, -1])
async def test_put_in_force__of_no_newer_version__is_refused(bench: Bench, by: int) -> None:
    """What is published only grows in version."""
    await bench.edit(1)
    job = await bench.claim_one()
    published = await bench.publish(job, b"first")
    await bench.builds.mark_dirty(1)
    await bench.finish(job, published.version)
    again = await bench.claim_one()
    older = msgspec.structs.replace(await bench.write(again, b"2"), version=published.version + by)
    assert not await bench.builds.put_in_force(again, older, 1)
    assert await bench.read(1) == b"first"
    await bench.fail(again)
    assert await bench.builds_with_parts(1) == {published.build}


async def test_read_project__shows_one_state(bench: Bench) -> None:
    """Edits that are committed while a project is read are not in what is read, nor is what was deleted before."""
    flags = [flag(f"flag-{number}", id=number, active=False) for number in (9, 2, 5, 7, 1)]
    version = await bench.edit(1, *flags, flag("gone", id=3, deleted=True), name="before")
    job = await bench.claim_one()
    read: list[Any] = []
    parts = 0
    async with bench.builds.read_project(1, job.lease) as source:
        assert source is not None
        async for batch in source.items("flag"):
            if not read:
                await bench.edit(1, *(flag(f"new-{number}", id=number) for number in range(20)), name="after")
            read += [msgspec.json.decode(item) for item in batch]
            await source.put_part(parts, b"x")
            parts += 1
        assert [cohort async for cohort in source.items("cohort")] == []
    assert (source.version, source.token, b"before" in source.shell) == (version, "phc_1", True)
    assert [it["id"] for it in read] == [1, 2, 5, 7, 9]
    assert {it["key"] for it in read} == {it["key"] for it in flags}


@stored
async def test_read_project__large__comes_in_batches_of_bounded_size(bench: Bench) -> None:
    """However many and however large its items are, no batch has much more than a megabyte, or one item."""
    flags = [flag(f"flag-{number}", id=number, name="x" * 20_000) for number in range(200)]
    huge = [flag(f"huge-{number}", id=500 + number, name="x" * 3_000_000) for number in range(2)]
    await bench.edit(1, *flags, *(flag(f"small-{number}", id=600 + number) for number in range(600)), *huge)
    batches = []
    async with bench.builds.read_project(1, "build") as source:
        assert source is not None
        async for batch in source.items("flag"):
            batches.append(list(map(len, batch)))  # noqa: PERF401
    assert sum(map(len, batches)) == 802
    assert all(len(batch) == 1 or sum(batch[:-1]) < 1 << 20 for batch in batches)
    assert len(batches) < 20


async def test_project__that_is_gone__is_no_error(bench: Bench) -> None:
    """A project may be deleted while it is built, and then there is nothing left of it."""
    await bench.edit(1)
    job = await bench.claim_one()
    published = await bench.publish(job, b"x")
    await bench.delete(1)
    async with bench.builds.read_project(1, job.lease) as source:
        assert source is None
    assert await bench.builds.published(1) is None
    for left in (bench.finish(job, published.version), bench.fail(job), bench.builds.put_in_force(job, published, 1)):
        with pytest.raises(LeaseLost):
            await left
    await bench.builds.mark_dirty(1)
    await bench.builds.count_members(1)
    assert await bench.claim() == []


async def test_mark_dirty__gives_a_version_beyond_what_is_published(bench: Bench) -> None:
    """Whatever is stored can be published again, also when an older state of it was restored."""
    await bench.edit(1)
    job = await bench.claim_one()
    written = await bench.write(job, b"x")
    far = msgspec.structs.replace(written, version=written.version + 10**9)
    assert await bench.builds.put_in_force(job, far, 1)
    assert await bench.finish(job, far.version)
    await bench.builds.mark_dirty(1)
    job = await bench.claim_one()
    assert job.version > far.version


async def test_backlog__tells_of_projects_far_larger_than_others(bench: Bench) -> None:
    """What is unusual here is told, largest first; a large project among large ones is not unusual."""
    empty = await bench.builds.backlog()
    assert (empty.dirty, empty.oldest_s, empty.projects, empty.typical_bytes, list(empty.anomalous)) == (0, 0, 0, 0, [])

    async def backlog_with(project_id: int, parts: int) -> Backlog:
        await bench.edit(project_id)
        job = await bench.claim_one()
        await bench.finish(job, (await bench.publish(job, *[b"x" * PART_BYTES] * parts, b"xx")).version)
        return await bench.builds.backlog()

    large = PART_BYTES * 5 + 2
    assert list((await backlog_with(1, 5)).anomalous) == []
    await backlog_with(2, 0)
    assert (await backlog_with(3, 0)).anomalous == [(1, large)]
    await backlog_with(4, 9)
    backlog = await backlog_with(5, 0)
    assert (backlog.dirty, backlog.projects, backlog.typical_bytes) == (0, 5, 2)
    assert backlog.anomalous == [(4, PART_BYTES * 9 + 2), (1, large)]
    backlog = await backlog_with(6, 5)
    assert (backlog.typical_bytes, list(backlog.anomalous)) == (large, [])


@stored
async def test_count_members__counts_those_of_the_project(bench: Bench) -> None:
    """Memberships of static cohorts, and of no other project."""
    assert isinstance(bench, StoredBench)
    for project_id in (1, 2):
        await bench.edit(project_id)
    for job in await bench.claim():
        await bench.publish(job, b"x")
    persons = "INSERT INTO flagstone.persons (project_id, properties) VALUES {} RETURNING id"
    rows = await bench.execute(persons.format("(1, '{}'), (1, '{}'), (2, '{}')"))
    members = ", ".join(f"({person}, {cohort})" for (person,) in rows for cohort in (5, 6))
    await bench.execute(f"INSERT INTO flagstone.cohort_members (person_id, cohort_id) VALUES {members} RETURNING 1")
    await bench.builds.count_members(1)
    assert await bench.execute("SELECT project_id, members FROM flagstone.published ORDER BY 1") == [(1, 4), (2, 0)]


async def test_published__says_what_was_put_in_force(bench: Bench) -> None:
    """All that is known of a document comes back, with the project's token of today."""
    await bench.edit(1)
    job = await bench.claim_one()
    written = msgspec.structs.replace(await bench.write(job, b"x"), flags=3, cohorts=2)
    assert isinstance(written, Published)
    await bench.builds.put_in_force(job, written, 1)
    assert await bench.builds.published(1) == written
    assert await bench.builds.read_part(written, 1) is None


class CancelledAt:
    """Awaits something, and cancels the task in which that happens at this step of it, for whatever it waits then."""

    def __init__(self, step: int, work: Coroutine[Any, Any, Any]) -> None:
        self._step = step
        self._work = work
        self.is_cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        error: BaseException | None = None
        for step in itertools.count():
            try:
                waited = self._work.throw(error) if error else self._work.send(None)
            except StopIteration as stop:
                return stop.value
            if step == self._step:
                self.is_cancelled = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waited
                error = None
            except BaseException as raised:
                error = raised


async def holds_nothing(bench: Bench) -> bool:
    """Whether no transaction is open, and no connection or lock taken."""
    builds = bench.builds
    if isinstance(builds, PostgresBuilds):
        return builds._pool.in_use == 0
    assert isinstance(builds, SqliteBuilds)
    lanes = (builds._source, builds._writes, builds._reads)
    open_ones = [await lane.run(lambda connection: connection.in_transaction) for lane in lanes]
    return not any(open_ones) and not builds._reading.locked()


@pytest.mark.parametrize("bench", ["sqlite", "postgres"], indirect=True)
async def test_build__cancelled_at_any_step__leaves_nothing_held(bench: Bench) -> None:
    """Whatever a build waits for when it is cancelled, nothing stays open, and the next holder builds all of it."""
    builder = Builder(bench.builds, None, Settings(), FakeClock(), BuilderMetrics())
    await bench.edit(1, *(flag(f"flag-{number}", id=number) for number in range(3)))
    for step in itertools.count():
        job = await bench.claim_one()
        build = CancelledAt(step, builder._build(job))

        async def run(build: CancelledAt = build) -> None:
            await build

        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.create_task(run())
        assert await holds_nothing(bench), step
        if not build.is_cancelled:
            break
        await bench.builds.mark_dirty(1)
        await bench.age(LEASE_S + 1)
    assert step > 10
    document = await bench.read(1)
    assert document is not None
    assert len(msgspec.json.decode(document)["flags"]) == 3
    published = await bench.builds.published(1)
    assert published is not None
    assert await bench.builds_with_parts(1) == {published.build}
