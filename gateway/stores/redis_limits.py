"""Counts of rates that all processes share, in Redis: a sliding window of two counters per key and rate, by `limits`.

Which rates, and what is done without an answer, is decided above. Invariant: a check takes bounded time, holds up
nobody else, and what cannot be told is None.
"""

import time
from typing import Any, Final

from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import TimeoutError as RedisTimeout

from config.backends import Redis
from config.rates import Rates
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.resilience.gcra import ALLOW, Decision, Outcome
from gateway.resilience.guard import Guard
from gateway.stores.redis_client import LOST, PREFIX, RedisAdapter, connect, digest

KEYS: Final = PREFIX + "limits:sliding"
"""The strategy is part of it: another one could not read these keys."""


class RedisLimiter(RedisAdapter):
    """Connects when it is first asked."""

    def __init__(self, settings: Redis, guard: Guard) -> None:
        super().__init__(settings)
        self._guard = guard

    def __repr__(self) -> str:
        return f"<RedisLimiter {self._settings.url}, {self._guard!r}>"

    async def check(self, key: str, rates: Rates) -> Decision | None:
        """Whether the key may come once more; None when Redis does not say so in time."""
        try:
            return await self._guard.call(lambda: self._check(digest(key), rates), self._longest_s(self._settings))
        except StoreError:
            return None

    def _connect(self, settings: Redis) -> Any:
        client = connect(settings)
        # Its own default client does not work with these releases, and knows nothing of our bounds.
        storage = RedisStorage(
            "async+redis://",  # Whose address is known to the pool.
            implementation="redispy",
            key_prefix=KEYS,
            connection_pool=client.connection_pool,
        )
        self._strategy = SlidingWindowCounterRateLimiter(storage)
        return client

    async def _check(self, key: str, rates: Rates) -> Decision:
        try:
            for item in rates.items:
                if not await self._strategy.hit(item, key):
                    stats = await self._strategy.get_window_stats(item, key)
                    reset_s = max(0.0, stats.reset_time - time.time())
                    return Decision(Outcome.DENY, item.amount, stats.remaining, reset_s, reset_s)
        except RedisTimeout as error:
            raise StoreTimeout("redis: no answer in time") from error
        except LOST as error:
            raise StoreUnavailable(f"redis: {type(error).__name__}") from error
        return ALLOW
