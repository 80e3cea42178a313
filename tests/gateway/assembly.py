"""Services put together over fakes: what the tests of single services stand on.

Nothing here listens or sleeps; breakers and bulkheads are real, and forgiving unless a test says otherwise.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any

from config.reload import Live
from config.settings import Settings, Snapshots
from evaluator.types import Encode
from gateway import wiring
from gateway.metrics import Metrics
from gateway.ports import Clock
from gateway.resilience.breaker import Breaker, BreakerPolicy
from gateway.resilience.bulkhead import Bulkhead
from gateway.resilience.guard import Guard
from gateway.services.compiling import Compiler
from gateway.services.definitions import DefinitionService, Shared
from gateway.services.facts import FactsService
from gateway.services.flags import FlagService
from gateway.services.overrides import OverrideService
from gateway.services.quota import QuotaService
from gateway.services.snapshots import SnapshotService
from gateway.wire.flags import encode_result
from tests.fakes import FakeClock


def guarded(clock: Clock, name: str = "persons", *, min_calls: int = 1000, slots: int = 100, **options: Any) -> Guard:
    """A guard whose breaker opens only after this many calls."""
    breaker = Breaker(BreakerPolicy(min_calls=min_calls), clock, jitter=lambda: 0.0)
    return Guard(name, breaker, Bulkhead(slots, slots, clock), clock, **options)


@asynccontextmanager
async def snapshots_of(
    store: Any,
    clock: Clock,
    settings: Snapshots | None = None,
    *,
    encode: Encode = encode_result,
    metrics: Metrics | None = None,
    shared: Shared | None = None,
    disk: Any = None,
    min_calls: int = 1000,
    spread: float = 0.0,
) -> AsyncIterator[SnapshotService]:
    """A snapshot service over this store; with a spread of 0 everything is due when its time is over, not before."""
    metrics = metrics or Metrics()
    async with AsyncExitStack() as opened:
        guard = await opened.enter_async_context(guarded(clock, "definitions", min_calls=min_calls))
        definitions = DefinitionService(store, guard, metrics, shared=shared, disk=disk)
        service = SnapshotService(
            definitions,
            Compiler(encode, metrics),
            settings or Snapshots(),
            clock,
            metrics,
            spread=lambda _: spread,
        )
        yield await opened.enter_async_context(service)


@asynccontextmanager
async def flags_of(store: Any, clock: Clock) -> AsyncIterator[FlagService]:
    """The whole pipeline over one store."""
    metrics = Metrics()
    async with (
        snapshots_of(store, clock, metrics=metrics) as snapshots,
        guarded(clock) as persons,
        guarded(clock, "writer") as writer,
        OverrideService(store, writer, metrics, max_queued=10, timeout_s=1) as overrides,
    ):
        facts = FactsService(store, persons, metrics, reserve_s=lambda: 0)
        quota = QuotaService(Live(Settings()), clock, metrics)
        yield FlagService(snapshots, facts, overrides, quota, clock=clock, metrics=metrics)


@asynccontextmanager
async def services(
    settings: Settings, store: Any, metrics: Metrics | None = None, clock: Clock | None = None
) -> AsyncIterator[wiring.Services]:
    """Everything that wiring makes of these settings, over this store."""
    async with wiring.open_services(
        Live(settings), clock or FakeClock(), metrics or Metrics(), lambda _: nullcontext(store)
    ) as opened:
        yield opened
