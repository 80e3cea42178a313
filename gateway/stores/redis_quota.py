"""What projects used of their quotas, for all processes, in Redis: a number for each project and period.

When to add to it, and what a failure means, is decided above. Invariants: units are added at most once per call, as
nothing here sends a command again; and a number never stands there without the time at which it goes.
"""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from config.backends import Redis
from gateway.errors import StoreUnavailable
from gateway.ports import Usage
from gateway.stores.redis_client import PREFIX, RedisAdapter, close, connect, digest

KEYS: Final = PREFIX + "quota:"


class RedisQuota(RedisAdapter):
    """Connects when it is first asked."""

    async def reach(self) -> None:
        async with self._translated():
            # Found anew: without a second try, a client of a cluster would stay with a node that is gone.
            await close(self._client)
            await self._client.ping()

    async def add(self, usages: Sequence[Usage]) -> list[int | None]:
        async with self._translated(), self._client.pipeline(transaction=False) as pipeline:
            for usage in usages:
                key = f"{KEYS}{usage.period}:{digest(usage.token)}"
                # First, so that an end between the two leaves no number that stays for good.
                pipeline.set(key, 0, ex=usage.ttl_s, nx=True)
                pipeline.incrby(key, usage.units)
            answers = await pipeline.execute(raise_on_error=False)
        return [_total(answer) for answer in answers[1::2]]

    def _connect(self, settings: Redis) -> Any:
        client = connect(settings)
        if isinstance(client, RedisCluster):
            client.set_retry(Retry(NoBackoff(), 0))
        return client


def _total(answer: object) -> int | None:
    """The total; None when Redis said that it would not count, being full or a replica."""
    if isinstance(answer, int):
        return answer
    if isinstance(answer, ResponseError):
        return None
    raise StoreUnavailable(f"redis: {type(answer).__name__}")
