"""Redis: every call bounded, every error one of ours, and a feed that says when it is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.backends import Redis
from drills.faults import FaultProxy
from drills.servers import Redis as RedisServer
from drills.servers import running
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import Definitions
from gateway.stores import redis_client
from gateway.stores.redis import RedisCache
from gateway.stores.redis_client import RedisFeed

TOKEN = "phc_secret_token"
SOON_S = 5.0


def definitions(version: int = 1, size: int = 0) -> Definitions:
    return Definitions(1, version, msgspec.json.encode({"token": TOKEN, "name": "x" * size}))


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


def settings(proxy: FaultProxy, **changes: Any) -> Redis:
    url = Address(f"redis://127.0.0.1:{proxy.port}/0")
    return Redis(**{"url": url, "timeout_ms": 200, "connect_timeout_ms": 200, **changes})


@pytest.fixture
async def cache(proxy: FaultProxy) -> AsyncIterator[RedisCache]:
    async with RedisCache(settings(proxy)) as cache:
        yield cache


@pytest.mark.parametrize(
    ("mode", "error"), [("refuse", StoreUnavailable), ("blackhole", StoreTimeout), ("reset", StoreUnavailable)]
)
@pytest.mark.parametrize("is_warm", [True, False])
async def test_call__redis_is_not_there__is_one_error_in_time_and_recovers(
    cache: RedisCache, proxy: FaultProxy, mode: Any, error: type[StoreError], *, is_warm: bool
) -> None:
    """Refused, hung or reset, before or after connecting: one error of ours, no password or token in it, no retries."""
    if is_warm:
        await cache.load_definitions(TOKEN)
    await asyncio.to_thread(proxy.set, mode)
    began = time.monotonic()
    with pytest.raises(error) as caught:
        await cache.load_definitions(TOKEN)
    assert time.monotonic() - began < SOON_S
    assert TOKEN not in str(caught.value)
    await asyncio.to_thread(proxy.heal)
    for _ in range(3):  # What was cut is found out by the first call.
        try:
            assert await cache.load_definitions(TOKEN) is None
            break
        except StoreUnavailable:
            continue
    else:
        pytest.fail("did not recover")


async def test_open__redis_is_not_there__does_not_connect(proxy: FaultProxy) -> None:
    """A service starts whatever Redis does."""
    await asyncio.to_thread(proxy.set, "blackhole")
    async with RedisCache(settings(proxy)) as cache:
        assert "redis://" in repr(cache)
    assert proxy.accepted == 0


async def test_call__more_at_once_than_connections__fails_at_once(proxy: FaultProxy, redis_server: RedisServer) -> None:
    """Nothing queues inside the driver."""
    async with RedisCache(settings(proxy, max_connections=2)) as cache:
        calls = await asyncio.gather(*(cache.load_definitions(TOKEN) for _ in range(6)), return_exceptions=True)
    assert {type(it) for it in calls} == {type(None), StoreUnavailable}


async def test_keep__redis_is_full__is_unavailable() -> None:
    """A Redis that is there and refuses is a failure like any other."""
    with running(RedisServer("--maxmemory", "1", "--maxmemory-policy", "noeviction")) as full:
        async with RedisCache(Redis(url=Address(f"redis://127.0.0.1:{full.port}"))) as cache:
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await cache.keep_definitions(TOKEN, definitions())


async def test_keep__entry__expires_and_says_nothing_of_its_token(cache: RedisCache, redis_server: RedisServer) -> None:
    """Everything has a time to live, a little less than the longest, and no key holds a token."""
    await cache.keep_definitions(TOKEN, definitions(1))
    await cache.keep_definitions(TOKEN, definitions(2))
    with redis_server.client() as client:
        lifetimes = {key.decode(): client.ttl(key) for key in client.keys("*")}
    assert len(lifetimes) == 3
    assert all(TOKEN not in key for key in lifetimes)
    old = lifetimes.pop("flagstone:1:definitions:{1:1}")
    assert 0 < old <= 60
    assert all(0.9 * 86_400 - 5 <= ttl <= 86_400 for ttl in lifetimes.values())


@pytest.mark.parametrize(("above", "is_small"), [(10, True), (100_000, False)])
async def test_keep__document_above_the_size__is_compressed(
    proxy: FaultProxy, redis_server: RedisServer, above: int, *, is_small: bool
) -> None:
    """redis.compress_above_bytes decides what is compressed."""
    async with RedisCache(settings(proxy, compress_above_bytes=above)) as cache:
        written = await cache.keep_definitions(TOKEN, definitions(size=50_000))
    assert (written < 5000) == is_small


async def test_load__entry_is_damaged__is_missing_and_removed(cache: RedisCache, redis_server: RedisServer) -> None:
    """A damaged entry is told of, and makes room for a sound one."""
    await cache.keep_definitions(TOKEN, definitions())
    with redis_server.client() as client:
        client.set("flagstone:1:definitions:{1:1}", b"FLSN damaged")
        assert await cache.load_definitions(TOKEN) is None
        assert not client.exists("flagstone:1:definitions:{1:1}")
        (pointer,) = client.keys("flagstone:1:token:*")
        client.set(pointer, b"somebody else's")
    assert await cache.load_definitions(TOKEN) is None


async def first(feed: RedisFeed, changes: int) -> list[int | None]:
    told: list[int | None] = []
    async with aclosing(feed.changes()) as listening:
        async with asyncio.timeout(SOON_S):
            async for change in listening:
                told.append(change)
                if len(told) == changes:
                    break
    return told


async def test_feed__entry_is_kept__tells_the_project(
    cache: RedisCache, proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """Listening begins with "anything may have changed"; then every new entry is told, and noise is not."""
    listening = asyncio.ensure_future(first(RedisFeed(settings(proxy)), 3))
    with redis_server.client() as client:
        while not client.pubsub_numsub(redis_client.CHANNEL)[0][1]:
            await asyncio.sleep(0.01)
        client.publish(redis_client.CHANNEL, "noise")
        await cache.keep_definitions(TOKEN, definitions())
        client.publish(redis_client.CHANNEL, "42")
    assert await listening == [None, 1, 42]


@pytest.mark.parametrize("how", ["kill", "refuse", "reset"])
async def test_feed__connection_is_lost__ends_with_an_error(
    proxy: FaultProxy, redis_server: RedisServer, how: Any
) -> None:
    """A lost connection never looks like silence."""

    async def listen() -> None:
        async for _ in RedisFeed(settings(proxy)).changes():
            if how == "kill":
                with redis_server.client() as client:
                    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            else:
                await asyncio.to_thread(proxy.set, how)

    with pytest.raises(StoreError):
        await asyncio.wait_for(listen(), SOON_S)


async def test_feed__connection_hangs__is_found_out(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is checked: a connection that has silently died ends the feed, a quiet one does not."""
    monkeypatch.setattr(redis_client, "KEEP_ALIVE_S", 0.1)
    told = 0

    async def listen() -> None:
        nonlocal told
        async for _ in RedisFeed(settings(proxy)).changes():
            told += 1

    listening = asyncio.ensure_future(listen())
    await asyncio.sleep(0.5)
    assert (told, listening.done()) == (1, False)
    await asyncio.to_thread(proxy.set, "blackhole")
    with pytest.raises(StoreError):
        await asyncio.wait_for(listening, SOON_S)


async def test_feed__of_a_cluster__says_that_there_is_none() -> None:
    """Without announcements the comparing of versions does."""
    feed = RedisFeed(Redis(url=Address("redis+cluster://127.0.0.1:1")))
    with pytest.raises(StoreUnavailable, match="announces nothing"):
        await first(feed, 1)
    assert "redis+cluster" in repr(feed)


@pytest.mark.parametrize(
    ("url", "sentinels", "service", "database", "user"),
    [
        ("redis+sentinel://a,b:1/main/3", [("a", 26379), ("b", 1)], "main", 3, None),
        ("redis+sentinel://me:p%40ss@a:5/", [("a", 5)], "mymaster", 0, "me"),
    ],
)
async def test_connect__sentinel_url__is_read_in_all_its_parts(
    url: str, sentinels: list[tuple[str, int]], service: str, database: int, user: str | None
) -> None:
    """Hosts with and without ports, the service, the database, and a login with escapes."""
    client = redis_client.connect(Redis(url=Address(url)))
    pool = client.connection_pool
    manager = pool.sentinel_manager
    found = [it.connection_pool.connection_kwargs for it in manager.sentinels]
    assert [(it["host"], it["port"]) for it in found] == sentinels
    assert pool.service_name == service
    assert pool.connection_kwargs["db"] == database
    assert pool.connection_kwargs["username"] == user
    assert pool.connection_kwargs["password"] == (None if user is None else "p@ss")
    await redis_client.close(client)
