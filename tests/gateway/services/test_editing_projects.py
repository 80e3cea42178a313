"""Managing projects and cohorts. What their filters may look like is in test_validation.py."""

import re
from typing import Any

import pytest

from gateway.editing_ports import ItemQuery
from gateway.errors import Conflict, NotFound
from tests.builders import person
from tests.gateway.services.managed import ANA, BEN, World, anybody, in_cohort, members


async def test_create_project__with_a_name_alone__has_a_token_of_its_own() -> None:
    """Tokens that nobody chose are long and random, and look as SDKs expect."""
    async with World() as world:
        saved = await world.editing.create_project({"name": "Shop"}, ANA)
        project = members(saved.item)
        assert re.fullmatch(r"phc_[A-Za-z0-9_-]{43}", project["token"])
        assert (saved.item.id, saved.is_new, saved.project_version) == (2, True, 1)
        assert (project["timezone"], project["bucketing"], project["created_by"]) == ("UTC", "sha1", "ana")
        assert [it.id for it in (await world.editing.list_projects("sho")).items] == [2]


async def test_create_project__with_an_id__gets_it() -> None:
    """Projects that move here keep their numbers, unless somebody else has them."""
    async with World() as world:
        assert (await world.editing.create_project({"name": "Shop", "id": 42}, ANA)).item.id == 42
        again = world.editing.create_project({"name": "Shop", "id": 42}, ANA)
        assert await world.refusal(again) == [("duplicate", "$.id")]
        taken = world.editing.create_project({"name": "Shop", "token": "phc_test"}, ANA)
        assert await world.refusal(taken) == [("duplicate", "$.token")]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, ("invalid", "$.name")),
        ({"name": "x" * 401}, ("invalid", "$.name")),
        ({"name": "x", "token": "a b"}, ("invalid", "$.token")),
        ({"name": "x", "token": "é"}, ("invalid", "$.token")),
        ({"name": "x", "secret_tokens": ["a", ""]}, ("invalid", "$.secret_tokens[1]")),
        ({"name": "x", "secret_tokens": ["a"] * 11}, ("invalid", "$.secret_tokens")),
        ({"name": "x", "timezone": "Mars/Olympus"}, ("invalid", "$.timezone")),
        ({"name": "x", "timezone": "../etc"}, ("invalid", "$.timezone")),
        ({"name": "x", "bucketing": "md5"}, ("undecodable", "$.bucketing")),
        ({"name": "x", "property_matching_version": 3}, ("undecodable", "$.property_matching_version")),
        ({"name": "x", "group_types": ["a", "b", "a"]}, ("invalid", "$.group_types[2]")),
        ({"name": "x", "group_types": [""]}, ("invalid", "$.group_types[0]")),
        ({"name": "x", "group_types": list("abcdef")}, ("invalid", "$.group_types")),
        ({"name": "x", "colour": "red"}, ("undecodable", "$.colour")),
        ({"name": "x", "id": "1"}, ("undecodable", "$.id")),
    ],
    ids=str,
)
async def test_create_project__that_would_not_work__is_refused(
    fields: dict[str, Any], problem: tuple[str, str]
) -> None:
    """What is wrong with a project is said with its path."""
    async with World() as world:
        assert await world.refusal(world.editing.create_project(fields, ANA)) == [problem]


async def test_change_project__group_types__can_only_be_added_to() -> None:
    """Flags refer to group types by index, so an index keeps its meaning for good."""
    async with World() as world:
        for group_types in ([], ["team", "organization"]):
            change = world.editing.change(1, "project", 1, {"group_types": group_types}, ANA)
            assert await world.refusal(change) == [("invalid", "$.group_types")]
        saved = await world.editing.change(1, "project", 1, {"group_types": ["organization", "team"], "id": 9}, ANA)
        assert members(saved.item)["group_types"] == ["organization", "team"]
        assert (saved.item.id, saved.item.version, saved.project_version) == (1, 2, 2)
        rolled_back = world.editing.roll_back(1, "project", 1, 1, ANA)
        assert await world.refusal(rolled_back) == [("invalid", "$.group_types")]


async def test_change_project__the_token_of_another__is_a_conflict() -> None:
    """One token never opens two projects."""
    async with World() as world:
        await world.editing.create_project({"name": "Shop", "token": "phc_shop"}, ANA)
        with pytest.raises(Conflict):
            await world.editing.change(2, "project", 2, {"token": "phc_test"}, ANA)


async def test_history__of_a_project__has_its_changes() -> None:
    """Projects have a history and earlier versions like all else."""
    async with World() as world:
        await world.editing.change(1, "project", 1, {"name": "Tests"}, BEN)
        records = await world.editing.history(1, "project", 1)
        assert [(it.version, it.action) for it in records] == [(2, "changed"), (1, "created")]
        saved = await world.editing.roll_back(1, "project", 1, 1, ANA)
        assert members(saved.item)["name"] == "Test"


async def test_delete_project__that_is_there__is_for_good() -> None:
    """A deleted project is gone, and with it all that was in it."""
    async with World() as world:
        await world.editing.delete_project(1, ANA)
        for call in (world.editing.get_project(1), world.editing.delete_project(1, ANA)):
            with pytest.raises(NotFound):
                await call


async def test_create__a_cohort__has_its_defaults() -> None:
    """A cohort has a name, a version and an author."""
    async with World() as world:
        cohort = members(await world.cohort("Staff", is_static=True, count=3, query=None))
        assert (cohort["name"], cohort["description"], cohort["is_static"]) == ("Staff", "", True)
        assert (cohort["version"], cohort["created_by"], cohort["deleted"]) == (1, "ana", False)
        assert "count" not in cohort


async def test_change__a_cohort__stays_static_or_not() -> None:
    """What a cohort's members are listed by, or follow from, is settled when it is created."""
    async with World() as world:
        static, dynamic = (
            await world.cohort("A", is_static=True),
            await world.cohort("B", filters=anybody(person("x", 1))),
        )
        for cohort, is_static in ((static, False), (dynamic, True)):
            fields = {"is_static": is_static, "filters": anybody(person("x", 1))}
            refused = await world.refusal(world.editing.change(1, "cohort", cohort.id, fields, ANA))
            assert refused == [("invalid", "$.is_static")]


async def test_change__a_cohort_into_a_circle__is_refused() -> None:
    """A cohort never comes to contain itself, over however many others."""
    async with World() as world:
        first = await world.cohort("A", filters=anybody(person("x", 1)))
        second = await world.cohort("B", filters=anybody(in_cohort(first.id)))
        change = world.editing.change(1, "cohort", first.id, {"filters": anybody(in_cohort(second.id))}, ANA)
        assert await world.refusal(change) == [("unresolved", "$.filters.properties.values[0].values[0]")]


async def test_list_items__of_cohorts__has_those_not_deleted() -> None:
    """Deleted cohorts are listed when asked for, and can be restored."""
    async with World() as world:
        cohort = await world.cohort("A", is_static=True)
        await world.editing.change(1, "cohort", cohort.id, {"deleted": True}, ANA)
        assert (await world.editing.list_items(1, ItemQuery(kind="cohort"))).total == 0
        deleted = await world.editing.list_items(1, ItemQuery(kind="cohort", is_deleted=True))
        assert [it.id for it in deleted.items] == [cohort.id]
        await world.editing.change(1, "cohort", str(cohort.id), {"deleted": False}, ANA)
        assert world.store.audit[-1].action == "restored"
