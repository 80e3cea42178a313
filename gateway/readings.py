"""Metrics of what is read elsewhere: the system, a window that has passed. Absent as long as there is nothing to tell.

Every other metric is the library's or in hot_metrics.py. Invariant: no value is made up for one that cannot be had.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Reading(Collector):
    """A counter, if its name ends like one, or else a gauge. It has the series that were set."""

    def __init__(self, name: str, says: str, labelnames: Sequence[str], registry: CollectorRegistry) -> None:
        self.labelnames = tuple(labelnames)
        self._name: Final = name
        self._says: Final = says
        self._values: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def set(self, value: float | None, *labels: str) -> None:
        """Tell this from now on; None: nothing."""
        if value is None:
            self._values.pop(labels, None)
        else:
            self._values[labels] = value

    def _family(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self._name.endswith("_total") else GaugeMetricFamily
        return kind(self._name, self._says, labels=self.labelnames)

    def describe(self) -> Iterator[Metric]:
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family
