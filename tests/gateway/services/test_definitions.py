"""Where definitions come from, and what may be moved into the shared cache."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.metrics import Metrics
from gateway.ports import UNPUBLISHED, Definitions
from gateway.resilience.token_bucket import TokenBucket
from gateway.services import definitions
from gateway.services.definitions import DefinitionService, Shared
from tests.builders import project
from tests.fake_caches import FakeLastGood, FakeSharedCache
from tests.fakes import FakeClock
from tests.gateway.assembly import guarded
from tests.gateway.serving import TOKEN, MemoryStore, one_project


class World:
    """A store, a shared cache and a disk, and the service over them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store: MemoryStore = one_project()
        self.cache = FakeSharedCache()
        self.disk = FakeLastGood(self.clock)
        self.metrics = Metrics()
        self.entries = TokenBucket(2, 2, self.clock)
        self.bytes = TokenBucket(1000, 1000, self.clock)
        self.service: DefinitionService

    def metric(self, line: str) -> float:
        rows = self.metrics.render().decode().splitlines()
        return next(float(row.rsplit(" ", 1)[1]) for row in rows if row.startswith(f"flagstone_{line} "))


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(definitions, "CLAIM_WAIT_S", 0.0)
    world = World()
    async with guarded(world.clock, "definitions") as store_guard, guarded(world.clock, "redis") as cache_guard:
        shared = Shared(world.cache, cache_guard, 0.05, world.entries, world.bytes)
        world.service = DefinitionService(world.store, store_guard, world.metrics, shared=shared, disk=world.disk)
        yield world


def entry(version: int, size: int = 10) -> Definitions:
    return Definitions(1, version, b"x" * size)


async def test_load__shared_cache_has_it__spares_the_store(world: World) -> None:
    """What another process has put there need not be loaded again."""
    world.cache.entries[TOKEN] = entry(1)
    found = await world.service.load(TOKEN)
    assert found is not None
    assert (found.definitions, found.source, found.is_fill_wanted) == (entry(1), "redis", False)
    assert world.store.calls == []


async def test_load__shared_cache_has_an_older_version__asks_the_store(world: World) -> None:
    """A version that is known to be there is not answered with an older one, but with a newer one gladly."""
    world.cache.entries[TOKEN] = entry(1)
    found = await world.service.load(TOKEN, 2)
    assert found is not None
    assert (found.source, found.is_fill_wanted) == ("store", True)
    world.cache.entries[TOKEN] = entry(7)
    found = await world.service.load(TOKEN, 2)
    assert found is not None
    assert (found.definitions.version, found.source) == (7, "redis")


async def test_load__project_without_publication__is_unavailable_and_no_failure(world: World) -> None:
    """A project whose first build is still to come is there: its token is not refused, and no breaker hears of it."""
    world.store.put(TOKEN, project(), version=UNPUBLISHED)
    for _ in range(50):
        with pytest.raises(StoreUnavailable, match="not published yet"):
            await world.service.load(TOKEN)
    world.store.put(TOKEN, project(), version=1)
    assert await world.service.load(TOKEN) is not None


async def test_load__confirmed_miss__wants_a_fill_and_a_failure_does_not(world: World) -> None:
    """The shared cache is filled where it was seen to lack something, never because it failed."""
    found = await world.service.load(TOKEN)
    assert found is not None
    assert found.is_fill_wanted
    world.cache.error = StoreUnavailable("x")
    found = await world.service.load(TOKEN)
    assert found is not None
    assert (found.source, found.is_fill_wanted) == ("store", False)


async def test_load__shared_cache_hangs__goes_on_to_the_store_in_time(world: World) -> None:
    """A hung cache costs its time limit, and nothing else."""
    world.cache.gate.clear()
    found = await asyncio.wait_for(world.service.load(TOKEN), 1)
    assert found is not None
    assert (found.source, found.is_fill_wanted) == ("store", False)


async def test_load__nobody_has_the_token__is_none_and_no_error(world: World) -> None:
    """Only the store says that no project has a token."""
    assert await world.service.load("phc_nobody") is None


@pytest.mark.parametrize("error", [StoreUnavailable("x"), RuntimeError("a bug in an adapter")])
async def test_load__neither_can_tell__is_a_store_error(world: World, error: Exception) -> None:
    """An error says nothing about the token."""
    world.store.error = error
    with pytest.raises(StoreError):
        await world.service.load(TOKEN)


async def test_load__another_process_has_the_claim__waits_for_its_entry(world: World) -> None:
    """Of a fleet that misses the same project, one loads it, and the others find it in the shared cache."""
    world.cache.claims.add(TOKEN)
    loading = asyncio.ensure_future(world.service.load(TOKEN))
    while world.cache.calls.count("load_definitions") < 2:
        await asyncio.sleep(0)
    world.cache.entries[TOKEN] = entry(1)
    found = await loading
    assert found is not None
    assert found.source == "redis"
    assert world.store.calls == []


async def test_load__the_claimant_never_comes__loads_by_itself(world: World) -> None:
    """A process that died with the claim delays the others a little, and stops nobody."""
    world.cache.claims.add(TOKEN)
    found = await world.service.load(TOKEN)
    assert found is not None
    assert found.source == "store"
    assert world.cache.calls.count("load_definitions") == 1 + definitions.CLAIM_WAITS


async def test_load__claiming_fails__loads_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot ask for leave does not need it."""

    async def fail(token: str, ttl_s: float) -> bool:
        raise StoreTimeout("x")

    monkeypatch.setattr(world.cache, "claim", fail)
    found = await world.service.load(TOKEN)
    assert found is not None
    assert found.source == "store"


async def test_versions__store_answers__are_complete(world: World) -> None:
    """A token that the store leaves out belongs to no project."""
    versions = await world.service.versions([TOKEN, "phc_nobody"])
    assert (versions.by_token, versions.is_complete) == ({TOKEN: 1}, True)


async def test_versions__store_fails__are_those_of_the_shared_cache(world: World) -> None:
    """With the store down, another process may still have put something newer into the shared cache."""
    world.store.error = StoreUnavailable("x")
    world.cache.entries[TOKEN] = entry(9)
    versions = await world.service.versions([TOKEN, "phc_nobody"])
    assert (versions.by_token, versions.is_complete) == ({TOKEN: 9}, False)
    world.cache.error = StoreUnavailable("x")
    with pytest.raises(StoreError):
        await world.service.versions([TOKEN])


async def test_versions__of_many_projects__come_in_few_queries(world: World) -> None:
    """A thousand projects are two queries, not a thousand."""
    await world.service.versions([f"phc_{number}" for number in range(2 * definitions.MAX_TOKENS_PER_QUERY)])
    assert world.store.calls == ["definitions_versions"] * 2


async def test_fill__more_entries_than_allowed__are_left_out_and_counted(world: World) -> None:
    """However much is missing, no more is moved per second than the limit says."""
    for number in range(5):
        await world.service.fill(f"phc_{number}", entry(1))
    assert len(world.cache.entries) == 2
    assert world.metric('cache_fills_total{outcome="written"}') == 2
    assert world.metric('cache_fills_total{outcome="limited"}') == 3
    assert world.metric("cache_fill_bytes_total") == 20
    world.clock.advance(0.5)
    await world.service.fill("phc_9", entry(1))
    assert len(world.cache.entries) == 3


async def test_fill__more_bytes_than_allowed__are_paid_for_by_the_seconds_after(world: World) -> None:
    """An entry larger than the limit passes once, and then nothing until that is made up for."""
    await world.service.fill("phc_large", entry(1, 5000))
    world.clock.advance(3.9)
    await world.service.fill("phc_next", entry(1))
    assert world.cache.entries.keys() == {"phc_large"}
    world.clock.advance(0.2)
    await world.service.fill("phc_next", entry(1))
    assert world.cache.entries.keys() == {"phc_large", "phc_next"}


async def test_fill__large_ones_at_once__see_each_other(world: World) -> None:
    """Fills under way at the same time do not each find the limit untouched."""
    await asyncio.gather(*(world.service.fill(f"phc_{number}", entry(1, 5000)) for number in range(2)))
    assert len(world.cache.entries) == 1


async def test_fill__not_needed_or_failing__is_counted_as_that(world: World) -> None:
    """What is there already moves nothing; a cache that fails is no error of anybody's."""
    await world.service.fill(TOKEN, entry(1))
    await world.service.fill(TOKEN, entry(1))
    assert world.metric('cache_fills_total{outcome="unneeded"}') == 1
    world.clock.advance(10)
    world.cache.error = StoreUnavailable("x")
    await world.service.fill(TOKEN, entry(2))
    assert world.metric('cache_fills_total{outcome="failed"}') == 1


async def test_forget__token_without_a_project__is_gone_everywhere(world: World) -> None:
    """What the store no longer knows is neither shared nor kept for a cold start; a failing cache expires it."""
    world.cache.entries[TOKEN] = entry(1)
    world.service.keep(TOKEN, entry(1))
    await world.service.forget(TOKEN)
    assert world.cache.entries == {}
    assert world.disk.kept == {}
    world.cache.error = StoreUnavailable("x")
    await world.service.forget(TOKEN)


async def test_is_answering__store_fails__depends_on_the_disk(world: World) -> None:
    """Without the store, there has to be something to start from."""
    assert await world.service.is_answering(1)
    world.store.error = StoreUnavailable("x")
    assert not await world.service.is_answering(1)
    world.service.keep(TOKEN, entry(1))
    assert await world.service.is_answering(1)


async def test_service__without_cache_and_disk__has_only_the_store() -> None:
    """Neither of them is required."""
    store, clock = one_project(), FakeClock()
    async with guarded(clock, "definitions") as guard:
        service = DefinitionService(store, guard, Metrics())
        found = await service.load(TOKEN)
        assert found is not None
        assert not found.is_fill_wanted
        service.keep(TOKEN, found.definitions)
        await service.fill(TOKEN, found.definitions)
        await service.forget(TOKEN)
        assert await service.load_last_good(TOKEN) is None
        assert not service.has_disk
        store.error = StoreUnavailable("x")
        assert not await service.is_answering(1)
        with pytest.raises(StoreError):
            await service.versions([TOKEN])
        assert "None" in repr(service)
