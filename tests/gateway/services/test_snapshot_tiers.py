"""Snapshots over all tiers: what a cold or stale process serves, and what a store that is back changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from config.settings import Snapshots
from gateway.errors import AuthenticationFailed, StoreUnavailable, Unavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline, Definitions, LastGood
from gateway.resilience.token_bucket import TokenBucket
from gateway.services import definitions, snapshots
from gateway.services.definitions import Shared
from gateway.services.held import Held, spread_of_process
from gateway.services.snapshots import SnapshotService
from tests.builders import flag, project
from tests.fake_caches import FakeLastGood, FakeSharedCache
from tests.fakes import FakeClock
from tests.gateway.assembly import guarded, snapshots_of
from tests.gateway.serving import TOKEN, MemoryStore, one_project, settle


def entry(version: int, *flags: dict[str, Any], token: str = TOKEN) -> Definitions:
    return Definitions(1, version, msgspec.json.encode({**project(*flags), "token": token}))


class World:
    """A snapshot service and everything behind it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store: MemoryStore = one_project()
        self.cache = FakeSharedCache()
        self.disk = FakeLastGood(self.clock)
        self.metrics = Metrics()
        self.opened = AsyncExitStack()
        self.service: SnapshotService

    async def open(self, settings: Snapshots | None = None, **options: Any) -> "World":
        guard = await self.opened.enter_async_context(guarded(self.clock, "redis"))
        plenty = TokenBucket(1e6, 1e6, self.clock)
        shared = Shared(self.cache, guard, 0.05, plenty, TokenBucket(1e6, 1e6, self.clock))
        options = {"metrics": self.metrics, "shared": shared, "disk": self.disk, **options}
        chosen = settings or Snapshots(refresh_s=5)
        self.service = await self.opened.enter_async_context(snapshots_of(self.store, self.clock, chosen, **options))
        return self

    async def get(self, token: str = TOKEN, budget_s: float = 1.0) -> Held:
        return await self.service.get(token, Deadline(self.clock, budget_s))

    async def refresh(self, seconds: float = 5.0) -> None:
        """Let the time for a refresh come, and the refresh be done."""
        self.clock.advance(seconds)
        self.service.told(None)
        await settle()

    def fail(self) -> None:
        self.store.error = StoreUnavailable("x")
        self.cache.error = StoreUnavailable("x")


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(snapshots, "DISK_GRACE_S", 0.0)
    monkeypatch.setattr(definitions, "CLAIM_WAIT_S", 0.0)
    world = World()
    async with world.opened:
        yield world


async def test_get__loaded_from_the_store__is_kept_everywhere(world: World) -> None:
    """What the store gives is there for the other processes, and for the next start."""
    await world.open()
    assert (await world.get()).source == "store"
    await settle()
    assert world.cache.entries[TOKEN] == world.store.definitions[TOKEN]
    assert world.disk.kept[TOKEN].definitions == world.store.definitions[TOKEN]


async def test_get__shared_cache_lags_behind__is_put_right_at_once(world: World) -> None:
    """A copy from the shared cache answers now, is compared with the store next, and is replaced."""
    world.cache.entries[TOKEN] = entry(0)
    await world.open()
    assert (await world.get()).source == "redis"
    await world.refresh(0)
    held = await world.get()
    assert (held.snapshot.version, held.source) == (1, "store")
    assert world.cache.entries[TOKEN].version == 1


async def test_get__everything_down_at_the_start__is_what_the_disk_has_with_its_age(world: World) -> None:
    """The last definitions known to be good answer, and say how old they are."""
    world.disk.keep_definitions(TOKEN, entry(1, flag("old")))
    world.clock.advance(3600)
    world.fail()
    await world.open()
    held = await world.get()
    assert held.source == "disk"
    assert world.service.age_s(held) == 3600
    assert await world.service.is_ready(Deadline(world.clock, 1))


async def test_get__store_hangs_at_the_start__disk_answers_until_it_is_back(world: World) -> None:
    """A hung store does not hold the first request; when it answers, its word replaces the disk's."""
    world.disk.keep_definitions(TOKEN, entry(7, flag("old")))
    world.store.gate.clear()
    world.cache.gate.clear()
    await world.open()
    assert (await world.get()).source == "disk"
    world.cache.gate.set()
    world.store.gate.set()
    await settle()
    await asyncio.sleep(0.06)
    await settle()
    held = await world.get()
    assert (held.source, held.snapshot.version) == ("store", 1)


async def test_get__store_hangs_and_then_fails__what_the_disk_gave_is_refreshed_later(world: World) -> None:
    """A load that ends in failure leaves what is served, and the refreshing takes over."""
    world.disk.keep_definitions(TOKEN, entry(1))
    world.store.gate.clear()
    await world.open()
    assert (await world.get()).source == "disk"
    world.store.error = StoreUnavailable("x")
    world.store.gate.set()
    await settle()
    world.store.error = None
    world.clock.advance(60)
    await world.refresh()
    held = await world.get()
    assert (held.source, world.service.age_s(held)) == ("disk", 0)


async def test_get__store_says_the_project_is_gone__the_disk_does_not_bring_it_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that the store does not know is refused, whatever was kept once."""
    monkeypatch.setattr(snapshots, "DISK_GRACE_S", 1.0)
    world.disk.keep_definitions("phc_gone", entry(1, token="phc_gone"))
    await world.open()
    with pytest.raises(AuthenticationFailed):
        await world.get("phc_gone")
    assert world.disk.kept == {}


async def test_get__disk_has_what_cannot_be_compiled__is_unavailable(world: World) -> None:
    """A document on disk that is sound and of no use helps nobody, and harms nobody."""
    world.disk.kept[TOKEN] = LastGood(Definitions(1, 1, b'{"token": 1}'), world.clock.now())
    world.fail()
    await world.open()
    with pytest.raises(Unavailable):
        await world.get()


async def test_get__store_faster_than_the_disk__wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store answers while the disk is being read, its word counts."""
    world.disk.keep_definitions(TOKEN, entry(7))
    world.store.gate.clear()
    load = world.disk.load_definitions

    async def slowly(token: str) -> LastGood | None:
        world.store.gate.set()
        await settle()
        return await load(token)

    monkeypatch.setattr(world.disk, "load_definitions", slowly)
    await world.open()
    assert (await world.get()).source == "store"


async def test_refresh__store_down__shared_cache_may_have_something_newer(world: World) -> None:
    """Another process may still reach the store; what it shares is taken, and nothing older than what is held."""
    await world.open()
    await world.get()
    world.store.error = StoreUnavailable("x")
    world.cache.entries[TOKEN] = entry(2, flag("new"))
    await world.refresh()
    assert (await world.get()).snapshot.version == 2
    for older in (1, 0):
        world.cache.entries[TOKEN] = entry(older)
        await world.refresh(60)
        assert (await world.get()).snapshot.version == 2
    del world.cache.entries[TOKEN]
    await world.refresh(60)
    assert (await world.get()).snapshot.version == 2


async def test_refresh__store_down_and_the_shared_cache_has_the_same__grows_older(world: World) -> None:
    """That the shared cache has nothing newer says nothing of the store, and does not make the snapshot younger."""
    await world.open()
    await world.get()
    await settle()
    world.store.error = StoreUnavailable("x")
    for _ in range(3):
        await world.refresh(10)
    assert world.service.age_s(await world.get()) == 30


async def test_get__refreshes_in_between__the_least_asked_for_goes(world: World) -> None:
    """What makes room is what requests have not asked for longest, however often everything is compared."""
    await world.open(Snapshots(refresh_s=5, max_projects=2))
    world.store.put("phc_two", project())
    world.store.put("phc_three", project())
    await world.get("phc_two")
    await world.get()
    await world.get("phc_two")
    await world.refresh()
    await world.get("phc_three")
    calls = len(world.store.calls)
    await world.get("phc_two")
    assert len(world.store.calls) == calls


async def test_refresh__store_has_an_older_version__keeps_what_it_has(world: World) -> None:
    """A replica that lags behind takes nobody back to what was before, neither when compared nor when loaded."""
    await world.open()
    world.store.put(TOKEN, project(flag("later")), version=9)
    assert (await world.get()).snapshot.version == 9
    world.store.put(TOKEN, project(flag("earlier")), version=3)
    await world.refresh()
    assert (await world.get()).snapshot.version == 9
    world.cache.entries.clear()
    versions = world.store.definitions_versions

    async def ahead(tokens: Any) -> Any:
        return dict.fromkeys(await versions(tokens), 10)

    world.store.definitions_versions = ahead  # type: ignore[method-assign]
    await world.refresh()
    assert (await world.get()).snapshot.version == 9


async def test_refresh__project_vanishes_while_it_is_loaded_again__is_forgotten(world: World) -> None:
    """Between comparing and loading a project may go."""
    await world.open()
    await world.get()
    versions = world.store.definitions_versions

    async def then_gone(tokens: Any) -> Any:
        found = {token: version + 1 for token, version in (await versions(tokens)).items()}
        world.store.definitions.clear()
        world.cache.entries.clear()
        return found

    world.store.definitions_versions = then_gone  # type: ignore[method-assign]
    await world.refresh()
    with pytest.raises(AuthenticationFailed):
        await world.get()


async def test_refresh__snapshot_was_pushed_out_meanwhile__stays_out(world: World) -> None:
    """A refresh that ends late does not bring back what had to make room."""
    await world.open(Snapshots(refresh_s=5, max_projects=1))
    await world.get()
    world.store.put(TOKEN, project(), version=2)
    world.store.put("phc_two", project(), version=1)
    world.store.gate.clear()
    await world.refresh()
    other = asyncio.ensure_future(world.get("phc_two"))
    await settle()
    world.store.gate.set()
    await other
    await settle()
    assert repr(world.service).startswith("<SnapshotService 1 held")


async def test_refresh__crashes__goes_on(world: World, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A background task that dies would stop all refreshing; it is told of and goes on."""
    monkeypatch.setattr(snapshots, "CRASH_PAUSE_S", 0.0)
    await world.open()
    await world.get()
    refresh = world.service._refresh
    crashes = [RuntimeError("a bug"), RuntimeError("a bug")]

    async def crashing() -> None:
        if crashes:
            raise crashes.pop()
        await refresh()

    monkeypatch.setattr(world.service, "_refresh", crashing)
    world.store.put(TOKEN, project(), version=2)
    for _ in range(3):
        await world.refresh()
    assert (await world.get()).snapshot.version == 2
    assert [record.message for record in caplog.records].count("refresh_crashed") == 2


async def test_refresh__nobody_asks__happens_all_the_same(world: World) -> None:
    """An idle project is fresh when its next request comes: time alone brings the refresh about."""
    await world.open(Snapshots(refresh_s=0.04))
    await world.get()
    world.store.put(TOKEN, project(), version=2)
    world.clock.advance(1)
    for _ in range(100):
        await asyncio.sleep(0.01)
        if world.store.calls.count("load_definitions") == 2:
            break
    await settle()
    assert (await world.get()).snapshot.version == 2


async def test_refresh__many_projects__are_one_query(world: World) -> None:
    """Comparing a hundred projects with the store is one question, not a hundred."""
    await world.open()
    for number in range(100):
        world.store.put(f"phc_{number}", project())
        await world.get(f"phc_{number}")
    world.store.calls.clear()
    await world.refresh()
    assert world.store.calls == ["definitions_versions"]


async def test_told__one_project__is_compared_soon_and_the_others_are_not(world: World) -> None:
    """An announced change is in force long before the next comparison would have been."""
    await world.open()
    await world.get()
    world.store.put("phc_two", {**project(), "id": 2})
    await world.get("phc_two")
    await world.refresh()
    world.store.put(TOKEN, project(flag("new")), version=2)
    world.store.put("phc_two", {**project(), "id": 2}, version=2)
    world.service.told(1)
    await settle()
    assert (await world.get()).snapshot.version == 2
    assert (await world.get("phc_two")).snapshot.version == 1


async def test_spread__projects_and_processes__are_due_at_different_times() -> None:
    """A fixed part of each project's time is taken off, another one in each process."""
    spreads = [spread_of_process() for _ in range(2)]
    tokens = [f"phc_{number}" for number in range(200)]
    one, other = ([spread(token) for token in tokens] for spread in spreads)
    assert one == [spreads[0](token) for token in tokens]
    assert one != other
    assert min(one) < 0.1
    assert max(one) > 0.9


@pytest.mark.parametrize(
    ("policy", "is_served", "is_ready"), [("serve", True, True), ("not_ready", True, False), ("fail", False, False)]
)
async def test_hard_ttl__policy__decides_about_what_nobody_could_confirm(
    world: World, policy: Any, *, is_served: bool, is_ready: bool
) -> None:
    """snapshots.hard_ttl_s, snapshots.on_hard_ttl: up to the age nothing changes, beyond it the policy decides."""
    await world.open(Snapshots(refresh_s=5, hard_ttl_s=100, on_hard_ttl=policy))
    await world.get()
    world.fail()
    world.clock.advance(100)
    await world.get()
    assert await world.service.is_ready(Deadline(world.clock, 1))
    world.clock.advance(1)
    assert await world.service.is_ready(Deadline(world.clock, 1)) is is_ready
    if is_served:
        await world.get()
    else:
        with pytest.raises(Unavailable):
            await world.get()


async def test_metrics__snapshots_held__are_measured(world: World) -> None:
    """What is held, how much, how old, and when refreshing last went round, can be watched."""
    await world.open()
    await world.get()
    await settle()
    world.clock.advance(3)
    told = world.metrics.render().decode()
    assert "flagstone_snapshots_held 1.0" in told
    assert "flagstone_snapshot_age_seconds 3.0" in told
    assert 'flagstone_heartbeat_age_seconds{task="refresh"}' in told
    assert 'flagstone_cache_fills_total{outcome="written"} 1.0' in told
