"""Drills as they are shipped, in half of their time: each passes, and does not without its protection.

The full set, in its own time, is `make drills`. Invariant: everything is real here - servers, balancer, Prometheus.
"""

from pathlib import Path

import pytest

from drills.model import hurried, read, shipped
from drills.report import write
from drills.run import run

PACE = 0.5
QUICK = ("control", "2025-10-24", "cold-start")
"""One of each kind: nothing, a limit, a start without anything."""


@pytest.mark.parametrize("name", QUICK)
def test_drill__in_half_of_its_time__passes_and_can_fail(name: str, tmp_path: Path) -> None:
    """Lines hold, the alert fires and no other; and turning one protection off shows."""
    said: list[str] = []
    result = run(hurried(read(shipped()[name]), PACE), said.append)
    page = write(result, tmp_path)
    assert not result.run.missing
    assert result.failures == [], "\n".join(said)
    assert page.stat().st_size > 10_000
