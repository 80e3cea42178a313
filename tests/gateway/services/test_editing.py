"""Managing flags, cohorts and projects: what is stored, what is refused, and what an edit leaves alone.

What a flag may look like is in test_validation.py. Invariant: each test has a store of its own.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.editing_ports import ItemQuery
from gateway.errors import Conflict, Invalid, NotFound
from tests.builders import condition, person
from tests.gateway.services.managed import ANA, BEN, World, anybody, in_cohort, members, on_flag, those


async def test_create__a_flag_with_a_key_alone__has_posthogs_defaults() -> None:
    """A new flag is on, for nobody yet, at version 1, and says who made it when."""
    async with World() as world:
        saved = await world.editing.create(1, "flag", {"key": "beta"}, ANA)
        assert saved.is_new
        assert saved.project_version == 2
        flag = members(saved.item)
        assert flag["id"] == saved.item.id
        assert (flag["key"], flag["name"], flag["active"], flag["deleted"]) == ("beta", "", True, False)
        assert flag["filters"] == {"groups": []}
        assert (flag["version"], flag["created_by"], flag["created_at"]) == (1, "ana", "2026-01-15T12:00:00Z")


async def test_create__members_of_other_tools__are_ignored() -> None:
    """What PostHog's tools send back of what they were given does not count, least of all an id."""
    async with World() as world:
        flag = members(await world.flag("beta", id=77, version=5, created_by={"id": 3}, status="ACTIVE", surveys=None))
        assert (flag["id"], flag["version"], flag["created_by"]) == (1, 1, "ana")
        assert "status" not in flag


async def test_create__an_unknown_member__is_refused_with_its_path() -> None:
    """A misspelt member is not lost in silence."""
    async with World() as world:
        refused = await world.refusal(world.flag("beta", filter={}, rollout=3))
        assert refused == [("undecodable", "$.filter"), ("undecodable", "$.rollout")]


async def test_create__members_unknown_inside_filters__are_kept() -> None:
    """What other tools keep in filters is theirs."""
    async with World() as world:
        filters = {"groups": [{**condition(), "sort_key": "a", "description": "all"}], "odd": [1]}
        assert members(await world.flag("beta", filters=filters))["filters"] == filters


async def test_create__the_same_request_key__gives_the_same_flag() -> None:
    """A create that is repeated, because its answer was lost, makes no second flag."""
    async with World() as world:
        first = await world.editing.create(1, "flag", {"key": "beta"}, ANA, "once")
        again = await world.editing.create(1, "flag", {"key": "beta", "active": True}, BEN, "once")
        assert again.item == first.item
        assert not again.is_new
        assert again.project_version == first.project_version


async def test_create__the_request_key_of_something_else__is_a_conflict() -> None:
    """A key that was used for another flag does not hide that this one was not made."""
    async with World() as world:
        await world.editing.create(1, "flag", {"key": "beta"}, ANA, "once")
        with pytest.raises(Conflict, match="used for something else"):
            await world.editing.create(1, "flag", {"key": "gamma"}, ANA, "once")


async def test_create__a_key_that_is_taken__is_refused() -> None:
    """Two flags never have one key, unless one of them is deleted."""
    async with World() as world:
        first = await world.flag("beta")
        assert await world.refusal(world.flag("beta")) == [("duplicate", "$.key")]
        await world.editing.change(1, "flag", first.id, {"deleted": True}, ANA)
        second = await world.flag("beta")
        assert second.id != first.id
        restored = world.editing.change(1, "flag", first.id, {"deleted": False}, ANA)
        assert await world.refusal(restored) == [("duplicate", "$.key")]


async def test_create__in_no_project__is_not_found() -> None:
    """Where there is no project, nothing is made."""
    async with World() as world:
        with pytest.raises(NotFound):
            await world.editing.create(2, "flag", {"key": "beta"}, ANA)


async def test_change__some_members__leaves_the_others() -> None:
    """A change replaces what it names, filters as a whole, and counts the version up."""
    async with World() as world:
        await world.flag("beta", name="Beta", filters=those(person("plan", "pro"), payloads={"true": "1"}))
        world.clock.advance(60)
        saved = await world.editing.change(1, "flag", "beta", {"filters": those()}, BEN)
        flag = members(saved.item)
        assert (flag["name"], flag["filters"], flag["version"]) == ("Beta", those(), 2)
        assert (flag["created_by"], flag["last_modified_by"]) == ("ana", "ben")
        assert flag["updated_at"] == "2026-01-15T12:01:00Z"
        assert [it.action for it in world.store.audit] == ["created", "created", "changed"]


async def test_change__nothing_new__writes_nothing() -> None:
    """Saying what is stored already makes no version and no record, however it is written."""
    async with World() as world:
        before = await world.flag("beta", filters={"groups": [condition()], "early_exit": True})
        same = {"filters": {"early_exit": True, "groups": [condition(rollout=100.0)]}, "active": True}
        saved = await world.editing.change(1, "flag", "beta", same, BEN)
        assert (saved.item, saved.is_new, saved.project_version) == (before, False, 2)
        assert len(world.store.audit) == 2


async def test_change__true_in_the_place_of_1__is_a_change() -> None:
    """What compares as equal here and is not equal in JSON is told apart."""
    async with World() as world:
        await world.flag("beta", filters=those(person("plan", 1)))
        saved = await world.editing.change(1, "flag", "beta", {"filters": those(person("plan", True))}, ANA)
        assert saved.item.version == 2


async def test_change__another_version_than_the_stored__is_a_conflict() -> None:
    """Who has not seen the last change cannot undo it, and learns which version is there."""
    async with World() as world:
        await world.flag("beta")
        await world.editing.change(1, "flag", "beta", {"name": "x", "version": 1}, ANA)
        with pytest.raises(Conflict) as caught:
            await world.editing.change(1, "flag", "beta", {"name": "y", "version": 1}, BEN)
        assert caught.value.members == {"version": 2}


@pytest.mark.parametrize(
    ("fields", "action"),
    [({"active": False}, "changed"), ({"deleted": True}, "deleted"), ({"name": "Off soon"}, "changed")],
)
async def test_change__a_flag_broken_by_import__can_be_taken_out_of_use(fields: dict[str, Any], action: str) -> None:
    """A flag that cannot be served can be switched off, deleted and renamed, though nothing else."""
    async with World() as world:
        broken = {"id": 5, "key": "odd", "active": True, "filters": those(person("x", "(?=a)", "regex"))}
        await world.imported("flag", broken)
        refused = await world.refusal(world.editing.change(1, "flag", "odd", {"has_experiment": True}, ANA))
        assert refused == [("never_matches", "$.filters.groups[0].properties[0].value")]
        await world.editing.change(1, "flag", "odd", fields, ANA)
        assert world.store.audit[-1].action == action


async def test_change__older_names_of_contexts__count_as_the_newer() -> None:
    """Contexts that were stored as tags are replaced by contexts, and do not shine through."""
    async with World() as world:
        await world.imported("flag", {"id": 5, "key": "old", "active": True, "evaluation_tags": ["app"]})
        unchanged = await world.editing.change(1, "flag", "old", {"evaluation_contexts": ["app"]}, ANA)
        assert unchanged.item.version == 0
        saved = await world.editing.change(1, "flag", "old", {"evaluation_contexts": []}, ANA)
        assert members(saved.item)["evaluation_contexts"] == []
        assert "evaluation_tags" not in members(saved.item)


async def test_get__by_id_and_key__finds_deleted_ones_by_id_alone() -> None:
    """A deleted flag gives up its key and keeps its id; digits are an id before they are a key."""
    async with World() as world:
        await world.flag("2")
        await world.flag("beta")
        assert members(await world.editing.get(1, "flag", "2"))["key"] == "beta"
        assert members(await world.editing.get(1, "flag", "beta"))["id"] == 2
        await world.editing.change(1, "flag", "beta", {"deleted": True}, ANA)
        assert members(await world.editing.get(1, "flag", 2))["deleted"]
        with pytest.raises(NotFound):
            await world.editing.get(1, "flag", "beta")


async def test_delete__what_others_use__is_refused_naming_them() -> None:
    """Nothing that is in use goes, and who uses it is said."""
    async with World() as world:
        flag, cohort = await world.flag("base"), await world.cohort("Staff", is_static=True)
        other = await world.cohort("Friends", filters=anybody(in_cohort(cohort.id)))
        await world.flag("top", filters=those(on_flag("base"), in_cohort(other.id)))
        for kind, item, user in (("flag", flag, "flag top"), ("cohort", cohort, "cohort Friends")):
            with pytest.raises(Invalid, match=f"is used by {user}") as caught:
                await world.editing.change(1, kind, item.id, {"deleted": True}, ANA)  # type: ignore[arg-type]
            assert [(it.code, it.path) for it in caught.value.problems] == [("in_use", "$.deleted")]
        await world.editing.change(1, "flag", "top", {"deleted": True}, ANA)
        await world.editing.change(1, "flag", "base", {"deleted": True}, ANA)
        refused = await world.refusal(world.editing.change(1, "flag", 2, {"deleted": False}, ANA))
        assert refused == [("unresolved", "$.filters.groups[0].properties[0]")]


async def test_roll_back__after_a_change__restores_what_was() -> None:
    """An earlier version comes back as a new one, and says that it is one."""
    async with World() as world:
        first = await world.flag("beta", filters=those(person("plan", "pro")))
        await world.editing.change(1, "flag", "beta", {"filters": those(), "name": "x"}, ANA)
        saved = await world.editing.roll_back(1, "flag", "beta", 1, BEN, if_version=2)
        same = ("key", "name", "filters", "active", "created_at", "created_by")
        assert {name: members(saved.item)[name] for name in same} == {name: members(first)[name] for name in same}
        assert saved.item.version == 3
        assert world.store.audit[-1].action == "rolled_back"


async def test_roll_back__to_what_would_not_work_any_more__is_refused() -> None:
    """Rolling back is judged like any other change."""
    async with World() as world:
        await world.flag("base")
        await world.flag("top", filters=those(on_flag("base")))
        await world.editing.change(1, "flag", "top", {"filters": those()}, ANA)
        await world.editing.change(1, "flag", "base", {"deleted": True}, ANA)
        refused = await world.refusal(world.editing.roll_back(1, "flag", "top", 1, ANA))
        assert refused == [("unresolved", "$.filters.groups[0].properties[0]")]


async def test_roll_back__of_what_was_imported__goes_as_far_as_is_recorded() -> None:
    """The first edit records what it found; of what was before that, it is said that nobody knows."""
    async with World() as world:
        await world.imported("flag", {"id": 5, "key": "old", "active": True, "version": 4})
        await world.editing.change(1, "flag", "old", {"name": "x"}, ANA)
        with pytest.raises(NotFound, match="Version 3 of this flag is not recorded"):
            await world.editing.roll_back(1, "flag", "old", 3, ANA)
        with pytest.raises(Conflict):
            await world.editing.roll_back(1, "flag", "old", 4, ANA, if_version=4)
        saved = await world.editing.roll_back(1, "flag", "old", 4, ANA)
        assert "name" not in members(saved.item)
        assert saved.item.version == 6


async def test_history__of_an_item__is_newest_first() -> None:
    """What happened is told in full; of what does not exist, there is none."""
    async with World() as world:
        await world.flag("beta")
        await world.editing.change(1, "flag", "beta", {"active": False}, BEN)
        records = await world.editing.history(1, "flag", "beta")
        assert [(it.version, it.actor, it.action) for it in records] == [(2, "ben", "changed"), (1, "ana", "created")]
        with pytest.raises(NotFound):
            await world.editing.history(1, "flag", "gamma")


async def test_list_items__of_no_project__is_not_found() -> None:
    """An empty list is of a project that there is."""
    async with World() as world:
        assert (await world.editing.list_items(1, ItemQuery(kind="flag"))).total == 0
        with pytest.raises(NotFound):
            await world.editing.list_items(2, ItemQuery(kind="flag"))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=6))
async def test_roll_back__to_any_version__restores_it(rollouts: list[int]) -> None:
    """Whatever was done to a flag, each of its versions can be had back."""
    async with World() as world:
        await world.flag("beta", filters=those())
        for rollout in rollouts:
            filters = {"groups": [condition(rollout=rollout)]}
            await world.editing.change(1, "flag", "beta", {"filters": filters}, ANA)
        for record in await world.editing.history(1, "flag", "beta"):
            saved = await world.editing.roll_back(1, "flag", "beta", record.version, ANA)
            assert members(saved.item)["filters"] == msgspec.json.decode(record.after or b"")["filters"]
