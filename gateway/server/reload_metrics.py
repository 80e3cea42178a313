"""The metric families of reloads, of whichever process reads the settings: the supervisor, or a builder by itself.

Invariant: as in metrics.py, labels come from closed sets.
"""

from typing import Final

from gateway.families import Families

RESULTS: Final = ("changed", "unchanged", "refused", "failed")


class ReloadMetrics(Families):
    def __init__(self) -> None:
        super().__init__()
        self._reloads = self._counter("reloads_total", "Reloads of the settings.", ("result",))
        self._is_good = self._gauge("last_reload_good", "Whether the last reload left nothing to complain of.")
        self._is_good.set(1)
        for result in RESULTS:
            self._reloads.labels(result)

    def reloaded(self, result: str) -> None:
        self._reloads.labels(result).inc()
        self._is_good.set(result in ("changed", "unchanged"))
