"""What a builder does, on demand: for tests of what comes after it."""

from typing import Any

from config.builder import Builder as Settings
from gateway.builder_metrics import BuilderMetrics
from gateway.ports import SystemClock
from gateway.services.builder import Builder

EAGER = Settings(min_rest_ms=0, max_rest_ms=0)


async def publish(store: Any) -> None:
    """Publish whatever was imported or edited."""
    await Builder(store.builds, None, EAGER, SystemClock(), BuilderMetrics()).drain()
    backlog = await store.builds.backlog()
    assert (backlog.dirty, backlog.failing) == (0, 0)
