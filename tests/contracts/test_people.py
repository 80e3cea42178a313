"""What every managed store promises of persons, groups, and members of static cohorts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.document import GroupDocument, PersonDocument
from gateway.editing_ports import ManagedStore, Members, Upserted
from tests.contracts.managed import ADAPTERS, ANN, STORED, execute, new_project, opened, put

FRIENDS, FOES, DYNAMIC, GONE = 1, 2, 3, 4


@pytest.fixture(params=ADAPTERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ManagedStore]:
    """The adapter with project 1, which has two static cohorts, and project 2, which has the same ones."""
    async with opened(request, tmp_path) as store:
        for token in ("phc_one", "phc_two"):
            project_id = await new_project(store, token, group_types=["organization", "team"])
            for cohort_id in (FRIENDS, FOES, DYNAMIC, GONE):
                members = {"id": cohort_id, "is_static": cohort_id != DYNAMIC, "deleted": cohort_id == GONE}
                await store.edit(project_id, ANN, put("cohort", members))
        yield store


def person(*distinct_ids: str, cohorts: tuple[int, ...] = (), **properties: Any) -> PersonDocument:
    return PersonDocument(distinct_ids=list(distinct_ids), properties=properties, cohorts=list(cohorts))


def group(key: str, kind: str = "organization", **properties: Any) -> GroupDocument:
    return GroupDocument(type=kind, key=key, properties=properties)


async def people_of(store: ManagedStore, project_id: int = 1) -> list[PersonDocument]:
    found = await store.sample_persons(project_id, 100)
    return [PersonDocument(distinct_ids=sorted(it.distinct_ids), properties=it.properties, cohorts=sorted(it.cohorts))
            for it in found]  # fmt: skip


async def test_persons__known_by_any_id__are_merged(store: ManagedStore) -> None:
    """Given properties are put over the stored ones, at the top alone; a null is a value; ids and cohorts are added."""
    first = person("a", "b", plan="free", nested={"x": 1}, left=None, cohorts=(FRIENDS,))
    assert await store.upsert_persons(1, [first, person("c")]) == Upserted(2, 0)
    again = person("b", "d", plan="pro", nested={"y": 2}, gone=None, cohorts=(FOES, FRIENDS))
    assert await store.upsert_persons(1, [again]) == Upserted(0, 1)
    merged = {"plan": "pro", "nested": {"y": 2}, "left": None, "gone": None}
    assert await people_of(store) == [person("a", "b", "d", cohorts=(FRIENDS, FOES), **merged), person("c")]
    assert await people_of(store, 2) == []


async def test_persons__with_properties_for_once__keep_what_they_had(store: ManagedStore) -> None:
    """Those are put under whatever the store holds, nulls too, and under the ones that go over it, in any order."""
    batch = [person("a", n=1), person("a"), person("b"), person("b", "c")]
    once = [{"n": 0, "m": 0}, {"m": 1, "l": 1}, {"k": None}, {"k": 3}]
    assert await store.upsert_persons(1, batch, once) == Upserted(2, 2)
    assert await people_of(store) == [person("a", n=1, m=0, l=1), person("b", "c", k=None)]
    batch = [person("a"), person("c", k=4), person("b"), person("d"), person("e")]
    once = [{"n": 9, "new": 9}, {"k": 9}, {"m": 5}, {"text": "\0"}, {}]
    outcome = await store.upsert_persons(1, batch, once)
    assert (outcome.created, outcome.updated, [position for position, _ in outcome.refused]) == (1, 3, [3])
    known = [person("a", n=1, m=0, l=1, new=9), person("b", "c", k=4, m=5), person("e")]
    assert await people_of(store) == known


async def test_persons__of_one_batch__may_be_the_same(store: ManagedStore) -> None:
    """A batch comes to the same as its persons one by one, in their order."""
    batch = [person("a", n=1), person("b", "a", n=2), person("b", "b", n=3, cohorts=(FRIENDS,)), person("c")]
    assert await store.upsert_persons(1, batch) == Upserted(2, 2)
    assert await people_of(store) == [person("a", "b", n=3, cohorts=(FRIENDS,)), person("c")]


async def test_persons__that_cannot_be_stored__are_refused_alone(store: ManagedStore) -> None:
    """Each with its position and a sentence; the others are stored, and nothing is of those refused."""
    await store.upsert_persons(1, [person("a"), person("b")])
    batch = [
        person("a", "b", n=1),
        person("x", cohorts=(DYNAMIC,)),
        person("x", cohorts=(GONE,)),
        person("x", cohorts=(2**70,)),
        person("\0x"),
        person("x", "\ud800"),
        person("x", text="a\0b"),
        person("x", text="\ud800"),
        person(),
        person("c", "b", n=2),
    ]
    outcome = await store.upsert_persons(1, batch)
    assert (outcome.created, outcome.updated) == (0, 1)
    assert [position for position, _ in outcome.refused] == list(range(9))
    assert [why[:12] for _, why in outcome.refused[:2]] == ["Its ids belo", "Cohort 3 is "]
    assert await people_of(store) == [person("a"), person("b", "c", n=2)]


async def test_persons__with_extreme_values__are_stored(store: ManagedStore) -> None:
    """Whatever JSON can say and is not refused: nobody's oddities are in the way of others of the batch."""
    odd: dict[str, Any] = {
        "": 0,
        "k" * 60_000: 1,
        "big": int("9" * 4300),
        "far": 1.7e308,
        "near": 5e-324,
        "\x01\uffff": "\x7f",
    }
    once = {"deep": [[[[{"": [None]}]]]], "text": "\U0010ffff" * 15_000}
    assert await store.upsert_persons(1, [person("\x01\uffff\U0010ffff", **odd)], [once]) == Upserted(1, 0)
    assert await store.upsert_persons(1, [person("\x01\uffff\U0010ffff")], [odd]) == Upserted(0, 1)
    (known,) = await people_of(store)  # PostgreSQL holds numbers as decimals, so that not all are the same double.
    assert (known.distinct_ids, known.properties.keys()) == (["\x01\uffff\U0010ffff"], {**odd, **once}.keys())


async def test_persons__of_an_unknown_project__are_all_refused(store: ManagedStore) -> None:
    """The project may have been deleted just now."""
    outcome = await store.upsert_persons(404, [person("a"), person("b")])
    assert (outcome.created, [position for position, _ in outcome.refused]) == (0, [0, 1])
    outcome = await store.upsert_groups(404, [group("acme")])
    assert (outcome.created, [position for position, _ in outcome.refused]) == (0, [0])


async def test_persons__stored_by_many_at_once__are_one_person_each(store: ManagedStore) -> None:
    """Whoever is second finds the person of the first, in whatever order the ids are given; no one fails."""
    batches = [[person(f"u{number}", **{f"by{caller}": number}, cohorts=(FRIENDS,))
                for number in range(30)][:: 1 if caller % 2 else -1] for caller in range(8)]  # fmt: skip
    outcomes = await asyncio.gather(*(store.upsert_persons(1, batch) for batch in batches))
    assert sum(outcome.created for outcome in outcomes) == 30
    assert sum(outcome.updated for outcome in outcomes) == 30 * 7
    people = await people_of(store)
    assert len(people) == 30
    assert all(len(it.properties) == 8 for it in people)


async def test_groups__known_already__are_merged(store: ManagedStore) -> None:
    """Like persons; a type that the project does not have is refused."""
    batch = [group("acme", size=1, left=None), group("zeta"), group("acme", size=2), group("acme", "club"), group("\0")]
    outcome = await store.upsert_groups(1, batch)
    assert (outcome.created, outcome.updated, [position for position, _ in outcome.refused]) == (2, 1, [3, 4])
    assert await store.upsert_groups(1, [group("acme", name="Acme")]) == Upserted(0, 1)
    acme = {"size": 2, "left": None, "name": "Acme"}
    assert await store.sample_groups(1, "organization", 10) == [group("acme", **acme), group("zeta")]
    assert [await store.sample_groups(1, kind, 10) for kind in ("team", "club", "\0")] == [[], [], []]
    assert await store.sample_groups(2, "organization", 10) == []


async def test_members__that_change__are_counted_once(store: ManagedStore) -> None:
    """By any of their ids; ids of nobody are named; the cohort of the same id in another project is another one."""
    await store.upsert_persons(1, [person("a", "b"), person("c")])
    await store.upsert_persons(2, [person("a", cohorts=(FRIENDS,))])
    ids = ["a", "b", "c", "nobody", "\0", "nobody"]
    assert await store.change_members(1, FRIENDS, ids, are_members=True) == Members(2, ["nobody", "\0"])
    assert await store.change_members(1, FRIENDS, ["c"], are_members=True) == Members(0, [])
    assert [await store.count_members(project_id, FRIENDS) for project_id in (1, 2)] == [2, 1]
    assert await store.change_members(1, FRIENDS, ["c", "a"], are_members=False) == Members(2, [])
    assert await store.change_members(1, FRIENDS, [], are_members=False) == Members(0, [])
    assert [await store.count_members(project_id, FRIENDS) for project_id in (1, 2)] == [0, 1]


async def test_members__that_are_cleared__are_those_of_one_cohort(store: ManagedStore) -> None:
    """Other cohorts, and other projects, keep theirs."""
    batch = [person(f"u{number}", cohorts=(FRIENDS, FOES)) for number in range(7)]
    await store.upsert_persons(1, batch)
    await store.upsert_persons(2, batch)
    assert await store.clear_members(1, FRIENDS) == 7
    assert await store.clear_members(1, FRIENDS) == 0
    assert [await store.count_members(1, cohort_id) for cohort_id in (FRIENDS, FOES)] == [0, 7]
    assert await store.count_members(2, FRIENDS) == 7


@pytest.mark.parametrize("limit", [1, 7, 20, 50, 500])
async def test_sample__of_a_large_project__is_from_all_over(store: ManagedStore, limit: int) -> None:
    """As many as asked for, each once, the same ones every time, and not the oldest alone."""
    for start in range(0, 300, 100):
        await store.upsert_persons(1, [person(f"u{number:03}") for number in range(start, start + 100)])
        await store.upsert_persons(2, [person(f"u{number:03}") for number in range(start, start + 100)])
        await store.upsert_groups(
            1, [group(f"{chr(97 + number % 26)}{number:03}") for number in range(start, start + 100)]
        )
    sample = await store.sample_persons(1, limit)
    ids = [it.distinct_ids[0] for it in sample]
    assert len(set(ids)) == len(ids) == min(limit, 300)
    assert limit == 1 or max(ids) > "u200"
    assert await store.sample_persons(1, limit) == sample
    groups = await store.sample_groups(1, "organization", limit)
    keys = [it.key for it in groups]
    assert len(set(keys)) == len(keys) == min(limit, 300)
    assert limit == 1 or max(keys) > "n"
    assert await store.sample_groups(1, "organization", limit) == groups


@pytest.mark.parametrize("store", STORED, indirect=True)
async def test_project__with_people__is_deleted_with_them(store: ManagedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, in however many batches; those of other projects stay."""
    for module in ("postgres_editing", "sqlite_editing", "postgres_people", "sqlite_people"):
        monkeypatch.setattr(f"gateway.stores.{module}.DELETED_AT_ONCE", 4)
    for project_id in (1, 2):
        await store.upsert_persons(project_id, [person(f"u{number}", cohorts=(FRIENDS,)) for number in range(9)])
        await store.upsert_groups(project_id, [group(f"g{number}") for number in range(9)])
    assert await store.clear_members(1, FRIENDS) == 9
    assert await store.delete_project(1, ANN)
    for relation, left in (("persons", 9), ("distinct_ids", 9), ("groups", 9), ("cohort_members", 9), ("builds", 1)):
        assert await execute(store, f"SELECT count(*) FROM flagstone.{relation}") == [(left,)]
