"""What the supervisor counts: its workers, how they ended, and what became of reloads; and what its container uses.

Joined to the workers' own metrics by exposition.py. Invariant: as in metrics.py, labels come from closed sets.
"""

from collections.abc import Sequence
from typing import Final

from gateway.families import Families
from gateway.server.container_metrics import ContainerMetrics
from gateway.server.reload_metrics import ReloadMetrics

STATES: Final = ("starting", "accepting", "ready", "leaving")
CAUSES: Final = ("exit", "killed", "crashed")
REASONS: Final = ("roll", "max_requests", "memory", "signal")
_FAULTS: Final = {-4, -6, -7, -8, -11}


class Tally(Families):
    def __init__(self) -> None:
        super().__init__()
        self._workers = self._gauge("workers", "Workers by what they are doing.", ("state",))
        self._exits = self._counter("worker_exits_total", "Workers that ended without being told to.", ("cause",))
        self._replaced = self._counter(
            "worker_replacements_total", "Workers whose place a new one was to take.", ("reason", "result")
        )
        self._generation = self._gauge("supervisor_settings_generation", "Times that settings were put in force.")
        self._reloads = ReloadMetrics()
        self.render_beside(self._reloads)
        self.render_beside(ContainerMetrics())
        for cause in CAUSES:
            self._exits.labels(cause)
        for reason in REASONS:
            for result in ("done", "given_up"):
                self._replaced.labels(reason, result)

    def exited(self, code: int) -> None:
        """A worker ended with this code, negative for a signal."""
        self._exits.labels("crashed" if code in _FAULTS else "killed" if code < 0 else "exit").inc()

    def replaced(self, reason: str, *, is_done: bool) -> None:
        self._replaced.labels(reason, "done" if is_done else "given_up").inc()

    def reloaded(self, result: str, generation: int) -> None:
        self._reloads.reloaded(result)
        self._generation.set(generation)

    def render_with(self, states: Sequence[str]) -> bytes:
        """Everything in the text format of Prometheus, given the states of the workers."""
        for state in STATES:
            self._workers.labels(state).set(states.count(state))
        return self.render()
