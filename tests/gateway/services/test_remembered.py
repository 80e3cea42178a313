"""What the store said once, and for how long that counts."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from config.clients import Keys
from config.reload import Live
from config.settings import Settings
from gateway.errors import StoreUnavailable, Unavailable
from gateway.ports import Deadline
from gateway.services.remembered import Remembered
from tests.fakes import FakeClock
from tests.gateway.assembly import guarded
from tests.gateway.serving import settle


class Oracle:
    """A store of names by number, and a memory of what it said."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.live = Live(Settings(keys=Keys(ttl_s=5, stale_s=100, max_known=2)))
        self.names = {1: "one", 2: "two", 3: "three"}
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[int] = []
        self.guard = guarded(self.clock, "keys")
        self.remembered = Remembered("name", self._ask, self.guard, self.live, self.clock)

    async def get(self, number: int, budget_s: float = 1) -> str | None:
        return await self.remembered.get(number, Deadline(self.clock, budget_s))

    async def _ask(self, number: int) -> str | None:
        self.calls.append(number)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.names.get(number)


@pytest.fixture
async def oracle() -> AsyncIterator[Oracle]:
    oracle = Oracle()
    async with oracle.guard:
        yield oracle


@pytest.mark.parametrize(("ttl_s", "calls"), [(5.0, 1), (3.0, 2), (0.0, 2)])
async def test_get__asked_again__asks_the_store_when_the_time_is_over(oracle: Oracle, ttl_s: float, calls: int) -> None:
    """keys.ttl_s: for this long the store is not asked again."""
    oracle.live.settings = Settings(keys=Keys(ttl_s=ttl_s))
    assert await oracle.get(1) == "one"
    oracle.clock.advance(4)
    assert await oracle.get(1) == "one"
    assert len(oracle.calls) == calls


@pytest.mark.parametrize("stale_s", [50.0, 10.0])
async def test_get__store_fails__what_it_said_counts_on(oracle: Oracle, stale_s: float) -> None:
    """keys.stale_s: for this long what the store said counts while it does not answer."""
    oracle.live.settings = Settings(keys=Keys(stale_s=stale_s))
    await oracle.get(1)
    oracle.error = StoreUnavailable("x")
    oracle.clock.advance(20)
    if stale_s > 20:
        assert await oracle.get(1) == "one"
    else:
        with pytest.raises(Unavailable):
            await oracle.get(1)


async def test_get__store_fails_and_never_said_anything__is_unavailable(oracle: Oracle) -> None:
    """Not to know is not the same as to know that there is nothing."""
    oracle.error = StoreUnavailable("x")
    with pytest.raises(Unavailable):
        await oracle.get(1)


async def test_get__store_hangs__ends_before_the_request_must(oracle: Oracle) -> None:
    """Some of the request's time is left to answer in, and what was known is answered then."""
    await oracle.get(1)
    oracle.clock.advance(6)
    oracle.gate.clear()
    assert await oracle.get(1, budget_s=0.06) == "one"
    with pytest.raises(Unavailable):
        await oracle.get(2, budget_s=0.06)


async def test_get__no_such_thing__is_said_and_not_kept(oracle: Oracle) -> None:
    """What is made a moment later is found at once; what was known and is gone is forgotten."""
    assert await oracle.get(9) is None
    oracle.names[9] = "nine"
    assert await oracle.get(9) == "nine"
    del oracle.names[9]
    oracle.clock.advance(6)
    assert await oracle.get(9) is None
    oracle.error = StoreUnavailable("x")
    with pytest.raises(Unavailable):
        await oracle.get(9)


@pytest.mark.parametrize(("most", "calls"), [(2, [1, 2, 3, 2]), (3, [1, 2, 3])])
async def test_get__more_than_are_kept__forgets_those_not_asked_for_longest(
    oracle: Oracle, most: int, calls: list[int]
) -> None:
    """keys.max_known: so many are kept."""
    oracle.live.settings = Settings(keys=Keys(max_known=most))
    for number in (1, 2, 1, 3, 1, 2):
        await oracle.get(number)
    assert oracle.calls == calls


async def test_get__same_question_at_once__is_one_call(oracle: Oracle) -> None:
    """A thousand SDKs that start together with one key are one look-up."""
    oracle.gate.clear()
    asked = [asyncio.create_task(oracle.get(1)) for _ in range(50)]
    await settle()
    oracle.gate.set()
    assert set(await asyncio.gather(*asked)) == {"one"}
    assert oracle.calls == [1]
    assert repr(oracle.remembered) == "<Remembered name: 1>"
