"""The pipeline of a flag request, from token to answer."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from evaluator.types import Context
from gateway.document import WholeProject
from gateway.errors import AuthenticationFailed, MissingDistinctId, NotAuthenticated, StoreUnavailable
from gateway.ports import Deadline, FactsQuery, StoredFacts
from gateway.services.flags import Answer, FlagService
from tests.builders import flag, project
from tests.fakes import FakeClock, FakeStore
from tests.gateway.assembly import flags_of
from tests.gateway.serving import TOKEN, MemoryStore, one_project, settle

CONTEXT = Context(distinct_id="u1")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryStore:
    return one_project()


@pytest.fixture
async def service(store: MemoryStore, clock: FakeClock) -> AsyncIterator[FlagService]:
    async with flags_of(store, clock) as service:
        yield service


def values(answer: Answer) -> dict[str, str | bool | None]:
    """Each flag's value; None where it failed."""
    return {outcome.result.key: None if outcome.result.failed else outcome.result.value for outcome in answer.outcomes}


async def test_answer__request_says_enough__loads_no_facts(
    service: FlagService, store: MemoryStore, clock: FakeClock
) -> None:
    """When the request itself carries the properties, no store of persons is asked."""
    context = Context(distinct_id="u1", person_properties={"plan": "paid"})
    answer = await service.answer(TOKEN, context, Deadline(clock, 1))
    assert values(answer) == {"on": True, "paid": True}
    assert store.calls == ["load_definitions"]
    assert answer.evaluated_at == clock.now()


async def test_answer__stored_property_is_needed__is_loaded(
    service: FlagService, store: MemoryStore, clock: FakeClock
) -> None:
    """A property that only the store has decides the flag that needs it."""
    store.persons["u1"] = StoredFacts({"plan": "paid"})
    answer = await service.answer(TOKEN, CONTEXT, Deadline(clock, 1))
    assert values(answer) == {"on": True, "paid": True}
    assert (answer.errors, answer.missing) == (False, None)


async def test_answer__person_is_not_stored__decides_without(service: FlagService, clock: FakeClock) -> None:
    """Somebody unknown has no properties, which is an answer and not a failure."""
    answer = await service.answer(TOKEN, CONTEXT, Deadline(clock, 1))
    assert values(answer) == {"on": True, "paid": False}
    assert not answer.errors


async def test_answer__facts_cannot_be_had__fails_only_what_needs_them(
    service: FlagService, store: MemoryStore, clock: FakeClock
) -> None:
    """Without the store of persons, flags that need no stored property are exact and the others are marked failed."""
    await service.answer(TOKEN, None, Deadline(clock, 1), disable_flags=True)
    store.error = StoreUnavailable("x")
    answer = await service.answer(TOKEN, CONTEXT, Deadline(clock, 1))
    assert values(answer) == {"on": True, "paid": None}
    assert (answer.errors, answer.missing) == (True, "database_unavailable")


async def test_answer__flags_disabled__evaluates_nothing(
    service: FlagService, store: MemoryStore, clock: FakeClock
) -> None:
    """With flags disabled nobody needs to be named, nothing is evaluated and no facts are loaded."""
    answer = await service.answer(TOKEN, None, Deadline(clock, 1), disable_flags=True)
    assert (answer.outcomes, answer.errors) == ((), False)
    assert store.calls == ["load_definitions"]


async def test_answer__several_things_wrong__the_token_is_judged_first(service: FlagService, clock: FakeClock) -> None:
    """No token, then a wrong one, then a missing distinct id: in this order a request is refused."""
    deadline = Deadline(clock, 1)
    for token in (None, ""):
        with pytest.raises(NotAuthenticated):
            await service.answer(token, None, deadline)
    with pytest.raises(AuthenticationFailed):
        await service.answer("phc_unknown", None, deadline, disable_flags=True)
    with pytest.raises(MissingDistinctId):
        await service.answer(TOKEN, None, deadline)


async def test_answer__with_an_anonymous_id__keeps_the_override() -> None:
    """People stay in the bucket they had before they were known, also the next time, when only their id is sent."""
    sticky = flag("sticky", rollout=50, ensure_experience_continuity=True)
    whole = {**project(sticky), "persons": [{"distinct_ids": ["u1"]}]}
    store, clock = FakeStore(), FakeClock()
    await store.import_projects(
        [msgspec.json.decode(msgspec.json.encode(whole), type=WholeProject)], lambda done, total: None
    )
    async with flags_of(store, clock) as service:
        asked = Context(distinct_id="u1", anon_distinct_id="anon-7")
        first = await service.answer("phc_test", asked, Deadline(clock, 5))
        await settle()
        second = await service.answer("phc_test", Context(distinct_id="u1"), Deadline(clock, 5))
    stored = await store.load_facts(FactsQuery(1, ("u1",), wants_overrides=True))
    assert stored.overrides == {"sticky": "anon-7"}
    assert first.outcomes == second.outcomes
