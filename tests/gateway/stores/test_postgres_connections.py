"""Connections handed out newest first, never more than there may be, over drivers that do as they are told."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from gateway.errors import StoreUnavailable
from gateway.stores import postgres_connections
from gateway.stores.postgres_connections import Connection, Connections
from tests.gateway.serving import settle


class Driver:
    """A connection as the driver has it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ended = ""
        self.is_hung = False

    def is_closed(self) -> bool:
        return bool(self.ended)

    def terminate(self) -> None:
        self.ended = self.ended or "aborted"

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - the driver has it
        if self.is_hung:
            await asyncio.sleep(timeout)
            raise TimeoutError
        self.ended = "closed"


class Bench:
    def __init__(self) -> None:
        self.drivers: list[Driver] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.connections = Connections(self.connect, 3)

    async def connect(self) -> Connection:
        await self.gate.wait()
        self.drivers.append(Driver(len(self.drivers)))
        return Connection(self.drivers[-1], 100)

    async def take(self, number: int) -> list[Connection]:
        return [await self.connections.take() for _ in range(number)]

    def give_back(self, *taken: Connection) -> None:
        for connection in taken:
            self.connections.give_back(connection)

    @property
    def open(self) -> list[int]:
        return [driver.number for driver in self.drivers if not driver.ended]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.connections.close()
    assert bench.open == []


async def test_take__some_are_idle__is_the_one_used_last(bench: Bench) -> None:
    """Few connections do most of the work, so that the others become idle and go."""
    first, second, third = await bench.take(3)
    bench.give_back(first, third, second)
    assert (await bench.take(2)) == [second, third]
    assert (bench.connections.in_use, bench.connections.idle, bench.connections.most) == (2, 1, 3)


async def test_take__an_idle_one_was_lost__opens_another(bench: Bench) -> None:
    """A connection that its server has closed is not handed out."""
    (first,) = await bench.take(1)
    bench.give_back(first)
    bench.drivers[0].ended = "by its server"
    (second,) = await bench.take(1)
    assert second is not first
    assert bench.open == [1]


async def test_take__connecting_is_cancelled__leaves_its_place(bench: Bench) -> None:
    """Who gives up while a connection is being opened takes nothing from the others."""
    bench.gate.clear()
    tasks = [asyncio.ensure_future(bench.connections.take()) for _ in range(4)]
    await settle()
    tasks[0].cancel()
    bench.gate.set()
    await settle()
    assert [it.done() for it in tasks] == [True] * 4
    assert len(bench.open) == bench.connections.in_use == 3


async def test_resize__to_fewer__closes_idle_ones_now_and_others_as_they_come_back(bench: Bench) -> None:
    """definitions_pool.max_connections, without a restart: nothing in use is cut off, and soon there are few enough."""
    taken = await bench.take(3)
    bench.give_back(taken[0])
    bench.connections.resize(1)
    await settle()
    assert bench.open == [1, 2]
    bench.give_back(taken[1])
    await settle()
    assert bench.open == [2]
    bench.give_back(taken[2])
    assert (bench.open, bench.connections.idle) == ([2], 1)


async def test_resize__to_more__opens_for_whoever_waits(bench: Bench) -> None:
    """persons_pool.max_connections, without a restart: who waits for a connection gets one at once."""
    await bench.take(3)
    waiting = asyncio.ensure_future(bench.connections.take())
    await settle()
    bench.connections.resize(4)
    await settle()
    assert waiting.done()
    assert bench.open == [0, 1, 2, 3]


async def test_give_back__nobody_needs_them__are_closed_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was idle for long enough goes; one that was used meanwhile stays until its own time."""
    monkeypatch.setattr(postgres_connections, "IDLE_S", 0.05)
    taken = await bench.take(2)
    bench.give_back(taken[0])
    await asyncio.sleep(0.03)
    bench.give_back(taken[1])
    async with asyncio.timeout(10):
        while bench.open:
            await asyncio.sleep(0.005)
            assert bench.open in ([0, 1], [1], [])
    assert {driver.ended for driver in bench.drivers} == {"closed"}


async def test_give_back__used_so_often__is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection lasts for ever, however busy it is."""
    monkeypatch.setattr(postgres_connections, "MAX_USES", 3)
    for _ in range(7):
        bench.give_back(*await bench.take(1))
    await settle()
    assert bench.open == [2]


async def test_close__some_are_in_use_and_one_hangs__ends_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a call under way nor a server that does not say goodbye is waited for, and nothing is opened after it."""
    monkeypatch.setattr(postgres_connections, "CLOSE_TIMEOUT_S", 0.02)
    in_use, idle = await bench.take(2)
    bench.give_back(idle)
    bench.drivers[1].is_hung = True
    await bench.connections.close()
    async with asyncio.timeout(10):
        while bench.open:
            await asyncio.sleep(0.005)
    bench.give_back(in_use)
    with pytest.raises(StoreUnavailable):
        await bench.connections.take()


@pytest.mark.parametrize("seed", range(5))
async def test_connections__everything_at_random__never_exceed_what_there_may_be(bench: Bench, seed: int) -> None:
    """However calls come, fail and leave while the number changes, those above it only become fewer."""
    chance = random.Random(seed)

    async def call() -> None:
        taken = await bench.connections.take()
        try:
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            if chance.random() < 0.1:
                taken.driver.terminate()
        finally:
            bench.connections.give_back(taken)

    tasks = []
    before = 0
    for _ in range(400):
        tasks.append(asyncio.ensure_future(call()))
        if chance.random() < 0.1:
            chance.choice(tasks).cancel()
        if chance.random() < 0.05:
            bench.connections.resize(chance.randrange(1, 7))
        await asyncio.sleep(0)
        connections = bench.connections
        assert connections.in_use <= max(connections.most, before)
        assert len(connections._in_use) + connections.idle <= max(connections.most, connections.in_use)
        before = connections.in_use
    await asyncio.wait(tasks, timeout=10)
    await settle()
    assert bench.connections.in_use == 0
    assert len(bench.open) == bench.connections.idle <= bench.connections.most
