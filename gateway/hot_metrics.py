"""Counters and histograms for what happens several times per request: the library's own, without their locks.

Every other metric is the library's. Invariant: only the event loop's thread counts and reads here, so nothing is lost.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Count:
    """A child of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        self.value += 1


class Spread:
    """A child of a histogram: how many fell below each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds: Final = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class HotCounter(Collector):
    """A counter; `labels` gives the child of some values, which are to come from closed sets."""

    def __init__(self, name: str, says: str, labelnames: Sequence[str], registry: CollectorRegistry) -> None:
        self.labelnames = tuple(labelnames)
        self._name, self._says = name, says
        self._children: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        return self._children.setdefault(values, Count())

    def describe(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._says, labels=self.labelnames)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._says, labels=self.labelnames)
        for values, child in self._children.items():
            family.add_metric(values, child.value)
        yield family


class HotHistogram(Collector):
    """A histogram in the same way."""

    def __init__(
        self, name: str, says: str, labelnames: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self.labelnames = tuple(labelnames)
        self._name, self._says = name, says
        self._bounds = tuple(bounds)
        self._children: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def labels(self, *values: str) -> Spread:
        return self._children.setdefault(values, Spread(self._bounds))

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(self._name, self._says, labels=self.labelnames)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._says, labels=self.labelnames)
        for values, child in self._children.items():
            below, buckets = 0, []
            for bound, count in zip((*map(str, self._bounds), "+Inf"), child.counts, strict=True):
                below += count
                buckets.append((bound, float(below)))
            family.add_metric(values, buckets, child.sum)
        yield family
