"""The adaptive limit, told of requests by a simulated process: one server, first come first served, no asyncio.

Time is a FakeClock's. Invariant of the simulation: a request is either refused on arrival or finishes.
"""

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from gateway.resilience.adaptive import AdaptiveLimit, FixedLimit
from tests.fakes import FakeClock

MS = 0.001
FLOOR = 2


@dataclass
class Seen:
    """What a stretch of time showed."""

    utilisation: float = 0.0
    delays_s: list[float] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)


class Process:
    """One core: each request waits for a backend, for half to one and a half of its time, and then for the core."""

    def __init__(self, limit: AdaptiveLimit, clock: FakeClock) -> None:
        self.limit = limit
        self.in_flight = 0
        self._clock = clock
        self._chance = random.Random(1)
        self._core_free_at = clock.monotonic()
        self._ready_at: list[float] = []
        self._finishes: deque[tuple[float, float]] = deque()

    def run(self, for_s: float, *, every_s: float, core_s: float, backend_s: float = 0.0) -> Seen:
        """Requests arrive `every_s`; what became of them, of the time on the core, and of the limit."""
        seen = Seen()
        for _ in range(round(for_s / every_s)):
            now = self._clock.monotonic()
            if self.in_flight < self.limit.limit:
                self.in_flight += 1
                heapq.heappush(self._ready_at, now + backend_s * self._chance.uniform(0.5, 1.5))
            while self._ready_at and self._ready_at[0] <= now:
                seen.delays_s.append(self._work(heapq.heappop(self._ready_at), core_s))
            while self._finishes and self._finishes[0][0] <= now:
                self.limit.sample(self._finishes.popleft()[1], self.in_flight)
                self.in_flight -= 1
            seen.limits.append(self.limit.limit)
            self._clock.advance(every_s)
        seen.utilisation = len(seen.delays_s) * core_s / for_s
        return seen

    def _work(self, ready_at: float, core_s: float) -> float:
        """How long the core lets this request wait."""
        starts_at = max(ready_at, self._core_free_at)
        self._core_free_at = starts_at + core_s
        self._finishes.append((self._core_free_at, self._core_free_at - ready_at))
        return starts_at - ready_at


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def process(clock: FakeClock, *, ceiling: int = 200, initial: int = 20) -> Process:
    return Process(AdaptiveLimit(FLOOR, ceiling, initial, clock), clock)


def window(limit: AdaptiveLimit, clock: FakeClock, own_s: float, in_flight: int) -> None:
    """One whole window of equal requests."""
    clock.advance(0.1)
    for _ in range(10):
        limit.sample(own_s, in_flight)


@pytest.mark.parametrize("initial", [2, 20, 200])
def test_limit__ten_times_what_the_core_can_do__keeps_it_busy_and_delays_short(clock: FakeClock, initial: int) -> None:
    """Also in a process that has known nothing but overload, the core is used and nobody queues inside for 10 ms."""
    overloaded = process(clock, initial=initial)
    overloaded.run(2, every_s=0.1 * MS, core_s=MS)
    seen = overloaded.run(30, every_s=0.1 * MS, core_s=MS)
    assert max(seen.delays_s) < 10 * MS
    assert seen.utilisation >= 0.95


def test_limit__a_little_more_than_the_core_can_do__holds_delays_short(clock: FakeClock) -> None:
    """A slow slide into overload is not mistaken for the usual."""
    sliding = process(clock, initial=200)
    sliding.run(2, every_s=2 * MS, core_s=MS)
    seen = sliding.run(10, every_s=0.8 * MS, core_s=MS)
    assert max(seen.delays_s) < 100 * MS
    seen = sliding.run(10, every_s=0.8 * MS, core_s=MS)
    assert max(seen.delays_s) < 10 * MS
    assert seen.utilisation >= 0.95


@pytest.mark.parametrize(("backend_s", "used"), [(0.0, 0.99), (40 * MS, 0.95), (400 * MS, 0.85)])
def test_limit__requests_become_slower_for_good__uses_the_core_again(
    clock: FakeClock, backend_s: float, used: float
) -> None:
    """A service that has become slower is not starved, whether its requests wait for backends or not."""
    slowed = process(clock, ceiling=1000)
    for core_s in (MS, 2 * MS, 10 * MS):
        slowed.run(10, every_s=0.2 * MS, core_s=core_s, backend_s=backend_s)
        seen = slowed.run(20, every_s=0.2 * MS, core_s=core_s, backend_s=backend_s)
        assert seen.utilisation >= used


@pytest.mark.parametrize("backend_s", [40 * MS, 400 * MS])
def test_limit__overloaded_with_waits_for_backends__holds_delays_short(clock: FakeClock, backend_s: float) -> None:
    """Those who wait for a backend are let be; only those who want the core are kept few."""
    mixed = process(clock, ceiling=1000)
    mixed.run(10, every_s=0.2 * MS, core_s=MS, backend_s=backend_s)
    seen = mixed.run(30, every_s=0.2 * MS, core_s=MS, backend_s=backend_s)
    assert sum(seen.delays_s) / len(seen.delays_s) < 10 * MS
    assert seen.utilisation >= 0.95


def test_limit__requests_mostly_wait_for_backends__reaches_the_ceiling(clock: FakeClock) -> None:
    """Many in flight are no reason to refuse any while few of them want the core."""
    waiting = process(clock, ceiling=500)
    waiting.run(10, every_s=0.2 * MS, core_s=0.05 * MS, backend_s=400 * MS)
    seen = waiting.run(30, every_s=0.2 * MS, core_s=0.05 * MS, backend_s=400 * MS)
    assert set(seen.limits) == {500}


@pytest.mark.parametrize("overload_s", [2, 30])
def test_limit__an_overload_ends__is_back_within_5_s(clock: FakeClock, overload_s: int) -> None:
    """Nine tenths of the limit from before, whether it lasted two seconds or half a minute."""
    hit = process(clock, ceiling=500)
    usual = {"every_s": 0.2 * MS, "core_s": 0.05 * MS, "backend_s": 100 * MS}
    hit.run(10, **usual)
    assert hit.limit.limit == 500
    seen = hit.run(overload_s, every_s=0.2 * MS, core_s=2 * MS)
    assert seen.limits[-1] < 10
    hit.run(5, **usual)
    assert hit.limit.limit >= 450


def test_limit__few_in_flight__does_not_grow(clock: FakeClock) -> None:
    """Room that nobody asks for is not given in advance."""
    seen = process(clock).run(30, every_s=2 * MS, core_s=MS)
    assert set(seen.limits) == {20}


def test_limit__too_few_requests__waits_for_more(clock: FakeClock) -> None:
    """Nine requests move nothing, however slow and however long they are ago."""
    limit = AdaptiveLimit(FLOOR, 100, 100, clock)
    for _ in range(9):
        clock.advance(1.0)
        limit.sample(10.0, 100)
    assert limit.limit == 100


def test_limit__one_bad_window__costs_a_quarter(clock: FakeClock) -> None:
    """A pause that holds up everybody once is no trend."""
    limit = AdaptiveLimit(FLOOR, 100, 100, clock)
    window(limit, clock, 1.0, 80)
    assert limit.limit == 75


def test_limit__stays_within_its_bounds(clock: FakeClock) -> None:
    """Neither the worst nor the best that can be measured leads beyond floor and ceiling."""
    limit = AdaptiveLimit(10, 30, 20, clock)
    for _ in range(50):
        window(limit, clock, 10.0, 30)
    assert repr(limit) == "<AdaptiveLimit 10 of 10..30>"
    for _ in range(50):
        window(limit, clock, 0.0, 30)
    assert limit.limit == 30


def test_sample_lag__event_loop_is_late__shrinks_to_the_floor(clock: FakeClock) -> None:
    """A loop that is late has too much to do, also when no request finishes."""
    limit = AdaptiveLimit(FLOOR, 100, 100, clock, max_lag_s=0.05)
    limit.sample_lag(0.05)
    assert limit.limit == 100
    limit.sample_lag(0.06)
    assert limit.limit == 80
    for _ in range(50):
        limit.sample_lag(0.06)
    assert limit.limit == FLOOR


def test_sample_lag__while_late__does_not_grow(clock: FakeClock) -> None:
    """Quick requests do not prove room while the loop itself is late."""
    limit = AdaptiveLimit(FLOOR, 100, 50, clock, max_lag_s=0.05)
    clock.advance(0.1)
    for _ in range(9):
        limit.sample(MS, 50)
    limit.sample_lag(0.06)
    limit.sample(MS, 50)
    assert limit.limit == 40


def test_fixed_limit__whatever_is_measured__stays() -> None:
    """An operator's number is kept."""
    limit = FixedLimit(7)
    limit.sample(10.0, 7)
    limit.sample_lag(10.0)
    assert limit.limit == 7
    assert repr(limit) == "<FixedLimit 7>"
