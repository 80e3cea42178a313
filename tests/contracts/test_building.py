"""The builder over every real store: what somebody does to the tables by hand delays one project, and is put right."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.builder import Builder as Settings
from gateway.builder_metrics import BuilderMetrics
from gateway.ports import SystemClock
from gateway.services.builder import Builder
from tests.builders import flag
from tests.contracts.building import LEASE_S, STORED, StoredBench, opened

RESTLESS = Settings(min_rest_ms=0, max_rest_ms=1000)


class Built:
    """A store, a builder that is not in a hurry, and what both come to."""

    def __init__(self, bench: StoredBench) -> None:
        self.bench = bench
        self.metrics = BuilderMetrics()
        self.builder = Builder(bench.builds, None, RESTLESS, SystemClock(), self.metrics)

    async def settle(self) -> None:
        """Build whatever is due, now and after a second's rest."""
        for _ in range(2):
            await self.builder.drain()
            await self.bench.age(1)

    async def verify(self) -> None:
        jobs = await self.bench.builds.claim_unverified(10, LEASE_S, 0.0)
        await asyncio.gather(*map(self.builder._verify, jobs))

    async def document(self, project_id: int) -> dict[str, Any] | None:
        """What is published, decoded."""
        raw = await self.bench.read(project_id)
        return None if raw is None else msgspec.json.decode(raw)

    async def problems(self) -> tuple[int, int]:
        """How many projects are dirty, and how many fail."""
        backlog = await self.bench.builds.backlog()
        return backlog.dirty, backlog.failing

    def drift(self, place: str) -> float | None:
        return self.metrics._registry.get_sample_value("flagstone_drift_total", {"place": place})


@pytest.fixture(params=STORED)
async def built(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Built]:
    """Two projects, published."""
    async with opened(request, tmp_path) as bench:
        assert isinstance(bench, StoredBench)
        built = Built(bench)
        for project_id in (1, 2):
            await bench.edit(project_id, flag("beta", id=1))
        await built.settle()
        assert await built.problems() == (0, 0)
        yield built


async def test_build__shell_that_makes_no_sense__holds_up_nobody_and_is_cured_by_an_edit(built: Built) -> None:
    """The last good document stays, others are built, and the edit that puts it right is built soon."""
    await built.bench.execute(
        "UPDATE flagstone.projects SET document = '[]', version = version + 1 WHERE id = 1 RETURNING 1"
    )
    await built.bench.edit(2, name="edited")
    await built.settle()
    assert (await built.document(2) or {})["name"] == "edited"
    assert (await built.document(1) or {})["token"] == "phc_1"
    assert await built.problems() == (1, 1)
    await built.bench.edit(1, name="cured")
    await built.settle()
    assert (await built.document(1) or {})["name"] == "cured"
    assert await built.problems() == (0, 0)


async def test_build__too_large__is_refused_and_leaves_no_parts(built: Built) -> None:
    """However often it is tried, nothing of what was written for it stays."""
    settings = msgspec.structs.replace(RESTLESS, max_document_bytes=1_000_000, max_retry_s=0.1)
    builder = Builder(built.bench.builds, None, settings, SystemClock(), built.metrics)
    await built.bench.edit(1, *(flag(f"flag-{number}", id=number, name="x" * 20_000) for number in range(2, 80)))
    for _ in range(3):
        await builder.drain()
        await built.bench.age(1)
    assert (await built.bench.builds.backlog()).refused == 1
    assert len(await built.bench.builds_with_parts(1)) == 1
    assert len((await built.document(1) or {})["flags"]) == 1
    await built.settle()
    assert len((await built.document(1) or {})["flags"]) == 79


@pytest.mark.parametrize("damage", ["UPDATE {} SET part = substr(part, 2)", "DELETE FROM {}"])
async def test_verify__damaged_parts__are_found_and_built_anew(built: Built, damage: str) -> None:
    """Under a newer version, which gateways take."""
    before = await built.bench.builds.published(1)
    statement = damage.format("flagstone.published_parts")
    await built.bench.execute(f"{statement} WHERE project_id = 1 RETURNING 1")
    await built.verify()
    await built.settle()
    after = await built.bench.builds.published(1)
    assert before is not None
    assert after is not None
    assert (after.version > before.version, after.etag) == (True, before.etag)
    assert (await built.document(1) or {})["token"] == "phc_1"
    assert (built.drift("published"), built.drift("stored")) == (1, 0)
    assert await built.problems() == (0, 0)


async def test_verify__rows_changed_without_a_version__are_found_and_built(built: Built) -> None:
    """Whoever writes past the version has it served all the same, though later."""
    changed = msgspec.json.encode(flag("changed", id=1)).decode()
    await built.bench.execute(f"UPDATE flagstone.flags SET document = '{changed}' WHERE project_id = 2 RETURNING 1")
    await built.settle()
    assert (await built.document(2) or {})["flags"][0]["key"] == "beta"
    await built.verify()
    await built.settle()
    assert (await built.document(2) or {})["flags"][0]["key"] == "changed"
    assert (built.drift("published"), built.drift("stored")) == (0, 1)


async def test_verify__published_row_gone__is_found_and_built(built: Built) -> None:
    """A project that lost what was published of it is not left without."""
    await built.bench.execute("DELETE FROM flagstone.published WHERE project_id = 1 RETURNING 1")
    await built.verify()
    await built.settle()
    assert (await built.document(1) or {})["token"] == "phc_1"
    assert await built.problems() == (0, 0)


async def test_verify__rows_restored_under_an_older_version__are_found_and_built(built: Built) -> None:
    """A backup of some tables is published, under a version beyond the one that gateways have."""
    before = await built.bench.builds.published(1)
    restored = '{"id": 1, "token": "phc_1", "name": "restored"}'
    await built.bench.execute(
        f"UPDATE flagstone.projects SET document = '{restored}', version = 5 WHERE id = 1 RETURNING 1"
    )
    await built.settle()
    await built.verify()
    await built.settle()
    after = await built.bench.builds.published(1)
    assert before is not None
    assert after is not None
    assert after.version > before.version
    assert (await built.document(1) or {})["name"] == "restored"


async def test_builders__several_over_many_edits__end_with_what_is_stored(built: Built) -> None:
    """However builds and edits interleave, versions never go back, and the last edit is what is published."""
    versions: dict[int, list[int]] = {1: [], 2: []}
    is_over = asyncio.Event()

    async def watch() -> None:
        while not is_over.is_set():
            for project_id, seen in versions.items():
                published = await built.bench.builds.published(project_id)
                assert published is not None
                seen.append(published.version)
            await asyncio.sleep(0.001)

    async def edit() -> None:
        for number in range(30):
            for project_id in versions:
                await built.bench.edit(project_id, flag("beta", id=1, name=str(number)))
            await asyncio.sleep(0.002)

    builders = [
        Builder(
            built.bench.builds, None, msgspec.structs.replace(RESTLESS, poll_ms=10, max_rest_ms=0), SystemClock(), it
        )
        for it in (BuilderMetrics(), BuilderMetrics())
    ]
    async with builders[0], builders[1]:
        watching = asyncio.create_task(watch())
        await edit()
        async with asyncio.timeout(10):
            while (await built.problems())[0]:
                await asyncio.sleep(0.01)
        is_over.set()
        await watching
    for project_id, seen in versions.items():
        assert seen == sorted(seen)
        assert (await built.document(project_id) or {})["flags"][0]["name"] == "29"
    assert await built.problems() == (0, 0)
