"""The degraded-answer contract, held by enumeration: every shape of flag, every subset of missing facts.

A world is one complete set of facts. A degraded answer knows only some parts of a world; the worlds that agree with it
on those parts are all it has to go by.
"""

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import msgspec
import pytest

from evaluator.evaluate import evaluate
from evaluator.types import Context, Facts, FlagResult, Missing
from tests.builders import NOW, condition, flag, person, results, snapshot

PARTS = ("person_properties", "cohorts", "groups", "overrides")
LATE = Missing("timeout", "late")
SUBSETS = [frozenset(chosen) for size in range(len(PARTS) + 1) for chosen in combinations(PARTS, size)]


def cohort(number: int, operator: str = "in") -> dict[str, Any]:
    return {"key": "id", "type": "cohort", "value": number, "operator": operator}


def of_group(value: object, operator: str = "exact") -> dict[str, Any]:
    return {"key": "plan", "type": "group", "value": value, "operator": operator, "group_type_index": 0}


def on(flag_id: int, value: object = True) -> dict[str, Any]:
    return {"key": str(flag_id), "type": "flag", "value": value, "operator": "flag_evaluates_to"}


PRO, NOT_PRO, SET, UNSET = (
    person("plan", "pro"),
    person("plan", "pro", "is_not"),
    person("plan", None, "is_set"),
    person("plan", None, "is_not_set"),
)
FRENCH, GERMAN = person("country", "FR"), person("country", "DE")
STICKY: dict[str, Any] = {"ensure_experience_continuity": True}
BY_GROUP: dict[str, Any] = {"aggregation_group_type_index": 0}
AB = {"a": 50.0, "b": 50.0}
SHAPES = [
    flag("plain", rollout=50),
    flag("split", variants=AB),
    flag("targeted", condition(PRO), id=9101),
    flag("negative", condition(NOT_PRO)),
    flag("set", condition(SET)),
    flag("unset", condition(UNSET)),
    flag("settled-by-another", condition(PRO, GERMAN)),
    flag("not-settled", condition(PRO, FRENCH)),
    flag("rollout-after-filter", condition(PRO, rollout=0)),
    flag("matched-before", condition(FRENCH), condition(PRO)),
    flag("matched-after-a-miss", condition(PRO, rollout=0), condition(FRENCH)),
    flag("early-exit", condition(PRO, rollout=0), condition(), filters={"early_exit": True}),
    flag("variants-by-plan", condition(PRO, variant="a"), condition(variant="b"), variants=AB),
    flag("static-cohort", condition(cohort(1))),
    flag("not-in-static-cohort", condition(cohort(1, "not_in"))),
    flag("dynamic-cohort", condition(cohort(2))),
    flag("not-in-dynamic-cohort", condition(cohort(2, "not_in"))),
    flag("static-or-dynamic", condition(cohort(3))),
    flag("of-group", condition(of_group("pro")), filters=BY_GROUP),
    flag("of-group-negative", condition(of_group("pro", "is_not"))),
    flag("group-and-person", condition(of_group("pro"), PRO)),
    flag("group-rollout", rollout=50, filters=BY_GROUP),
    flag("sticky", rollout=50, **STICKY),
    flag("sticky-everyone", **STICKY),
    flag("sticky-split", variants=AB, **STICKY),
    flag("sticky-targeted", condition(PRO, rollout=50), **STICKY),
    flag("held-out", filters={"holdout": {"id": 1, "exclusion_percentage": 50}}, **STICKY),
    flag("enrollment", rollout=0, filters={"feature_enrollment": True}),
    flag("depends", condition(on(9101)), id=9102),
    flag("depends-not", condition(on(9101, False))),
    flag("depends-twice", condition(on(9102), FRENCH), condition(on(9102))),
    flag("depends-in-vain", condition(on(9101), GERMAN)),
]
RULE: dict[str, Any] = {"id": "r", "rule_type": "targeted_release", "targeting": {"properties": [PRO]}, "value": 1}
HALF: dict[str, Any] = {"rule_type": "percentage_rollout", "rollout_percentage": 0, "on_rollout_miss": "continue"}
SHAPES += [
    flag("ruled", filters={"version": 2, "rules": [RULE], "default_value": 0}),
    flag("ruled-anyway", filters={"version": 2, "rules": [{**RULE, **HALF}, {**RULE, "targeting": {}}]}),
]
COHORTS = [
    {"id": 1, "is_static": True},
    {"id": 2, "filters": {"properties": {"type": "OR", "values": [{"type": "AND", "values": [PRO]}]}}},
    {"id": 3, "filters": {"properties": {"type": "OR", "values": [cohort(1), PRO]}}},
]
COMPILED = snapshot(*SHAPES, cohorts=COHORTS)
CONTEXT = Context(
    distinct_id="u1", person_properties={"country": "FR"}, groups={"organization": "acme"}, anon_distinct_id="anon"
)
NEGATIVE = {"negative", "unset", "not-in-static-cohort", "not-in-dynamic-cohort", "of-group-negative", "depends-not"}


def worlds() -> Iterator[Facts]:
    people: list[dict[str, object]] = [{}, {"plan": "pro"}, {"plan": "free"}, {"$feature_enrollment/enrollment": True}]
    orgs: list[dict[str, object]] = [{}, {"plan": "pro"}]
    keys = [shape["key"] for shape in SHAPES]
    hashed: list[dict[str, str]] = [{}, *(dict.fromkeys(keys, identity) for identity in ("v1", "v2", "v5", "v9", "w3"))]
    for properties, members, org, overrides in product(people, (frozenset[int](), frozenset({1})), orgs, hashed):
        yield Facts(properties, members, {"organization": org}, overrides)


WORLDS = list(worlds())


def degraded(world: Facts, missing: frozenset[str]) -> Facts:
    """The world without these parts."""
    gone: dict[str, Any] = {part: {"organization": LATE} if part == "groups" else LATE for part in missing}
    return msgspec.structs.replace(world, **gone)


def answers(facts: Facts) -> dict[str, FlagResult]:
    """As the gateway asks: first with what the request says, then with the facts it could get."""
    return results(evaluate(COMPILED, CONTEXT, Facts(), NOW).with_facts(facts))


HEALTHY = [answers(world) for world in WORLDS]


@pytest.mark.parametrize("missing", SUBSETS, ids=lambda missing: "+".join(sorted(missing)) or "nothing")
def test_degraded_answer__for_every_shape_and_world__keeps_the_contract(missing: frozenset[str]) -> None:
    """A flag answers as when healthy, or fails; it fails if and only if what is missing could change its outcome."""
    alike: dict[Any, list[dict[str, FlagResult]]] = {}
    for world, healthy in zip(WORLDS, HEALTHY, strict=True):
        alike.setdefault(msgspec.json.encode(degraded(world, missing)), []).append(healthy)
    for world, healthy in zip(WORLDS, HEALTHY, strict=True):
        facts = degraded(world, missing)
        found = answers(facts)
        possible = alike[msgspec.json.encode(facts)]
        for key, result in found.items():
            outcomes = {msgspec.json.encode(other[key]) for other in possible}
            if result.failed:
                assert len(outcomes) > 1, f"{key} failed although every world says the same"
                assert (result.enabled, result.variant, result.payload) == (False, None, None)
                assert result.reason.code == ("error" if result.rule else "timeout")
            else:
                assert result == healthy[key], f"{key} differs from the healthy answer"
                assert len(outcomes) == 1, f"{key} was decided although worlds differ"


@pytest.mark.parametrize("missing", SUBSETS, ids=lambda missing: "+".join(sorted(missing)) or "nothing")
def test_degraded_answer__asked_again__is_the_same(missing: frozenset[str]) -> None:
    """The same input gives the same degraded answer, in one step as in two."""
    for world in WORLDS[::7]:
        facts = degraded(world, missing)
        assert answers(facts) == answers(facts) == results(evaluate(COMPILED, CONTEXT, facts, NOW))


def test_degraded_answer__of_negative_filters__never_takes_unknown_for_unset() -> None:
    """With nothing fetched, no flag that asks for an absence is granted."""
    everything = frozenset(PARTS)
    for world in WORLDS:
        found = answers(degraded(world, everything))
        assert all(found[key].failed for key in NEGATIVE)


def test_healthy_answers__of_all_worlds__show_every_shape_both_ways() -> None:
    """The enumeration means something: every flag that can differ between worlds does."""
    varying = {key for key in HEALTHY[0] if len({msgspec.json.encode(found[key]) for found in HEALTHY}) > 1}
    constant = {"plain", "split", "settled-by-another", "matched-before", "matched-after-a-miss", "sticky-everyone"}
    constant |= {"group-rollout", "depends-in-vain", "ruled-anyway"}
    assert varying == set(HEALTHY[0]) - constant
