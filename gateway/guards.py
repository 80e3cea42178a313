"""Makes the guard of each dependency, with its doings counted.

What a guard does is in resilience/guard.py, and what needs one in wiring.py. Invariant: no dependency is without one.
"""

from typing import Final

from config.backends import Breakers, Pool
from gateway.metrics import Metrics
from gateway.ports import Clock
from gateway.resilience.breaker import Breaker, BreakerPolicy, State
from gateway.resilience.bulkhead import Bulkhead
from gateway.resilience.call_watch import CallWatch
from gateway.resilience.guard import Guard, Outcome
from gateway.telemetry import log_event

QUEUED_PER_SLOT: Final = 16
"""Calls that may wait for each connection of a pool; the wait itself is bounded by the time each of them has left."""


class Guards:
    def __init__(self, breakers: Breakers, clock: Clock, metrics: Metrics) -> None:
        self._breakers = breakers
        self._clock = clock
        self._metrics = metrics
        self.watches: dict[str, CallWatch] = {}

    def of_pool(self, name: str, pool: Pool) -> Guard:
        """A call is slow from half of what it may take."""
        return self.make(name, pool.max_connections, (pool.acquire_timeout_ms + pool.statement_timeout_ms) / 2)

    def make(self, name: str, slots: int, slow_ms: float) -> Guard:
        metrics, settings = self._metrics, self._breakers
        policy = BreakerPolicy(
            window_s=settings.window_s,
            min_calls=settings.min_calls,
            failure_ratio=settings.failure_ratio,
            slow_ratio=settings.slow_ratio,
            slow_after_s=slow_ms / 1000,
            open_s=settings.open_s,
            max_open_s=settings.max_open_s,
        )

        def on_change(state: State) -> None:
            metrics.breaker_changed(name, state)
            log_event("breaker_changed", dependency=name, state=state.value)

        def on_call(outcome: Outcome, waited_s: float, took_s: float) -> None:
            metrics.called(name, outcome, waited_s, took_s)
            watch.called(outcome)

        breaker = Breaker(policy, self._clock, on_change=on_change)
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

        metrics.at_scrape(measure)
        return guard
