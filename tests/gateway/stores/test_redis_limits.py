"""Counts that processes share, in a real Redis: the same for all of them, bounded in time, and readable by nobody."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from config.address import Address
from config.backends import Redis
from config.rates import Rates
from drills.faults import FaultProxy
from drills.servers import Redis as RedisServer
from gateway.ports import SystemClock
from gateway.resilience.breaker import Breaker, BreakerPolicy, State
from gateway.resilience.bulkhead import Bulkhead
from gateway.resilience.gcra import Outcome
from gateway.resilience.guard import Guard
from gateway.stores.redis_limits import KEYS, RedisLimiter

RATES = Rates("5/hour")
TIMEOUT_S = 0.4
SOON_S = 5.0
POLICY = BreakerPolicy(
    window_s=10, min_calls=3, failure_ratio=0.5, slow_ratio=1.0, slow_after_s=5, open_s=0.2, max_open_s=0.2
)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def guard() -> Guard:
    clock = SystemClock()
    return Guard("limits", Breaker(POLICY, clock), Bulkhead(4, 16, clock), clock)


@pytest.fixture
async def limiter(proxy: FaultProxy, guard: Guard) -> AsyncIterator[RedisLimiter]:
    settings = Redis(url=Address(f"redis://127.0.0.1:{proxy.port}/0"), timeout_ms=200, connect_timeout_ms=200)
    async with guard, RedisLimiter(settings, guard) as limiter:
        yield limiter


@pytest.fixture
async def other(redis_server: RedisServer) -> AsyncIterator[RedisLimiter]:
    """The limiter of another process, which nothing is wrong with."""
    clock = SystemClock()
    guard = Guard("limits", Breaker(POLICY, clock), Bulkhead(4, 16, clock), clock)
    settings = Redis(url=Address(redis_server.url()), timeout_ms=2500, connect_timeout_ms=2500)
    async with guard, RedisLimiter(settings, guard) as limiter:
        yield limiter


async def let_in(limiter: RedisLimiter, times: int, key: str = "a:203.0.113.9", rates: Rates = RATES) -> int:
    """How many of so many requests at once are let in."""
    decisions = await asyncio.gather(*(limiter.check(key, rates) for _ in range(times)))
    assert None not in decisions
    return sum(decision is not None and decision.outcome is Outcome.ALLOW for decision in decisions)


async def test_check__by_two_processes__is_one_count(limiter: RedisLimiter, other: RedisLimiter) -> None:
    """What one process lets in, the other knows of, also when they ask at the same moment; keys do not mix."""
    assert sum(await asyncio.gather(let_in(limiter, 10), let_in(other, 10))) == 5
    assert await let_in(limiter, 10, "a:198.51.100.7") == 5
    assert await let_in(other, 10, "a:198.51.100.7") == 0


async def test_check__denied__has_the_numbers_of_the_rate_that_decided(limiter: RedisLimiter) -> None:
    """Of several rates the one that is used up is told, with a time to wait within its window."""
    rates = Rates("100/minute; 3/hour")
    assert await let_in(limiter, 3, rates=rates) == 3
    decision = await limiter.check("a:203.0.113.9", rates)
    assert decision is not None
    assert (decision.outcome, decision.limit, decision.remaining) == (Outcome.DENY, 3, 0)
    assert 0 < decision.retry_after_s <= decision.reset_s <= 7200


async def test_check__after_the_window__lets_in_again(limiter: RedisLimiter) -> None:
    """A count slides with time, so that nobody is kept out for good."""
    rates = Rates("2/second")
    assert await let_in(limiter, 10, rates=rates) <= 4  # A new window may begin in between.
    ends_at = time.monotonic() + SOON_S
    while not await let_in(limiter, 1, rates=rates):
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.05)


async def test_check__after_a_reload_with_other_rates__counts_by_those(limiter: RedisLimiter) -> None:
    """Rates that change hold at once, and the counts of the old ones are in nobody's way."""
    assert await let_in(limiter, 10) == 5
    assert await let_in(limiter, 10, rates=Rates("8/hour")) == 8
    assert await let_in(limiter, 10, rates=Rates("2/hour")) == 2


async def test_keys__of_tokens_and_addresses__tell_neither_and_expire(
    limiter: RedisLimiter, redis_server: RedisServer
) -> None:
    """Whoever reads Redis learns no token and no address, and nothing is left of somebody who stays away."""
    await limiter.check("t:phc_secret_token", Rates("5/minute; 9/hour"))
    await limiter.check("a:203.0.113.9", Rates("5/minute"))
    with redis_server.client() as client:
        keys: Any = client.keys()
        assert len(keys) == 3
        for key in keys:
            assert key.startswith(KEYS.encode())
            assert b"phc_secret_token" not in key
            assert b"203.0.113.9" not in key
            assert 0 < client.ttl(key) <= (7200 if b"hour" in key else 120)


@pytest.mark.parametrize("is_warm", [True, False])
@pytest.mark.parametrize("mode", ["blackhole", "refuse", "reset"])
async def test_check__redis_is_not_there__is_none_in_time_and_recovers(
    limiter: RedisLimiter, proxy: FaultProxy, guard: Guard, mode: Any, *, is_warm: bool
) -> None:
    """Refused, hung or reset: no answer, in time; soon none is waited for, and later it is asked again."""
    if is_warm:
        assert await let_in(limiter, 1) == 1
    await asyncio.to_thread(proxy.set, mode)
    for _ in range(3):
        began = time.monotonic()
        assert await limiter.check("a:203.0.113.9", RATES) is None
        assert time.monotonic() - began < TIMEOUT_S + SOON_S
    assert guard.breaker.state is State.OPEN
    asked = proxy.accepted
    assert await limiter.check("a:203.0.113.9", RATES) is None
    assert proxy.accepted == asked
    await asyncio.to_thread(proxy.heal)
    ends_at = time.monotonic() + SOON_S
    while await limiter.check("a:203.0.113.9", RATES) is None:
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.05)


async def test_check__redis_forgot_everything__goes_on(limiter: RedisLimiter, redis_server: RedisServer) -> None:
    """A Redis that restarted knows neither counts nor scripts, and is usable at once."""
    assert await let_in(limiter, 10) == 5
    with redis_server.client() as client:
        client.flushall()
        client.script_flush()
    assert await let_in(limiter, 10) == 5
