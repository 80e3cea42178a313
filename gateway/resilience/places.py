"""Places: so many may be somewhere at once, and the others wait in a line, first come first served.

Who comes, and for how long, is the caller's. Invariants: a place that was handed to somebody who has gone is handed on;
and when there are fewer from now on, whoever is in stays.
"""

import asyncio
from collections import deque


class Places:
    """Use as an async context manager, or with `take` and `hand_on`."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.in_use = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.in_use}/{self.slots} in use, {self.queued} queued>"

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(self, *_: object) -> None:
        self.hand_on()

    async def take(self) -> None:
        """Returns with a place, which `hand_on` gives back."""
        if self.in_use < self.slots:
            self.in_use += 1
        else:
            await self._wait()

    def resize(self, slots: int) -> None:
        """Have so many from now on. Of fewer, those that are too many go as they come free."""
        self.slots = slots
        while self.in_use < slots and self._call_next():
            self.in_use += 1

    def hand_on(self) -> None:
        """Give a place to the next in line; to nobody, when nobody waits or there is one too many."""
        if self.in_use > self.slots or not self._call_next():
            self.in_use -= 1

    async def _wait(self) -> None:
        """Returns with a place."""
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

    def _call_next(self) -> bool:
        """Whether somebody took a place."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        return False
