"""A guard before a dependency that does as it is told, on a clock that is moved."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.resilience.breaker import Breaker, BreakerPolicy
from gateway.resilience.bulkhead import Bulkhead
from gateway.resilience.guard import Guard
from tests.fakes import FakeClock


class Dependency:
    """Answers when its gate is open, or raises `error`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.calls = 0
        self.cancelled = 0
        self.is_stubborn = False

    async def load(self) -> int:
        self.calls += 1
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if not self.is_stubborn:
                    raise
        if self.error is not None:
            raise self.error
        return self.calls


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outcomes() -> list[str]:
    return []


@pytest.fixture
def dependency() -> Dependency:
    return Dependency()


@pytest.fixture
async def guard(clock: FakeClock, outcomes: list[str]) -> AsyncIterator[Guard]:
    breaker = Breaker(BreakerPolicy(min_calls=3), clock, jitter=lambda: 0.0)

    def on_call(outcome: str, waited_s: float, took_s: float) -> None:
        outcomes.append(outcome)

    async with Guard("persons", breaker, Bulkhead(2, 2, clock), clock, on_call=on_call, max_abandoned=2) as guard:
        yield guard
