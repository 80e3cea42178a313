"""Whole states from a file: what a plan says, and what applying it does.

What single flags may look like is in test_validation.py.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.editing_ports import ItemQuery
from gateway.edits import MAX_CHANGES, Desired, MemberChange, Plan
from gateway.errors import Conflict, NotFound
from tests.builders import condition, person
from tests.gateway.services.managed import BEN, World, anybody, in_cohort, members, on_flag, those


async def applied(world: World, desired: Desired, **options: Any) -> Plan:
    return await world.editing.apply(1, desired, **{"may_delete": False, "if_version": None, "by": BEN, **options})


async def planned(world: World, desired: Desired, *, may_delete: bool = False) -> Plan:
    return await world.editing.plan(1, desired, may_delete=may_delete)


def steps(plan: Plan) -> list[tuple[str, str, str]]:
    return [(it.action, it.kind, it.name) for it in plan.changes]


async def flags(world: World) -> dict[str, dict[str, Any]]:
    page = await world.editing.list_items(1, ItemQuery(kind="flag"))
    return {it["key"]: it for it in map(members, page.items)}


async def test_apply__to_an_empty_project__creates_everything_in_one_edit() -> None:
    """Flags refer to each other by key and to cohorts by name, in whatever order the file has them."""
    async with World() as world:
        desired = Desired(
            flags=[
                {"key": "top", "filters": those(on_flag("base"), in_cohort("Staff"))},
                {"key": "base", "filters": those()},
            ],
            cohorts=[
                {"name": "All", "filters": anybody(in_cohort("Staff"))},
                {"name": "Staff", "is_static": True},
            ],
        )
        plan = await applied(world, desired)
        assert steps(plan) == [
            ("create", "cohort", "All"),
            ("create", "cohort", "Staff"),
            ("create", "flag", "base"),
            ("create", "flag", "top"),
        ]
        assert plan.version == 2
        stored = await flags(world)
        on_base, in_staff = stored["top"]["filters"]["groups"][0]["properties"]
        assert (on_base["key"], in_staff["value"]) == (str(stored["base"]["id"]), 2)
        assert {it.actor for it in world.store.audit[1:]} == {"ben"}
        assert (await planned(world, desired)).changes == []


async def test_plan__of_changes__says_what_each_member_was_and_shall_be() -> None:
    """A plan shows the paths that differ, counts what does not, and writes nothing."""
    async with World() as world:
        await world.flag("beta", name="Beta", filters={"groups": [condition(rollout=10)]})
        await world.flag("same")
        await world.flag("other")
        desired = Desired(
            flags=[{"key": "beta", "filters": {"groups": [condition(rollout=20)], "early_exit": True}}, {"key": "same"}]
        )
        plan = await planned(world, desired)
        (change,) = plan.changes
        assert (change.action, change.name, change.id) == ("change", "beta", 1)
        assert list(change.changes) == [
            MemberChange("$.filters.groups[0].rollout_percentage", 10, 20),
            MemberChange("$.filters.early_exit", after=True),
        ]
        assert (plan.version, plan.unchanged, plan.unmanaged) == (4, 1, 1)
        assert (await flags(world))["beta"]["version"] == 1
        await applied(world, desired)
        assert (await flags(world))["beta"]["name"] == "Beta"


async def test_apply__what_the_file_lacks__is_deleted_only_if_it_may_be() -> None:
    """A file that forgot a flag deletes nothing, unless it was said that it is all there shall be."""
    async with World() as world:
        await world.flag("beta")
        await world.cohort("Staff", is_static=True)
        nothing = Desired(flags=[])
        assert (await applied(world, nothing)).unmanaged == 1
        plan = await applied(world, nothing, may_delete=True)
        assert steps(plan) == [("delete", "flag", "beta")]
        plan = await applied(world, Desired(flags=[], cohorts=[]), may_delete=True)
        assert steps(plan) == [("delete", "cohort", "Staff")]
        assert world.store.audit[-1].action == "deleted"
        assert steps(await applied(world, Desired(flags=[{"key": "beta"}]))) == [("create", "flag", "beta")]


async def test_apply__deleting_what_is_still_used__is_refused() -> None:
    """What the file lacks and something in it uses stops all of it."""
    async with World() as world:
        await world.flag("base")
        cohort = await world.cohort("Staff", is_static=True)
        await world.flag("top", filters=those(on_flag("base"), in_cohort(cohort.id)))
        refused = await world.refusal(applied(world, Desired(flags=[{"key": "top"}], cohorts=[]), may_delete=True))
        assert refused == [("in_use", "$.flags"), ("in_use", "$.cohorts")]
        plan = await applied(world, Desired(flags=[{"key": "top", "filters": those()}], cohorts=[]), may_delete=True)
        assert steps(plan) == [("change", "flag", "top"), ("delete", "flag", "base"), ("delete", "cohort", "Staff")]


async def test_apply__to_another_version_than_was_shown__is_a_conflict() -> None:
    """What is carried out is what was shown, or nothing."""
    async with World() as world:
        desired = Desired(flags=[{"key": "beta"}])
        plan = await planned(world, desired)
        await world.flag("gamma")
        with pytest.raises(Conflict) as caught:
            await applied(world, desired, if_version=plan.version)
        assert caught.value.members == {"version": 2}
        assert (await applied(world, desired, if_version=2)).version == 3


@pytest.mark.parametrize(
    ("flags", "cohorts", "problems"),
    [
        ([{"key": "a"}, {"key": "a"}], [], [("duplicate", "$.flags[1]")]),
        ([{}], [], [("invalid", "$.flags[0].key")]),
        ([{"key": "a", "deleted": True}], [], [("invalid", "$.flags[0].deleted")]),
        ([{"key": "a"}, {"key": "b", "filter": 1, "active": 2}], [], [
            ("undecodable", "$.flags[1].filter"), ("undecodable", "$.flags[1].active"),
        ]),
        ([{"key": "a"}, {"key": "b", "filters": those(on_flag("c"))}], [], [
            ("unresolved", "$.flags[1].filters.groups[0].properties[0]"),
        ]),
        ([{"key": "a", "filters": those(on_flag("b"))}, {"key": "b", "filters": those(on_flag("a"))}], [], [
            ("unresolved", "$.flags[0].filters.groups[0].properties[0]"),
            ("unresolved", "$.flags[1].filters.groups[0].properties[0]"),
        ]),
        ([], [{"name": "A", "id": 9, "is_static": True}], [("unresolved", "$.cohorts[0].id")]),
        ([], [{"name": "A", "id": [9]}], [("unresolved", "$.cohorts[0].id")]),
        ([], [{"name": "Two", "is_static": True}], [("duplicate", "$.cohorts[0].name")]),
        ([], [{"name": "Staff", "is_static": False, "filters": anybody(person("x", 1))}], [
            ("invalid", "$.cohorts[0].is_static"),
        ]),
        ([{"key": "a", "filters": those(in_cohort("Two"))}], None, [
            ("never_matches", "$.flags[0].filters.groups[0].properties[0]"),
        ]),
        ([{"key": "a", "name": "x" * (1 << 20)}], None, [("invalid", "$.flags[0]")]),
        ([{"key": f"f{it}"} for it in range(MAX_CHANGES + 1)], None, [("invalid", "$")]),
    ],
    ids=lambda it: str(it)[:60],
)  # fmt: skip
async def test_apply__of_a_file_that_would_not_work__is_refused_whole(
    flags: list[Any], cohorts: list[Any] | None, problems: list[tuple[str, str]]
) -> None:
    """Everything wrong in a file is told with its place in it, and nothing of it is done."""
    async with World() as world:
        for name in ("Staff", "Two", "Two"):
            await world.cohort(name, is_static=True)
        before = dict(world.store._projects[1].items)
        assert await world.refusal(applied(world, Desired(flags=flags, cohorts=cohorts))) == problems
        assert world.store._projects[1].items == before


async def test_apply__of_a_cohort_by_id__may_rename_it() -> None:
    """Names of cohorts may be ambiguous or change, and ids settle it."""
    async with World() as world:
        cohort = await world.cohort("Staff", is_static=True)
        await world.cohort("Staff", is_static=True)
        plan = await applied(world, Desired(flags=[], cohorts=[{"id": cohort.id, "name": "Crew"}]))
        assert steps(plan) == [("change", "cohort", "Crew")]
        assert plan.unmanaged == 1


async def test_apply__of_a_project_with_broken_flags__leaves_them_alone() -> None:
    """What an import left broken stops nobody from applying a file that says nothing new of it."""
    async with World() as world:
        await world.imported("flag", {"id": 5, "key": "odd", "active": True, "filters": 5})
        assert steps(await applied(world, Desired(flags=[{"key": "odd"}, {"key": "a"}]))) == [("create", "flag", "a")]
        assert steps(await applied(world, Desired(flags=[{"key": "odd", "active": False}]))) == [
            ("change", "flag", "odd")
        ]


async def test_plan__of_no_project__is_not_found() -> None:
    """There is nothing to plan where there is no project."""
    async with World() as world:
        with pytest.raises(NotFound):
            await world.editing.plan(2, Desired(flags=[]), may_delete=False)


KEYS = st.sampled_from(["a", "b", "c", "d"])
ENTRIES = st.fixed_dictionaries(
    {"filters": st.builds(lambda it: {"groups": [condition(rollout=it)]}, st.integers(0, 100))},
    optional={"active": st.booleans(), "name": st.text("xyz", max_size=3), "tags": st.lists(KEYS, max_size=2)},
)
STATES = st.dictionaries(KEYS, ENTRIES)


@settings(max_examples=40, deadline=None)
@given(st.lists(STATES, min_size=1, max_size=3))
async def test_plan__after_applying__is_empty(states: list[dict[str, dict[str, Any]]]) -> None:
    """Whatever states a project goes through, applying a file leaves nothing of it to be done."""
    async with World() as world:
        for state in states:
            desired = Desired(flags=[{"key": key, **fields} for key, fields in state.items()])
            await applied(world, desired, may_delete=True)
            plan = await planned(world, desired, may_delete=True)
            assert (plan.changes, plan.unchanged, plan.unmanaged) == ([], len(state), 0)
            assert (await flags(world)).keys() == state.keys()
