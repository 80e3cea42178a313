"""The only place that picks implementations: which store a URL means, and what the services are made of.

Invariant: what is opened here is closed in the reverse order, whatever happens in between; and nothing that is opened
waits for a server, so that the process starts, and answers, with everything behind it down.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol, TypedDict

from msgspec.structs import replace

from config.reload import Live
from config.settings import Settings
from gateway.builder_metrics import BuilderMetrics
from gateway.building_ports import BuildStore, Shelf
from gateway.editing_ports import ManagedStore
from gateway.guards import Guards
from gateway.metrics import Metrics
from gateway.ports import (
    ChangeFeed,
    Clock,
    DefinitionStore,
    FactsStore,
    LastGoodStore,
    OverrideStore,
    SystemClock,
    TransferStore,
)
from gateway.resilience.token_bucket import TokenBucket
from gateway.services.builder import Builder
from gateway.services.changes import ChangeListener
from gateway.services.compiling import Compiler
from gateway.services.credentials import CredentialService, token_finder
from gateway.services.definitions import DefinitionService, Shared
from gateway.services.facts import FactsService
from gateway.services.flags import FlagService
from gateway.services.forwarding import ForwardingService
from gateway.services.keys import KeyService
from gateway.services.learning import LearningService
from gateway.services.limits import FleetLimiter, LimitService
from gateway.services.local_definitions import LocalDefinitionService
from gateway.services.overrides import OverrideService
from gateway.services.quota import QuotaService, SharedCounter
from gateway.services.snapshots import SnapshotService
from gateway.services.status import Check, StatusService, finding, of_limits, of_load
from gateway.services.streams import StreamService
from gateway.stores.file import FileStore
from gateway.stores.sqlite import SqliteStore
from gateway.stores.sqlite_feed import SqliteFeed
from gateway.wire.etags import etag_of
from gateway.wire.flags import encode_result


class Store(DefinitionStore, FactsStore, OverrideStore, TransferStore, Protocol):
    """What one backend fulfils. One that is only read has nothing to build or to manage."""

    @property
    def builds(self) -> BuildStore | None: ...

    @property
    def managed(self) -> ManagedStore | None: ...


OpenStore = Callable[[Settings], AbstractAsyncContextManager[Store]]


class Services(TypedDict):
    """What endpoints find in the state of a request."""

    live: Live
    clock: Clock
    metrics: Metrics
    snapshots: SnapshotService
    flags: FlagService
    limits: LimitService
    credentials: CredentialService
    local_definitions: LocalDefinitionService
    quota: QuotaService
    streams: StreamService
    forwarding: ForwardingService | None
    learning: LearningService | None
    managed: ManagedStore | None
    status: StatusService


def open_store(settings: Settings) -> AbstractAsyncContextManager[Store]:
    """The store that the settings name, opened on entry. Its scheme was checked with them."""
    url = settings.store.url
    if url.is_postgres:
        from gateway.stores.postgres import PostgresStore

        return PostgresStore(url, settings.definitions_pool, settings.persons_pool, settings.writer_pool)
    return FileStore(url.path) if url.scheme == "file" else SqliteStore(url.path)


@asynccontextmanager
async def open_services(
    live: Live, clock: Clock, metrics: Metrics, open_store: OpenStore = open_store
) -> AsyncIterator[Services]:
    """Everything that answers requests, until the context is left."""
    settings = live.settings
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        status = StatusService(live, clock)
        store = await enter(open_store(settings))
        _measure_pools(store, metrics)
        if store.builds is not None and settings.builder.is_embedded:
            building = BuilderMetrics()
            metrics.render_beside(building)
            builder = await enter(open_builder(store.builds, settings, clock, building))
            status.watch("builder", lambda: finding(builder.problem))
        guards = Guards(settings.breakers, clock, metrics)
        definitions = DefinitionService(
            store,
            await enter(guards.of_pool("definitions", settings.definitions_pool)),
            metrics,
            shared=await _open_shared(opened, settings, clock, guards),
            disk=await _open_disk(opened, settings, clock, metrics, status),
        )
        snapshots = await enter(
            SnapshotService(definitions, Compiler(encode_result, metrics), settings.snapshots, clock, metrics)
        )
        for source, feed in _feeds(settings):
            listener = await enter(ChangeListener(source, feed, snapshots.told, clock, metrics))
            status.watch(f"feed_{source}", _feed_check(listener), "feed")
        facts = FactsService(
            store,
            await enter(guards.of_pool("persons", settings.persons_pool)),
            metrics,
            reserve_s=lambda: live.settings.requests.answer_reserve_ms / 1000,
        )
        overrides = await enter(
            OverrideService(
                store,
                await enter(guards.of_pool("writer", settings.writer_pool)),
                metrics,
                max_queued=settings.overrides.max_queued_writes,
                timeout_s=settings.overrides.write_timeout_ms / 1000,
            )
        )
        metrics.at_scrape(lambda: metrics.override_writes_queued.set(overrides.queued))
        metrics.at_scrape(lambda: metrics.tasks.set(len(asyncio.all_tasks())))
        quota = await enter(QuotaService(live, clock, metrics, await _open_counter(opened, settings, guards)))
        flags = FlagService(snapshots, facts, overrides, quota, clock=clock, metrics=metrics)
        limits = LimitService(live, clock, metrics, await _open_fleet(opened, settings, guards))
        streams = await enter(StreamService(snapshots, live, clock, metrics))
        keys = None if store.managed is None else KeyService(store.managed, clock)
        keys_guard = await enter(guards.of_pool("keys", settings.writer_pool))
        credentials = CredentialService(keys, token_finder(store, store.managed), keys_guard, live, clock)
        local_definitions = await enter(LocalDefinitionService(etag_of, settings.snapshots, metrics))
        learning = None
        if settings.capture.persons and store.managed is not None:
            learning = await enter(LearningService(store.managed, flags.find, clock, metrics, settings.capture))
            metrics.at_scrape(lambda: metrics.learning_waiting.set(learning.waiting if learning else 0))
        forwarding = await _open_forwarding(opened, settings, guards, metrics)
        status.watch_calls(guards.watches)
        status.watch_snapshots(snapshots)
        status.watch("overload", of_load(metrics, clock))
        status.watch("address_limit", of_limits(limits))
        yield Services(
            live=live,
            clock=clock,
            metrics=metrics,
            snapshots=snapshots,
            flags=flags,
            limits=limits,
            credentials=credentials,
            local_definitions=local_definitions,
            quota=quota,
            streams=streams,
            forwarding=forwarding,
            learning=learning,
            managed=store.managed,
            status=await enter(status),
        )


@asynccontextmanager
async def open_builder(
    builds: BuildStore, settings: Settings, clock: Clock, metrics: BuilderMetrics
) -> AsyncIterator[Builder]:
    """A builder at work, until the context is left."""
    async with AsyncExitStack() as opened:
        builder = await opened.enter_async_context(
            Builder(builds, await _open_shelf(opened, settings), settings.builder, clock, metrics)
        )
        if settings.store.url.is_postgres and not settings.writer_pool.transaction_pooling:
            from gateway.stores.postgres_feed import EDITS, PostgresFeed

            pool = settings.writer_pool
            feed = PostgresFeed(pool.url or settings.store.url, pool, EDITS)
            await opened.enter_async_context(ChangeListener("edits", feed, builder.told, clock, metrics))
        yield builder


async def publish(store: Store, settings: Settings) -> None:
    """Build what was just edited, for a command that works on the store itself. Raises StoreError."""
    if store.builds is not None:
        async with AsyncExitStack() as opened:
            restless = replace(settings.builder, min_rest_ms=0)
            shelf = await _open_shelf(opened, settings)
            await Builder(store.builds, shelf, restless, SystemClock(), BuilderMetrics()).drain()


async def _open_shelf(opened: AsyncExitStack, settings: Settings) -> Shelf | None:
    if not settings.redis.url:
        return None
    from gateway.stores.redis_shelf import RedisShelf

    # Calls beyond the connections would fail, and no bulkhead stands before this one.
    most = max(settings.redis.max_connections, settings.builder.concurrency)
    return await opened.enter_async_context(RedisShelf(replace(settings.redis, max_connections=most)))


async def _open_forwarding(
    opened: AsyncExitStack, settings: Settings, guards: Guards, metrics: Metrics
) -> ForwardingService | None:
    capture = settings.capture
    if not capture.upstream:
        return None
    from gateway.stores.http_upstream import HttpUpstream

    upstream = await opened.enter_async_context(HttpUpstream(capture))
    guard = await opened.enter_async_context(guards.make("capture", capture.max_in_flight, capture.timeout_ms / 2))
    forwarding = await opened.enter_async_context(ForwardingService(upstream, guard, metrics, capture))
    metrics.at_scrape(lambda: metrics.event_bytes_buffered.set(forwarding.buffered_bytes))
    return forwarding


async def _open_shared(opened: AsyncExitStack, settings: Settings, clock: Clock, guards: Guards) -> Shared | None:
    redis = settings.redis
    if not redis.url:
        return None
    from gateway.stores.redis import RedisCache

    cache = await opened.enter_async_context(RedisCache(redis))
    guard = await opened.enter_async_context(guards.make("redis", redis.max_connections, redis.timeout_ms / 2))
    # A second's worth may come at once.
    return Shared(
        cache,
        guard,
        timeout_s=(redis.timeout_ms + redis.connect_timeout_ms) / 1000,
        entries=TokenBucket(redis.max_fills_per_s, max(1.0, redis.max_fills_per_s), clock),
        bytes=TokenBucket(redis.max_fill_bytes_per_s, redis.max_fill_bytes_per_s, clock),
    )


async def _open_fleet(opened: AsyncExitStack, settings: Settings, guards: Guards) -> FleetLimiter | None:
    redis = settings.redis
    if not redis.url or redis.url.scheme == "redis+cluster":
        return None
    from gateway.stores.redis_limits import RedisLimiter

    guard = await opened.enter_async_context(guards.make("limits", redis.max_connections, redis.timeout_ms / 2))
    return await opened.enter_async_context(
        RedisLimiter(redis, guard, timeout_s=(redis.timeout_ms + redis.connect_timeout_ms) / 1000)
    )


async def _open_counter(opened: AsyncExitStack, settings: Settings, guards: Guards) -> SharedCounter | None:
    redis = settings.redis
    if not redis.url:
        return None
    from gateway.stores.redis_quota import RedisQuota

    counter = await opened.enter_async_context(RedisQuota(redis))
    # One call at a time, by a task of its own.
    guard = await opened.enter_async_context(guards.make("quota", 1, redis.timeout_ms / 2))
    return SharedCounter(counter, guard, timeout_s=(redis.timeout_ms + redis.connect_timeout_ms) / 1000)


async def _open_disk(
    opened: AsyncExitStack, settings: Settings, clock: Clock, metrics: Metrics, status: StatusService
) -> LastGoodStore | None:
    if not (settings.disk.path and settings.store.url.is_postgres):
        return None
    from gateway.stores.disk import DiskStore

    disk = await opened.enter_async_context(DiskStore(settings.disk, clock))
    metrics.at_scrape(lambda: metrics.disk_writable.set(disk.is_writable))
    status.watch("disk", lambda: finding(None if disk.is_writable else "it cannot be written"))
    return disk


def _feeds(settings: Settings) -> list[tuple[str, ChangeFeed]]:
    """Whoever announces changes."""
    feeds: list[tuple[str, ChangeFeed]] = []
    pool = settings.definitions_pool
    if settings.store.url.is_postgres and not pool.transaction_pooling:
        from gateway.stores.postgres_feed import PostgresFeed

        feeds.append(("postgres", PostgresFeed(pool.url or settings.store.url, pool)))
    if settings.store.url.scheme == "sqlite":
        feeds.append(("sqlite", SqliteFeed(settings.store.url.path)))
    if settings.redis.url and settings.redis.url.scheme != "redis+cluster":
        from gateway.stores.redis_client import RedisFeed

        feeds.append(("redis", RedisFeed(settings.redis)))
    return feeds


def _feed_check(listener: ChangeListener) -> Check:
    return lambda: finding("announcements are not listened for" if listener.is_lost else None)


def _measure_pools(store: object, metrics: Metrics) -> None:
    pools = getattr(store, "pools", ())

    def measure() -> None:
        for pool in pools:
            metrics.pool(pool.name, in_use=pool.in_use, idle=pool.idle, most=pool.max)

    metrics.at_scrape(measure)
