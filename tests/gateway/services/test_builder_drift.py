"""What is published is compared in every place it is in; whatever differs is found, counted, and put right."""

import asyncio
import logging

import msgspec
import pytest

from gateway.errors import StoreUnavailable
from gateway.services.publishing import SHELF_REST_S
from tests.builders import flag
from tests.gateway.services.building import Bench, messages

OUTAGE = StoreUnavailable("redis: gone")


async def published(*, has_missed_the_shelf: bool = False) -> Bench:
    """A builder that has just published a project."""
    bench = Bench()
    bench.store.edit(1, flag("a", id=1))
    if has_missed_the_shelf:
        bench.shelf.errors["keep"] = OUTAGE
    await bench.build()
    bench.clock.advance(5)
    return bench


async def is_right(bench: Bench, name: str = "") -> bool:
    """Whether everything agrees, once whatever there is to do was done."""
    while await bench.build():
        bench.clock.advance(5)
    stored, in_force = bench.store.projects[1], bench.store.in_force[1]
    document = bench.store.document(1)
    assert msgspec.json.decode(document)["name"] == name
    assert bench.shelf.entries["phc_1"] == (1, in_force.version, document)
    backlog = await bench.store.backlog()
    return stored.version == in_force.version and (backlog.dirty, backlog.failing) == (0, 0)


def drift(bench: Bench) -> dict[str, float]:
    """What was counted, by place."""
    places = {place: bench.sample("drift_total", place=place) for place in ("stored", "published", "shared")}
    return {place: number for place, number in places.items() if number}


async def test_verify__all_as_it_should_be__changes_nothing() -> None:
    """Nothing is written, nobody is told, and it is not due again before its time."""
    bench = await published()
    announced, version = list(bench.store.announced), bench.store.in_force[1].version
    bench.shelf.calls.clear()
    assert await bench.verify() == 1
    assert (bench.store.announced, bench.store.in_force[1].version) == (announced, version)
    assert (bench.shelf.calls, bench.store.counted) == (["holds"], [1])
    assert drift(bench) == {}
    assert bench.sample("verifications_total", outcome="sound") == 1
    assert await bench.verify(older_than_s=10) == 0
    assert await is_right(bench)


async def test_build__shared_cache_down__publishes_all_the_same() -> None:
    """Gateways are told and read the store; what the cache missed is put there once it is back, before all else."""
    bench = await published(has_missed_the_shelf=True)
    assert bench.store.announced == [1]
    assert bench.shelf.entries == {}
    bench.store.edit(2)
    bench.shelf.errors.clear()
    await bench.build()
    (first,) = await bench.store.claim_unverified(1, 0, 3600)
    assert first.project_id == 1
    assert await bench.verify(older_than_s=3600) == 1
    assert await is_right(bench)
    assert await bench.verify(older_than_s=3600) == 0


async def test_verify__shared_cache_still_down__comes_back_to_it() -> None:
    """What could not be compared does not count as compared, nor as different, nor as a failure of the project."""
    bench = await published(has_missed_the_shelf=True)
    bench.shelf.errors["holds"] = OUTAGE
    for _ in range(3):
        assert await bench.verify(older_than_s=3600) == 1
    assert drift(bench) == {}
    bench.shelf.errors.clear()
    bench.clock.advance(SHELF_REST_S)
    assert await bench.verify(older_than_s=3600) == 1
    assert await is_right(bench)


@pytest.mark.parametrize("entry", ["missing", "older", "damaged", "another's"])
async def test_verify__entry_in_the_shared_cache_is_not_right__is_put_there_again(
    entry: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache that lost, kept or changed something is found out and filled; what is published stays as it is."""
    caplog.set_level(logging.WARNING)
    bench = await published()
    _, version, document = bench.shelf.entries.pop("phc_1")
    wrong = {
        "older": (1, version - 1, document),
        "damaged": (1, version, document + b" "),
        "another's": (2, version + 1, document),
    }
    if entry in wrong:
        bench.shelf.entries["phc_1"] = wrong[entry]
    await bench.verify()
    assert drift(bench) == {"shared": 1}
    assert bench.sample("verifications_total", outcome="drift") == 1
    assert messages(caplog) == ["drift"]
    assert bench.store.in_force[1].version == version
    assert await is_right(bench)


@pytest.mark.parametrize("damage", [b"", b"x"])
async def test_verify__damaged_parts_in_the_store__are_built_anew(damage: bytes) -> None:
    """Under a newer version, so that gateways that read the damaged one take the new one."""
    bench = await published()
    before = bench.store.in_force[1]
    bench.store.parts[1, before.build][0] = damage
    await bench.verify()
    assert drift(bench) == {"published": 1}
    assert bench.sample("verifications_total", outcome="drift") == 1
    bench.clock.advance(1)
    assert await is_right(bench)
    assert bench.store.in_force[1].version > before.version
    assert bench.store.in_force[1].etag == before.etag


async def test_verify__rows_changed_without_a_version__are_built() -> None:
    """Somebody who writes past everything, triggers included, is found out."""
    bench = await published()
    bench.store.edit_unseen(1, b'{"id":1,"token":"phc_1","name":"unseen"}')
    await bench.verify()
    assert drift(bench) == {"stored": 1}
    bench.clock.advance(1)
    assert await is_right(bench, name="unseen")


async def test_verify__rows_that_make_no_sense__are_told_of_until_cured() -> None:
    """The last good document stays; the project counts as failing, which it would not without verification."""
    bench = await published()
    bench.store.edit_unseen(1, b"[]")
    await bench.verify()
    bench.clock.advance(1)
    await bench.build()
    assert drift(bench) == {"stored": 1}
    assert (await bench.store.backlog()).failing == 1
    assert b'"phc_1"' in bench.store.document(1)
    bench.store.edit(1, name="cured")
    bench.clock.advance(10)
    assert await is_right(bench, name="cured")


async def test_verify__nothing_published__is_built() -> None:
    """A project whose published row somebody removed is not left without."""
    bench = await published()
    del bench.store.in_force[1]
    await bench.verify()
    assert drift(bench) == {"published": 1}
    bench.clock.advance(1)
    assert await is_right(bench)


async def test_verify__edited_meanwhile__is_no_drift() -> None:
    """An edit that comes while a project is compared is built, and not counted as a difference."""
    bench = await published()
    bench.store.at["read_project"] = lambda: bench.store.edit(1, name="edited")
    await bench.verify()
    assert drift(bench) == {}
    bench.clock.advance(1)
    assert await is_right(bench, name="edited")


async def test_verify__store_fails__is_gone_through_again() -> None:
    """A failure while comparing is no difference; the project is built or compared again soon, and is well then."""
    for name in ("published", "read_part", "read_project", "items", "finish"):
        bench = await published()
        bench.store.errors[name] = StoreUnavailable("gone")
        await bench.verify()
        assert bench.sample("verifications_total", outcome="failed") == 1, name
        bench.store.errors.clear()
        bench.clock.advance(1)
        assert drift(bench) == {}
        assert await is_right(bench)


async def test_verify__counting_members_fails__is_verified_all_the_same() -> None:
    """Counting is for show, and may take longer than a statement may."""
    bench = await published()
    bench.store.errors["count_members"] = StoreUnavailable("too long")
    await bench.verify()
    assert bench.sample("verifications_total", outcome="sound") == 1
    assert await bench.verify(older_than_s=1) == 0


async def test_build__read_back_as_something_else__is_built_under_a_new_version() -> None:
    """A document that did not arrive in the store as it was written is neither announced nor shared."""
    bench = Bench()
    bench.store.edit(1)

    def damage() -> None:
        bench.store.parts[1, bench.store.in_force[1].build][0] = b"damaged"

    bench.store.at["read_part"] = damage
    await bench.build()
    assert (bench.store.announced, bench.shelf.entries) == ([], {})
    assert drift(bench) == {"published": 1}
    bench.clock.advance(1)
    assert await is_right(bench)


@pytest.mark.parametrize("concurrency", [1, 2, 4])
async def test_builder__with_time_to_spare__verifies(concurrency: int) -> None:
    """Projects are compared while nothing is edited, however few may be in hand at once."""
    bench = Bench(concurrency=concurrency, verify_s=10.0, max_verifications_per_s=1000.0)
    for project_id in range(5):
        bench.store.edit(project_id)
    await bench.build()
    bench.clock.advance(11)
    async with bench.running():
        await bench.until(lambda: bench.sample("verifications_total", outcome="sound") == 5)


async def test_builder__verifying__leaves_a_place_for_edits() -> None:
    """However many are to be compared, and however long that takes, an edit does not wait for it."""
    bench = Bench(concurrency=3, verify_s=10.0, max_verifications_per_s=1000.0)
    for project_id in range(9):
        bench.store.edit(project_id)
    await bench.build()
    bench.clock.advance(11)
    bench.shelf.hangs["holds"] = hang = asyncio.Event()
    async with bench.running():
        await bench.until(lambda: bench.shelf.calls.count("holds") == 2)
        bench.store.announced.clear()
        bench.store.edit(1000)
        bench.builder.told(1000)
        await bench.until(lambda: bench.store.announced == [1000])
        assert bench.shelf.calls.count("holds") == 2
        hang.set()


async def test_builder__project_far_larger_than_others__is_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever operates it learns which one before it becomes a problem, and not every few seconds."""
    monkeypatch.setattr("gateway.services.builder.MEASURE_S", 0.005)
    caplog.set_level(logging.WARNING)
    bench = Bench()
    for project_id in range(3):
        bench.store.edit(project_id)
    bench.store.edit(7, flag("x" * 2_000_000, id=1))
    await bench.build()
    async with bench.running():
        await bench.until(lambda: bench.store.calls.count("backlog") > 3)
    assert [record.getMessage() for record in caplog.records] == ["project_anomalous"]
    assert bench.sample("builder_projects", state="anomalous") == 1
    assert bench.sample("builder_projects", state="published") == 4
    assert bench.sample("builder_typical_bytes") < 1000
    assert bench.sample("builder_peak_bytes") > 1_000_000
    assert bench.sample("builder_heartbeat_age_seconds", task="queue") >= 0
