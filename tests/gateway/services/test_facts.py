"""Stored facts: what is known when the store answers, and what is said when it does not."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from evaluator.types import Context, Facts, Missing, Needs
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import Deadline, Person
from gateway.services import facts
from gateway.services.facts import FactsService
from tests.fakes import FakeClock
from tests.gateway.serving import MemoryStore, settle

NEEDS = Needs(person_properties=frozenset({"plan"}))
CONTEXT = Context(distinct_id="u1")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.persons["u1"] = Person({"plan": "paid"})
    return store


@pytest.fixture
async def service(store: MemoryStore) -> AsyncIterator[FactsService]:
    async with FactsService(store, reserve_s=0.05) as service:
        yield service


def code(found: Facts) -> str:
    assert isinstance(found.person_properties, Missing)
    assert found.person_properties.description
    return found.person_properties.code


async def test_load__person_is_stored__has_the_properties(service: FactsService, clock: FakeClock) -> None:
    """What is stored of a person becomes the facts."""
    assert await service.load(1, CONTEXT, NEEDS, Deadline(clock, 1)) == Facts({"plan": "paid"})


async def test_load__no_such_person__knows_that_nothing_is_set(service: FactsService, clock: FakeClock) -> None:
    """That there is no person is knowledge: every property is unset, none is missing."""
    assert await service.load(1, Context(distinct_id="u2"), NEEDS, Deadline(clock, 1)) == Facts({})


async def test_load__nothing_needed__asks_nobody(service: FactsService, store: MemoryStore, clock: FakeClock) -> None:
    """Without needs the store is left alone."""
    assert await service.load(1, CONTEXT, Needs(), Deadline(clock, 1)) == Facts()
    assert store.calls == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreError("x"), "database_error"),
        (StoreTimeout("x"), "timeout"),
        (StoreUnavailable("x"), "database_unavailable"),
        (RuntimeError("a bug in an adapter"), "database_error"),
    ],
)
async def test_load__store_fails__says_what_is_missing(
    service: FactsService, store: MemoryStore, clock: FakeClock, error: Exception, expected: str
) -> None:
    """Whatever a store raises becomes a code in the facts."""
    store.error = error
    assert code(await service.load(1, CONTEXT, NEEDS, Deadline(clock, 1))) == expected


async def test_load__store_hangs__times_out_and_leaves_nothing(
    service: FactsService, store: MemoryStore, clock: FakeClock
) -> None:
    """A store that hangs holds a request until the deadline less the reserve, and its call is cancelled."""
    store.gate.clear()
    assert code(await service.load(1, CONTEXT, NEEDS, Deadline(clock, 0.06))) == "timeout"
    await settle()
    assert repr(service) == "<FactsService 0/64 abandoned>"


@pytest.mark.parametrize("spent_s", [0.95, 0.96, 2])
async def test_load__only_the_reserve_is_left__does_not_ask(
    service: FactsService, store: MemoryStore, clock: FakeClock, spent_s: float
) -> None:
    """When the time to load is used up, the store is not asked, and not blamed."""
    deadline = Deadline(clock, 1)
    clock.advance(spent_s)
    assert code(await service.load(1, CONTEXT, NEEDS, deadline)) == "timeout"
    assert store.calls == []


class StubbornStore(MemoryStore):
    """Ignores being cancelled until its gate opens."""

    async def load_person(self, project_id: int, distinct_id: str) -> Person | None:
        self.calls.append("load_person")
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                continue
        raise RuntimeError("too late for anybody")


async def test_load__store_ignores_being_cancelled__is_abandoned_within_a_bound(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that will not end are left behind up to a bound; then the store is not asked until they do."""
    monkeypatch.setattr(facts, "MAX_ABANDONED", 2)
    store = StubbornStore()
    store.gate.clear()
    async with FactsService(store, reserve_s=0) as service:
        codes = [code(await service.load(1, CONTEXT, NEEDS, Deadline(clock, 0.01))) for _ in range(4)]
        assert codes == ["timeout", "timeout", "database_unavailable", "database_unavailable"]
        assert repr(service) == "<FactsService 2/2 abandoned>"
        store.gate.set()
        await settle()
        assert repr(service) == "<FactsService 0/2 abandoned>"
    assert len(store.calls) == 2


async def test_load__request_is_cancelled__takes_its_call_with_it(
    service: FactsService, store: MemoryStore, clock: FakeClock
) -> None:
    """A request that goes away leaves no call behind, and is itself cancelled."""
    store.gate.clear()
    before = asyncio.all_tasks()
    request = asyncio.ensure_future(service.load(1, CONTEXT, NEEDS, Deadline(clock, 1)))
    await settle()
    request.cancel()
    await settle()
    assert request.cancelled()
    assert asyncio.all_tasks() == before


async def test_load__store_fails_for_long__is_logged_when_it_begins_and_when_it_ends(
    service: FactsService, store: MemoryStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure streak makes two lines, however long it is."""
    caplog.set_level(logging.INFO)
    for error in (StoreError("x"), StoreTimeout("x"), StoreError("x"), None, None):
        store.error = error
        await service.load(1, CONTEXT, NEEDS, Deadline(clock, 1))
    assert [record.message for record in caplog.records] == ["person_store_failed", "person_store_recovered"]


async def test_close__store_ignores_being_cancelled__does_not_wait_for_ever(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing leaves behind, after a moment, what will not end."""
    monkeypatch.setattr(facts, "CLOSE_TIMEOUT_S", 0.01)
    store = StubbornStore()
    store.gate.clear()
    async with FactsService(store, reserve_s=0) as service:
        await service.load(1, CONTEXT, NEEDS, Deadline(clock, 0.01))
    assert repr(service) == "<FactsService 1/64 abandoned>"
    store.gate.set()
    await settle()
    assert repr(service) == "<FactsService 0/64 abandoned>"
