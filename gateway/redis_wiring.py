"""What is made of Redis, each with a client and a guard of its own: the shared cache, counts for all, and the shelf.

Where each of them goes is wiring.py's. Invariant: whatever uses Redis keeps to the settings in force.
"""

from contextlib import AsyncExitStack

from msgspec.structs import replace

from config.backends import Redis
from config.reload import Live
from config.settings import Settings
from gateway.building_ports import Shelf
from gateway.guards import Guards
from gateway.ports import Clock
from gateway.resilience.token_bucket import TokenBucket
from gateway.services.definitions import Shared
from gateway.services.limits import FleetLimiter
from gateway.services.quota import SharedCounter


async def open_shared(opened: AsyncExitStack, live: Live, clock: Clock, guards: Guards) -> Shared | None:
    redis = live.settings.redis
    if not redis.url:
        return None
    from gateway.stores.redis import RedisCache

    cache = await opened.enter_async_context(RedisCache(redis))
    guard = await opened.enter_async_context(guards.make("redis", _bounds_of_redis))
    # A second's worth may come at once.
    shared = Shared(
        cache,
        guard,
        timeout_s=redis.call_timeout_s,
        entries=TokenBucket(redis.max_fills_per_s, max(1.0, redis.max_fills_per_s), clock),
        bytes=TokenBucket(redis.max_fill_bytes_per_s, redis.max_fill_bytes_per_s, clock),
    )
    live.follow(lambda new: cache.adopt(new.redis))
    live.follow(lambda new: shared.adopt(new.redis))
    return shared


async def open_fleet(opened: AsyncExitStack, live: Live, guards: Guards) -> FleetLimiter | None:
    redis = live.settings.redis
    if not redis.url or redis.url.scheme == "redis+cluster":
        return None
    from gateway.stores.redis_limits import RedisLimiter

    guard = await opened.enter_async_context(guards.make("limits", _bounds_of_redis))
    limiter = await opened.enter_async_context(RedisLimiter(redis, guard))
    live.follow(lambda new: limiter.adopt(new.redis))
    return limiter


async def open_counter(opened: AsyncExitStack, live: Live, guards: Guards) -> SharedCounter | None:
    redis = live.settings.redis
    if not redis.url:
        return None
    from gateway.stores.redis_quota import RedisQuota

    counter = await opened.enter_async_context(RedisQuota(redis))
    # One call at a time, by a task of its own.
    guard = await opened.enter_async_context(guards.make("quota", lambda it: (1, it.redis.timeout_ms / 2)))
    shared = SharedCounter(counter, guard, redis.call_timeout_s)
    live.follow(lambda new: counter.adopt(new.redis))
    live.follow(lambda new: shared.adopt(new.redis))
    return shared


async def open_shelf(opened: AsyncExitStack, live: Live) -> Shelf | None:
    if not live.settings.redis.url:
        return None
    from gateway.stores.redis_shelf import RedisShelf

    shelf = await opened.enter_async_context(RedisShelf(_redis_of_shelf(live.settings)))
    live.follow(lambda new: shelf.adopt(_redis_of_shelf(new)))
    return shelf


def _redis_of_shelf(settings: Settings) -> Redis:
    # Calls beyond the connections would fail, and no bulkhead stands before this one.
    most = max(settings.redis.max_connections, settings.builder.concurrency)
    return replace(settings.redis, max_connections=most)


def _bounds_of_redis(settings: Settings) -> tuple[int, float]:
    return settings.redis.max_connections, settings.redis.timeout_ms / 2
