"""Who is told of a change, when, and how often; and when a stream is over.

Time is moved by hand, and `tick` called as the service's own task would. Invariant: nobody is told of a version twice.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from config.reload import Live
from config.settings import Settings, Snapshots
from gateway.errors import StoreUnavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline
from gateway.services import streams
from gateway.services.snapshots import SnapshotService
from gateway.services.streams import Stream, StreamService, Version
from tests.builders import flag, project
from tests.fakes import FakeClock
from tests.gateway.assembly import snapshots_of
from tests.gateway.serving import TOKEN, MemoryStore, one_project, settle

OTHER = "phc_project_two"


class Bench:
    """A service of streams over a store, whose time and whose chance a test sets."""

    def __init__(self, snapshots: SnapshotService, store: MemoryStore, clock: FakeClock, **settings: Any) -> None:
        self.chance = 0.0
        self.live = Live(Settings())
        self.metrics = Metrics()
        self.set(**settings)
        self.store, self.clock, self.snapshots = store, clock, snapshots
        self.service = StreamService(snapshots, self.live, clock, self.metrics, chance=lambda: self.chance)
        self.opened = AsyncExitStack()

    def set(self, **settings: Any) -> None:
        """As a reload would."""
        settings_now = self.live.settings
        changed = msgspec.structs.replace(settings_now.streams, **settings)
        self.live.settings = msgspec.structs.replace(settings_now, streams=changed)

    async def open(self, known: int | None = None, token: str = TOKEN) -> "Heard":
        held = await self.snapshots.get(token, Deadline(self.clock, 1))
        return Heard(self.opened.enter_context(self.service.opened(held, known)))

    async def put(self, version: int, token: str = TOKEN) -> None:
        """Another version is in the store, and this process was told."""
        self.store.put(token, project(flag("on", id=1), flag(f"new-{version}", id=2)), version)
        await self.announce()

    async def announce(self) -> None:
        """This process is told of a change, and looks."""
        self.snapshots.told(None)
        await settle()

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.service.tick()
        await settle()

    def ended(self, reason: str) -> float:
        rows = self.metrics.render().decode().splitlines()
        return sum(
            float(row.split()[1]) for row in rows if row.startswith(f'flagstone_streams_ended_total{{reason="{reason}"')
        )


class Heard:
    """A client at the other end of a stream: the versions it was told of, None for each sign of life."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.heard: list[int | None] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for version in self.stream:
            self.heard.append(None if version is None else version.number)

    @property
    def told(self) -> list[int]:
        return [it for it in self.heard if it is not None]


@asynccontextmanager
async def bench_of(
    store: MemoryStore | None = None, snapshots: Snapshots | None = None, **settings: Any
) -> AsyncIterator[Bench]:
    clock, store = FakeClock(), store or one_project()
    async with snapshots_of(store, clock, snapshots or Snapshots(refresh_s=5)) as service:
        bench = Bench(service, store, clock, **{"heartbeat_s": 3600, "max_age_s": 80_000, **settings})
        async with bench.opened:
            yield bench


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with bench_of() as bench:
        yield bench


async def test_stream__another_version__is_told_of_it_once(bench: Bench) -> None:
    """A client hears of a change, and not again as long as nothing else changes."""
    client = await bench.open()
    await bench.put(2)
    await bench.pass_time(0)
    await bench.pass_time(100)
    assert client.told == [2]


async def test_stream__project_of_another__hears_nothing(bench: Bench) -> None:
    """Only the streams of the project that changed are told."""
    bench.store.put(OTHER, project(flag("on")))
    client, other = await bench.open(), await bench.open(token=OTHER)
    await bench.put(2, OTHER)
    await bench.pass_time(10)
    assert (client.told, other.told) == ([], [2])


async def test_streams__of_one_project__are_told_at_moments_of_their_own(bench: Bench) -> None:
    """streams.spread_ms: over so long the streams of a project are told, not all of them at once."""
    bench.set(spread_ms=8000)
    clients = []
    for chance in (0.0, 0.5, 0.9):
        clients.append(await bench.open())
        clients[-1].stream._chance = lambda chance=chance: chance
    await bench.put(2)
    heard = []
    for seconds in (0, 3.9, 0.2, 3.0, 0.2):
        await bench.pass_time(seconds)
        heard.append(sum(len(client.told) for client in clients))
    assert heard == [1, 1, 2, 2, 3]


async def test_stream__many_versions_within_the_spread__is_told_of_the_newest_alone(bench: Bench) -> None:
    """streams.spread_ms: changes within it are told once, and the next ones not before it is over again."""
    bench.set(spread_ms=60_000)
    bench.chance = 0.5
    client = await bench.open()
    for version in (2, 3, 4):
        await bench.put(version)
        await bench.pass_time(10)
    assert client.told == [4]
    bench.chance = 0.0
    await bench.put(5)
    await bench.pass_time(59)
    assert client.told == [4]
    await bench.pass_time(1)
    assert client.told == [4, 5]


async def test_stream__client_that_takes_nothing__has_one_thing_waiting(bench: Bench) -> None:
    """Whatever happens meanwhile, a client that comes back to reading is told of the newest version alone."""
    bench.set(spread_ms=0)
    held = await bench.snapshots.get(TOKEN, Deadline(bench.clock, 1))
    with bench.service.opened(held, None) as stream:
        for version in range(2, 8):
            await bench.put(version)
            bench.service.tick()
        assert await anext(stream) == Version(7, held.snapshot.etag)
        bench.set(heartbeat_s=1)
        bench.clock.advance(3600)
        assert await anext(stream) is None


async def test_stream__client_that_missed_a_version__is_told_at_once(bench: Bench) -> None:
    """A client that comes back with the id of an older version fetches its flags; with the newest it does not."""
    await bench.open()
    await bench.put(2)
    missed, knows, ahead = await bench.open(known=1), await bench.open(known=2), await bench.open(known=9)
    await settle()
    assert (missed.told, knows.told, ahead.told) == ([2], [], [])


@pytest.mark.parametrize(("age_s", "told"), [(1, 1), (59, 1), (61, 0), (-1, 0)])
async def test_stream__opened_shortly_after_a_change__is_told_of_it(age_s: float, told: int) -> None:
    """A page may have fetched its flags where the change had not arrived yet, and listen where it has."""
    store = one_project()
    version = int((FakeClock().now().timestamp() - age_s) * 1000)
    store.put(TOKEN, project(flag("on")), version)
    async with bench_of(store) as bench:
        client = await bench.open()
        await settle()
        assert client.told == [version] * told


async def test_stream__nothing_happens__carries_signs_of_life(bench: Bench) -> None:
    """streams.heartbeat_s: so often, less up to a quarter by chance, and also as a reload has it."""
    bench.set(heartbeat_s=15)
    usual = await bench.open()
    bench.chance = 1.0
    early = await bench.open()
    bench.chance = 0.0
    await bench.pass_time(11.3)
    assert (usual.heard, early.heard) == ([], [None])
    bench.set(heartbeat_s=3)
    await bench.pass_time(3.8)
    assert (usual.heard, early.heard) == ([None], [None])
    await bench.pass_time(3)
    assert usual.heard == [None, None]


async def test_stream__at_its_age__ends(bench: Bench) -> None:
    """streams.max_age_s: a stream ends at that age, less up to a quarter by chance."""
    bench.set(max_age_s=100)
    oldest = await bench.open()
    bench.chance = 1.0
    youngest = await bench.open()
    await bench.pass_time(75)
    assert (oldest.stream.reason, youngest.stream.reason) == (None, "age")
    await bench.pass_time(25)
    assert oldest.stream.reason == "age"
    assert oldest.task.done()


async def test_streams__service_leaves__all_end(bench: Bench) -> None:
    """A service that is told to stop does not wait for clients that would stay for ever; nor for new ones."""
    client = await bench.open()
    bench.live.is_leaving = True
    late = await bench.open()
    await bench.pass_time(0)
    assert client.task.done()
    assert late.stream.reason == "leaving"


async def test_streams__switched_off__end(bench: Bench) -> None:
    """streams.is_enabled: a reload that switches streams off ends those that are open."""
    client = await bench.open()
    bench.set(is_enabled=False)
    await bench.pass_time(0)
    assert client.stream.reason == "disabled"


async def test_stream__project_deleted__ends(bench: Bench) -> None:
    """Nobody goes on listening to a project that is gone, and other projects' streams go on."""
    bench.store.put(OTHER, project(flag("on")))
    client, other = await bench.open(), await bench.open(token=OTHER)
    del bench.store.definitions[TOKEN]
    await bench.announce()
    assert (client.stream.reason, other.stream.reason) == ("unknown", None)


async def test_streams__store_fails__go_on(bench: Bench) -> None:
    """An outage ends no stream, and what changed meanwhile is told when it is over."""
    client = await bench.open()
    bench.store.error = StoreUnavailable("down")
    await bench.put(2)
    await bench.service.use()
    await bench.pass_time(100)
    assert (client.told, client.stream.reason) == ([], None)
    bench.store.error = None
    await bench.put(3)
    await bench.pass_time(10)
    assert client.told == [3]


async def test_use__project_was_pushed_out__is_held_again_and_told_of(bench: Bench) -> None:
    """A project that somebody listens to counts as asked for; if it was pushed out, it is loaded again."""
    async with bench_of(snapshots=Snapshots(refresh_s=5, max_projects=1)) as bench:
        client = await bench.open()
        bench.store.put(OTHER, project(flag("on")))
        await bench.snapshots.get(OTHER, Deadline(bench.clock, 1))
        bench.store.put(TOKEN, project(flag("new")), 2)
        await bench.service.use()
        await settle()
        await bench.pass_time(10)
        assert client.told == [2]


async def test_use__project_is_gone_from_memory_and_store__ends_its_streams(bench: Bench) -> None:
    """A token that is refused by now has nobody listening to it."""
    client = await bench.open()
    await bench.snapshots._forget(TOKEN)
    client.stream.reason = None  # As if it had been opened just then.
    await bench.service.use()
    assert client.stream.reason == "unknown"


async def test_use__more_projects_than_there_is_room_for__loads_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Streams of many projects that were pushed out do not have them all loaded in one go."""
    monkeypatch.setattr(streams, "MAX_LOADS", 2)
    tokens = [f"phc_number_{n}" for n in range(6)]
    async with bench_of(
        MemoryStore({token: project(flag("on")) for token in tokens}), Snapshots(max_projects=1)
    ) as bench:
        for token in tokens:
            await bench.open(token=token)
        bench.store.calls.clear()
        await bench.service.use()
        await settle()
        assert bench.store.calls.count("load_definitions") == 2


async def test_opened__left__is_counted_and_forgotten(bench: Bench) -> None:
    """What is open and why streams ended is in the metrics, and nothing is kept of a stream that is over."""
    held = await bench.snapshots.get(TOKEN, Deadline(bench.clock, 1))
    with bench.service.opened(held, None) as stream:
        stream.end("gone")
        stream.end("age")
        assert repr(stream) == "<Stream v1 of v1, gone>"
        assert b"flagstone_streams 1.0" in bench.metrics.render()
    with pytest.raises(asyncio.CancelledError), bench.service.opened(held, None):
        raise asyncio.CancelledError
    assert (bench.ended("gone"), bench.ended("age"), bench.ended("cut_off")) == (1, 0, 1)
    assert repr(bench.service) == "<StreamService 0 streams of 0 projects>"


async def test_service__open__looks_at_the_time_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tasks wake the streams and keep their projects held, also after a crash; and they end with it."""
    monkeypatch.setattr(streams, "TICK_S", 0)
    monkeypatch.setattr(streams, "USE_S", 0)
    async with bench_of(heartbeat_s=15) as bench:
        client = await bench.open()
        async with bench.service:
            with monkeypatch.context() as broken:
                broken.setattr(bench.snapshots, "get", None)
                await settle()
            bench.clock.advance(15)
            await settle()
            assert client.heard == [None]
            await bench.snapshots._forget(TOKEN)
            await settle()
            assert client.task.done()
        await settle()
        assert not bench.service._background._tasks
