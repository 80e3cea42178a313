"""Makes the guard of each dependency, with its doings counted.

What a guard does is in resilience/guard.py, and what needs one in wiring.py. Invariant: no dependency is without one,
and each is held to the settings in force.
"""

from collections.abc import Callable
from typing import Final

from config.backends import Breakers, Pool
from config.reload import Live
from config.settings import Settings
from gateway.metrics import Metrics
from gateway.ports import Clock
from gateway.resilience.breaker import Breaker, BreakerPolicy, State
from gateway.resilience.bulkhead import Bulkhead
from gateway.resilience.call_watch import CallWatch
from gateway.resilience.guard import Guard, Outcome
from gateway.telemetry import log_event

QUEUED_PER_SLOT: Final = 16
"""Calls that may wait for each connection of a pool; the wait itself is bounded by the time each of them has left."""

Bounds = Callable[[Settings], tuple[int, float]]
"""How many calls a dependency may have at once, and from how many milliseconds on one is slow."""


class Guards:
    def __init__(self, live: Live, clock: Clock, metrics: Metrics) -> None:
        self._live = live
        self._clock = clock
        self._metrics = metrics
        self.watches: dict[str, CallWatch] = {}

    def of_pool(self, name: str, pool_of: Callable[[Settings], Pool]) -> Guard:
        """A call is slow from half of what it may take."""

        def bounds(settings: Settings) -> tuple[int, float]:
            pool = pool_of(settings)
            return pool.max_connections, (pool.acquire_timeout_ms + pool.statement_timeout_ms) / 2

        return self.make(name, bounds)

    def make(self, name: str, bounds: Bounds) -> Guard:
        metrics = self._metrics
        slots, slow_ms = bounds(self._live.settings)

        def on_change(state: State) -> None:
            metrics.breaker_changed(name, state)
            log_event("breaker_changed", dependency=name, state=state.value)

        def on_call(outcome: Outcome, waited_s: float, took_s: float) -> None:
            metrics.called(name, outcome, waited_s, took_s)
            watch.called(outcome)

        breaker = Breaker(_policy(self._live.settings.breakers, slow_ms), self._clock, on_change=on_change)
        watch = self.watches[name] = CallWatch(breaker, self._clock)
        guard = Guard(
            name,
            breaker,
            Bulkhead(slots, slots * QUEUED_PER_SLOT, self._clock),
            self._clock,
            on_call=on_call,
        )

        def measure() -> None:
            metrics.breaker_state(name, guard.breaker.state)
            metrics.calls_queued(name, guard.bulkhead.queued)

        def adopt(settings: Settings) -> None:
            slots, slow_ms = bounds(settings)
            breaker.adopt(_policy(settings.breakers, slow_ms))
            guard.bulkhead.max_queued = slots * QUEUED_PER_SLOT
            guard.bulkhead.resize(slots)

        metrics.at_scrape(measure)
        self._live.follow(adopt)
        return guard


def _policy(breakers: Breakers, slow_ms: float) -> BreakerPolicy:
    return BreakerPolicy(
        window_s=breakers.window_s,
        min_calls=breakers.min_calls,
        failure_ratio=breakers.failure_ratio,
        slow_ratio=breakers.slow_ratio,
        slow_after_s=slow_ms / 1000,
        open_s=breakers.open_s,
        max_open_s=breakers.max_open_s,
    )
