"""Stored facts: what is known when the store answers, and what is said when it does not."""

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from evaluator.types import NEVER_ASKED, Context, Facts, Missing, Needs
from gateway.document import WholeProject
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline, FactsQuery, StoredFacts
from gateway.services.facts import NO_OVERRIDES, FactsService
from tests.fakes import FakeClock, FakeStore
from tests.gateway.assembly import guarded
from tests.gateway.serving import MemoryStore, settle

NEEDS = Needs(person_properties=frozenset({"plan"}))
CONTEXT = Context(distinct_id="u1")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.persons["u1"] = StoredFacts({"plan": "paid"})
    return store


@pytest.fixture
async def service(store: MemoryStore, clock: FakeClock, metrics: Metrics) -> AsyncIterator[FactsService]:
    async with guarded(clock) as guard:
        yield FactsService(store, guard, metrics, reserve_s=lambda: 0.05)


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
    before = asyncio.all_tasks()
    assert code(await service.load(1, CONTEXT, NEEDS, Deadline(clock, 0.06))) == "timeout"
    await settle()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("spent_s", [0.95, 0.96, 2])
async def test_load__only_the_reserve_is_left__does_not_ask(
    service: FactsService, store: MemoryStore, clock: FakeClock, spent_s: float
) -> None:
    """When the time to load is used up, the store is not asked, and not blamed."""
    deadline = Deadline(clock, 1)
    clock.advance(spent_s)
    assert code(await service.load(1, CONTEXT, NEEDS, deadline)) == "timeout"
    assert store.calls == []


async def test_load__equal_requests_at_once__share_one_query(
    service: FactsService, store: MemoryStore, clock: FakeClock
) -> None:
    """Many requests for the same person at the same moment are one query; the next moment asks again."""
    store.gate.clear()
    same = [asyncio.ensure_future(service.load(1, CONTEXT, NEEDS, Deadline(clock, 1))) for _ in range(20)]
    other = asyncio.ensure_future(service.load(1, Context(distinct_id="u2"), NEEDS, Deadline(clock, 1)))
    await settle()
    store.gate.set()
    found = await asyncio.gather(*same)
    assert (await other).person_properties == {}
    assert {facts.person_properties["plan"] for facts in found if isinstance(facts.person_properties, dict)} == {"paid"}
    assert len(store.calls) == 2
    await service.load(1, CONTEXT, NEEDS, Deadline(clock, 1))
    assert len(store.calls) == 3


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
    assert [record.message for record in caplog.records] == ["facts_store_failed", "facts_store_recovered"]


async def test_load__nothing_comes__every_part_asked_for_is_missing_and_counted(
    service: FactsService, store: MemoryStore, clock: FakeClock, metrics: Metrics
) -> None:
    """What was asked for is missing, what was not was never asked for; neither looks like unset."""
    store.error = StoreTimeout("x")
    context = Context(distinct_id="u1", groups={"company": "acme"})
    needs = Needs(groups={"company": frozenset({"size"})}, overrides=frozenset({"sticky"}))
    facts = await service.load(1, context, needs, Deadline(clock, 1))
    assert facts.person_properties is NEVER_ASKED
    assert facts.cohorts is NEVER_ASKED
    assert isinstance(facts.groups["company"], Missing)
    assert facts.overrides is NO_OVERRIDES
    told = metrics.render().decode()
    assert 'flagstone_facts_missing_total{cause="timeout",part="group"} 1.0' in told
    assert 'flagstone_facts_missing_total{cause="hash_key_override_error",part="override"} 1.0' in told
    assert 'flagstone_facts_missing_total{cause="timeout",part="person"} 0.0' in told


class AskedStore(MemoryStore):
    """Remembers what it was asked."""

    async def load_facts(self, query: FactsQuery) -> StoredFacts:
        self.asked = query
        return await super().load_facts(query)


async def test_load__several_parts__are_asked_for_in_one_query_and_by_name(clock: FakeClock) -> None:
    """One round trip carries exactly what could change an answer."""
    store = AskedStore()
    needs = Needs(
        person_properties=frozenset({"plan"}),
        cohorts=frozenset({7}),
        groups={"company": frozenset({"size"}), "team": frozenset({"name"})},
        overrides=frozenset({"sticky"}),
    )
    context = Context(distinct_id="u1", anon_distinct_id="anon", groups={"company": "acme", "team": "t", "other": "o"})
    async with guarded(clock) as guard:
        await FactsService(store, guard, Metrics(), reserve_s=lambda: 0).load(1, context, needs, Deadline(clock, 1))
    assert store.asked == FactsQuery(
        1,
        ("u1", "anon"),
        frozenset({"plan"}),
        frozenset({7}),
        frozenset({("company", "acme"), ("team", "t")}),
        frozenset({"size", "name"}),
        wants_overrides=True,
    )
    assert store.calls == ["load_facts"]


async def test_load__from_a_whole_store__has_every_part(clock: FakeClock) -> None:
    """Properties, cohorts, groups and overrides of a stored person arrive; a group not stored has nothing set."""
    store = FakeStore()
    whole = {
        "id": 1,
        "token": "phc_one",
        "group_types": ["company", "team"],
        "persons": [{"distinct_ids": ["u1"], "properties": {"plan": "paid"}, "cohorts": [7]}],
        "groups": [{"type": "company", "key": "acme", "properties": {"size": 3}}],
    }
    document = msgspec.json.decode(msgspec.json.encode(whole), type=WholeProject)
    await store.import_projects([document], lambda done, total: None)
    await store.save_overrides(1, ("u1",), {"sticky": "anon"})
    needs = Needs(
        person_properties=frozenset({"plan"}),
        groups={"company": frozenset({"size"}), "team": frozenset({"name"})},
        overrides=frozenset({"sticky"}),
    )
    context = Context(distinct_id="u1", groups={"company": "acme", "team": "none"})
    async with guarded(clock) as guard:
        facts = await FactsService(store, guard, Metrics(), reserve_s=lambda: 0).load(
            1, context, needs, Deadline(clock, 1)
        )
    assert facts == Facts({"plan": "paid"}, frozenset({7}), {"company": {"size": 3}, "team": {}}, {"sticky": "anon"})
