"""The bulkhead: never more calls than slots, first come first served, and no slot lost."""

import asyncio
import random

import pytest

from gateway.errors import StoreUnavailable
from gateway.resilience.bulkhead import Bulkhead
from tests.fakes import FakeClock
from tests.gateway.serving import settle


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_enter__slots_are_free__does_not_wait(clock: FakeClock) -> None:
    """As many as there are slots go at once."""
    bulkhead = Bulkhead(2, 1, clock)
    for _ in range(2):
        await asyncio.wait_for(bulkhead.enter(), 1)
    assert repr(bulkhead) == "<Bulkhead 2/2 in use, 0 queued>"


async def test_enter__all_slots_taken__goes_in_the_order_of_coming(clock: FakeClock) -> None:
    """Who waits longest is next; who finds the line full is refused."""
    bulkhead = Bulkhead(1, 2, clock)
    entered_at = await bulkhead.enter()
    waiting = [asyncio.ensure_future(bulkhead.enter()) for _ in range(2)]
    await settle()
    with pytest.raises(StoreUnavailable, match="2 calls are waiting"):
        await bulkhead.enter()
    bulkhead.leave(entered_at)
    await settle()
    assert [it.done() for it in waiting] == [True, False]
    bulkhead.leave(waiting[0].result())
    await settle()
    bulkhead.leave(waiting[1].result())
    assert (bulkhead.in_use, bulkhead.queued) == (0, 0)


async def test_enter__cancelled_while_waiting__leaves_the_line(clock: FakeClock) -> None:
    """Somebody who goes away makes room for who is behind."""
    bulkhead = Bulkhead(1, 5, clock)
    entered_at = await bulkhead.enter()
    first, second = (asyncio.ensure_future(bulkhead.enter()) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert bulkhead.queued == 1
    bulkhead.leave(entered_at)
    await settle()
    assert second.done()


async def test_enter__cancelled_just_before_a_slot_is_left__is_passed_over(clock: FakeClock) -> None:
    """Who has left but not yet noticed gets no slot, and hears of the cancellation, of nothing else."""
    bulkhead = Bulkhead(1, 5, clock)
    entered_at = await bulkhead.enter()
    first, second = (asyncio.ensure_future(bulkhead.enter()) for _ in range(2))
    await settle()
    first.cancel()
    bulkhead.leave(entered_at)
    await settle()
    assert first.cancelled()
    bulkhead.leave(second.result())
    assert (bulkhead.in_use, bulkhead.queued) == (0, 0)


async def test_enter__cancelled_just_when_it_is_its_turn__hands_the_slot_on(clock: FakeClock) -> None:
    """A slot given to somebody who has left is not lost."""
    bulkhead = Bulkhead(1, 5, clock)
    entered_at = await bulkhead.enter()
    first, second = (asyncio.ensure_future(bulkhead.enter()) for _ in range(2))
    await settle()
    bulkhead.leave(entered_at)
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    bulkhead.leave(second.result())
    assert bulkhead.in_use == 0


async def test_expected_wait__follows_how_long_slots_are_held(clock: FakeClock) -> None:
    """With a slot free there is nothing to wait for; else the line and the usual time decide."""
    bulkhead = Bulkhead(2, 5, clock)
    assert bulkhead.expected_wait_s() == 0
    for _ in range(50):
        entered_at = await bulkhead.enter()
        clock.advance(0.1)
        bulkhead.leave(entered_at)
    assert bulkhead.expected_wait_s() == 0
    await bulkhead.enter()
    await bulkhead.enter()
    assert bulkhead.expected_wait_s() == pytest.approx(0.05, rel=0.01)
    waiting = asyncio.ensure_future(bulkhead.enter())
    await settle()
    assert bulkhead.expected_wait_s() == pytest.approx(0.1, rel=0.01)
    waiting.cancel()
    await settle()


@pytest.mark.parametrize("seed", range(5))
async def test_bulkhead__random_arrivals_and_cancels__keeps_count(clock: FakeClock, seed: int) -> None:
    """Whatever order callers come, go and are cancelled in, slots are neither exceeded nor lost."""
    chance = random.Random(seed)
    bulkhead = Bulkhead(3, 50, clock)
    inside = 0
    most = 0

    async def caller() -> None:
        nonlocal inside, most
        entered_at = await bulkhead.enter()
        inside += 1
        most = max(most, inside)
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            bulkhead.leave(entered_at)

    callers: list[asyncio.Task[None]] = []
    for _ in range(1000):
        if chance.random() < 0.6 and bulkhead.queued < 50:
            callers.append(asyncio.create_task(caller()))
        elif callers:
            chance.choice(callers[-20:]).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    ends = await asyncio.gather(*callers, return_exceptions=True)
    assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
    assert most == 3
    assert (bulkhead.in_use, bulkhead.queued) == (0, 0)
