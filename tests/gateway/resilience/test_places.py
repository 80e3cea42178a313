"""Places of which there may be more or fewer while they are taken: nobody in is thrown out, nobody waits in vain."""

import asyncio
import random
from contextlib import suppress

import pytest

from gateway.resilience.places import Places
from tests.gateway.serving import settle


def lined_up(places: Places, number: int) -> list["asyncio.Task[None]"]:
    return [asyncio.ensure_future(places.take()) for _ in range(number)]


async def test_resize__to_more__lets_in_whoever_waits() -> None:
    """As many of the line as there is room for now go in at once, in their order."""
    places = Places(1)
    tasks = lined_up(places, 4)
    await settle()
    places.resize(3)
    await settle()
    assert [it.done() for it in tasks] == [True, True, True, False]
    assert repr(places) == "<Places 3/3 in use, 1 queued>"
    places.hand_on()
    await settle()
    assert (places.in_use, places.queued, tasks[3].done()) == (3, 0, True)


async def test_resize__to_fewer__lets_nobody_in_until_there_is_room() -> None:
    """Who is in stays in; the next goes in when fewer are in than may be."""
    places = Places(3)
    tasks = lined_up(places, 4)
    await settle()
    places.resize(1)
    left = []
    for _ in range(3):
        places.hand_on()
        await settle()
        left.append((places.in_use, tasks[3].done()))
    assert left == [(2, False), (1, False), (1, True)]


async def test_resize__somebody_in_line_has_gone__passes_over_them() -> None:
    """A place is not kept for who has left."""
    places = Places(1)
    tasks = lined_up(places, 3)
    await settle()
    tasks[1].cancel()
    places.resize(2)
    await settle()
    assert (tasks[2].done(), places.in_use) == (True, 2)


async def test_with__fails_inside__gives_its_place_back() -> None:
    """Whatever happens inside, the place is free again."""
    places = Places(1)
    in_use = []
    with suppress(ValueError):
        async with places:
            in_use.append(places.in_use)
            raise ValueError
    assert (in_use, places.in_use) == ([1], 0)


@pytest.mark.parametrize("seed", range(5))
async def test_places__come_go_leave_and_resize_at_random__lose_none(seed: int) -> None:
    """Whatever happens in whatever order, all who stay get in, and in the end nobody is."""
    chance = random.Random(seed)
    places = Places(2)

    async def visit() -> None:
        async with places:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.ensure_future(visit()))
        if chance.random() < 0.2:
            chance.choice(tasks).cancel()
        if chance.random() < 0.1:
            places.resize(chance.randrange(1, 6))
        await asyncio.sleep(0)
    await asyncio.wait(tasks, timeout=10)
    assert all(task.done() for task in tasks)
    assert (places.in_use, places.queued) == (0, 0)
