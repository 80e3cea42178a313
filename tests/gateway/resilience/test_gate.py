"""The gate: never more inside than the limit, the right ones shed, and no slot lost."""

import asyncio
import random

import pytest

from gateway.resilience.adaptive import AdaptiveLimit, FixedLimit
from gateway.resilience.gate import Gate, Shed, Ticket
from tests.fakes import FakeClock
from tests.gateway.serving import settle

LONG_S = 60.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Queue:
    """Requests before a gate by name: who is in line, who got in, and who was shed."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside: dict[str, Ticket] = {}
        self.ends: dict[str, str] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            ticket = self.gate.place(LONG_S)
            assert ticket is not None, name
            self.tasks[name] = asyncio.create_task(self._wait(name, ticket))
        await settle()

    async def leave(self, name: str) -> None:
        self.gate.leave(self.inside.pop(name), None)
        await settle()

    async def _wait(self, name: str, ticket: Ticket) -> None:
        try:
            await self.gate.wait(ticket)
        except Shed as shed:
            self.ends[name] = shed.reason
        else:
            self.inside[name] = ticket


def running(gate: Gate) -> Ticket:
    """A ticket that runs at once."""
    ticket = gate.place(LONG_S)
    assert ticket is not None
    assert ticket.turn is None
    return ticket


def held_for(gate: Gate, clock: FakeClock, held_s: float) -> None:
    """Teach the gate how long slots are held."""
    for _ in range(100):
        ticket = running(gate)
        clock.advance(held_s)
        gate.leave(ticket, None)


async def test_place__slots_are_free__runs_at_once(clock: FakeClock) -> None:
    """As many as the limit says go in, and the line is told of in the representation."""
    gate = Gate(FixedLimit(2), 5, 1.0, clock)
    await gate.wait(running(gate))
    running(gate)
    waiting = gate.place(LONG_S)
    assert waiting is not None
    assert waiting.turn is not None
    assert repr(gate) == "<Gate 2/2 active, 1 queued>"


async def test_place__line_is_full__is_shed(clock: FakeClock) -> None:
    """There is room for so many in line and no more."""
    gate = Gate(FixedLimit(1), 2, 1.0, clock)
    running(gate)
    assert [gate.place(LONG_S) is None for _ in range(3)] == [False, False, True]
    assert gate.shed == {"full": 1, "late": 0, "dropped": 0}


@pytest.mark.parametrize(("deadline_s", "fit"), [(LONG_S, 9), (0.45, 4), (0.0, 0), (-1.0, 0)])
async def test_place__would_wait_too_long__is_shed(clock: FakeClock, deadline_s: float, fit: int) -> None:
    """Who would not have a turn in time is told at once: within the longest wait, and within its own deadline."""
    gate = Gate(FixedLimit(2), 100, 0.95, clock)
    held_for(gate, clock, 0.2)
    running(gate), running(gate)
    placed = [gate.place(deadline_s) for _ in range(20)]
    assert sum(ticket is not None for ticket in placed) == fit
    assert gate.shed["late"] == 20 - fit


async def test_place__limit_has_shrunk__counts_those_who_must_leave_first(clock: FakeClock) -> None:
    """Slots that are gone for good are not expected back."""
    gate = Gate(FixedLimit(10), 100, 1.0, clock)
    held_for(gate, clock, 0.1)
    for _ in range(10):
        running(gate)
    assert gate.expected_wait_s() == pytest.approx(0.01, rel=0.01)
    gate.limit = FixedLimit(1)
    assert gate.expected_wait_s() == pytest.approx(0.1, rel=0.01)


async def test_leave__line_is_new__first_come_first_served(clock: FakeClock) -> None:
    """A line that forms now and then is a fair one."""
    queue = Queue(Gate(FixedLimit(1), 5, 1.0, clock))
    await queue.come("a", "b", "c")
    await queue.leave("a")
    assert list(queue.inside) == ["b"]
    await queue.leave("b")
    assert list(queue.inside) == ["c"]


async def test_leave__line_has_been_standing__newest_first(clock: FakeClock) -> None:
    """In a backlog the newest goes first, until the line has been empty for a while."""
    queue = Queue(Gate(FixedLimit(1), 5, 1.0, clock))
    await queue.come("a", "b", "c", "d")
    clock.advance(0.11)
    await queue.leave("a")
    assert list(queue.inside) == ["d"]
    await queue.leave("d")
    await queue.leave("c")
    assert list(queue.inside) == ["b"]
    await queue.come("e")
    assert queue.gate.place(LONG_S) is None
    await queue.leave("b")
    await queue.leave("e")
    clock.advance(0.11)
    await queue.come("f", "g", "h")
    await queue.leave("f")
    assert list(queue.inside) == ["g"]


async def test_leave__line_has_been_standing__drops_who_waited_half_of_the_longest_wait(clock: FakeClock) -> None:
    """The old ones of a backlog are pushed out by newer ones."""
    queue = Queue(Gate(FixedLimit(1), 5, 1.0, clock))
    await queue.come("a", "b")
    clock.advance(0.05)
    await queue.come("c")
    clock.advance(0.46)
    await queue.leave("a")
    assert queue.ends == {"b": "dropped"}
    assert list(queue.inside) == ["c"]
    assert queue.gate.shed == {"full": 0, "late": 0, "dropped": 1}


@pytest.mark.parametrize("standing_s", [0.09, 0.11])
async def test_place__line_has_been_standing__takes_as_many_as_may_be_inside(
    clock: FakeClock, standing_s: float
) -> None:
    """In a backlog more would only be dropped later, which costs more than to refuse them at once."""
    queue = Queue(Gate(FixedLimit(2), 5, 1.0, clock))
    await queue.come("a", "b", "c")
    clock.advance(standing_s)
    await queue.come("d")
    assert (queue.gate.place(LONG_S) is None) == (standing_s > 0.1)


async def test_wait__slot_is_had_before_the_task_ran__lets_others_run_first(clock: FakeClock) -> None:
    """Handing slots down a line of fresh tasks does not keep the event loop from everything else."""
    gate = Gate(FixedLimit(1), 5, 1.0, clock)
    inside = running(gate)
    waiting = gate.place(LONG_S)
    assert waiting is not None
    gate.leave(inside, None)
    order: list[str] = []
    asyncio.get_running_loop().call_soon(order.append, "others")
    await gate.wait(waiting)
    order.append("the one in line")
    assert order == ["others", "the one in line"]


async def test_leave__line_is_new__drops_nobody(clock: FakeClock) -> None:
    """A line that forms now and then serves also who has waited for most of a short longest wait."""
    queue = Queue(Gate(FixedLimit(1), 5, 0.1, clock))
    await queue.come("a", "b")
    clock.advance(0.09)
    await queue.leave("a")
    assert list(queue.inside) == ["b"]


async def test_wait__too_long__is_shed(clock: FakeClock) -> None:
    """After the longest wait, or at its deadline, whoever is in line still hears that it was in vain."""
    for max_wait_s, deadline_s in ((0.01, LONG_S), (LONG_S, 0.01)):
        gate = Gate(FixedLimit(1), 5, max_wait_s, clock)
        inside = running(gate)
        waiting = gate.place(deadline_s)
        assert waiting is not None
        with pytest.raises(Shed, match="late"):
            await asyncio.wait_for(gate.wait(waiting), 5)
        gate.leave(waiting, 1.0)
        gate.leave(inside, None)
        assert (gate.in_flight, gate.queued, gate.shed["late"]) == (0, 0, 1)


async def test_wait__cancelled_in_line__leaves_it(clock: FakeClock) -> None:
    """Somebody who goes away makes room for who is behind, and is not counted as shed."""
    queue = Queue(Gate(FixedLimit(1), 5, 1.0, clock))
    await queue.come("a", "b", "c")
    queue.tasks["b"].cancel()
    await settle()
    assert queue.gate.queued == 1
    await queue.leave("a")
    assert list(queue.inside) == ["c"]
    assert sum(queue.gate.shed.values()) == 0


@pytest.mark.parametrize("is_cancelled_first", [True, False])
async def test_wait__cancelled_just_when_it_is_its_turn__hands_the_slot_on(
    clock: FakeClock, is_cancelled_first: bool
) -> None:
    """A slot that falls to somebody who is leaving is not lost, whichever came first."""
    queue = Queue(Gate(FixedLimit(1), 5, 1.0, clock))
    await queue.come("a", "b", "c")
    if is_cancelled_first:
        queue.tasks["b"].cancel()
    queue.gate.leave(queue.inside.pop("a"), None)
    if not is_cancelled_first:
        queue.tasks["b"].cancel()
    await settle()
    assert queue.tasks["b"].cancelled()
    assert list(queue.inside) == ["c"]
    await queue.leave("c")
    assert repr(queue.gate) == "<Gate 0/1 active, 0 queued>"


@pytest.mark.parametrize("is_cancelled_first", [True, False])
async def test_wait__cancelled_when_just_dropped__holds_nothing(clock: FakeClock, is_cancelled_first: bool) -> None:
    """Who is pushed out and cancelled in the same turn of the loop takes no slot along."""
    queue = Queue(Gate(FixedLimit(1), 5, 1.0, clock))
    await queue.come("a", "b")
    clock.advance(0.6)
    if is_cancelled_first:
        queue.tasks["b"].cancel()
    queue.gate.leave(queue.inside.pop("a"), None)
    if not is_cancelled_first:
        queue.tasks["b"].cancel()
    await settle()
    assert queue.tasks["b"].cancelled()
    assert (queue.gate.in_flight, queue.gate.queued) == (0, 0)


async def test_leave__twice__changes_nothing(clock: FakeClock) -> None:
    """One slot cannot be given back two times, nor one that was never had."""
    gate = Gate(FixedLimit(1), 5, 1.0, clock)
    ticket = running(gate)
    waiting = gate.place(LONG_S)
    assert waiting is not None
    gate.leave(waiting, None)
    assert (gate.in_flight, gate.queued) == (1, 1)
    gate.leave(ticket, None)
    gate.leave(ticket, None)
    assert (gate.in_flight, gate.queued) == (1, 0)


async def test_leave__with_a_time__tells_the_limit(clock: FakeClock) -> None:
    """Finished requests move the limit, those without a time of their own do not."""
    for own_s, limit_then in ((0.01, 14), (None, 10)):
        gate = Gate(AdaptiveLimit(2, 100, 10, clock), 5, 1.0, clock)
        tickets = [running(gate) for _ in range(10)]
        clock.advance(1.0)
        for ticket in tickets:
            gate.leave(ticket, own_s)
        assert gate.limit.limit == pytest.approx(limit_then, abs=1)


async def test_limit__exchanged_for_less__admits_nobody_until_enough_have_left(clock: FakeClock) -> None:
    """Those inside stay, and newcomers wait until there are fewer than the new limit."""
    queue = Queue(Gate(FixedLimit(3), 5, 1.0, clock))
    await queue.come("a", "b", "c", "d")
    queue.gate.limit = FixedLimit(1)
    await queue.leave("a")
    await queue.leave("b")
    assert list(queue.inside) == ["c"]
    await queue.leave("c")
    assert list(queue.inside) == ["d"]


async def test_limit__exchanged_for_more__lets_the_line_in_first(clock: FakeClock) -> None:
    """The next who comes finds the line served, and does not overtake it."""
    queue = Queue(Gate(FixedLimit(1), 5, 1.0, clock))
    await queue.come("a", "b", "c")
    queue.gate.limit = FixedLimit(3)
    await queue.come("d")
    assert list(queue.inside) == ["a", "b", "c"]
    assert queue.gate.queued == 1


@pytest.mark.parametrize("seed", range(10))
async def test_gate__random_arrivals_cancels_and_limits__keeps_count(clock: FakeClock, seed: int) -> None:
    """Whatever order requests come, go, are shed and cancelled in, slots are neither exceeded nor lost."""
    chance = random.Random(seed)
    gate = Gate(FixedLimit(3), 20, 0.5, clock)
    inside = most = refused = 0

    async def request() -> None:
        nonlocal inside, most, refused
        ticket = gate.place(chance.uniform(0.1, 1.0))
        if ticket is None:
            refused += 1
            return
        await gate.wait(ticket)
        inside += 1
        most = max(most, inside)
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            gate.leave(ticket, None)

    requests: list[asyncio.Task[None]] = []
    for _ in range(2000):
        clock.advance(chance.choice((0.0, 0.0, 0.01, 0.05)))
        if chance.random() < 0.7:
            requests.append(asyncio.create_task(request()))
        elif requests:
            chance.choice(requests[-20:]).cancel()
        if chance.random() < 0.02:
            gate.limit = FixedLimit(chance.randint(1, 4))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        assert gate.in_flight >= inside
        assert gate.queued <= 20
    ends = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 20)
    assert all(end is None or isinstance(end, asyncio.CancelledError | Shed) for end in ends)
    assert refused + sum(isinstance(end, Shed) for end in ends) == sum(gate.shed.values())
    assert gate.shed["late"] > 0
    assert gate.shed["dropped"] > 0
    assert most <= 4
    assert (gate.in_flight, gate.queued, inside) == (0, 0, 0)
