"""Requests that are not there as a whole, and places that were given before a request came."""

import asyncio

import pytest

from tests.gateway.middleware.door import Door, asked, door, statuses
from tests.gateway.middleware.test_record import Sent, nothing
from tests.gateway.serving import settle


async def test_admission__bodies_that_come_slowly__take_no_place(doors: list[Door]) -> None:
    """Clients that send slowly keep nobody out; each takes a place only when its body is there."""
    at = door(doors, mode="fixed", limit=1, max_queued=0)
    at.has_body.clear()
    slow = await at.come(times=20)
    assert at.admission.arriving == 20
    assert at.admission.gates["flags"].in_flight == 0
    at.has_body.set()
    await settle()
    assert statuses(slow).count(None) == len(at) == 1
    assert statuses(slow).count(503) == 19
    assert at.admission.arriving == 0


async def test_admission__more_bodies_at_once_than_fit__are_refused(doors: list[Door]) -> None:
    """concurrency.ceiling: as many may be sending their bodies, and their places are free again when they leave."""
    at = door(doors, mode="fixed", limit=5, floor=1, ceiling=2)
    at.has_body.clear()
    assert statuses(await at.come(times=3)) == [None, None, 503]
    await at.cancel(0)
    assert statuses(await at.come()) == [None]
    assert at.admission.arriving == 2


@pytest.mark.parametrize("queued", [0, 1])
async def test_release__request_that_never_came__gives_its_place_back(doors: list[Door], queued: int) -> None:
    """A place given before the request was read is free again when nothing came of it, inside or in line."""
    at = door(doors, mode="fixed", limit=1, max_queued=1)
    scopes = [asked() for _ in range(queued + 1)]
    assert [at.admission.refuse(scope) for scope in scopes] == [None] * len(scopes)
    at.admission.release(scopes[-1])
    gate = at.admission.gates["flags"]
    assert (gate.in_flight, gate.queued) == (queued, 0)


async def test_release__request_that_came__keeps_its_place(doors: list[Door]) -> None:
    """Whoever has come with a place leaves by themselves, once."""
    at = door(doors, mode="fixed", limit=1, max_queued=0)
    scope = asked()
    assert at.admission.refuse(scope) is None
    coming = asyncio.create_task(at.admission(scope, nothing, Sent()))
    await settle()
    at.admission.release(scope)
    assert at.admission.gates["flags"].in_flight == 1
    await at.let_all_go()
    await coming
    at.admission.release(scope)
    assert at.admission.gates["flags"].in_flight == 0
