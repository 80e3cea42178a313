"""What every store of builds promises: marks that are never lost, leases that hold, and documents that are whole."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.building_ports import PART_BYTES, Backlog, LeaseLost, Published
from tests.builders import flag
from tests.contracts.building import ADAPTERS, LEASE_S, STORED, Bench, StoredBench, opened

PAST_LEASE_S = LEASE_S + 1


@pytest.fixture(params=ADAPTERS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(request, tmp_path) as bench:
        yield bench


stored = pytest.mark.parametrize("bench", STORED, indirect=True)


async def dirty(bench: Bench) -> int:
    return (await bench.builds.backlog()).dirty


async def test_mark__of_an_edit__is_claimed_by_one(bench: Bench) -> None:
    """A project that was edited is given to whoever claims first, and to nobody else meanwhile."""
    assert await bench.claim() == []
    version = await bench.edit(1)
    job = await bench.claim_one()
    assert (job.project_id, job.version, job.failures, job.is_hot) == (1, version, 0, False)
    assert job.dirty_since is not None
    assert job.dirty_since <= job.leased_at
    assert await bench.claim() == []


async def test_mark__of_many_edits__is_one(bench: Bench) -> None:
    """A burst of edits is one thing to do, waited for since the first of them."""
    for _ in range(5):
        await bench.edit(1)
    await bench.age(10)
    await bench.edit(1)
    backlog = await bench.builds.backlog()
    assert backlog.dirty == 1
    assert 10 <= backlog.oldest_s < 20


@stored
async def test_mark__of_an_edit_rolled_back__is_not_there(bench: Bench) -> None:
    """The mark is part of the edit: it comes with it or not at all, and takes no other mark with it."""
    await bench.edit(1, is_committed=False)
    assert await dirty(bench) == 0
    version = await bench.edit(1)
    await bench.edit(1, is_committed=False)
    job = await bench.claim_one()
    await bench.edit(1, is_committed=False)
    assert job.version == version
    assert await bench.finish(job, version)
    assert await dirty(bench) == 0


async def test_claim__of_several__gives_those_that_waited_longest(bench: Bench) -> None:
    """Whoever waits longest is next, and no more are given than were asked for."""
    for project_id in (3, 1, 2):
        await bench.edit(project_id)
        await bench.age(1)
    assert {job.project_id for job in await bench.claim(2)} == {3, 1}
    assert {job.project_id for job in await bench.claim(2)} == {2}


async def test_claim__beside_a_project_edited_all_the_time__starves_nobody(bench: Bench) -> None:
    """What rests is not given, and after its rest it has waited no longer than that."""
    version = await bench.edit(1)
    assert await bench.finish(await bench.claim_one(), version, 5000)
    await bench.edit(1)
    assert await bench.claim() == []
    await bench.edit(2)
    await bench.age(5.1)
    (first,), (second,) = await bench.claim(1), await bench.claim(1)
    assert (first.project_id, second.project_id) == (2, 1)
    assert (second.is_hot, second.pace_ms) == (True, 5000)
    await bench.finish(second, version + 100, 5000)
    await bench.age(5.1)
    await bench.edit(1)
    assert not (await bench.claim_one()).is_hot


async def test_lease__that_expired__passes_on(bench: Bench) -> None:
    """A holder who was given up can do nothing any more, and what they wrote does no harm."""
    await bench.edit(1)
    former = await bench.claim_one()
    late = await bench.write(former, b"late")
    await bench.age(PAST_LEASE_S)
    job = await bench.claim_one()
    assert job.lease != former.lease
    with pytest.raises(LeaseLost):
        await bench.builds.put_in_force(former, late, 1)
    with pytest.raises(LeaseLost):
        await bench.finish(former, late.version)
    with pytest.raises(LeaseLost):
        await bench.fail(former)
    assert await bench.read(1) is None
    published = await bench.publish(job, b"in", b" time")
    assert await bench.finish(job, published.version)
    assert await bench.read(1) == b"in time"
    assert await bench.builds_with_parts(1) == {job.lease}
    with pytest.raises(LeaseLost):
        await bench.finish(job, published.version)
    assert await bench.claim() == []


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


async def test_finish__after_an_edit_since_the_read__keeps_the_mark(bench: Bench) -> None:
    """An edit that the document lacks is built as well, and counts from the claim at the earliest."""
    await bench.edit(1)
    await bench.age(100)
    job = await bench.claim_one()
    published = await bench.publish(job, b"x")
    await bench.edit(1)
    assert not await bench.finish(job, published.version)
    backlog = await bench.builds.backlog()
    assert backlog.dirty == 1
    assert backlog.oldest_s < 20
    job = await bench.claim_one()
    assert await bench.finish(job, job.version)
    assert await dirty(bench) == 0


async def test_finish__of_a_verification__keeps_a_mark_set_meanwhile(bench: Bench) -> None:
    """A project that is only verified may be edited, too."""
    version = await bench.edit(1)
    await bench.finish(await bench.claim_one(), version)
    (job,) = await bench.claim_unverified()
    assert job.dirty_since is None
    await bench.edit(1)
    assert await bench.claim() == []
    assert not await bench.finish(job, version)
    assert (await bench.claim_one()).dirty_since is not None


async def test_claim_unverified__gives_those_verified_longest_ago(bench: Bench) -> None:
    """What could not be put everywhere comes first, what was verified lately not at all, nor what is dirty."""
    for project_id in (1, 2, 3, 4):
        version = await bench.edit(project_id)
        await bench.finish(await bench.claim_one(), version, is_verified=project_id != 3)
        await bench.age(100)
    await bench.edit(4)
    first = await bench.builds.claim_unverified(1, LEASE_S, 150)
    others = await bench.claim_unverified(150)
    assert [job.project_id for job in first + others] == [3, *sorted({1, 2})]
    assert await bench.claim_unverified(150) == []


async def test_fail__rests_and_says_why(bench: Bench) -> None:
    """A project that cannot be built stays marked, is left alone for a while, and counts its failures."""
    await bench.edit(1)
    await bench.fail(await bench.claim_one(), rest_s=50, is_refused=True)
    backlog = await bench.builds.backlog()
    assert (backlog.dirty, backlog.refused, backlog.failing) == (1, 1, 0)
    await bench.age(49)
    assert await bench.claim() == []
    await bench.age(2)
    job = await bench.claim_one()
    assert job.failures == 1
    await bench.fail(job)
    backlog = await bench.builds.backlog()
    assert (backlog.dirty, backlog.refused, backlog.failing) == (1, 0, 1)


async def test_fail__then_an_edit__shortens_the_rest(bench: Bench) -> None:
    """An edit may be the cure, so it is tried soon; not at once, as it may be the next of many. Then all is well."""
    await bench.edit(1)
    await bench.fail(await bench.claim_one(), pace_ms=5000)
    version = await bench.edit(1)
    assert await bench.claim() == []
    await bench.age(5.1)
    job = await bench.claim_one()
    await bench.publish(job, b"x")
    assert await bench.finish(job, version)
    backlog = await bench.builds.backlog()
    assert (backlog.dirty, backlog.refused, backlog.failing) == (0, 0, 0)


async def test_fail__after_an_edit_since_the_claim__rests_no_longer_than_after_one(bench: Bench) -> None:
    """The edit that cures may come while the build is failing, which must not cost it the long rest."""
    await bench.edit(1)
    job = await bench.claim_one()
    await bench.edit(1)
    await bench.fail(job, rest_s=300, pace_ms=1000)
    assert await bench.claim() == []
    await bench.age(1.1)
    assert (await bench.claim_one()).failures == 1


async def test_fail__of_a_verification__has_the_project_built(bench: Bench) -> None:
    """What could not be compared is gone through anew, rather than called failing until its turn comes again."""
    version = await bench.edit(1)
    await bench.finish(await bench.claim_one(), version)
    (job,) = await bench.claim_unverified()
    await bench.fail(job, rest_s=1)
    await bench.age(1.1)
    assert (await bench.claim_one()).failures == 1


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
