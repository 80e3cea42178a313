"""What the latest calls of a dependency came to, as a guard tells of them: whether it is well, as far as is known.

Asks nobody. Invariant: one call that failed says little; two in a row, or a breaker that is not closed, say enough.
"""

from math import inf
from typing import Final

from gateway.ports import Clock
from gateway.resilience.breaker import Breaker, State
from gateway.resilience.guard import Outcome

FAILURES: Final = 2
NEEDED_S: Final = 60.0
"""Who needs a dependency that fails asks for it more often than this; otherwise nobody knows how it is by now."""
_FAILED: Final = {
    Outcome.TIMEOUT: "the last call got no answer in time",
    Outcome.ERROR: "the last call failed",
    Outcome.BUSY: "all connections are busy",
}


class CallWatch:
    def __init__(self, breaker: Breaker, clock: Clock) -> None:
        self._breaker = breaker
        self._clock = clock
        self._failures = 0
        self._last = Outcome.OK
        self._needed_at = -inf

    def __repr__(self) -> str:
        return f"<CallWatch {self.breaker}, {self._failures} failures in a row, the last by {self._last}>"

    def called(self, outcome: Outcome) -> None:
        """A call ended like this, or was not made."""
        if outcome is Outcome.OK:
            self._failures = 0
        elif outcome in _FAILED:
            self._failures += 1
            self._last = outcome
        elif outcome is not Outcome.OPEN:
            return
        self._needed_at = self._clock.monotonic()

    @property
    def breaker(self) -> State:
        return self._breaker.state

    @property
    def problem(self) -> str | None:
        """Why it is not well; None when it is."""
        if self._breaker.state is State.CLOSED and self._failures < FAILURES:
            return None
        return _FAILED.get(self._last, "too many calls were slow")

    @property
    def is_needed(self) -> bool:
        """Whether what is known of it is of now."""
        return self._clock.monotonic() - self._needed_at < NEEDED_S
