"""Each setting of a backend, shown to change what the service does with that backend."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.backends import Breakers, DefinitionsPool, PersonsPool, WriterPool
from config.reload import Live
from config.settings import Overrides, Settings
from config.settings import Snapshots as SnapshotSettings
from drills.faults import FaultProxy
from drills.servers import Postgres
from evaluator.types import OverrideWrite
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.guards import Guards
from gateway.metrics import Metrics
from gateway.ports import Deadline
from gateway.resilience.breaker import State
from gateway.stores.postgres import PostgresStore
from gateway.stores.postgres_pool import PostgresPool
from tests.builders import flag, project
from tests.fakes import FakeClock
from tests.gateway.assembly import services
from tests.gateway.serving import MemoryStore, settle

POOLS = {"definitions_pool": DefinitionsPool, "persons_pool": PersonsPool, "writer_pool": WriterPool}
NAMES = tuple(POOLS)


@asynccontextmanager
async def pool_of(name: str, store: str, **changes: Any) -> AsyncIterator[PostgresPool]:
    """One pool of a store, with these settings of its own and those of the others left alone."""
    chosen = {other: shape() for other, shape in POOLS.items()} | {name: POOLS[name](**changes)}
    async with PostgresStore(Address(store), *chosen.values()) as store:
        yield dict(zip(NAMES, store.pools, strict=False))[name]  # Behind them is the builder's.


async def seconds_until_error(pool: PostgresPool, statement: str = "SELECT 1") -> float:
    began = time.monotonic()
    with pytest.raises(StoreError):
        await pool.fetch(statement)
    return time.monotonic() - began


@pytest.fixture
def hung(postgres: Postgres) -> Iterator[FaultProxy]:
    """A way to the database on which nothing comes back."""
    with FaultProxy("127.0.0.1", postgres.port) as proxy:
        proxy.set("blackhole")
        yield proxy


@pytest.mark.parametrize("name", NAMES)
async def test_pool_url__leads_to_a_database_of_its_own(postgres: Postgres, database: str, name: str) -> None:
    """definitions_pool.url, persons_pool.url, writer_pool.url: empty means the store's, else another database."""
    for url, expected in (("", "postgres"), (postgres.url(database), database)):
        async with pool_of(name, postgres.url(), url=Address(url)) as pool:
            assert (await pool.fetch("SELECT current_database()"))[0][0] == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("connections", "refused"), [(1, 1), (2, 0)])
async def test_pool_max_connections__bounds_what_runs_at_once(
    postgres: Postgres, name: str, connections: int, refused: int
) -> None:
    """definitions_pool.max_connections, persons_pool.max_connections, writer_pool.max_connections: no more at once."""
    async with pool_of(name, postgres.url(), max_connections=connections, acquire_timeout_ms=150) as pool:
        sleeps = [pool.fetch("SELECT pg_sleep(0.4)") for _ in range(2)]
        outcomes = await asyncio.gather(*sleeps, return_exceptions=True)
        assert sum(isinstance(outcome, StoreTimeout) for outcome in outcomes) == refused
        assert pool.max == connections


@pytest.mark.parametrize("name", NAMES)
async def test_pool_connect_timeout_ms__bounds_the_connecting(hung: FaultProxy, postgres: Postgres, name: str) -> None:
    """definitions_pool.connect_timeout_ms, persons_pool.connect_timeout_ms, writer_pool.connect_timeout_ms."""
    took = []
    for timeout_ms in (50, 600):
        url = postgres.url(port=hung.port)
        async with pool_of(name, url, connect_timeout_ms=timeout_ms, acquire_timeout_ms=10_000) as pool:
            took.append(await seconds_until_error(pool))
    assert took[0] < 0.5 < took[1]


@pytest.mark.parametrize("name", NAMES)
async def test_pool_acquire_timeout_ms__bounds_the_waiting(hung: FaultProxy, postgres: Postgres, name: str) -> None:
    """definitions_pool.acquire_timeout_ms, persons_pool.acquire_timeout_ms, writer_pool.acquire_timeout_ms."""
    took = []
    for timeout_ms in (50, 600):
        url = postgres.url(port=hung.port)
        async with pool_of(name, url, connect_timeout_ms=10_000, acquire_timeout_ms=timeout_ms) as pool:
            took.append(await seconds_until_error(pool))
    assert took[0] < 0.5 < took[1]


@pytest.mark.parametrize("name", NAMES)
async def test_pool_statement_timeout_ms__bounds_a_statement(postgres: Postgres, name: str) -> None:
    """definitions_pool.statement_timeout_ms, persons_pool.statement_timeout_ms, writer_pool.statement_timeout_ms."""
    async with pool_of(name, postgres.url(), statement_timeout_ms=100) as pool:
        with pytest.raises(StoreTimeout):
            await pool.fetch("SELECT pg_sleep(0.3)")
    async with pool_of(name, postgres.url(), statement_timeout_ms=10_000) as pool:
        assert await pool.fetch("SELECT pg_sleep(0.3)")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("is_pooling", "expected"), [(True, "0"), (False, "700ms")])
async def test_pool_transaction_pooling__leaves_the_session_alone(
    postgres: Postgres, name: str, *, is_pooling: bool, expected: str
) -> None:
    """definitions_pool.transaction_pooling, persons_pool.transaction_pooling, writer_pool.transaction_pooling."""
    async with pool_of(name, postgres.url(), transaction_pooling=is_pooling, statement_timeout_ms=700) as pool:
        for _ in range(2):
            assert (await pool.fetch("SHOW statement_timeout"))[0][0] == expected
        prepared = await pool.fetch("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SHOW%'")
        assert (prepared[0][0] == 0) is is_pooling


class StuckWriter(MemoryStore):
    """Reads work; writes hang."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    async def save_overrides(self, *_: Any) -> None:
        self.writes += 1
        await asyncio.Event().wait()


@pytest.mark.parametrize(("most", "queued"), [(1, 1), (5, 3)])
async def test_overrides_max_queued_writes__bounds_the_queue(most: int, queued: int) -> None:
    """overrides.max_queued_writes: beyond it a write is dropped."""
    settings = Settings(overrides=Overrides(max_queued_writes=most, write_timeout_ms=60_000))
    async with services(settings, StuckWriter()) as opened:
        overrides = opened["flags"]._overrides
        for _ in range(5):  # Two are being written.
            overrides.keep(1, OverrideWrite(("u1",), {"a": "b"}))
            await settle()
        assert overrides.queued == queued


@pytest.mark.parametrize(("timeout_ms", "writes"), [(10, 2), (60_000, 1)])
async def test_overrides_write_timeout_ms__bounds_a_try(timeout_ms: int, writes: int) -> None:
    """overrides.write_timeout_ms: a try that takes longer is given up, and made again once."""
    store = StuckWriter()
    async with services(Settings(overrides=Overrides(write_timeout_ms=timeout_ms)), store) as opened:
        opened["flags"]._overrides.keep(1, OverrideWrite(("u1",), {"a": "b"}))
        await asyncio.sleep(0.25)
        assert store.writes == writes


@pytest.mark.parametrize(
    ("changes", "calls", "state"),
    [
        ({"min_calls": 4}, "ffff", State.OPEN),
        ({"min_calls": 5}, "ffff", State.CLOSED),
        ({"min_calls": 4, "failure_ratio": 0.5}, "ssff", State.OPEN),
        ({"min_calls": 4, "failure_ratio": 0.6}, "ssff", State.CLOSED),
        ({"min_calls": 4, "slow_ratio": 0.5}, "ssll", State.OPEN),
        ({"min_calls": 4, "slow_ratio": 0.6}, "ssll", State.CLOSED),
        ({"min_calls": 4, "window_s": 5.0}, "ff..ff", State.OPEN),
        ({"min_calls": 4, "window_s": 1.0}, "ff..ff", State.CLOSED),
        ({"min_calls": 1, "open_s": 1.0}, "f..", State.HALF_OPEN),
        ({"min_calls": 1, "open_s": 3.0}, "f..", State.OPEN),
        ({"min_calls": 1, "open_s": 1.0, "max_open_s": 1.0}, "f..f..f..", State.HALF_OPEN),
        ({"min_calls": 1, "open_s": 1.0, "max_open_s": 9.0}, "f..f....f..", State.OPEN),
    ],
)
@pytest.mark.parametrize("is_live", [False, True])
async def test_breakers__each_setting__decides_when_one_opens_and_for_how_long(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], calls: str, state: State, *, is_live: bool
) -> None:
    """breakers.window_s, breakers.min_calls, breakers.failure_ratio, breakers.slow_ratio, breakers.open_s,
    breakers.max_open_s: f fails, s is quick, l takes longer than half the limit, a dot is a second; from the start as
    well as without a restart."""
    clock = FakeClock()
    settings = Settings(breakers=msgspec.convert({"open_s": 1.0, "max_open_s": 4.0, **changes}, Breakers))
    live = Live(Settings() if is_live else settings)
    guard = Guards(live, clock, Metrics()).make("persons", lambda _: (10, 500))
    live.put_in_force(settings, 1)
    monkeypatch.setattr(guard.breaker, "_jitter", lambda: 0.0)

    async def load(call: str) -> None:
        if call == "l":
            clock.advance(0.6)
        if call == "f":
            raise StoreUnavailable("x")

    for call in calls:
        if call == ".":
            clock.advance(1)
            continue
        try:
            await guard.call(lambda it=call: load(it), 10)  # type: ignore[misc]
        except StoreError:
            continue
    if calls.endswith("."):
        assert (guard.breaker.admit() is not None) is (state is State.HALF_OPEN)
    assert guard.breaker.state is state


@pytest.mark.parametrize(("max_bytes", "held"), [(1 << 20, 1), (1 << 30, 3)])
async def test_snapshots_max_bytes__bounds_what_is_held(max_bytes: int, held: int) -> None:
    """snapshots.max_bytes: beyond it the project not asked for longest goes."""
    store = MemoryStore()
    for number in range(3):
        store.put(f"phc_{number}", project(*(flag(f"f{n}", id=n) for n in range(100))))
    async with services(Settings(snapshots=SnapshotSettings(max_bytes=max_bytes)), store) as opened:
        for number in range(3):
            await opened["snapshots"].get(f"phc_{number}", Deadline(FakeClock(), 5))
        assert repr(opened["snapshots"]).startswith(f"<SnapshotService {held} held")


@pytest.mark.parametrize("most", [1, 3])
async def test_snapshots_max_loads__bounds_the_loads_at_once(most: int) -> None:
    """snapshots.max_loads: no more documents are asked for at once."""
    store = MemoryStore()
    store.gate.clear()
    async with services(Settings(snapshots=SnapshotSettings(max_loads=most)), store) as opened:
        asking = [
            asyncio.ensure_future(opened["snapshots"].get(f"phc_{n}", Deadline(FakeClock(), 1))) for n in range(9)
        ]
        await settle()
        assert store.calls.count("load_definitions") == most
        store.gate.set()
        await asyncio.gather(*asking, return_exceptions=True)
