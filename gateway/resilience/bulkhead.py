"""A bulkhead: as many calls at once as a dependency has room for, and a short line of others, first come first served.

The places themselves are places.py's. Invariant: the line is bounded, and everybody in it knows how long it takes.
"""

from typing import Final

from gateway.errors import StoreUnavailable
from gateway.ports import Clock
from gateway.resilience.places import Places

WEIGHT: Final = 0.2
"""Of the newest call in the running mean of how long slots are held."""


class Bulkhead(Places):
    def __init__(self, slots: int, max_queued: int, clock: Clock) -> None:
        super().__init__(slots)
        self.max_queued = max_queued
        self._clock = clock
        self.held_s = 0.0
        """How long slots are held lately."""

    def expected_wait_s(self) -> float:
        """How long the next one would probably wait: nothing with a slot free, more the longer slots are held."""
        return 0.0 if self.in_use < self.slots else (self.queued + 1) * self.held_s / self.slots

    async def enter(self) -> float:
        """Waits for a slot; the time by which `leave` must be told when it was had."""
        if self.in_use < self.slots:
            self.in_use += 1
            return self._clock.monotonic()
        if self.queued >= self.max_queued:
            raise StoreUnavailable(f"{self.max_queued} calls are waiting already")
        await self._wait()
        return self._clock.monotonic()

    def leave(self, entered_at: float) -> None:
        """Give the slot back that was entered at this time."""
        held_s = self._clock.monotonic() - entered_at
        self.held_s += WEIGHT * (held_s - self.held_s)
        self.hand_on()
