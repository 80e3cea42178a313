"""Each setting of the builder, shown to change what it does."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.builder import Builder
from config.reload import Live
from config.settings import Settings
from config.settings import Store as StoreSettings
from gateway.document import read_document
from gateway.metrics import Metrics
from gateway.ports import UNPUBLISHED, SystemClock
from gateway.stores.sqlite import SqliteStore
from gateway.wiring import open_services
from tests.builders import flag, project
from tests.gateway.services.building import Bench
from tests.gateway.serving import settle

FREQUENT = {"verify_s": 10.0, "max_verifications_per_s": 1000.0}


def edited(projects: int, **settings: Any) -> Bench:
    """A builder that has so many edited projects before it."""
    bench = Bench(**settings)
    for project_id in range(projects):
        bench.store.edit(project_id)
    return bench


@pytest.mark.parametrize("is_embedded", [True, False])
async def test_builder_is_embedded__decides_whether_serve_builds(tmp_path: Path, *, is_embedded: bool) -> None:
    """builder.is_embedded: with it, what is edited is published by the service itself; without it, by nobody here."""
    url = Address(f"sqlite:{tmp_path / 'store.sqlite3'}")
    settings = Settings(store=StoreSettings(url=url), builder=Builder(is_embedded=is_embedded, poll_ms=10))
    metrics = Metrics()
    async with SqliteStore(url.path) as store, open_services(Live(settings), SystemClock(), metrics):
        document = read_document(msgspec.json.encode({"projects": [project(flag("a"))]}))
        await store.import_projects(document, lambda done, total: None)
        for _ in range(1000 if is_embedded else 20):
            found = await store.load_definitions("phc_test")
            assert found is not None
            if found.version != UNPUBLISHED:
                break
            await asyncio.sleep(0.01)
        assert (found.version != UNPUBLISHED) is is_embedded
    assert (b"flagstone_builds_total" in metrics.render()) is is_embedded


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_builder_concurrency__bounds_what_is_built_at_once(concurrency: int) -> None:
    """builder.concurrency: so many projects are in hand, however many wait."""
    bench = edited(9, concurrency=concurrency)
    bench.store.hangs["put_in_force"] = hang = asyncio.Event()
    async with bench.running():
        await bench.until(lambda: bench.store.calls.count("put_in_force") == concurrency)
        bench.builder.told(1)
        await settle()
        assert sum(row.lease is not None for row in bench.store.rows.values()) == concurrency
        hang.set()


@pytest.mark.parametrize(("poll_ms", "is_found"), [(10, True), (60_000, False)])
async def test_builder_poll_ms__decides_when_an_untold_edit_is_found(poll_ms: int, *, is_found: bool) -> None:
    """builder.poll_ms: an edit that nobody announces is looked for this often."""
    bench = edited(0, poll_ms=poll_ms)
    async with bench.running():
        await bench.until(lambda: "claim_unverified" in bench.store.calls)
        bench.store.edit(1)
        if is_found:
            await bench.until(lambda: bench.store.announced == [1])
        await asyncio.sleep(0.05)
        assert bench.store.announced == [1] * is_found


@pytest.mark.parametrize("rest_ms", [0, 700])
async def test_builder_min_rest_ms__is_the_rest_of_a_quiet_project(rest_ms: int) -> None:
    """builder.min_rest_ms: an edit within this time after a build waits for its end."""
    bench = edited(1, min_rest_ms=rest_ms)
    await bench.build()
    bench.store.edit(0)
    assert await bench.build() == (not rest_ms)
    bench.clock.advance(0.7)
    assert await bench.build() == bool(rest_ms)


@pytest.mark.parametrize("longest_ms", [250, 800])
async def test_builder_max_rest_ms__bounds_the_rest_of_a_busy_project(longest_ms: int) -> None:
    """builder.max_rest_ms: a project that is edited all the time is still built this often."""
    bench = edited(1, min_rest_ms=100, max_rest_ms=longest_ms)
    for _ in range(6):
        await bench.build()
        bench.store.edit(0)
        bench.clock.advance(longest_ms / 1000)
    assert bench.store.rows[0].pace_ms == longest_ms


@pytest.mark.parametrize(("rate", "begun"), [(1.0, 1), (40.0, 10)])
async def test_builder_max_builds_per_s__bounds_how_many_begin(rate: float, begun: int) -> None:
    """builder.max_builds_per_s: a quarter of a second's may begin at once, the next ones when time has passed."""
    bench = edited(30, max_builds_per_s=rate, concurrency=64)
    async with bench.running():
        await bench.until(lambda: len(bench.store.announced) >= begun)
        bench.builder.told(1)
        await asyncio.sleep(0.02)
        assert len(bench.store.announced) == begun


@pytest.mark.parametrize(("limit", "is_refused"), [(1024, True), (4096, False)])
async def test_builder_max_document_bytes__decides_what_is_refused(limit: int, *, is_refused: bool) -> None:
    """builder.max_document_bytes: a larger document is not published."""
    bench = edited(1, max_document_bytes=limit)
    bench.store.edit(0, flag("x" * 1500, id=1))
    await bench.build()
    assert bench.store.rows[0].is_refused is is_refused
    assert (0 in bench.store.in_force) is not is_refused


@pytest.mark.parametrize("lease_s", [1.0, 60.0])
async def test_builder_lease_s__decides_when_a_project_passes_on(lease_s: float) -> None:
    """builder.lease_s: what a builder that is gone had begun is anybody's after this time."""
    bench = edited(1, lease_s=lease_s)
    bench.store.hangs["put_in_force"] = asyncio.Event()
    async with bench.running():
        await bench.until(lambda: "put_in_force" in bench.store.calls)
        assert bench.store.rows[0].leased_until - bench.clock.now() == timedelta(seconds=lease_s)
        bench.store.hangs["put_in_force"].set()


@pytest.mark.parametrize("longest_s", [0.7, 30.0])
async def test_builder_max_retry_s__bounds_the_rest_of_a_failing_project(longest_s: float) -> None:
    """builder.max_retry_s: a project that cannot be built is tried at least this often."""
    bench = Bench(max_retry_s=longest_s)
    bench.store.edit(1, shell=b"[]")
    for _ in range(10):
        await bench.build()
        bench.clock.advance(longest_s)
    assert bench.store.rows[1].failures == 10
    assert bench.store.rows[1].rest_until <= bench.clock.now()
    assert bench.store.rows[1].rest_until > bench.clock.now() - timedelta(seconds=longest_s)


@pytest.mark.parametrize(("verify_s", "number"), [(10.0, 3), (60.0, 0)])
async def test_builder_verify_s__decides_what_is_compared(verify_s: float, number: int) -> None:
    """builder.verify_s: a project is compared when it was last compared this long ago."""
    bench = edited(3, **{**FREQUENT, "verify_s": verify_s})
    await bench.build()
    bench.clock.advance(30)
    async with bench.running():
        await bench.until(lambda: bench.sample("verifications_total", outcome="sound") >= number)
        await asyncio.sleep(0.02)
        assert bench.sample("verifications_total", outcome="sound") == number


@pytest.mark.parametrize(("rate", "number"), [(0.5, 1), (16.0, 4)])
async def test_builder_max_verifications_per_s__bounds_how_many_begin(rate: float, number: int) -> None:
    """builder.max_verifications_per_s: comparing takes no more from the database than this."""
    bench = edited(9, **{**FREQUENT, "max_verifications_per_s": rate}, concurrency=64)
    await bench.build()
    bench.clock.advance(30)
    async with bench.running():
        await bench.until(lambda: bench.sample("verifications_total", outcome="sound") >= number)
        bench.builder.told(1)
        await asyncio.sleep(0.02)
        assert bench.sample("verifications_total", outcome="sound") == number
