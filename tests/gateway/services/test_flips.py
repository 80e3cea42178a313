"""Dry runs: who would see another value of a flag if it were changed. Nothing here is ever written."""

from typing import Any

import pytest

from gateway.document import GroupDocument, PersonDocument
from gateway.edits import Flips
from gateway.errors import Conflict, Invalid, NotFound
from tests.builders import condition, person
from tests.gateway.services.managed import World, anybody, in_cohort, on_flag, those


async def people(world: World, count: int, **properties: Any) -> None:
    """Persons p0, p1, ..., every other one on the plan pro, the first ten in the cohorts given."""
    cohorts = properties.pop("cohorts", [])
    await world.store.upsert_persons(
        1,
        [
            PersonDocument(
                distinct_ids=[f"p{number}", f"also-{number}"],
                properties={"plan": "pro" if number % 2 else "free", **properties},
                cohorts=cohorts if number < 10 else [],
            )
            for number in range(count)
        ],
    )


def told(flips: Flips) -> list[tuple[object, object, int]]:
    return [(it.before, it.after, it.count) for it in flips.by_value]


async def test_flips__of_a_new_filter__are_those_it_shuts_out() -> None:
    """A change is told by whom it takes a value from, with some of their ids; and nothing is written."""
    async with World() as world:
        await people(world, 100)
        await world.flag("beta", filters=those())
        before = (list(world.store.audit), dict(world.store._projects[1].items))
        flips = await world.editing.flips(1, "beta", {"filters": those(person("plan", "pro"))})
        assert (flips.sampled, flips.flipped, flips.failed) == (100, 50, 0)
        assert told(flips) == [(True, False, 50)]
        assert len(flips.by_value[0].examples) == 5
        assert before == (world.store.audit, world.store._projects[1].items)


async def test_flips__of_variants__are_told_by_value() -> None:
    """Each pair of values is told apart, most frequent first."""
    async with World() as world:
        await people(world, 200)
        shares = [{"key": "a", "rollout_percentage": 80}, {"key": "b", "rollout_percentage": 20}]
        await world.flag("beta", filters=those())
        flips = await world.editing.flips(1, "beta", {"filters": those(multivariate={"variants": shares})})
        assert [(it.before, it.after) for it in flips.by_value] == [(True, "a"), (True, "b")]
        assert flips.by_value[0].count > flips.by_value[1].count
        assert flips.flipped == 200


async def test_flips__of_a_flag_to_be_created__start_from_false() -> None:
    """A flag that is not there yet says false."""
    async with World() as world:
        await people(world, 20)
        flips = await world.editing.flips(1, None, {"key": "new", "filters": those(person("plan", "pro"))})
        assert told(flips) == [(False, True, 10)]


async def test_flips__of_taking_a_broken_flag_away__are_none() -> None:
    """A flag that cannot be served has said false all the while, and can be tried like any other."""
    async with World() as world:
        await people(world, 4)
        await world.imported("flag", {"id": 5, "key": "odd", "active": True, "filters": 5})
        assert (await world.editing.flips(1, "odd", {"active": False})).flipped == 0


@pytest.mark.parametrize("fields", [{"active": False}, {"deleted": True}])
async def test_flips__of_taking_a_flag_away__are_all_who_have_it(fields: dict[str, Any]) -> None:
    """Switched off or deleted, a flag says false."""
    async with World() as world:
        await people(world, 20)
        await world.flag("beta", filters=those())
        assert told(await world.editing.flips(1, "beta", fields)) == [(True, False, 20)]


async def test_flips__by_cohorts_and_other_flags__use_what_is_stored() -> None:
    """Cohorts, static or not, and the flags that a flag depends on count as they do when it is served."""
    async with World() as world:
        static = await world.cohort("First", is_static=True)
        paying = await world.cohort("Paying", filters=anybody(person("plan", "pro")))
        await people(world, 40, cohorts=[static.id])
        await world.flag("base", filters=those(in_cohort(paying.id)))
        await world.flag("beta")
        flips = await world.editing.flips(1, "beta", {"filters": those(on_flag("base"), in_cohort(static.id))})
        assert told(flips) == [(False, True, 5)]


async def test_flips__of_a_flag_of_groups__are_groups() -> None:
    """A flag that groups are given is tried on groups, with their properties."""
    async with World() as world:
        groups = [GroupDocument(type="organization", key=f"g{it}", properties={"size": it}) for it in range(10)]
        await world.store.upsert_groups(1, groups)
        large = {**person("size", 7, "gte"), "type": "group"}
        await world.flag("beta", filters=those(aggregation_group_type_index=0))
        fields = {"filters": those(large, aggregation_group_type_index=0)}
        flips = await world.editing.flips(1, "beta", fields)
        assert told(flips) == [(True, False, 7)]
        assert set(flips.by_value[0].examples) <= {f"g{it}" for it in range(7)}


async def test_flips__of_a_flag_by_device__have_the_share_of_the_rollout() -> None:
    """Which devices people use is not known; their ids stand in, so that the share is right."""
    async with World() as world:
        await people(world, 200)
        await world.flag("beta", bucketing_identifier="device_id")
        flips = await world.editing.flips(1, "beta", {"filters": {"groups": [condition(rollout=50)]}})
        assert 60 < flips.flipped < 140


async def test_flips__of_what_would_not_work__are_refused() -> None:
    """A dry run refuses what the change itself would be refused for."""
    async with World() as world:
        await world.flag("beta")
        broken = world.editing.flips(1, "beta", {"filters": those(in_cohort(9))})
        assert await world.refusal(broken) == [("unresolved", "$.filters.groups[0].properties[0]")]
        with pytest.raises(Conflict):
            await world.editing.flips(1, "beta", {"version": 7})
        with pytest.raises(NotFound):
            await world.editing.flips(1, "gamma", {})


@pytest.mark.parametrize("sample", [0, -1, 10_001])
async def test_flips__of_too_large_a_sample__are_refused(sample: int) -> None:
    """A dry run costs no more than it may."""
    async with World() as world:
        with pytest.raises(Invalid, match="sample"):
            await world.editing.flips(1, None, {"key": "beta"}, sample)


async def test_flips__of_a_sample__are_no_more_than_it() -> None:
    """Where more people are known than are asked for, some from all over are taken."""
    async with World() as world:
        await people(world, 1200)
        flips = await world.editing.flips(1, None, {"key": "beta", "filters": those()}, 600)
        assert (flips.sampled, flips.flipped) == (600, 600)


async def test_flips__of_a_flag_of_rules__have_typed_values() -> None:
    """Rules give numbers and objects, and these are told apart."""
    async with World() as world:
        await people(world, 4)
        rule = {"id": "r", "rule_type": "targeted_release", "value": 1}
        await world.flag("beta", filters={"version": 2, "rules": [rule], "default_value": 0})
        fields = {"filters": {"version": 2, "rules": [{**rule, "value": {"n": 2}}], "default_value": 0}}
        assert told(await world.editing.flips(1, "beta", fields)) == [(1, {"n": 2}, 4)]


async def test_flips__of_what_nobody_can_tell__are_counted_apart() -> None:
    """Values that were uncertain before the change are no flips."""
    async with World() as world:
        await people(world, 4)
        await world.imported(
            "flag", {"id": 5, "key": "odd", "active": True, "filters": those(in_cohort(9)), "version": 1}
        )
        flips = await world.editing.flips(1, "odd", {"filters": those()})
        assert (flips.flipped, flips.failed) == (0, 4)
