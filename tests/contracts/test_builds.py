"""What every store of builds promises: marks that are never lost, leases that hold, and documents that are whole."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.building_ports import LeaseLost
from tests.contracts.building import ADAPTERS, LEASE_S, STORED, Bench, opened

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
