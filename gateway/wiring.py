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
from gateway import redis_wiring
from gateway.builder_metrics import BuilderMetrics
from gateway.building_ports import BuildStore
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
from gateway.services.builder import Builder
from gateway.services.changes import ChangeListener
from gateway.services.compiling import Compiler
from gateway.services.credentials import CredentialService, token_finder
from gateway.services.definitions import DefinitionService
from gateway.services.facts import FactsService
from gateway.services.flags import FlagService
from gateway.services.forwarding import ForwardingService
from gateway.services.keys import KeyService
from gateway.services.learning import LearningService
from gateway.services.limits import LimitService
from gateway.services.local_definitions import LocalDefinitionService
from gateway.services.overrides import OverrideService
from gateway.services.quota import QuotaService
from gateway.services.snapshots import SnapshotService
from gateway.services.status import Check, StatusService, finding, of_limits, of_load
from gateway.services.streams import StreamService
from gateway.services.tracing import TracingService
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
    tracing: TracingService | None


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
        follow_settings(store, live)
        _measure_pools(store, metrics)
        if store.builds is not None and settings.builder.is_embedded:
            building = BuilderMetrics()
            metrics.render_beside(building)
            builder = await enter(open_builder(store.builds, live, clock, building))
            status.watch("builder", lambda: finding(builder.problem))
        guards = Guards(live, clock, metrics)
        definitions = DefinitionService(
            store,
            await enter(guards.of_pool("definitions", lambda it: it.definitions_pool)),
            metrics,
            shared=await redis_wiring.open_shared(opened, live, clock, guards),
            disk=await _open_disk(opened, settings, clock, metrics, status),
        )
        snapshots = await enter(
            SnapshotService(definitions, Compiler(encode_result, metrics), settings.snapshots, clock, metrics)
        )
        live.follow(lambda new: snapshots.adopt(new.snapshots))
        for source, feed in _feeds(live):
            listener = await enter(ChangeListener(source, feed, snapshots.told, clock, metrics))
            status.watch(f"feed_{source}", _feed_check(listener), "feed")
        facts = FactsService(
            store,
            await enter(guards.of_pool("persons", lambda it: it.persons_pool)),
            metrics,
            reserve_s=lambda: live.settings.requests.answer_reserve_ms / 1000,
        )
        overrides = await enter(
            OverrideService(
                store,
                await enter(guards.of_pool("writer", lambda it: it.writer_pool)),
                metrics,
                max_queued=settings.overrides.max_queued_writes,
                timeout_s=settings.overrides.write_timeout_ms / 1000,
            )
        )
        live.follow(lambda new: overrides.adopt(new.overrides))
        metrics.at_scrape(lambda: metrics.override_writes_queued.set(overrides.queued))
        metrics.at_scrape(lambda: metrics.tasks.set(len(asyncio.all_tasks())))
        quota = await enter(QuotaService(live, clock, metrics, await redis_wiring.open_counter(opened, live, guards)))
        flags = FlagService(snapshots, facts, overrides, quota, clock=clock, metrics=metrics)
        limits = LimitService(live, clock, metrics, await redis_wiring.open_fleet(opened, live, guards))
        streams = await enter(StreamService(snapshots, live, clock, metrics))
        keys = None if store.managed is None else KeyService(store.managed, clock)
        keys_guard = await enter(guards.of_pool("keys", lambda it: it.writer_pool))
        credentials = CredentialService(keys, token_finder(store, store.managed), keys_guard, live, clock)
        local_definitions = await enter(LocalDefinitionService(etag_of, settings.snapshots, metrics))
        live.follow(lambda new: local_definitions.adopt(new.snapshots))
        learning = None
        if settings.capture.persons and store.managed is not None:
            learning = await enter(LearningService(store.managed, flags.find, clock, metrics, settings.capture))
            metrics.at_scrape(lambda: metrics.learning_waiting.set(learning.waiting if learning else 0))
        forwarding = await _open_forwarding(opened, settings, guards, metrics)
        tracing = await _open_tracing(opened, live, clock, metrics)
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
            tracing=tracing,
        )


@asynccontextmanager
async def open_builder(builds: BuildStore, live: Live, clock: Clock, metrics: BuilderMetrics) -> AsyncIterator[Builder]:
    """A builder at work, until the context is left."""
    settings = live.settings
    async with AsyncExitStack() as opened:
        builder = await opened.enter_async_context(
            Builder(builds, await redis_wiring.open_shelf(opened, live), settings.builder, clock, metrics)
        )
        live.follow(lambda new: builder.adopt(new.builder))
        if settings.store.url.is_postgres and not settings.writer_pool.transaction_pooling:
            from gateway.stores.postgres_feed import EDITS, PostgresFeed

            pool = settings.writer_pool
            feed = PostgresFeed(pool.url or settings.store.url, pool, EDITS)
            live.follow(lambda new: feed.adopt(new.writer_pool))
            await opened.enter_async_context(ChangeListener("edits", feed, builder.told, clock, metrics))
        yield builder


async def publish(store: Store, settings: Settings) -> None:
    """Build what was just edited, for a command that works on the store itself. Raises StoreError."""
    if store.builds is not None:
        async with AsyncExitStack() as opened:
            restless = replace(settings.builder, min_rest_ms=0)
            shelf = await redis_wiring.open_shelf(opened, Live(settings))
            await Builder(store.builds, shelf, restless, SystemClock(), BuilderMetrics()).drain()


async def _open_forwarding(
    opened: AsyncExitStack, settings: Settings, guards: Guards, metrics: Metrics
) -> ForwardingService | None:
    capture = settings.capture
    if not capture.upstream:
        return None
    from gateway.stores.http_upstream import HttpUpstream

    upstream = await opened.enter_async_context(
        HttpUpstream(capture.upstream, timeout_ms=capture.timeout_ms, max_connections=capture.max_in_flight)
    )
    guard = await opened.enter_async_context(
        guards.make("capture", lambda it: (it.capture.max_in_flight, it.capture.timeout_ms / 2))
    )
    forwarding = await opened.enter_async_context(ForwardingService(upstream, guard, metrics, capture))
    metrics.at_scrape(lambda: metrics.event_bytes_buffered.set(forwarding.buffered_bytes))
    return forwarding


async def _open_tracing(opened: AsyncExitStack, live: Live, clock: Clock, metrics: Metrics) -> TracingService | None:
    traces = live.settings.traces
    if not traces.url:
        return None
    from gateway.stores.http_upstream import HttpUpstream
    from gateway.wire.otlp import Otlp

    # The bound on time is the service's, which follows reloads.
    collector = await opened.enter_async_context(HttpUpstream(traces.url, timeout_ms=600_000, max_connections=1))
    encoding = Otlp(traces.service_name, traces.attributes.items())
    tracing = await opened.enter_async_context(TracingService(collector, encoding, live, clock, metrics))
    metrics.at_scrape(lambda: metrics.spans_queued.set(tracing.queued))
    return tracing


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


def _feeds(live: Live) -> list[tuple[str, ChangeFeed]]:
    """Whoever announces changes."""
    settings = live.settings
    feeds: list[tuple[str, ChangeFeed]] = []
    pool = settings.definitions_pool
    if settings.store.url.is_postgres and not pool.transaction_pooling:
        from gateway.stores.postgres_feed import PostgresFeed

        announcing = PostgresFeed(pool.url or settings.store.url, pool)
        live.follow(lambda new: announcing.adopt(new.definitions_pool))
        feeds.append(("postgres", announcing))
    if settings.store.url.scheme == "sqlite":
        feeds.append(("sqlite", SqliteFeed(settings.store.url.path)))
    if settings.redis.url and settings.redis.url.scheme != "redis+cluster":
        from gateway.stores.redis_client import RedisFeed

        listening = RedisFeed(settings.redis)
        live.follow(lambda new: listening.adopt(new.redis))
        feeds.append(("redis", listening))
    return feeds


def _feed_check(listener: ChangeListener) -> Check:
    return lambda: finding("announcements are not listened for" if listener.is_lost else None)


def follow_settings(store: object, live: Live) -> None:
    """Have a store that keeps to bounds keep to those in force."""
    if (adopt := getattr(store, "adopt", None)) is not None:
        live.follow(adopt)


def _measure_pools(store: object, metrics: Metrics) -> None:
    pools = getattr(store, "pools", ())

    def measure() -> None:
        for pool in pools:
            metrics.pool(pool.name, in_use=pool.in_use, idle=pool.idle, most=pool.max)

    metrics.at_scrape(measure)
