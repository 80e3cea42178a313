"""The metric families of the container that the processes run in, of which one process tells for all.

Invariant: each is absent where the system does not tell.
"""

import os
from itertools import product
from pathlib import Path

from gateway.families import Families
from gateway.server import machine


class ContainerMetrics(Families):
    def __init__(self, root: Path = machine.ROOT) -> None:
        super().__init__()
        self._root = root
        self._cpu_s = self._reading("container_cpu_seconds_total", "Processor time of the container.")
        self._cores = self._reading("container_cpu_limit_cores", "Cores that the container may use.")
        self._throttled_s = self._reading(
            "container_cpu_throttled_seconds_total", "How long the container was kept from running by its limit."
        )
        self._memory = self._reading("container_memory_bytes", "Memory of the container that cannot be dropped.")
        self._memory_limit = self._reading("container_memory_limit_bytes", "What the container may occupy.")
        self._pressure_s = self._reading(
            "pressure_seconds_total", "How long something, or everything, had to wait.", ("resource", "kind")
        )
        self.at_scrape(self._measure)

    def _measure(self) -> None:
        container = machine.container(_cores(), self._root)
        self._cpu_s.set(container.cpu_s)
        self._cores.set(container.cpu_limit_cores)
        self._throttled_s.set(container.cpu_throttled_s)
        self._memory.set(container.memory_bytes)
        self._memory_limit.set(container.memory_limit_bytes)
        waited_s = machine.pressure(self._root)
        for labels in product(machine.RESOURCES, machine.KINDS):
            self._pressure_s.set(waited_s.get(labels), *labels)


def _cores() -> int:
    """Those that this process may run on; all of them where the system knows no such choice."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
