"""Which project is built when: in turn, at a limited rate, resting; and none is held up by another that makes no sense.

One document's making is in test_publishing.py, and what is verified and repaired in test_builder_drift.py.
"""

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from gateway.building_ports import Job, LeaseLost
from gateway.errors import StoreError, StoreUnavailable
from gateway.services.builder import Builder
from tests.builders import flag
from tests.gateway.services.building import Bench, messages
from tests.gateway.serving import settle

BROKEN = b'{"id": "one"}'


async def test_build__edited_project__is_published_verified_shared_and_announced() -> None:
    """One edit ends up in the store and in the shared cache, and then gateways are told, once."""
    bench = Bench()
    version = bench.store.edit(1, flag("a", id=1))
    await bench.build()
    assert bench.store.in_force[1].version == version
    assert bench.shelf.entries["phc_1"][1] == version
    assert bench.store.announced == [1]
    order = [it for it in bench.store.calls if it in {"put_in_force", "read_part", "finish"}]
    assert (order[0], order[1], order[-1]) == ("put_in_force", "read_part", "finish")
    assert bench.sample("builds_total", outcome="published") == 1
    assert not bench.store.rows[1].dirty_since


async def test_build__project_edited_all_the_time__rests_twice_as_long_each_time() -> None:
    """The rest doubles up to its limit while edits come, and is short again when they do not."""
    bench = Bench(min_rest_ms=100, max_rest_ms=500)
    paces = []
    for _ in range(5):
        bench.store.edit(1)
        bench.clock.advance(0.6)
        await bench.build()
        paces.append(bench.store.rows[1].pace_ms)
        bench.clock.advance(0.01)
    assert paces == [100, 200, 400, 500, 500]
    bench.clock.advance(1)
    bench.store.edit(1)
    await bench.build()
    assert bench.store.rows[1].pace_ms == 100


async def test_build__many_edits_during_a_rest__are_one_build() -> None:
    """A burst costs one build, which has the last of it."""
    bench = Bench()
    bench.store.edit(1)
    await bench.build()
    for active in (True, False) * 50:
        bench.store.edit(1, flag("a", id=1, active=active))
    assert await bench.build() == 0
    bench.clock.advance(1)
    assert await bench.build() == 1
    assert msgspec.json.decode(bench.store.document(1))["flags"][0]["active"] is False


async def test_build__project_that_makes_no_sense__rests_longer_each_time_and_holds_up_nobody() -> None:
    """Others are published beside it; it says why it is not, and an edit that cures it is built soon."""
    bench = Bench()
    bench.store.edit(1, shell=BROKEN)
    rests = []
    for number in range(4):
        bench.store.edit(2, flag("a", id=number))
        await bench.build()
        assert bench.store.in_force[2].version == bench.store.projects[2].version
        row = bench.store.rows[1]
        rests.append((row.rest_until - bench.clock.now()).total_seconds())
        bench.clock.advance(rests[-1] + 0.5)
    assert rests == [0.5, 1, 2, 4]
    assert row.problem is not None
    assert row.problem.startswith("ValidationError: Expected `int`")
    bench.store.edit(1, name="cured")
    bench.clock.advance(5)
    await bench.build()
    assert (bench.store.rows[1].problem, bench.store.in_force[1].version) == (None, bench.store.projects[1].version)


async def test_build__longest_rest__is_bounded() -> None:
    """A project that failed a hundred times is still tried."""
    bench = Bench(max_retry_s=300.0)
    bench.store.edit(1, shell=BROKEN)
    bench.store.rows[1].failures = 100
    await bench.build()
    assert (bench.store.rows[1].rest_until - bench.clock.now()).total_seconds() == 300


async def test_build__too_large__is_refused_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The limit is named in the log, for the API, and in metrics; the last good document stays served."""
    caplog.set_level(logging.INFO)
    bench = Bench(max_document_bytes=1024)
    bench.store.edit(1)
    await bench.build()
    good = bench.store.document(1)
    bench.clock.advance(1)
    bench.store.edit(1, flag("x" * 3000, id=1))
    await bench.build()
    assert bench.store.document(1) == good
    row = bench.store.rows[1]
    assert (row.is_refused, row.problem) == (
        True,
        "the document is larger than 1024 bytes (builder.max_document_bytes)",
    )
    assert "project_refused" in messages(caplog)
    assert (await bench.store.backlog()).refused == 1
    assert bench.sample("builds_total", outcome="refused") == 1
    assert len(bench.store.parts) == 1


async def test_build__store_fails_midway__is_tried_again() -> None:
    """Wherever it fails, the project stays marked, and is published once the store is back."""
    for name in ("published", "read_project", "items", "put_part", "put_in_force", "read_part", "finish"):
        bench = Bench()
        bench.store.edit(1, flag("a", id=1))
        bench.store.errors[name] = StoreUnavailable("gone")
        await bench.build()
        assert bench.store.rows[1].dirty_since is not None, name
        assert bench.sample("builds_total", outcome="failed") == 1
        bench.store.errors.clear()
        bench.clock.advance(1)
        await bench.build()
        assert bench.store.in_force[1].version == bench.store.projects[1].version
        assert bench.store.announced == [1]


async def test_build__store_fails_and_cannot_be_told__is_tried_when_the_lease_is_over() -> None:
    """What cannot be given back comes back by itself."""
    bench = Bench()
    bench.store.edit(1)
    bench.store.errors = {"put_in_force": StoreUnavailable("gone"), "fail": StoreUnavailable("gone")}
    await bench.build()
    bench.store.errors.clear()
    assert await bench.build() == 0
    bench.clock.advance(bench.settings.lease_s)
    assert await bench.build() == 1
    assert bench.store.announced == [1]


async def test_build__lease_lost__does_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever has the project now does all of it, so this is told and not counted as a failure."""
    caplog.set_level(logging.INFO)
    bench = Bench()
    bench.store.edit(1)
    bench.store.errors["put_in_force"] = LeaseLost()
    await bench.build()
    assert bench.sample("builds_total", outcome="lost") == 1
    assert messages(caplog) == ["lease_lost"]
    assert bench.store.rows[1].failures == 0


async def test_build__project_deleted_meanwhile__is_no_failure() -> None:
    """There is nothing to be done for it."""
    bench = Bench()
    bench.store.edit(1)

    def delete() -> None:
        del bench.store.projects[1], bench.store.rows[1]

    bench.store.at["read_project"] = delete
    await bench.build()
    assert bench.sample("builds_total", outcome="unchanged") == 1


async def test_build__taking_longer_than_its_lease__is_given_up() -> None:
    """A store that hangs costs a build its lease and not the builder its place."""
    bench = Bench(lease_s=1.0)
    bench.store.edit(1)
    bench.store.hangs["read_project"] = asyncio.Event()
    async with asyncio.timeout(5):
        await bench.build()
    assert bench.store.rows[1].problem == "it took longer than 1 s (builder.lease_s)"


async def test_builder__told_of_an_edit__builds_at_once() -> None:
    """Nothing waits for the next look at the queue."""
    async with Bench(poll_ms=60_000).running() as bench:
        await bench.until(lambda: "claim_unverified" in bench.store.calls)
        bench.store.edit(1)
        bench.builder.told(1)
        await bench.until(lambda: bench.store.announced == [1])


async def test_builder__told_while_it_looks__looks_again() -> None:
    """An edit that is told between a look at the queue and the wait for the next one is not slept over."""
    bench = Bench(poll_ms=60_000)

    def tell() -> None:
        bench.store.at["claim_unverified"] = lambda: (bench.store.edit(1), bench.builder.told(1))

    bench.store.at["claim"] = tell
    async with bench.running():
        await bench.until(lambda: bench.store.announced == [1])


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("a bug")])
async def test_builder__claiming_or_measuring_fails__goes_on(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an outage nor a bug ends building or measuring for good; both are told of."""
    for name in ("PAUSE_S", "MEASURE_S"):
        monkeypatch.setattr(f"gateway.services.builder.{name}", 0.01)
    caplog.set_level(logging.INFO)
    bench = Bench()
    bench.store.errors = {"claim": error, "claim_unverified": error, "backlog": error}
    bench.store.edit(1)
    async with bench.running():
        await bench.until(lambda: min(bench.store.calls.count(name) for name in ("claim", "backlog")) > 2)
        bench.store.errors.clear()
        await bench.until(lambda: bench.store.announced == [1])
        await bench.until(lambda: bench.sample("builder_projects", state="published") == 1)
    is_bug = isinstance(error, RuntimeError)
    assert ("builder_crashed" if is_bug else "build_queue_failed") in messages(caplog)


async def test_builder__many_edited_projects__begins_no_more_than_its_rate() -> None:
    """A burst of it may begin at once, and then so much per second, however many wait."""
    bench = Bench(max_builds_per_s=40.0, concurrency=64)
    for project_id in range(100):
        bench.store.edit(project_id)
    async with bench.running():
        await bench.until(lambda: len(bench.store.announced) >= 10)
        await settle()
        assert len(bench.store.announced) == 10
        bench.clock.advance(0.1)
        bench.builder.told(1)
        await bench.until(lambda: len(bench.store.announced) >= 14)
        await settle()
        assert len(bench.store.announced) == 14


async def test_builder__many_edited_projects__builds_so_many_at_once() -> None:
    """As many as its concurrency are in hand and leased, the others are anybody's."""
    bench = Bench(concurrency=3)
    for project_id in range(10):
        bench.store.edit(project_id)
    bench.store.hangs["put_in_force"] = hang = asyncio.Event()
    async with bench.running():
        await bench.until(lambda: bench.store.calls.count("put_in_force") == 3)
        bench.builder.told(1)
        await settle()
        assert sum(row.lease is not None for row in bench.store.rows.values()) == 3
        assert bench.sample("builder_building") == 3
        hang.set()
        await bench.until(lambda: len(bench.store.announced) == 10)


async def test_builder__left_while_claiming__ends_what_it_claimed() -> None:
    """No project is leased to a builder that is gone: what is just being claimed is built before it goes."""
    bench = Bench()
    bench.store.edit(1)
    bench.store.hangs["claim"] = hang = asyncio.Event()
    async with bench.running():
        await bench.until(lambda: bench.store.calls.count("claim") == 1)
        asyncio.get_running_loop().call_later(0.05, hang.set)
    assert bench.store.announced == [1]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("name", ["claim", "finish"])
async def test_builder__left_while_the_store_hangs__ends_in_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that hangs keeps a process from ending, nor goes on after it."""
    monkeypatch.setattr("gateway.services.builder.CLOSE_TIMEOUT_S", 0.05)
    bench = Bench()
    bench.store.edit(1)
    bench.store.hangs[name] = asyncio.Event()
    async with asyncio.timeout(5), bench.running():
        await bench.until(lambda: name in bench.store.calls)
    assert len(asyncio.all_tasks()) == 1


async def test_drain__builds_all_that_is_due_and_returns() -> None:
    """For a command that edited: what fails or rests is not waited for."""
    bench = Bench(concurrency=2)
    for project_id in range(5):
        bench.store.edit(project_id)
    bench.store.edit(7, shell=BROKEN)
    await bench.builder.drain()
    assert sorted(bench.store.announced) == [0, 1, 2, 3, 4]
    bench.store.errors["claim"] = StoreError("gone")
    with pytest.raises(StoreError):
        await bench.builder.drain()


async def test_build__bug_while_failing__is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem of any text and length can be told."""
    bench = Bench()
    bench.store.edit(1)

    async def crash(_: object, job: Job) -> Any:
        raise ValueError("x" * 10_000, job.project_id)

    monkeypatch.setattr("gateway.services.publishing.Publisher.publish", crash)
    await bench.build()
    problem = bench.store.rows[1].problem
    assert problem is not None
    assert len(problem) == 500
    assert repr(Builder(bench.store, None, bench.settings, bench.clock, bench.metrics)) == "<Builder, 0/4 building>"


async def test_problem__edits_wait_or_the_queue_is_not_looked_at__is_told() -> None:
    """A builder that is stuck says so, and one that has nothing to do does not."""
    bench = Bench()
    assert bench.builder.problem is None
    bench.builder._oldest_s = 90.0
    assert bench.builder.problem == "an edit has waited for 90 s"
    bench.clock.advance(120)
    assert bench.builder.problem == "the queue of edits was not looked at for 120 s"
