"""The local limiter: how often each key may come, counted in this process (GCRA, the generic cell rate algorithm).

What a key is, and what becomes of a denial, is the caller's business. Invariant: over any time t a key is let in at
most amount + amount * t / window times by each of its rates, and what is denied uses nothing up.
"""

from collections import OrderedDict
from enum import StrEnum
from math import inf
from typing import Final

from msgspec import Struct

from config.rates import MAX_ITEMS, Rates
from gateway.ports import Clock

_ROUNDING: Final = 1e-4
"""The part of one place by which sums of floats may be off; else the last of a burst would be lost now and then."""
_UNSEEN: Final = (-inf,) * MAX_ITEMS


class Outcome(StrEnum):
    ALLOW = "allow"
    WARN = "warn"
    DENY = "deny"


class Decision(Struct, frozen=True):
    """What to do with one request. The numbers are those of the rate that decided, and mean nothing for `ALLOW`.

    `remaining` could come at once from now; in `reset_s` everything would be free again.
    """

    outcome: Outcome
    limit: int = 0
    remaining: int = 0
    reset_s: float = 0.0
    retry_after_s: float = 0.0


ALLOW: Final = Decision(Outcome.ALLOW)


class LocalLimiter:
    """Remembers the `max_keys` keys seen last. One that is forgotten starts afresh, whatever it had used up."""

    def __init__(self, clock: Clock, max_keys: int, *, warn_ratio: float = 0.8) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self.warn_ratio = warn_ratio
        self._full_at: OrderedDict[str, tuple[float, ...]] = OrderedDict()
        """For each item of a key's rates, when all of its amount is free again. The key unseen longest comes first."""
        self.denied = 0
        self.evicted = 0

    def __repr__(self) -> str:
        return f"<LocalLimiter {len(self)}/{self._max_keys} keys, {self.denied} denied, {self.evicted} evicted>"

    def __len__(self) -> int:
        return len(self._full_at)

    @property
    def max_keys(self) -> int:
        return self._max_keys

    @max_keys.setter
    def max_keys(self, value: int) -> None:
        self._max_keys = value
        self._evict()

    def clear(self) -> None:
        """Forget every key."""
        self._full_at.clear()

    def check(self, key: str, rates: Rates) -> Decision:
        """Whether the key may come once more now, within all of the rates; if so, that is counted.

        Rates may differ from one call to the next: each item goes on from what is stored in its place.
        """
        windows = rates.windows
        if not windows:
            return ALLOW
        now = self._clock.monotonic()
        stored = self._full_at.get(key)
        known = _UNSEEN if stored is None else stored if len(stored) >= len(windows) else stored + _UNSEEN
        counted: list[float] = []
        decisive = -1
        highest = self.warn_ratio
        for (amount, window_s), full_at in zip(windows, known, strict=False):
            place_s = window_s / amount
            used_s = place_s if full_at <= now else full_at - now + place_s
            slack_s = place_s * _ROUNDING
            if used_s > window_s + slack_s:
                return self._deny(key, known, windows, now)
            if used_s + slack_s >= highest * window_s:
                highest = used_s / window_s
                decisive = len(counted)
            counted.append(now + used_s)
        self._full_at[key] = tuple(counted)
        if stored is None:
            self._evict()
        else:
            self._full_at.move_to_end(key)
        if decisive < 0:
            return ALLOW
        amount, window_s = windows[decisive]
        used_s = counted[decisive] - now
        return Decision(Outcome.WARN, amount, int(amount * (1 - used_s / window_s) + _ROUNDING), used_s)

    def _deny(self, key: str, known: tuple[float, ...], windows: tuple[tuple[int, float], ...], now: float) -> Decision:
        """The refusal by the item that takes longest to have a place free."""
        self.denied += 1
        # A longer window may have been in force before: nobody pays back more than all of this one.
        kept = tuple(min(full_at, now + window_s) for (_, window_s), full_at in zip(windows, known, strict=False))
        self._full_at[key] = kept
        # Whoever goes on trying is not forgotten.
        self._full_at.move_to_end(key)
        retry_after_s, reset_s, amount = max(
            (full_at - now + window_s / amount - window_s, full_at - now, amount)
            for (amount, window_s), full_at in zip(windows, kept, strict=True)
        )
        return Decision(Outcome.DENY, amount, 0, reset_s, retry_after_s)

    def _evict(self) -> None:
        while len(self._full_at) > self._max_keys:
            self._full_at.popitem(last=False)
            self.evicted += 1
