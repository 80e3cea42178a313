"""Stored facts: what is known when the store answers, and what is said when it does not."""

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from evaluator.types import Context, Facts, Missing, Needs, OverrideWrite
from gateway.document import WholeProject
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import Deadline, Person
from gateway.services import facts
from gateway.services.facts import FactsService
from tests.fakes import FakeClock, FakeStore
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
    async with FactsService(store, store, store, reserve_s=0.05) as service:
        yield service


def code(found: Facts) -> str:
    assert isinstance(found.person_properties, Missing)
    assert found.person_properties.description
    return found.person_properties.code


async def test_load__person_is_stored__has_the_properties(service: FactsService, clock: FakeClock) -> None:
    """What is stored of a person becomes the facts."""
    assert await service.load(1, CONTEXT, NEEDS, Deadline(clock, 1)) == Facts({"plan": "paid"}, frozenset())


async def test_load__no_such_person__knows_that_nothing_is_set(service: FactsService, clock: FakeClock) -> None:
    """That there is no person is knowledge: every property is unset, none is missing."""
    assert await service.load(1, Context(distinct_id="u2"), NEEDS, Deadline(clock, 1)) == Facts({}, frozenset())


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
    assert repr(service) == "<FactsService 0/64 abandoned, 0 writes>"


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
    async with FactsService(store, store, store, reserve_s=0) as service:
        codes = [code(await service.load(1, CONTEXT, NEEDS, Deadline(clock, 0.01))) for _ in range(4)]
        assert codes == ["timeout", "timeout", "database_unavailable", "database_unavailable"]
        assert repr(service) == "<FactsService 2/2 abandoned, 0 writes>"
        store.gate.set()
        await settle()
        assert repr(service) == "<FactsService 0/2 abandoned, 0 writes>"
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
    async with FactsService(store, store, store, reserve_s=0) as service:
        await service.load(1, CONTEXT, NEEDS, Deadline(clock, 0.01))
    assert repr(service) == "<FactsService 1/64 abandoned, 0 writes>"
    store.gate.set()
    await settle()
    assert repr(service) == "<FactsService 0/64 abandoned, 0 writes>"


async def test_load__of_every_part__asks_each_store_once(clock: FakeClock) -> None:
    """Person, groups and overrides come in one go, each for what was needed."""
    store = FakeStore()
    whole = {
        "id": 1,
        "token": "t",
        "group_types": ["team"],
        "cohorts": [{"id": 3, "is_static": True}],
        "persons": [{"distinct_ids": ["u1"], "properties": {"plan": "paid"}, "cohorts": [3]}],
        "groups": [{"type": "team", "key": "t1", "properties": {"size": 3}}],
    }
    await store.import_projects(
        [msgspec.json.decode(msgspec.json.encode(whole), type=WholeProject)], lambda done, total: None
    )
    await store.save_overrides(1, ("u1",), {"f": "anon"})
    store.calls.clear()
    everything = Needs(cohorts=frozenset({3}), groups={"team": frozenset({"size"})}, overrides=frozenset({"f"}))
    context = Context(distinct_id="u1", groups={"team": "t1"}, anon_distinct_id="anon")
    async with FactsService(store, store, store, reserve_s=0) as service:
        found = await service.load(1, context, everything, Deadline(clock, 1))
        assert found == Facts({"plan": "paid"}, frozenset({3}), {"team": {"size": 3}}, {"f": "anon"})
        assert sorted(store.calls) == ["load_groups", "load_overrides", "load_person"]
        other = Context(distinct_id="u1", groups={"team": "t2"})
        only_groups = Needs(groups={"team": frozenset({"size"})})
        assert (await service.load(1, other, only_groups, Deadline(clock, 1))).groups == {"team": {}}
        store.error = StoreUnavailable("gone")
        failed = await service.load(1, context, everything, Deadline(clock, 1))
    assert code(failed) == "database_unavailable"
    assert isinstance(failed.groups["team"], Missing)
    assert failed.overrides == facts.NO_OVERRIDES


async def test_keep__overrides__are_saved_without_anybody_waiting() -> None:
    """A write goes on after the answer, and closing waits for it."""
    store = FakeStore()
    project = msgspec.convert({"id": 1, "token": "t", "persons": [{"distinct_ids": ["u1"]}]}, WholeProject)
    await store.import_projects([project], lambda done, total: None)
    async with FactsService(store, store, store, reserve_s=0) as service:
        service.keep(1, OverrideWrite(("u1", "anon"), {"f": "anon"}))
    assert await store.load_overrides(1, ("u1",)) == {"f": "anon"}


async def test_keep__too_many_under_way__drops_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """A store that takes no writes costs a bounded number of tasks, and each dropped write is told."""
    store = FakeStore()
    store.hang = asyncio.Event()
    async with FactsService(store, store, store, reserve_s=0) as service:
        with caplog.at_level(logging.WARNING, "flagstone"):
            for _ in range(facts.MAX_WRITES + 1):
                service.keep(1, OverrideWrite(("u1",), {"f": "anon"}))
        assert repr(service) == "<FactsService 0/64 abandoned, 64 writes>"
        store.hang.set()
    assert [record.message for record in caplog.records] == ["override_write_dropped"]


@pytest.mark.parametrize(
    ("error", "event"), [(StoreError("no"), "override_store_failed"), (RuntimeError("bug"), "override_write_crashed")]
)
async def test_keep__store_fails__is_told_and_harms_nobody(
    caplog: pytest.LogCaptureFixture, error: Exception, event: str
) -> None:
    """A write that fails is lost, loudly; the next time the person asks it is tried again."""
    store = FakeStore()
    store.error = error  # type: ignore[assignment]
    async with FactsService(store, store, store, reserve_s=0) as service:
        with caplog.at_level(logging.WARNING, "flagstone"):
            service.keep(1, OverrideWrite(("u1",), {"f": "anon"}))
            await settle()
    assert [record.message for record in caplog.records] == [event]
