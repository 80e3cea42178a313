"""A bulkhead: as many calls at once as a dependency has room for, and a short line of others, first come first served.

Invariant: a slot that was handed to somebody who has gone is handed on.
"""

import asyncio
from collections import deque
from typing import Final

from gateway.errors import StoreUnavailable
from gateway.ports import Clock

WEIGHT: Final = 0.2
"""Of the newest call in the running mean of how long slots are held."""


class Bulkhead:
    def __init__(self, slots: int, max_queued: int, clock: Clock) -> None:
        self.slots = slots
        self.in_use = 0
        self._max_queued = max_queued
        self._clock = clock
        self._queue: deque[asyncio.Future[None]] = deque()
        self.held_s = 0.0
        """How long slots are held lately."""

    def __repr__(self) -> str:
        return f"<Bulkhead {self.in_use}/{self.slots} in use, {self.queued} queued>"

    @property
    def queued(self) -> int:
        return len(self._queue)

    def expected_wait_s(self) -> float:
        """How long the next one would probably wait: nothing with a slot free, more the longer slots are held."""
        return 0.0 if self.in_use < self.slots else (self.queued + 1) * self.held_s / self.slots

    async def enter(self) -> float:
        """Waits for a slot; the time by which `leave` must be told when it was had."""
        if self.in_use < self.slots:
            self.in_use += 1
            return self._clock.monotonic()
        if self.queued >= self._max_queued:
            raise StoreUnavailable(f"{self._max_queued} calls are waiting already")
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._queue:
                self._queue.remove(turn)
            elif not turn.cancelled():
                self.hand_on()
            raise
        return self._clock.monotonic()

    def leave(self, entered_at: float) -> None:
        """Give the slot back that was entered at this time."""
        held_s = self._clock.monotonic() - entered_at
        self.held_s += WEIGHT * (held_s - self.held_s)
        self.hand_on()

    def hand_on(self) -> None:
        """Give a slot to the next in line; to nobody, when nobody waits."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_use -= 1
