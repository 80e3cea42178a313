"""What the store said of something, kept for a while so that it need not be asked for each request.

What is asked is the caller's. Invariant: while the store does not answer, what it said last counts on; that there is
no such thing is said only when the store says so, and is never kept.
"""

from collections.abc import Callable, Coroutine, Hashable
from math import inf
from typing import Any, Generic, TypeVar

from cachetools import LRUCache
from msgspec import Struct

from config.reload import Live
from gateway.errors import StoreError, Unavailable
from gateway.ports import Clock, Deadline
from gateway.resilience.guard import Guard

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Known(Struct, Generic[T], frozen=True):
    value: T
    said_at: float


class Remembered(Generic[K, T]):
    """Answers by what was asked. How long they count, and how many are kept, are the settings of `keys`."""

    def __init__(
        self, what: str, ask: Callable[[K], Coroutine[Any, Any, T | None]], guard: Guard, live: Live, clock: Clock
    ) -> None:
        self._what = what
        self._ask = ask
        self._guard = guard
        self._live = live
        self._clock = clock
        self._known: LRUCache[K, _Known[T]] = LRUCache(inf)

    def __repr__(self) -> str:
        return f"<Remembered {self._what}: {len(self._known)}>"

    async def get(self, asked: K, deadline: Deadline) -> T | None:
        """What the store says, or said last; None when there is no such thing. Raises Unavailable when nobody knows.

        Questions that are the same share one call.
        """
        settings = self._live.settings
        known = self._known.get(asked)
        if known is not None and self._clock.monotonic() - known.said_at < settings.keys.ttl_s:
            return known.value
        reserve_s = min(settings.requests.answer_reserve_ms / 1000, deadline.budget_s / 2)
        try:
            value = await self._guard.call(
                lambda: self._ask(asked), deadline.remaining_s() - reserve_s, (self._what, asked)
            )
        except StoreError:
            if known is not None and self._clock.monotonic() - known.said_at < settings.keys.stale_s:
                return known.value
            raise Unavailable from None
        if value is None:
            self._known.pop(asked, None)
            return None
        self._known[asked] = _Known(value, self._clock.monotonic())
        while len(self._known) > settings.keys.max_known:
            self._known.popitem()
        return value
