"""A circuit breaker: a dependency that keeps failing is left alone, and tried again by one call at a time.

Synchronous; whoever calls the dependency asks first and tells how it went. Invariant: while half-open there is one
probe out, and only that probe's end changes the state.
"""

import random
from collections.abc import Callable
from enum import StrEnum
from math import inf
from typing import Final

from msgspec import Struct

from gateway.ports import Clock

SLICES: Final = 10
"""The window moves on in this many steps."""


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerPolicy(Struct, frozen=True, kw_only=True):
    """When a breaker opens, and for how long; the settings of `breakers` say what each of these is for."""

    window_s: float = 10.0
    min_calls: int = 10
    failure_ratio: float = 0.5
    slow_ratio: float = 0.9
    slow_after_s: float = inf
    open_s: float = 1.0
    max_open_s: float = 5.0


class Ticket:
    """One call let through. Exactly one of its ends counts, the first."""

    __slots__ = ("_breaker", "_era", "_is_over")

    def __init__(self, breaker: "Breaker", era: int) -> None:
        self._breaker = breaker
        self._era = era
        self._is_over = False

    def succeeded(self, duration_s: float) -> None:
        self._end(failed=False, slow=duration_s > self._breaker.policy.slow_after_s)

    def failed(self) -> None:
        self._end(failed=True, slow=False)

    def dropped(self) -> None:
        """The caller went away: nothing was learnt."""
        if not self._is_over:
            self._is_over = True
            self._breaker.dropped(self._era)

    def _end(self, *, failed: bool, slow: bool) -> None:
        if not self._is_over:
            self._is_over = True
            self._breaker.ended(self._era, failed=failed, slow=slow)


class Breaker:
    def __init__(
        self,
        policy: BreakerPolicy,
        clock: Clock,
        *,
        jitter: Callable[[], float] = random.random,
        on_change: Callable[[State], None] = lambda _: None,
    ) -> None:
        self.policy = policy
        self.state = State.CLOSED
        self._clock = clock
        self._jitter = jitter
        self._on_change = on_change
        self._window = _Window(policy.window_s, clock)
        self._era = 0
        """Grows with each change of state: the end of a call that began before one says nothing about what is now."""
        self._has_probe = False
        self._failed_probes = 0
        self._opens_until = 0.0

    def __repr__(self) -> str:
        calls, failed, slow = self._window.sums()
        return f"<Breaker {self.state}, {calls} calls, {failed} failed, {slow} slow>"

    def adopt(self, policy: BreakerPolicy) -> None:
        """Open and close by this from now on; what is known of the dependency stays known."""
        self.policy = policy
        self._window.resize(policy.window_s)
        if self.state is State.OPEN:
            self._opens_until = min(self._opens_until, self._clock.monotonic() + policy.max_open_s)

    def admit(self) -> Ticket | None:
        """A ticket for one call; None when the dependency is to be left alone."""
        if self.state is State.OPEN and self._clock.monotonic() >= self._opens_until:
            self._change(State.HALF_OPEN)
        if self.state is State.OPEN or self._has_probe:
            return None
        self._has_probe = self.state is State.HALF_OPEN
        return Ticket(self, self._era)

    def ended(self, era: int, *, failed: bool, slow: bool) -> None:
        if era != self._era:
            return
        if self.state is State.HALF_OPEN:
            if failed or slow:
                self._failed_probes += 1
                self._open()
            else:
                self._failed_probes = 0
                self._change(State.CLOSED)
            return
        self._window.add(failed=failed, slow=slow)
        if self._window.streak >= self.policy.min_calls or self._are_too_many_bad():
            self._open()

    def dropped(self, era: int) -> None:
        if era == self._era:
            self._has_probe = False

    def _are_too_many_bad(self) -> bool:
        calls, failures, slows = self._window.sums()
        policy = self.policy
        return calls >= policy.min_calls and (
            failures >= policy.failure_ratio * calls or slows >= policy.slow_ratio * calls
        )

    def _open(self) -> None:
        # Beyond 2**64 nothing changes any more, and a float would overflow.
        longest_s = min(self.policy.max_open_s, self.policy.open_s * 2.0 ** min(self._failed_probes, 64))
        self._opens_until = self._clock.monotonic() + longest_s * (1 - self._jitter() / 2)
        self._change(State.OPEN)

    def _change(self, state: State) -> None:
        self.state = state
        self._era += 1
        self._has_probe = False
        self._window.clear()
        self._on_change(state)


class _Window:
    """Counts of the last `window_s` seconds, forgotten a slice at a time."""

    def __init__(self, window_s: float, clock: Clock) -> None:
        self._slice_s = window_s / SLICES
        self._clock = clock
        self._slices: dict[int, list[int]] = {}
        self._failed_last = 0
        self.streak = 0
        """Failures in a row. After many quick calls that went well, an outage of slow ones would else show too late."""

    def add(self, *, failed: bool, slow: bool) -> None:
        now = self._now()
        if not failed or now - self._failed_last > SLICES:
            self.streak = 0
        if failed:
            self.streak += 1
            self._failed_last = now
        counts = self._slices.setdefault(now, [0, 0, 0])
        counts[0] += 1
        counts[1] += failed
        counts[2] += slow

    def sums(self) -> tuple[int, int, int]:
        """Calls, failures, and slow calls."""
        oldest = self._now() - SLICES
        for number in [number for number in self._slices if number <= oldest]:
            del self._slices[number]
        calls, failed, slow = (sum(column) for column in zip([0, 0, 0], *self._slices.values(), strict=True))
        return calls, failed, slow

    def resize(self, window_s: float) -> None:
        """Look back so far from now on. What has been counted keeps its time, as exactly as new slices allow."""
        factor = self._slice_s / (window_s / SLICES)
        if factor == 1:
            return
        slices, self._slices, self._slice_s = self._slices, {}, window_s / SLICES
        for number, counts in slices.items():
            kept = self._slices.setdefault(int((number + 0.5) * factor), [0, 0, 0])
            kept[:] = map(sum, zip(kept, counts, strict=True))
        self._failed_last = int((self._failed_last + 0.5) * factor)

    def clear(self) -> None:
        self._slices.clear()
        self.streak = 0

    def _now(self) -> int:
        return int(self._clock.monotonic() / self._slice_s)
