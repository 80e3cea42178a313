"""The line before a dependency: who waits, who is refused, and whose turn comes too late."""

import asyncio

import pytest

from gateway.errors import StoreTimeout, StoreUnavailable
from gateway.resilience.breaker import State
from gateway.resilience.guard import Guard
from tests.fakes import FakeClock
from tests.gateway.resilience.conftest import Dependency
from tests.gateway.resilience.test_guard import SHORT_S
from tests.gateway.serving import settle


async def test_call__all_slots_taken__waits_its_turn_or_is_skipped(
    guard: Guard, dependency: Dependency, outcomes: list[str], clock: FakeClock
) -> None:
    """A short line forms; who would wait longer than they can, or finds it full, is refused at once."""
    dependency.gate.clear()
    running = [asyncio.ensure_future(guard.call(dependency.load, 1)) for _ in range(2)]
    await settle()
    waiting = [asyncio.ensure_future(guard.call(dependency.load, 20)) for _ in range(2)]
    await settle()
    with pytest.raises(StoreUnavailable, match="persons: 2 calls are waiting already"):
        await guard.call(dependency.load, 1)
    clock.advance(5)
    dependency.gate.set()
    await asyncio.gather(*running, *waiting)
    dependency.gate.clear()
    running = [asyncio.ensure_future(guard.call(dependency.load, 1)) for _ in range(2)]
    await settle()
    with pytest.raises(StoreUnavailable, match="busy for longer"):
        await guard.call(dependency.load, 0.1)
    dependency.gate.set()
    await asyncio.gather(*running)
    assert guard.breaker.state is State.CLOSED
    assert outcomes.count("busy") == 2


async def test_call__out_of_time_while_waiting_for_a_slot__is_not_held_against_the_dependency(
    guard: Guard, dependency: Dependency, outcomes: list[str]
) -> None:
    """Waiting in line is our business, not a failure of what was never asked."""
    dependency.gate.clear()
    running = [asyncio.ensure_future(guard.call(dependency.load, 1)) for _ in range(2)]
    await settle()
    with pytest.raises(StoreTimeout):
        await guard.call(dependency.load, SHORT_S)
    leaving = asyncio.ensure_future(guard.call(dependency.load, 1))
    await settle()
    leaving.cancel()
    await settle()
    dependency.gate.set()
    await asyncio.gather(*running)
    assert outcomes == ["busy", "gone", "ok", "ok"]
    assert dependency.calls == 2
    assert repr(guard.breaker) == "<Breaker closed, 2 calls, 0 failed, 0 slow>"


async def test_call__turn_comes_when_little_time_is_left__is_not_begun(
    guard: Guard, dependency: Dependency, outcomes: list[str], clock: FakeClock
) -> None:
    """A load that would be given up midway is not begun: the next in line has more time, and gets the turn."""
    dependency.gate.clear()
    running = [asyncio.ensure_future(guard.call(dependency.load, 20)) for _ in range(2)]
    await settle()
    late, in_time = (asyncio.ensure_future(guard.call(dependency.load, time_s)) for time_s in (5.5, 20))
    await settle()
    clock.advance(5)
    dependency.gate.set()
    await asyncio.gather(*running, in_time)
    with pytest.raises(StoreUnavailable, match="busy for too long"):
        await late
    assert dependency.calls == 3
    assert sorted(outcomes) == ["busy", "ok", "ok", "ok"]
    assert guard.bulkhead.in_use == 0
    assert await guard.call(dependency.load, 0.1) == 4
