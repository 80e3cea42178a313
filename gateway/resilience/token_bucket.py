"""A token bucket: so much per second on average, and a burst of it at once.

Invariant: over any time t, no more than burst + rate * t is granted by `take`; what was owed beyond that is paid back
before anything is granted again.
"""

from gateway.ports import Clock


class TokenBucket:
    def __init__(self, rate_per_s: float, burst: float, clock: Clock) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._level = burst
        self._at = clock.monotonic()

    def __repr__(self) -> str:
        return f"<TokenBucket {self._level:.1f}/{self._burst:.1f}>"

    def adopt(self, rate_per_s: float, burst: float) -> None:
        """Grant this much from now on; what was used or saved up before counts, up to the new burst."""
        self._level = min(burst, self.level())
        self._rate_per_s, self._burst = rate_per_s, burst

    def take(self, amount: float = 1.0) -> bool:
        """Whether this much is granted now."""
        if self.level() < amount:
            return False
        self._level -= amount
        return True

    def owe(self, amount: float) -> None:
        """Take what was used already, however much there is."""
        self._level = self.level() - amount

    def level(self) -> float:
        """How much could be granted now; negative while something is owed."""
        now = self._clock.monotonic()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate_per_s)
        self._at = now
        return self._level
