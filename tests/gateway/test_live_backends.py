"""Settings of backends that take effect without a restart, each on a real PostgreSQL or Redis.

That they do anything is shown in test_backend_settings.py and test_cache_settings.py. Invariant: nothing that is under
way when a setting changes is cut off, and what is open stays open.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, Redis, WriterPool
from config.reload import Live
from config.settings import Settings
from config.settings import Store as StoreSettings
from drills.faults import FaultProxy
from drills.servers import Postgres
from drills.servers import Redis as RedisServer
from gateway import wiring
from gateway.building_ports import Published
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.guards import QUEUED_PER_SLOT, Guards
from gateway.metrics import Metrics
from gateway.ports import Deadline, Definitions, Usage
from gateway.stores.postgres import PostgresStore
from gateway.stores.postgres_pool import PostgresPool
from gateway.stores.redis import RedisCache
from gateway.stores.redis_quota import RedisQuota
from gateway.stores.redis_shelf import RedisShelf
from tests.builders import flag, project
from tests.fakes import FakeClock
from tests.gateway.serving import MemoryStore

POOLS = {"definitions_pool": DefinitionsPool, "persons_pool": PersonsPool, "writer_pool": WriterPool}
each_pool = pytest.mark.parametrize("name", POOLS)
PUBLISHED = Published(project_id=1, token="x", build="b", version=2, etag="", bytes=1)
Put = Callable[..., None]


@asynccontextmanager
async def pool_of(name: str, url: str, **bounds: Any) -> AsyncIterator[tuple[PostgresPool, Put]]:
    """One pool of a store with these bounds, and what puts others in force."""

    def settings(**bounds: Any) -> Settings:
        return Settings(store=StoreSettings(url=Address(url)), **{name: POOLS[name](**bounds)})

    live = Live(settings(**bounds))
    async with AsyncExitStack() as opened:
        store = await opened.enter_async_context(wiring.open_store(live.settings))
        assert isinstance(store, PostgresStore)
        wiring.follow_settings(store, live)
        pool = {f"{pool.name}_pool": pool for pool in store.pools}[name]
        yield pool, lambda **changes: live.put_in_force(settings(**{**bounds, **changes}), live.generation + 1)


async def refused(*calls: Awaitable[Any]) -> int:
    """How many of the calls are out of time."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert not [it for it in outcomes if isinstance(it, Exception) and not isinstance(it, StoreTimeout)]
    return sum(isinstance(it, StoreTimeout) for it in outcomes)


async def seconds_until_error(call: Callable[[], Awaitable[Any]]) -> float:
    began = time.monotonic()
    with pytest.raises(StoreError):
        await call()
    return time.monotonic() - began


@pytest.fixture
def hung(postgres: Postgres) -> Iterator[FaultProxy]:
    """A way to the database on which nothing comes back."""
    with FaultProxy("127.0.0.1", postgres.port) as proxy:
        proxy.set("blackhole")
        yield proxy


@each_pool
async def test_pool_max_connections__live__lets_in_who_waits_and_cuts_nobody_off(postgres: Postgres, name: str) -> None:
    """definitions_pool.max_connections, persons_pool.max_connections, writer_pool.max_connections: without a restart
    more calls run at once, or fewer once those that run have ended."""
    bounds = {"max_connections": 1, "acquire_timeout_ms": 300, "statement_timeout_ms": 20_000}
    async with pool_of(name, postgres.url(), **bounds) as (pool, put):
        sleep = "SELECT pg_sleep(0.6)"
        assert await refused(pool.fetch(sleep), pool.fetch(sleep)) == 1
        calls = [asyncio.ensure_future(pool.fetch(sleep)) for _ in range(3)]
        await asyncio.sleep(0.05)
        put(max_connections=3)
        await asyncio.sleep(0.2)
        put(max_connections=1)
        assert await refused(*calls) == 0
        assert pool.in_use + pool.idle <= pool.max == 1
        assert await refused(pool.fetch(sleep), pool.fetch(sleep)) == 1


@each_pool
async def test_pool_connect_timeout_ms__live__bounds_the_next_connecting(
    hung: FaultProxy, postgres: Postgres, name: str
) -> None:
    """definitions_pool.connect_timeout_ms, persons_pool.connect_timeout_ms, writer_pool.connect_timeout_ms: without a
    restart the next connection has this long."""
    url = postgres.url(port=hung.port)
    async with pool_of(name, url, connect_timeout_ms=20_000, acquire_timeout_ms=20_000) as (pool, put):
        put(connect_timeout_ms=50)
        assert await seconds_until_error(lambda: pool.fetch("SELECT 1")) < 10


@each_pool
async def test_pool_acquire_timeout_ms__live__bounds_the_next_waiting(
    hung: FaultProxy, postgres: Postgres, name: str
) -> None:
    """definitions_pool.acquire_timeout_ms, persons_pool.acquire_timeout_ms, writer_pool.acquire_timeout_ms: without a
    restart the next call waits this long."""
    url = postgres.url(port=hung.port)
    async with pool_of(name, url, connect_timeout_ms=20_000, acquire_timeout_ms=20_000) as (pool, put):
        put(acquire_timeout_ms=50)
        assert await seconds_until_error(lambda: pool.fetch("SELECT 1")) < 10


@each_pool
async def test_pool_statement_timeout_ms__live__holds_on_connections_that_are_open(
    postgres: Postgres, name: str
) -> None:
    """definitions_pool.statement_timeout_ms, persons_pool.statement_timeout_ms, writer_pool.statement_timeout_ms:
    without a restart the next statement has this long, on the same connection, and its server keeps it too."""
    session = "SELECT pg_backend_pid(), current_setting('statement_timeout')"
    async with pool_of(name, postgres.url(), statement_timeout_ms=5000) as (pool, put):
        seen = [(await pool.fetch(session))[0]]
        put(statement_timeout_ms=7000)
        seen += [(await pool.fetch(session))[0] for _ in range(2)]
        assert {pid for pid, _ in seen} == {seen[0][0]}
        assert [timeout for _, timeout in seen] == ["5s", "7s", "7s"]
        put(statement_timeout_ms=200)
        assert await refused(pool.fetch("SELECT pg_sleep(20)")) == 1
        put(statement_timeout_ms=5000)
        assert await refused(pool.fetch("SELECT pg_sleep(0.3)")) == 0


async def test_pool_statement_timeout_ms__live_and_its_database_hangs__ends_in_time(
    hung: FaultProxy, postgres: Postgres
) -> None:
    """persons_pool.statement_timeout_ms: without a restart, and telling a session of it has this long too."""
    await asyncio.to_thread(hung.heal)
    async with pool_of("persons_pool", postgres.url(port=hung.port), acquire_timeout_ms=5000) as (pool, put):
        await pool.fetch("SELECT 1")
        await asyncio.to_thread(hung.set, "blackhole")
        put(statement_timeout_ms=100)
        assert await seconds_until_error(lambda: pool.fetch("SELECT 1")) < 10
        assert (pool.in_use, pool.idle) == (0, 0)


async def test_pool_transaction_pooling__statement_timeout_changes__leaves_the_session_alone(
    postgres: Postgres,
) -> None:
    """writer_pool.transaction_pooling: nothing is set on a connection that others use too, also not later."""
    bounds = {"transaction_pooling": True, "statement_timeout_ms": 5000}
    async with pool_of("writer_pool", postgres.url(), **bounds) as (pool, put):
        for _ in range(2):
            assert (await pool.fetch("SHOW statement_timeout"))[0][0] == "0"
            put(statement_timeout_ms=700)


async def test_pool__live__has_its_guard_let_through_as_many_and_call_as_much_slow() -> None:
    """persons_pool.max_connections, persons_pool.acquire_timeout_ms, persons_pool.statement_timeout_ms: without a
    restart the guard before the pool has as many places, as long a line, and the same idea of what is slow."""
    live = Live(Settings())
    guard = Guards(live, FakeClock(), Metrics()).of_pool("persons", lambda it: it.persons_pool)
    pool = PersonsPool(max_connections=3, acquire_timeout_ms=1000, statement_timeout_ms=5000)
    live.put_in_force(Settings(persons_pool=pool), 1)
    assert (guard.bulkhead.slots, guard.bulkhead.max_queued) == (3, 3 * QUEUED_PER_SLOT)
    assert guard.breaker.policy.slow_after_s == 3


@pytest.mark.parametrize(
    ("adapter", "call"),
    [
        (RedisCache, lambda cache: cache.definitions_versions(["x"])),
        (RedisQuota, lambda quota: quota.add([Usage("x", "2026-01", 1, 60)])),
        (RedisShelf, lambda shelf: shelf.holds(PUBLISHED)),
    ],
)
async def test_redis_timeouts__live__bound_the_next_call(redis_server: RedisServer, adapter: Any, call: Any) -> None:
    """redis.timeout_ms, redis.connect_timeout_ms: without a restart the next call has this long."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        await asyncio.to_thread(proxy.set, "blackhole")
        settings = Redis(url=Address(redis_server.url(proxy.port)), timeout_ms=20_000, connect_timeout_ms=20_000)
        async with adapter(settings) as opened:
            opened.adopt(msgspec.structs.replace(settings, timeout_ms=20, connect_timeout_ms=20))
            assert await seconds_until_error(lambda: call(opened)) < 10


async def test_redis__bounds_change_amid_calls__cuts_nobody_off_and_leaves_no_connection(
    redis_server: RedisServer,
) -> None:
    """redis.max_connections: without a restart more calls run at once; those under way end well, and what they ran on
    is closed after them."""
    # Named, since others have connections to this server too: a Sentinel keeps two.
    address = Address(redis_server.url() + "?client_name=bounded")
    settings = Redis(url=address, max_connections=1, timeout_ms=2000, connect_timeout_ms=500)
    with redis_server.client() as client:

        def connections() -> set[str]:
            return {it["id"] for it in client.client_list() if it["name"] == "bounded"}

        async with RedisCache(settings) as cache:
            calls = [cache.definitions_versions(["x"]) for _ in range(2)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(it) for it in outcomes if isinstance(it, Exception)] == [StoreUnavailable]
            before = connections()
            assert len(before) == 1
            under_way = asyncio.ensure_future(cache.keep_definitions("phc_x", Definitions(1, 1, b"{}")))
            await asyncio.sleep(0)
            cache.adopt(msgspec.structs.replace(settings, max_connections=8, timeout_ms=200))
            assert await under_way
            await asyncio.gather(*(cache.definitions_versions(["x"]) for _ in range(8)))
            async with asyncio.timeout(20):
                while cache._retiring or connections() & before:
                    await asyncio.sleep(0.02)
            assert len(connections()) <= 8
        async with asyncio.timeout(20):
            while connections():
                await asyncio.sleep(0.02)


async def test_redis_entries__live__are_written_as_it_says(redis_server: RedisServer) -> None:
    """redis.ttl_s, redis.compress_above_bytes: without a restart the next entry is kept this long, and in this form."""
    settings = Redis(url=Address(redis_server.url()), ttl_s=100, compress_above_bytes=1 << 20, timeout_ms=2000)
    async with RedisCache(settings) as cache:
        plain = await cache.keep_definitions("phc_x", Definitions(1, 1, b"x" * 50_000))
        cache.adopt(msgspec.structs.replace(settings, ttl_s=5000, compress_above_bytes=10))
        packed = await cache.keep_definitions("phc_x", Definitions(1, 2, b"x" * 50_000))
    with redis_server.client() as client:
        assert max(client.ttl(key) for key in client.keys("*")) > 4000
    assert packed < 5000 < plain


@pytest.mark.parametrize("limit", [{"max_fills_per_s": 1000.0}, {"max_fill_bytes_per_s": 1 << 30}])
async def test_redis_fills__live__keep_to_their_limits_without_beginning_anew(
    redis_server: RedisServer, limit: dict[str, Any]
) -> None:
    """redis.max_fills_per_s, redis.max_fill_bytes_per_s: without a restart more may be written from now on; lowered
    again, what was written counts."""
    few = {"max_fills_per_s": 1.0} if "max_fills_per_s" in limit else {"max_fill_bytes_per_s": 500}
    clock, store = FakeClock(), MemoryStore()
    for number in range(9):
        store.put(f"phc_{number}", {**project(flag("x", name="n" * 2000)), "id": number})

    def settings(limit: dict[str, Any]) -> Settings:
        bounds = {"timeout_ms": 2000, "compress_above_bytes": 1 << 20}
        return Settings(redis=Redis(url=Address(redis_server.url()), **bounds, **limit))

    live, kept = Live(settings(few)), []
    async with wiring.open_services(live, clock, Metrics(), lambda _: nullcontext(store)) as opened:
        for number in range(9):
            if number in (3, 6):
                live.put_in_force(settings(limit if number == 3 else few), number)
                clock.advance(10 if number == 3 else 0)
            await opened["snapshots"].get(f"phc_{number}", Deadline(clock, 5))
            await asyncio.sleep(0.05)
            with redis_server.client() as client:
                kept.append(len(client.keys("flagstone:1:token:*")))
    assert kept[:6] == [1, 1, 1, 2, 3, 4]
    assert kept[8] <= 5
