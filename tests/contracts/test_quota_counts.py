"""What a counter of quotas promises: sums of everybody's units by project and period, and certainty about refusals."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from config.address import Address
from config.backends import Redis
from drills.servers import Redis as RedisServer
from drills.servers import free_port
from gateway.errors import StoreError
from gateway.ports import Usage
from gateway.stores.redis_client import close, connect, digest
from gateway.stores.redis_quota import KEYS, RedisQuota
from tests.fake_caches import FakeUsageCounter

SERVERS = {"redis": "redis_server", "redis-sentinel": "sentinel_url", "redis-cluster": "cluster_url"}


def settings_of(server: Any) -> Redis:
    url = server.url() if isinstance(server, RedisServer) else server
    return Redis(url=Address(url), timeout_ms=2000, connect_timeout_ms=2000)


def used(token: str, units: int, period: str = "2026-01-15") -> Usage:
    return Usage(token, period, units, ttl_s=100)


@pytest.fixture(params=["fake", *SERVERS])
async def counters(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Any]]:
    """Two processes with each of the counters."""
    async with AsyncExitStack() as opened:
        if request.param == "fake":
            counter = FakeUsageCounter()
            yield counter, counter
            return
        settings = settings_of(request.getfixturevalue(SERVERS[request.param]))
        yield (
            await opened.enter_async_context(RedisQuota(settings)),
            await opened.enter_async_context(RedisQuota(settings)),
        )


async def test_counter__two_processes__each_reads_the_sum(counters: tuple[Any, Any]) -> None:
    """What one brings is in the total that the other one reads."""
    one, other = counters
    await one.reach()
    assert await one.add([used("phc_a", 3), used("phc_b", 1)]) == [3, 1]
    await other.reach()
    assert await other.add([used("phc_a", 2)]) == [5]


async def test_counter__periods__are_counted_apart(counters: tuple[Any, Any]) -> None:
    """A day and its month have totals of their own, in the order asked."""
    counter, _ = counters
    assert await counter.add([used("phc_a", 3), used("phc_a", 7, "2026-01")]) == [3, 7]
    assert await counter.add([used("phc_a", 1, "2026-01"), used("phc_a", 1)]) == [8, 4]


async def test_counter__many_projects__are_counted_in_one_go(counters: tuple[Any, Any]) -> None:
    """A batch over all nodes of a cluster has all of its totals."""
    counter, _ = counters
    usages = [used(f"phc_{number}", number) for number in range(1, 200)]
    assert await counter.add(usages) == list(range(1, 200))


@pytest.mark.parametrize("server", SERVERS.values())
async def test_redis_quota__count__goes_after_its_time_and_shows_no_token(
    server: str, request: pytest.FixtureRequest
) -> None:
    """A count lives for as long as was said when it began, and who reads its key learns no token."""
    settings = settings_of(request.getfixturevalue(server))
    client = connect(settings)
    try:
        async with RedisQuota(settings) as counter:
            await counter.add([used("phc_a", 3)])
            await counter.add([Usage("phc_a", "2026-01-15", 1, ttl_s=5000)])
        key = f"{KEYS}2026-01-15:{digest('phc_a')}"
        assert 0 < await client.ttl(key) <= 100
        assert int(await client.get(key)) == 4
    finally:
        await close(client)


@pytest.mark.parametrize("server", SERVERS.values())
async def test_redis_quota__something_else_is_there__only_that_is_refused(
    server: str, request: pytest.FixtureRequest
) -> None:
    """What Redis says it did not count is told apart from what it counted."""
    settings = settings_of(request.getfixturevalue(server))
    client = connect(settings)
    try:
        await client.set(f"{KEYS}2026-01-15:{digest('phc_a')}", "no number")
        async with RedisQuota(settings) as counter:
            assert await counter.add([used("phc_a", 3), used("phc_b", 1)]) == [None, 1]
    finally:
        await close(client)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_redis_quota__nobody_there__says_so(scheme: str) -> None:
    """Neither looking for a server nor counting raises anything but what stores raise."""
    async with RedisQuota(Redis(url=Address(f"{scheme}://127.0.0.1:{free_port()}"))) as counter:
        with pytest.raises(StoreError):
            await counter.reach()
        with pytest.raises(StoreError):
            await counter.add([used("phc_a", 1)])
        assert repr(counter).startswith(f"<RedisQuota {scheme}://127.0.0.1:")


async def test_redis_quota__server_comes_back__is_reached_again(redis_server: RedisServer) -> None:
    """A client that lost its server finds it again by itself."""
    async with RedisQuota(settings_of(redis_server)) as counter:
        await counter.add([used("phc_a", 1)])
        redis_server.stop()
        with pytest.raises(StoreError):
            await counter.add([used("phc_a", 1)])
        with pytest.raises(StoreError):
            await counter.reach()
        redis_server.start()
        await counter.reach()
        assert await counter.add([used("phc_a", 1)]) == [1]
