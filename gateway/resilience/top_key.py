"""How much of what is checked is one key: what shows that everybody looks like one client, or that one client floods.

Which key that is does not live here. Invariant: however many keys there are, few are remembered, and a share is told
too small by at most one part in `MAX_KEYS` + 1, never too large.
"""

from typing import Final

from gateway.ports import Clock

MAX_KEYS: Final = 64
FEW: Final = 100
"""Checks of which a share says nothing."""


class TopKey:
    """Counts as Misra and Gries do: a key that finds no room takes one from each that has some."""

    def __init__(self, clock: Clock, window_s: float = 30.0) -> None:
        self._clock = clock
        self._window_s = window_s
        self._share: float | None = None
        self._counts: dict[str, int] = {}
        self._begin()

    def __repr__(self) -> str:
        return f"<TopKey {self._share} of before, {self._checks} checks since>"

    def count(self, key: str) -> None:
        """A check of this key."""
        self._checks += 1
        counts = self._counts
        if key in counts:
            counts[key] += 1
        elif len(counts) < MAX_KEYS:
            counts[key] = 1
        else:
            self._counts = {known: count - 1 for known, count in counts.items() if count > 1}

    def share(self) -> float | None:
        """The part of the key checked most in the last window that is over, from 0 to 1; None when there were few.

        A window is over when this is asked after its time: counting costs no look at the clock.
        """
        if self._clock.monotonic() >= self._ends_at:
            is_enough = self._checks >= FEW
            self._share = max(self._counts.values(), default=0) / self._checks if is_enough else None
            self._begin()
        return self._share

    def _begin(self) -> None:
        self._checks = 0
        self._counts = {}
        self._ends_at = self._clock.monotonic() + self._window_s
