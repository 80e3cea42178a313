"""How many requests at once this process takes in: a fixed number, or one that follows how crowded its only core is.

Who enters and who waits is the gate's. Invariant: only time spent in this process counts; a slow backend or client
never makes the limit smaller, and neither does a service that has become slower for good.
"""

from math import sqrt
from typing import Final

from gateway.ports import Clock

WINDOW_S: Final = 0.1
"""Long enough to average over many turns of the event loop, short enough to react before callers give up."""
MIN_SAMPLES: Final = 10
"""In a window: fewer say more about the requests that came than about the process."""
CROWD: Final = 6.0
"""Requests that may want the core at once: one has it, and with so many behind it chance rarely lets it idle, while
nobody waits longer than six others take."""
CROWD_S: Final = 0.008
"""The most that those may take together, with dear requests: one turn of the event loop, before which nobody is refused
and health is not answered."""
MIN_CROWD: Final = 2.0
"""However dear they are: one runs, and one is ready."""
MIN_GRADIENT: Final = 0.5
"""The least of the limit that a window can ask for."""
SHRINK_WEIGHT: Final = 0.5
"""Of a window that asks for less: a single one, a collection of garbage say, is no trend, and what shrinking does shows
only once those in flight have left. Growth is cautious anyway."""
LAG_FACTOR: Final = 0.8
"""What a lag leaves of the limit: a third after half a second, when told every 100 ms."""


class FixedLimit:
    """A limit that stays whatever is measured."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __repr__(self) -> str:
        return f"<FixedLimit {self.limit}>"

    def sample(self, own_s: float, in_flight: int) -> None:
        """Nothing is learned."""

    def sample_lag(self, lag_s: float) -> None:
        """Nothing is learned."""


class AdaptiveLimit:
    """A limit that shrinks while requests queue for the core inside the process, and grows while they do not.

    The usual gradient compares times with the shortest known, which goes out of date, and is learned anew by letting
    hardly anybody in. One event loop needs no such memory: by Little's law the time that requests ran or waited for
    the loop, added up and divided by the length of the window, is how many wanted the core at once. Hence the mean of
    a window and not its median: the law holds for no other. The gradient is the share of those in flight that is not
    too many there; so those who wait for a backend are let be.
    """

    def __init__(self, floor: int, ceiling: int, initial: int, clock: Clock, *, max_lag_s: float = 0.05) -> None:
        self.limit = initial
        self._floor = floor
        self._ceiling = ceiling
        self._clock = clock
        self._max_lag_s = max_lag_s
        self._estimate = float(initial)
        self._opened_at = clock.monotonic()
        self._own_s = 0.0
        self._samples = 0
        self._peak = 1

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self.limit} of {self._floor}..{self._ceiling}>"

    def sample(self, own_s: float, in_flight: int) -> None:
        """Take in a request that has finished.

        `own_s` are the seconds it ran or waited for the event loop: waits for backends and for the client are left
        out. `in_flight` counts it as well.
        """
        self._own_s += own_s
        self._samples += 1
        if in_flight > self._peak:  # noqa: PLR1730 - half the cost of max(), on every request.
            self._peak = in_flight
        if self._samples >= MIN_SAMPLES:
            now = self._clock.monotonic()
            if now - self._opened_at >= WINDOW_S:
                self._close_window(now)

    def sample_lag(self, lag_s: float) -> None:
        """Take in how late the event loop is, told every 50 to 100 ms: it is late also when no request finishes.

        A lag starts the window over, since quick requests prove no room in a loop that is late.
        """
        if lag_s > self._max_lag_s:
            self._set(self._estimate * LAG_FACTOR)
            self._open_window(self._clock.monotonic())

    def _open_window(self, now: float) -> None:
        self._opened_at = now
        self._own_s = 0.0
        self._samples = 0
        self._peak = 1

    def _close_window(self, now: float) -> None:
        crowd = self._own_s / (now - self._opened_at)
        # Of a core that is busy, the time between two answers is what one takes; of an idle one it does not matter.
        allowed = min(CROWD, max(MIN_CROWD, CROWD_S * self._samples / (now - self._opened_at)))
        if crowd > allowed:
            gradient = max(MIN_GRADIENT, 1.0 - (crowd - allowed) / self._peak)
            self._set(self._estimate * (1.0 - SHRINK_WEIGHT * (1.0 - gradient)))
        elif self._peak * 2 >= self._estimate:  # Room that nobody asked for proves nothing about more room.
            self._set(self._estimate + sqrt(self._estimate) * (1.0 - crowd / allowed))
        self._open_window(now)

    def _set(self, estimate: float) -> None:
        self._estimate = min(float(self._ceiling), max(float(self._floor), estimate))
        self.limit = int(self._estimate)


Limit = AdaptiveLimit | FixedLimit
