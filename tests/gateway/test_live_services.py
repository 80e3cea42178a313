"""Settings of snapshots and of the builder that take effect without a restart, over fakes.

That they do anything is shown in test_settings_behaviour.py, test_snapshot_tiers.py and test_builder_settings.py.
Invariant: what is held, and what is being made, survives each change.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from config.backends import Overrides
from config.reload import Live
from config.settings import Settings, Snapshots
from evaluator.types import OverrideWrite
from gateway.errors import AuthenticationFailed, Unavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline
from gateway.services.snapshots import SnapshotService
from gateway.wiring import open_services
from tests.builders import flag, project
from tests.fakes import FakeClock
from tests.gateway.services.building import Bench
from tests.gateway.services.test_local_definitions import MANY, held, service_of, soon
from tests.gateway.serving import TOKEN, MemoryStore, one_project, settle


class World:
    """Services over a store, whose settings can be changed."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.store = one_project()
        self.live = Live(Settings(snapshots=Snapshots(**settings)))
        self.service: SnapshotService

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        async with open_services(self.live, self.clock, Metrics(), lambda _: nullcontext(self.store)) as opened:
            self.service = opened["snapshots"]
            yield self

    def put(self, **settings: Any) -> None:
        self.live.put_in_force(Settings(snapshots=Snapshots(**settings)), self.live.generation + 1)

    async def get(self, token: str = TOKEN) -> Any:
        return await self.service.get(token, Deadline(self.clock, 5))


async def test_snapshots_refresh_s__live__has_changes_looked_for_as_often() -> None:
    """snapshots.refresh_s: without a restart a shorter time counts at once, also for what was looked at just before."""
    async with World(refresh_s=3600.0).running() as world:
        await world.get()
        await asyncio.sleep(0.1)  # The feed's beginning has everything compared once.
        world.clock.advance(3600)
        await world.get()
        await settle()
        world.store.put(TOKEN, project(), version=2)
        world.put(refresh_s=1.0)
        await settle()
        assert (await world.get()).snapshot.version == 1
        world.clock.advance(1)
        await world.get()
        await settle()
        assert (await world.get()).snapshot.version == 2


async def test_snapshots_hard_ttl__live__decides_about_what_is_held() -> None:
    """snapshots.hard_ttl_s, snapshots.on_hard_ttl: without a restart old flags are refused, and served again."""
    async with World(refresh_s=3600.0).running() as world:
        await world.get()
        world.store.error = OSError("down")
        world.clock.advance(100)
        world.put(refresh_s=3600.0, hard_ttl_s=50.0, on_hard_ttl="fail")
        with pytest.raises(Unavailable):
            await world.get()
        world.put(refresh_s=3600.0, hard_ttl_s=50.0, on_hard_ttl="not_ready")
        assert await world.get()
        assert not await world.service.is_ready(Deadline(world.clock, 1))
        world.put(refresh_s=3600.0, hard_ttl_s=500.0, on_hard_ttl="not_ready")
        assert await world.service.is_ready(Deadline(world.clock, 1))


async def test_snapshots_max_loads__live__lets_more_load_at_once() -> None:
    """snapshots.max_loads: without a restart those that wait for their turn get it."""
    async with World(max_loads=1).running() as world:
        world.store.gate.clear()
        asking = [asyncio.ensure_future(world.get(f"phc_{number}")) for number in range(9)]
        await settle()
        assert world.store.calls.count("load_definitions") == 1
        world.put(max_loads=4)
        await settle()
        assert world.store.calls.count("load_definitions") == 4
        world.store.gate.set()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_snapshots_bounds__live__let_go_of_what_is_too_much() -> None:
    """snapshots.max_bytes, snapshots.max_projects: without a restart fewer are held, those asked for last."""
    async with World().running() as world:
        for number in range(4):
            world.store.put(f"phc_{number}", project(*(flag(f"f{n}", id=n) for n in range(100))))
            await world.get(f"phc_{number}")
        await world.get("phc_0")
        world.put(max_projects=2)
        assert set(world.service._held.everything) == {"phc_3", "phc_0"}
        world.put(max_bytes=1 << 20)
        assert set(world.service._held.everything) == {"phc_0"}
        before = world.store.calls.count("load_definitions")
        await world.get("phc_0")
        assert world.store.calls.count("load_definitions") == before


async def test_snapshots_unknown_token_ttl_s__live__finds_a_new_project_sooner() -> None:
    """snapshots.unknown_token_ttl_s: without a restart a token already refused is looked up after the new time."""
    async with World(unknown_token_ttl_s=3600.0).running() as world:
        with pytest.raises(AuthenticationFailed):
            await world.get("phc_new")
        world.store.put("phc_new", project())
        world.clock.advance(1)
        world.put(unknown_token_ttl_s=5.0)
        with pytest.raises(AuthenticationFailed):
            await world.get("phc_new")
        world.clock.advance(5)
        assert await world.get("phc_new")


async def test_snapshots_max_unknown_tokens__live__forgets_those_not_asked_for_longest() -> None:
    """snapshots.max_unknown_tokens: without a restart fewer are remembered."""
    async with World().running() as world:
        for token in ("phc_a", "phc_b", "phc_c"):
            with pytest.raises(AuthenticationFailed):
                await world.get(token)
        world.put(max_unknown_tokens=1)
        assert set(world.service._absent) == {"phc_c"}


async def test_snapshots_max_local_bytes__live__keeps_what_was_asked_for_last() -> None:
    """snapshots.max_local_bytes, snapshots.max_projects: without a restart less is kept prepared; what is asked for
    again is made again."""
    metrics = Metrics()
    async with service_of(metrics) as service:
        snapshots = [held(*MANY, token=f"phc_{number}") for number in range(3)]
        for one in (*snapshots, snapshots[0]):
            await service.get(one, soon())
        service.adopt(Snapshots(max_local_bytes=1 << 10, max_projects=2))
        assert repr(service).startswith("<LocalDefinitionService 1 prepared")
        assert [service.etag(one) is not None for one in snapshots] == [False, True, True]
        kept = await service.get(snapshots[0], soon())
        assert await service.get(snapshots[0], soon()) is kept


async def test_overrides__live__keep_to_the_bounds_of_now() -> None:
    """overrides.max_queued_writes, overrides.write_timeout_ms: without a restart more may wait, and a try has as long;
    what was queued stays so."""
    store, live = StuckWriter(), Live(Settings(overrides=Overrides(max_queued_writes=1, write_timeout_ms=60_000)))

    async with open_services(live, FakeClock(), Metrics(), lambda _: nullcontext(store)) as opened:
        overrides = opened["flags"]._overrides

        async def keep(number: int) -> int:
            for _ in range(number):
                overrides.keep(1, OverrideWrite(("u1",), {"a": "b"}))
                await settle()
            return overrides.queued

        assert await keep(5) == 1
        live.put_in_force(Settings(overrides=Overrides(max_queued_writes=3, write_timeout_ms=10)), 1)
        assert await keep(5) == 3
        before = store.writes
        store.may_end.set()  # The tries that are under way end; the next ones are stuck, and out of time soon.
        async with asyncio.timeout(10):
            while store.writes < before + 4:
                await asyncio.sleep(0.01)


class StuckWriter(MemoryStore):
    """The first two writes wait for `may_end`, the others for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()
        self.writes = 0

    async def save_overrides(self, *_: Any) -> None:
        self.writes += 1
        await (self.may_end if self.writes <= 2 else asyncio.Event()).wait()


def at_work(edits: int, **settings: Any) -> Bench:
    bench = Bench(**settings)
    for project_id in range(edits):
        bench.store.edit(project_id)
    return bench


def put(bench: Bench, **settings: Any) -> None:
    """Settings in force from now on."""
    bench.settings = replace(bench.settings, **settings)
    bench.builder.adopt(bench.settings)


async def test_builder_concurrency__live__takes_more_in_hand() -> None:
    """builder.concurrency: without a restart more is built at once, or less as what is in hand is done."""
    bench = at_work(9, concurrency=1)
    bench.store.hangs["put_in_force"] = hang = asyncio.Event()
    async with bench.running():
        await bench.until(lambda: bench.store.calls.count("put_in_force") == 1)
        put(bench, concurrency=3)
        await bench.until(lambda: bench.store.calls.count("put_in_force") == 3)
        put(bench, concurrency=2)
        hang.set()
        await bench.until(lambda: len(bench.store.announced) == 9)


async def test_builder_max_builds_per_s__live__begins_more() -> None:
    """builder.max_builds_per_s: without a restart builds begin as often as it says, from the rest they are owed."""
    bench = at_work(30, max_builds_per_s=1.0, concurrency=64)
    async with bench.running():
        await bench.until(lambda: len(bench.store.announced) == 1)
        put(bench, max_builds_per_s=40.0)
        bench.clock.advance(0.125)
        await bench.until(lambda: len(bench.store.announced) == 6)
        await asyncio.sleep(0.02)
        assert len(bench.store.announced) == 6


async def test_builder_poll_ms__live__looks_as_often_from_now_on() -> None:
    """builder.poll_ms: without a restart an edit that nobody announces is found sooner."""
    bench = at_work(0, poll_ms=60_000)
    async with bench.running():
        await bench.until(lambda: "claim_unverified" in bench.store.calls)
        put(bench, poll_ms=10)
        bench.store.edit(1)
        await bench.until(lambda: bench.store.announced == [1])
        bench.clock.advance(1)
        bench.store.edit(1)
        await bench.until(lambda: bench.store.announced == [1, 1])


async def test_builder_rests__live__are_those_of_the_next_build() -> None:
    """builder.min_rest_ms, builder.max_rest_ms: without a restart a project rests as long from its next build on."""
    bench = at_work(1, min_rest_ms=100, max_rest_ms=100)
    await bench.build()
    assert bench.store.rows[0].pace_ms == 100
    put(bench, min_rest_ms=300, max_rest_ms=400)
    for pace_ms in (300, 400):
        bench.store.edit(0)
        bench.clock.advance(1 if pace_ms == 300 else 0.3)
        await bench.build()
        assert bench.store.rows[0].pace_ms == pace_ms


async def test_builder_max_document_bytes__live__decides_about_the_next_build() -> None:
    """builder.max_document_bytes: without a restart a document that was refused is published."""
    bench = at_work(1, max_document_bytes=1024)
    bench.store.edit(0, flag("x" * 1500, id=1))
    await bench.build()
    assert bench.store.rows[0].is_refused
    put(bench, max_document_bytes=4096)
    bench.store.edit(0)
    bench.clock.advance(600)
    await bench.build()
    assert 0 in bench.store.in_force


async def test_builder_lease_s__live__is_that_of_the_next_project() -> None:
    """builder.lease_s: without a restart what is begun from now on is one's for this long."""
    bench = at_work(1, lease_s=1.0)
    bench.store.hangs["put_in_force"] = hang = asyncio.Event()
    put(bench, lease_s=60.0)
    async with bench.running():
        await bench.until(lambda: "put_in_force" in bench.store.calls)
        assert bench.store.rows[0].leased_until - bench.clock.now() == timedelta(seconds=60)
        hang.set()


async def test_builder_max_retry_s__live__bounds_the_next_rest_of_a_failing_project() -> None:
    """builder.max_retry_s: without a restart a project that cannot be built is tried as often."""
    bench = Bench(max_retry_s=3600.0)
    bench.store.edit(1, shell=b"[]")
    put(bench, max_retry_s=0.1)
    await bench.build()
    assert bench.store.rows[1].rest_until - bench.clock.now() == timedelta(seconds=0.1)


async def test_builder_verifying__live__compares_as_often_from_now_on() -> None:
    """builder.verify_s, builder.max_verifications_per_s: without a restart more is compared, and sooner."""
    bench = at_work(9, verify_s=3600.0, max_verifications_per_s=1.0, concurrency=64)
    await bench.build()
    bench.clock.advance(30)
    async with bench.running():
        put(bench, verify_s=10.0)
        await bench.until(lambda: bench.sample("verifications_total", outcome="sound") == 1)
        put(bench, max_verifications_per_s=40.0)
        bench.clock.advance(0.125)
        await bench.until(lambda: bench.sample("verifications_total", outcome="sound") == 6)
