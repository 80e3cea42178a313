"""Metrics that tell traces what they are told, in a process that traces at all.

Invariant: without `traces.url` this is not there, and nothing asks per request whether it is.
"""

from config.settings import Settings
from gateway.metrics import Metrics, Phase
from gateway.ports import Clock
from gateway.traces import Part, trace_here


def metrics_of(settings: Settings, clock: Clock) -> Metrics:
    """The metrics of a worker with these settings."""
    return TracedMetrics(clock) if settings.traces.url else Metrics()


class TracedMetrics(Metrics):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def phase(self, phase: Phase, duration_s: float) -> None:
        super().phase(phase, duration_s)
        if (trace := trace_here.get()) is not None:
            trace.note(Part(phase.value, self._clock.monotonic(), duration_s))

    def called(self, dependency: str, outcome: str, waited_s: float, took_s: float) -> None:
        super().called(dependency, outcome, waited_s, took_s)
        if (trace := trace_here.get()) is not None:
            trace.note(Part(dependency, self._clock.monotonic(), took_s, outcome, waited_s))
