"""Clients of Redis with every bound set, for a single server, behind Sentinel, or a cluster; and the change feed.

What is stored under which key is in redis.py. Invariant: no client retries by itself - the library's default, ten times
with pauses, turns a hung Redis into seconds per call.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis as Client
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from config.backends import Redis
from gateway.errors import StoreTimeout, StoreUnavailable

PREFIX: Final = "flagstone:1:"
CHANNEL: Final = PREFIX + "changes"
SENTINEL_PORT: Final = 26_379
CLOSE_TIMEOUT_S: Final = 1.0
LOST: Final = (RedisError, RedisClusterException, OSError, RuntimeError)
"""What a call raises without a server. The last is uvloop's, for a connection that closed just before it was used."""
KEEP_ALIVE_S: Final = 10.0
"""How long a feed may be silent before the connection is asked whether it is still there."""


def digest(token: str) -> str:
    """What stands for a token in keys: whoever reads the cache learns no tokens from them."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def connect(settings: Redis) -> Any:
    """A client that has not connected yet. Calls beyond its connections fail at once; a bulkhead stands before it."""
    bounds: dict[str, Any] = {
        "socket_timeout": settings.timeout_ms / 1000,
        "socket_connect_timeout": settings.connect_timeout_ms / 1000,
        "max_connections": settings.max_connections,
        "protocol": 3,
        "health_check_interval": 0,
    }
    url = settings.url.reveal()
    if settings.url.scheme == "redis+cluster":
        # One more try finds the node that a slot has moved to.
        return RedisCluster.from_url("redis" + url.removeprefix("redis+cluster"), **bounds, retry=Retry(NoBackoff(), 1))
    bounds["retry"] = Retry(NoBackoff(), 0)
    if settings.url.scheme == "redis+sentinel":
        return _behind_sentinel(url, bounds)
    return Client.from_url(url, **bounds)


def _behind_sentinel(url: str, bounds: dict[str, Any]) -> Any:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    sentinels = [(host.partition(":")[0], int(host.partition(":")[2] or SENTINEL_PORT)) for host in hosts]
    service, _, database = parts.path.strip("/").partition("/")
    login, _, _ = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    finding = {name: value for name, value in bounds.items() if name != "max_connections"}
    sentinel = Sentinel(sentinels, sentinel_kwargs=finding)  # type: ignore[no-untyped-call]
    return sentinel.master_for(
        service or "mymaster",
        db=int(database or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        **bounds,
    )


async def close(client: Any) -> None:
    """Let go of all connections, within a bounded time."""
    with suppress(TimeoutError, *LOST):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await client.aclose()
            manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
            for sentinel in manager.sentinels if manager else ():
                await sentinel.aclose()


class RedisAdapter:
    """What every use of Redis has: a client within the bounds in force.

    Use as an async context manager. Entering connects to nothing; every call connects as it needs.
    """

    def __init__(self, settings: Redis) -> None:
        self._settings = settings
        self._client = self._connect(settings)
        self._retiring: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._settings.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(close(self._client), *self._retiring, return_exceptions=True)

    def adopt(self, settings: Redis) -> None:
        """Keep to these bounds from the next call on. Those under way end within the old ones, as they began."""
        before, self._settings = self._settings, settings
        if _bounds(before) != _bounds(settings):
            retiring = asyncio.get_running_loop().create_task(_retire(self._client, self._longest_s(before)))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            self._client = self._connect(settings)

    def _connect(self, settings: Redis) -> Any:
        return connect(settings)

    def _longest_s(self, settings: Redis) -> float:
        """How long a call may take."""
        return settings.call_timeout_s

    def _translated(self) -> AbstractAsyncContextManager[None]:
        return translated(self._longest_s(self._settings))


def _bounds(settings: Redis) -> tuple[int, ...]:
    """What a client keeps to from its beginning to its end."""
    return settings.timeout_ms, settings.connect_timeout_ms, settings.max_connections


async def _retire(client: Any, longest_s: float) -> None:
    """Close a client that gets no more calls, once the last one has ended."""
    try:
        await asyncio.sleep(longest_s)
    finally:
        await close(client)


@asynccontextmanager
async def translated(timeout_s: float) -> AsyncIterator[None]:
    """Bounds whatever is done inside, and turns what the driver raises into StoreError."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except (TimeoutError, RedisTimeout):
        raise StoreTimeout("redis: no answer in time") from None
    except ResponseError as error:
        # Full, loading, or a replica: Redis is there and cannot serve us. No text of it holds a token.
        raise StoreUnavailable(f"redis: {error}") from None
    except LOST as error:
        raise StoreUnavailable(f"redis: {type(error).__name__}") from error


class RedisFeed:
    """Announcements over pub/sub, on a connection of its own."""

    def __init__(self, settings: Redis) -> None:
        self._settings = settings

    def __repr__(self) -> str:
        return f"<RedisFeed {self._settings.url}>"

    def adopt(self, settings: Redis) -> None:
        """Keep to these bounds from the next connection on."""
        self._settings = settings

    async def changes(self) -> AsyncIterator[int | None]:
        client = connect(self._settings)
        try:
            if isinstance(client, RedisCluster):
                # Its pub/sub is not asynchronous; comparing versions does without.
                raise StoreUnavailable("redis: a cluster announces nothing to this client")
            async with client.pubsub() as listening:
                await listening.subscribe(CHANNEL)
                while True:
                    async for change in self._until_silent(listening):
                        yield change
                    # Silence is normal, so the connection is asked; an answer that does not come ends the feed.
                    await listening.ping()
                    if await listening.get_message(timeout=self._settings.timeout_ms / 1000 * 4) is None:
                        raise StoreUnavailable("redis: the feed's connection does not answer")
        except LOST as error:
            raise StoreUnavailable(f"redis: {type(error).__name__}") from error
        finally:
            await close(client)

    @staticmethod
    async def _until_silent(listening: Any) -> AsyncIterator[int | None]:
        while (message := await listening.get_message(timeout=KEEP_ALIVE_S)) is not None:
            if message["type"] == "subscribe":
                yield None
            elif message["type"] == "message" and message["data"].isdigit():
                yield int(message["data"])
