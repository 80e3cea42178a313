"""A builder over fakes, whose time is moved by hand, for tests of which project is built or verified when.

Invariant: `build` begins all that is due now, and returns once it is through; nothing else runs unless told to.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from config.builder import Builder as Settings
from gateway.builder_metrics import BuilderMetrics
from gateway.services.builder import Builder
from tests.fake_builds import FakeBuilds, FakeShelf
from tests.fakes import FakeClock

PATIENCE_S = 10.0


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.store = FakeBuilds(self.clock)
        self.shelf = FakeShelf()
        self.metrics = BuilderMetrics()
        self.settings = Settings(**settings)
        self.builder = Builder(self.store, self.shelf, self.settings, self.clock, self.metrics)

    async def build(self) -> int:
        """How many projects were edited and due, and are gone through now."""
        jobs = await self.store.claim(100, self.settings.lease_s)
        await asyncio.gather(*map(self.builder._build, jobs))
        return len(jobs)

    async def verify(self, older_than_s: float = 0.0) -> int:
        """How many projects were to be compared, and are now."""
        jobs = await self.store.claim_unverified(100, self.settings.lease_s, older_than_s)
        await asyncio.gather(*map(self.builder._verify, jobs))
        return len(jobs)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        """The same, at work by itself."""
        async with self.builder:
            yield self

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until this is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.001)

    def sample(self, name: str, **labels: str) -> float:
        """The value of a metric, or 0 where it has none yet."""
        self.metrics.render()
        return self.metrics._registry.get_sample_value(f"flagstone_{name}", labels) or 0.0


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged."""
    return [record.message for record in caplog.records]
