"""What a flag or cohort written by hand is refused for: each problem with its code and its path.

What happens to items otherwise is in test_editing.py.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Invalid
from tests.builders import condition, person
from tests.gateway.services.managed import ANA, World, anybody, in_cohort, members, on_flag, those

DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]
HERE = "$.filters.groups[0].properties[0]"
VARIANTS = {"variants": [{"key": "a", "rollout_percentage": 50}, {"key": "b", "rollout_percentage": 50}]}


def variants(*shares: tuple[str, float]) -> dict[str, Any]:
    return {
        "groups": [],
        "multivariate": {"variants": [{"key": it, "rollout_percentage": part} for it, part in shares]},
    }


def rules(**rule: Any) -> dict[str, Any]:
    return {"version": 2, "rules": [{"id": "r", "rule_type": "experiment", "seed": "s", **rule}]}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"key": ""}, ("invalid", "$.key")),
        ({"key": "a b"}, ("invalid", "$.key")),
        ({"key": "é"}, ("invalid", "$.key")),
        ({"key": "a\n"}, ("invalid", "$.key")),
        ({"key": "x" * 401}, ("invalid", "$.key")),
        ({"key": 5}, ("undecodable", "$.key")),
        ({"active": None}, ("undecodable", "$.active")),
        ({"deleted": True}, ("invalid", "$.deleted")),
        ({"tags": "a"}, ("undecodable", "$.tags")),
        ({"evaluation_runtime": "edge"}, ("undecodable", "$.evaluation_runtime")),
        ({"bucketing_identifier": "email"}, ("undecodable", "$.bucketing_identifier")),
        ({"filters": None}, ("undecodable", "$.filters")),
        ({"filters": those({"key": "x", "value": 1})}, ("undecodable", HERE)),
        ({"filters": those(person("x", 1, "like"))}, ("undecodable", f"{HERE}.operator")),
        ({"filters": those(person("x", "a(?=b)", "regex"))}, ("never_matches", f"{HERE}.value")),
        ({"filters": those(person("x", "tall", "gt"))}, ("never_matches", f"{HERE}.value")),
        ({"filters": those(person("x", "soon", "is_date_after"))}, ("never_matches", f"{HERE}.value")),
        ({"filters": those(person("x", "1.x", "semver_gt")), "active": False}, ("never_matches", f"{HERE}.value")),
        ({"filters": {"groups": [condition(rollout=101)]}}, ("invalid", "$.filters.groups[0].rollout_percentage")),
        ({"filters": {"groups": [condition(rollout=-1)]}}, ("invalid", "$.filters.groups[0].rollout_percentage")),
        ({"filters": {"groups": [condition(variant="a")]}}, ("unresolved", "$.filters.groups[0].variant")),
        ({"filters": variants(("a", 50), ("b", 49))}, ("invalid", "$.filters.multivariate.variants")),
        ({"filters": variants(("a", 50), ("a", 50))}, ("duplicate", "$.filters.multivariate.variants[1].key")),
        ({"filters": variants(("", 100))}, ("invalid", "$.filters.multivariate.variants[0].key")),
        ({"filters": those(payloads={"true": "{"})}, ("invalid", "$.filters.payloads.true")),
        ({"filters": those(payloads={"a": "1"})}, ("unresolved", "$.filters.payloads.a")),
        ({"filters": those(aggregation_group_type_index=1)}, ("unresolved", "$.filters.aggregation_group_type_index")),
        (
            {"filters": {"groups": [{**condition(), "aggregation_group_type_index": 1}]}},
            ("unresolved", "$.filters.groups[0].aggregation_group_type_index"),
        ),
        ({"filters": those({**person("x", 1), "type": "group"})}, ("invalid", f"{HERE}.group_type_index")),
        (
            {"filters": those({**person("x", 1), "type": "group", "group_type_index": 7})},
            ("unresolved", f"{HERE}.group_type_index"),
        ),
        (
            {"filters": those(holdout={"id": 1, "exclusion_percentage": 200})},
            ("invalid", "$.filters.holdout.exclusion_percentage"),
        ),
        ({"filters": those(on_flag("beta"))}, ("unresolved", HERE)),
        ({"filters": those(on_flag("gamma"))}, ("unresolved", HERE)),
        ({"filters": those(on_flag(77))}, ("unresolved", HERE)),
        ({"filters": those(on_flag("base", "c"))}, ("never_matches", f"{HERE}.value")),
        ({"filters": those(on_flag("base", 3))}, ("never_matches", f"{HERE}.value")),
        ({"filters": those({**on_flag("base"), "operator": "exact"})}, ("never_matches", HERE)),
        ({"filters": those(in_cohort(9))}, ("unresolved", HERE)),
        ({"filters": those(in_cohort("Staff"))}, ("never_matches", HERE)),
        (
            {"filters": rules(variants=[{"key": "a", "weight": 90}])},
            ("invalid", "$.filters.rules[0].variants"),
        ),
        ({"filters": rules(rollout_percentage=101)}, ("invalid", "$.filters.rules[0].rollout_percentage")),
        (
            {"filters": rules(targeting={"properties": [on_flag(77)]})},
            ("unresolved", "$.filters.rules[0].targeting.properties[0]"),
        ),
        (
            {"filters": rules(holdout={"id": 1, "seed": "s", "exclusion_percentage": -1})},
            ("invalid", "$.filters.rules[0].holdout.exclusion_percentage"),
        ),
        ({"name": "x" * (1 << 20)}, ("invalid", "$")),
        ({"filters": {"groups": [], "odd": DEEP}}, ("invalid", "$")),
    ],
    ids=lambda it: str(it)[:60],
)
async def test_flag__that_would_not_work__is_refused(fields: dict[str, Any], problem: tuple[str, str]) -> None:
    """What would be off, or never match, when served is refused when written, with the path of what is wrong."""
    async with World() as world:
        await world.flag("base", filters={"groups": [], "multivariate": VARIANTS})
        assert await world.refusal(world.flag(**{"key": "beta", **fields})) == [problem]


@pytest.mark.parametrize(
    "fields",
    [
        {"filters": variants(("a", 33.34), ("b", 33.33), ("c", 33.33))},
        {
            "filters": {
                "groups": [condition(variant="a")],
                "multivariate": VARIANTS,
                "payloads": {"a": "[1]", "true": "1"},
            }
        },
        {"filters": those(payloads={"true": "not json"}), "has_encrypted_payloads": True},
        {"filters": those({**person("x", 1), "type": "group"}, aggregation_group_type_index=0)},
        {"filters": those(on_flag("base", "b"), on_flag(1, False))},
        {"filters": rules(variants=[{"key": "a", "weight": 40}, {"key": "b", "weight": 60}])},
        {"key": "x" * 400},
    ],
    ids=lambda it: str(it)[:60],
)
async def test_flag__that_works__is_taken(fields: dict[str, Any]) -> None:
    """What would be served as it is meant is not refused."""
    async with World() as world:
        await world.flag("base", filters={"groups": [], "multivariate": VARIANTS})
        await world.flag(**{"key": "beta", **fields})


async def test_flag__several_things_wrong__are_all_told() -> None:
    """One refusal names everything, so that nobody has to try again and again."""
    async with World() as world:
        filters = {"groups": [condition(person("a", "(", "regex"), person("b", "x", "lt"), rollout=200)]}
        assert await world.refusal(world.flag("a b", filters=filters)) == [
            ("invalid", "$.key"),
            ("invalid", "$.filters.groups[0].rollout_percentage"),
            ("never_matches", "$.filters.groups[0].properties[0].value"),
            ("never_matches", "$.filters.groups[0].properties[1].value"),
        ]


async def test_flag__payloads_as_objects__are_stored_as_text() -> None:
    """SDKs get payloads as JSON text, in whichever form they were written."""
    async with World() as world:
        flag = members(await world.flag("beta", filters=those(payloads={"true": {"w": 3}})))
        assert flag["filters"]["payloads"] == {"true": '{"w":3}'}


async def test_flag__that_depends_on_a_key__is_stored_with_the_id() -> None:
    """People write keys, which may change; what is stored are ids, which do not."""
    async with World() as world:
        base = await world.flag("base")
        flag = members(await world.flag("beta", filters=those(on_flag("base"))))
        assert flag["filters"]["groups"][0]["properties"][0]["key"] == str(base.id)


async def test_flag__in_a_circle__is_refused_naming_it() -> None:
    """A circle of flags is told by their keys, from the flag that closes it."""
    async with World() as world:
        await world.flag("a")
        await world.flag("b", filters=those(on_flag("a")))
        await world.flag("c", filters=those(on_flag("b")))
        with pytest.raises(Invalid, match="a -> c -> b -> a"):
            await world.editing.change(1, "flag", "a", {"filters": those(on_flag("c"))}, ANA)
        with pytest.raises(Invalid, match="d -> d"):
            await world.flag("d", filters=those(on_flag("d")))


async def test_flag__that_depends_on_a_long_chain__is_judged_to_its_end() -> None:
    """However long the chain, what is missing at its end is found."""
    async with World() as world:
        for number in range(1, 41):
            flag = {
                "id": number,
                "key": f"f{number}",
                "active": True,
                "filters": those(on_flag(number + 1 if number < 40 else 99)),
            }
            await world.imported("flag", flag)
        with pytest.raises(Invalid, match=r"the last of these does not exist: top -> f1 -> .* -> f40 -> 99") as caught:
            await world.flag("top", filters=those(on_flag("f1")))
        assert [it.path for it in caught.value.problems] == [HERE]


async def test_flag__on_a_cohort_of_which_nobody_can_tell__is_refused() -> None:
    """A cohort that leads to one that is not there cannot be told, so no flag can be for it."""
    async with World() as world:
        await world.imported("cohort", {"id": 1, "name": "A", "filters": anybody(in_cohort(2))})
        with pytest.raises(Invalid, match="there is no cohort 2"):
            await world.flag("beta", filters=those(in_cohort(1)))


async def test_flag__that_others_are_broken__is_no_reason_to_refuse() -> None:
    """What is wrong elsewhere in the project stops nobody from editing what is right."""
    async with World() as world:
        await world.imported("flag", {"id": 7, "key": "odd", "active": True, "filters": 5})
        await world.imported("cohort", {"id": 1, "name": "A", "filters": anybody(person("x", "(", "regex"))})
        await world.flag("beta", filters=those(on_flag("odd"), in_cohort(1)))


async def test_flag__in_a_project_that_cannot_be_read__is_refused_for_the_project() -> None:
    """What is wrong with the project itself is not said of the flag."""
    async with World() as world:
        await world.imported("project", {"id": 1, "token": "phc_test", "timezone": 5})
        assert await world.refusal(world.flag("beta")) == [("undecodable", "project.timezone")]


async def test_flag__with_text_that_json_cannot_have__is_refused() -> None:
    """Callers in process can hand in what no request can."""
    async with World() as world:
        assert await world.refusal(world.flag("beta", name="\ud800")) == [("undecodable", "$")]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": ""}, ("invalid", "$.name")),
        ({"filters": None}, ("invalid", "$.filters")),
        ({"filters": {"properties": 5}}, ("undecodable", "$.filters.properties")),
        ({"filters": anybody({"key": "x"})}, ("undecodable", "$.filters.properties.values[0].values[0]")),
        ({"filters": anybody(on_flag("a"))}, ("undecodable", "$.filters.properties.values[0].values[0]")),
        (
            {"filters": anybody(person("x", "(", "regex"))},
            ("never_matches", "$.filters.properties.values[0].values[0].value"),
        ),
        (
            {"filters": anybody(person("x", 1), in_cohort(9))},
            ("unresolved", "$.filters.properties.values[0].values[1]"),
        ),
        ({"filters": anybody(in_cohort(1))}, ("unresolved", "$.filters.properties.values[0].values[0]")),
        ({"is_static": None}, ("undecodable", "$.is_static")),
        ({"rows": 3}, ("undecodable", "$.rows")),
    ],
    ids=lambda it: str(it)[:60],
)
async def test_cohort__that_would_not_work__is_refused(fields: dict[str, Any], problem: tuple[str, str]) -> None:
    """A cohort is judged as gateways will read it, and may not contain itself."""
    async with World() as world:
        cohort = {"name": "A", "filters": anybody(person("x", 1)), **fields}
        assert await world.refusal(world.editing.create(1, "cohort", cohort, ANA)) == [problem]


NAMES = st.sampled_from([
    "a", "filters", "group_type_index", "groups", "holdout", "id", "key", "multivariate", "name", "operator",
    "payloads", "properties", "rollout_percentage", "rules", "targeting", "type", "value", "values", "variants",
    "version",
])  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
LIKE_FILTERS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["person", "flag", "cohort", "group", "AND", "OR"]),
        "key": st.sampled_from(["1", "b", ""]),
    },
    optional={"value": JSON, "operator": st.sampled_from(["flag_evaluates_to", "in", "regex", "gt"]), "values": JSON},
)
LIKE_FLAGS = st.fixed_dictionaries({"groups": st.lists(st.fixed_dictionaries({"properties": st.lists(LIKE_FILTERS)}))})
LIKE_COHORTS = st.fixed_dictionaries({"properties": LIKE_FILTERS})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["flag", "cohort"]), JSON | LIKE_FLAGS | LIKE_COHORTS, st.dictionaries(NAMES, JSON, max_size=3))
async def test_create__of_arbitrary_json__is_taken_or_invalid(kind: Any, filters: Any, others: dict[str, Any]) -> None:
    """Nothing that JSON can say gets any other answer than a flag, or a cohort, or what is wrong with it."""
    async with World() as world:
        await world.flag("base")
        try:
            await world.editing.create(1, kind, {"key": "b", "name": "b", **others, "filters": filters}, ANA)
        except Invalid as error:
            assert error.problems  # noqa: PT017 - being taken is as good
