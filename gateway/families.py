"""What sets of metric families have in common: a registry, what is read at a scrape, and the text they are served as.

Which families there are does not live here. Invariant: whatever breaks while one is read, the others are shown.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.hot_metrics import HotCounter, HotHistogram
from gateway.readings import Reading
from gateway.telemetry import log_event

PREFIX: Final = "flagstone_"

Family_co = TypeVar("Family_co", covariant=True)


class _Family(Protocol[Family_co]):
    def labels(self, *values: str) -> Family_co: ...


class Families:
    """Metrics in a registry of their own, so that one process can hold several."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._callbacks: list[Callable[[], None]] = []
        self._beside: list[Families] = []

    def _counter(self, name: str, says: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(PREFIX + name, says, labels, registry=self._registry)

    def _gauge(self, name: str, says: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(PREFIX + name, says, labels, registry=self._registry)

    def _reading(self, name: str, says: str, labels: Sequence[str] = ()) -> Reading:
        return Reading(PREFIX + name, says, labels, self._registry)

    def at_scrape(self, callback: Callable[[], None]) -> None:
        """Have gauges set by this when somebody reads them."""
        self._callbacks.append(callback)

    def render_beside(self, other: "Families") -> None:
        """Have these rendered too."""
        self._beside.append(other)

    def render(self) -> bytes:
        """Everything in the text format of Prometheus."""
        for callback in self._callbacks:
            try:
                callback()
            except Exception as error:  # One broken gauge must not hide all the others.
                log_event("metric_crashed", logging.ERROR, exception=error)
        return generate_latest(self._registry) + b"".join(other.render() for other in self._beside)

    def families(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """The type and the labels of each family by its name."""
        found = [it for it in self.__dict__.values() if isinstance(it, Counter | Gauge | Histogram)]
        hot = [it for it in self.__dict__.values() if isinstance(it, HotCounter | HotHistogram | Reading)]
        described = {family.name: (family.type, it._labelnames) for it in found for family in it.describe()}  # noqa: SLF001
        described |= {family.name: (family.type, it.labelnames) for it in hot for family in it.describe()}
        return {name: it for other in self._beside for name, it in other.families().items()} | described


def bound(family: _Family[Family_co], values: Iterable[str]) -> dict[str, Family_co]:
    """The children of a family with one label, by its values."""
    return {value: family.labels(value) for value in values}
