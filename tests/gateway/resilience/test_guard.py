"""The guard: an answer or an error in time, one load for equal calls, and blame only where it belongs."""

import asyncio
import logging
from typing import Any

import pytest

from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.resilience.breaker import Breaker, BreakerPolicy, State
from gateway.resilience.bulkhead import Bulkhead
from gateway.resilience.guard import FASTEST_WINDOW_S, Guard
from tests.fakes import FakeClock
from tests.gateway.resilience.conftest import Dependency
from tests.gateway.serving import settle

SHORT_S = 0.01


async def test_call__dependency_answers__gives_the_answer(
    guard: Guard, dependency: Dependency, outcomes: list[str]
) -> None:
    """What is loaded is given."""
    assert await guard.call(dependency.load, 1) == 1
    assert outcomes == ["ok"]
    assert "0 abandoned" in repr(guard)


@pytest.mark.parametrize("error", [StoreError("x"), StoreUnavailable("x"), RuntimeError("a bug")])
async def test_call__dependency_fails__raises_that_and_opens_the_breaker(
    guard: Guard, dependency: Dependency, outcomes: list[str], error: Exception
) -> None:
    """Errors come through as they are, and enough of them leave the dependency alone."""
    dependency.error = error
    for _ in range(3):
        with pytest.raises(type(error)):
            await guard.call(dependency.load, 1)
    with pytest.raises(StoreUnavailable, match="persons: circuit open"):
        await guard.call(dependency.load, 1)
    assert outcomes == ["error", "error", "error", "open"]
    assert dependency.calls == 3


async def test_call__load_cancelled_from_within__is_an_error_like_others(
    guard: Guard, dependency: Dependency, clock: FakeClock, outcomes: list[str]
) -> None:
    """A driver that cancels something of its own ends neither its caller nor, as a probe, the breaker's recovery."""
    dependency.error = asyncio.CancelledError()
    for _ in range(3):
        with pytest.raises(StoreError, match="persons: cancelled from within"):
            await guard.call(dependency.load, 1)
    for open_s in (1, 2):
        clock.advance(open_s)
        with pytest.raises(StoreError, match="cancelled from within"):
            await guard.call(dependency.load, 1)
    clock.advance(4)
    dependency.error = None
    assert await guard.call(dependency.load, 1) == 6
    assert guard.breaker.state is State.CLOSED
    assert outcomes == ["error"] * 5 + ["ok"]


async def test_call__dependency_says_it_timed_out__is_a_timeout(
    guard: Guard, dependency: Dependency, outcomes: list[str]
) -> None:
    """An adapter's own time limit counts like ours."""
    dependency.error = StoreTimeout("x")
    with pytest.raises(StoreTimeout):
        await guard.call(dependency.load, 1)
    assert outcomes == ["timeout"]


async def test_call__dependency_hangs__ends_in_time_and_counts_as_failure(
    guard: Guard, dependency: Dependency, outcomes: list[str]
) -> None:
    """Our own time limits trip the breaker, or a hung dependency would never be left alone."""
    dependency.gate.clear()
    for _ in range(3):
        with pytest.raises(StoreTimeout, match="persons: no answer within 10 ms"):
            await guard.call(dependency.load, SHORT_S)
        await settle()
    assert guard.breaker.state is State.OPEN
    assert outcomes == ["timeout"] * 3
    assert dependency.cancelled == 3


async def test_call__caller_goes_away__is_no_failure(guard: Guard, dependency: Dependency, outcomes: list[str]) -> None:
    """Clients that leave cancel their load and say nothing about the dependency."""
    dependency.gate.clear()
    for _ in range(10):
        call = asyncio.ensure_future(guard.call(dependency.load, 1))
        await settle()
        call.cancel()
        await settle()
        assert call.cancelled()
    assert guard.breaker.state is State.CLOSED
    assert outcomes == ["gone"] * 10
    assert guard.bulkhead.in_use == 0


async def test_call__same_key_at_once__is_one_load(guard: Guard, dependency: Dependency) -> None:
    """Equal calls share a load while it is under way; other keys, and later calls, load for themselves."""
    dependency.gate.clear()
    same = [asyncio.ensure_future(guard.call(dependency.load, 1, "a")) for _ in range(50)]
    other = asyncio.ensure_future(guard.call(dependency.load, 1, "b"))
    await settle()
    dependency.gate.set()
    assert len(set(await asyncio.gather(*same))) == 1
    await other
    assert dependency.calls == 2
    await guard.call(dependency.load, 1, "a")
    assert dependency.calls == 3


async def test_call__one_of_several_leaves__the_others_get_the_answer(guard: Guard, dependency: Dependency) -> None:
    """Neither a cancelled caller nor one out of time takes the load from the others; the last one to leave does."""
    dependency.gate.clear()
    leaving = asyncio.ensure_future(guard.call(dependency.load, 1, "a"))
    hasty = asyncio.ensure_future(guard.call(dependency.load, SHORT_S, "a"))
    staying = asyncio.ensure_future(guard.call(dependency.load, 1, "a"))
    await settle()
    leaving.cancel()
    with pytest.raises(StoreTimeout):
        await hasty
    assert dependency.cancelled == 0
    dependency.gate.set()
    assert await staying == 1
    dependency.gate.clear()
    with pytest.raises(StoreTimeout):
        await guard.call(dependency.load, SHORT_S, "a")
    await settle()
    assert dependency.cancelled == 1
    dependency.gate.set()
    assert await guard.call(dependency.load, 1, "a") == 3


async def test_call__dependency_ignores_being_cancelled__does_not_hold_its_caller(
    guard: Guard, dependency: Dependency, outcomes: list[str]
) -> None:
    """Loads that will not end are left behind up to a bound, beyond which the dependency is not asked."""
    dependency.is_stubborn = True
    dependency.gate.clear()
    for _ in range(2):
        with pytest.raises(StoreTimeout):
            await guard.call(dependency.load, SHORT_S)
    with pytest.raises(StoreUnavailable, match="have not ended"):
        await guard.call(dependency.load, 1)
    assert "2 abandoned" in repr(guard)
    assert guard.bulkhead.in_use == 2
    dependency.error = RuntimeError("too late for anybody")
    dependency.gate.set()
    await settle()
    assert "0 abandoned" in repr(guard)
    assert guard.bulkhead.in_use == 0
    assert outcomes == ["timeout", "timeout", "busy"]


async def test_call__fifty_at_once_when_half_open__one_goes_through(
    guard: Guard, dependency: Dependency, clock: FakeClock
) -> None:
    """A dependency that comes back meets one call, not the herd."""
    dependency.error = StoreError("x")
    for _ in range(3):
        with pytest.raises(StoreError):
            await guard.call(dependency.load, 1)
    clock.advance(1)
    dependency.error = None
    dependency.gate.clear()
    herd = [asyncio.ensure_future(guard.call(dependency.load, 1)) for _ in range(50)]
    await settle()
    assert dependency.calls == 4
    dependency.gate.set()
    answers = await asyncio.gather(*herd, return_exceptions=True)
    assert sum(isinstance(answer, int) for answer in answers) == 1
    assert guard.breaker.state is State.CLOSED


@pytest.mark.parametrize("time_left_s", [0, -1])
async def test_call__no_time_left__does_not_ask(
    guard: Guard, dependency: Dependency, outcomes: list[str], time_left_s: float
) -> None:
    """No load starts after the deadline, and nobody is blamed."""
    with pytest.raises(StoreTimeout):
        await guard.call(dependency.load, time_left_s)
    assert (outcomes, dependency.calls) == (["skipped"], 0)


async def test_call__less_time_than_the_quickest_lately__does_not_ask(
    guard: Guard, dependency: Dependency, clock: FakeClock, outcomes: list[str]
) -> None:
    """What cannot finish is not begun, until what was known of the dependency is old."""

    async def take_200_ms() -> None:
        clock.advance(0.2)

    await guard.call(take_200_ms, 1)
    with pytest.raises(StoreTimeout, match="100 ms are too few lately"):
        await guard.call(dependency.load, 0.1)
    clock.advance(FASTEST_WINDOW_S)
    with pytest.raises(StoreTimeout):
        await guard.call(dependency.load, 0.1)
    clock.advance(FASTEST_WINDOW_S)
    assert await guard.call(dependency.load, 0.1) == 1
    clock.advance(3 * FASTEST_WINDOW_S)
    assert await guard.call(dependency.load, 0.1) == 2
    assert outcomes == ["ok", "skipped", "skipped", "ok", "ok"]


async def test_close__loads_under_way__are_cancelled_and_nothing_is_left(
    clock: FakeClock, dependency: Dependency, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing leaves no task behind, and asyncio has nothing to complain of."""
    caplog.set_level(logging.WARNING)
    before = asyncio.all_tasks()
    dependency.gate.clear()
    calls: list[Any] = []
    breaker = Breaker(BreakerPolicy(), clock)
    async with Guard("x", breaker, Bulkhead(2, 2, clock), clock) as guard:
        calls = [asyncio.ensure_future(guard.call(dependency.load, 1)) for _ in range(3)]
        await settle()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["x: closed"] * 3
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert asyncio.all_tasks() == before
    assert caplog.records == []


async def test_close__load_ignores_being_cancelled__is_not_waited_for(
    clock: FakeClock, dependency: Dependency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dependency that hangs does not keep the process from stopping."""
    monkeypatch.setattr("gateway.resilience.guard.CLOSE_TIMEOUT_S", SHORT_S)
    dependency.is_stubborn = True
    dependency.gate.clear()
    guard = Guard("x", Breaker(BreakerPolicy(), clock), Bulkhead(2, 2, clock), clock)
    async with asyncio.timeout(5), guard:
        with pytest.raises(StoreTimeout):
            await guard.call(dependency.load, SHORT_S)
    assert "1 abandoned" in repr(guard)
    dependency.gate.set()
    await settle()
    assert "0 abandoned" in repr(guard)
