"""Explanations: what was wanted, what was seen and where from, bucket against threshold."""

import msgspec

from evaluator.explain import Explanation, FilterStep, explain
from evaluator.types import UNSET, Context, Facts, Runtime
from tests.builders import NOTHING_STORED, NOW, TIMEOUT, condition, context, flag, known, person, snapshot


def told(document: dict[str, object], asked: Context | None = None, facts: Facts | None = None) -> Explanation:
    key = str(document["key"])
    explanation = explain(snapshot(document), key, asked or context(), facts or NOTHING_STORED, NOW)
    assert explanation is not None
    return explanation


def test_explain__unknown_or_inactive_flag__is_none() -> None:
    """There is nothing to tell of a flag that is not served."""
    built = snapshot(flag("off", active=False))
    assert explain(built, "off", context(), NOTHING_STORED, NOW) is None
    assert explain(built, "nowhere", context(), NOTHING_STORED, NOW) is None


def test_explain__filters__say_what_was_wanted_seen_and_where_from() -> None:
    """Request, store and absence are told apart."""
    document = flag(
        "traced",
        condition(person("plan", "pro"), person("city", "Rome"), person("age", 3, "gt"), person("x", None, "is_set")),
    )
    asked = context(person_properties={"plan": "pro", "x": None})
    (step,) = told(document, asked, known({"city": "Rome"})).conditions
    assert step.filters == (
        FilterStep(key="plan", operator="exact", source="request", holds=True, wanted="pro", seen="pro"),
        FilterStep(key="city", operator="exact", source="store", holds=True, wanted="Rome", seen="Rome"),
        FilterStep(key="age", operator="gt", source="unset", holds=False, wanted=3),
        FilterStep(key="x", operator="is_set", source="request", holds=True),
    )
    assert step.holds is False


def test_explain__facts_missing__says_that_they_were_not_fetched() -> None:
    """A value that could not be had is neither seen nor unset."""
    explanation = told(flag("traced", condition(person("plan", "pro"))), None, Facts(TIMEOUT))
    (step,) = explanation.conditions
    assert (step.filters[0].source, step.filters[0].holds, step.holds) == ("not_fetched", None, None)
    assert explanation.result.reason.code == "timeout"


def test_explain__rollout__shows_bucket_and_threshold() -> None:
    """The published bucket of this flag and person stands beside the percentage as a fraction."""
    explanation = told(flag("beta-search-rollout", rollout=28), context("user-105"))
    (step,) = explanation.conditions
    assert (step.bucket, step.threshold, step.admitted) == (0.2851295399293007, 0.28, False)
    assert explanation.variant_bucket is None
    assert explanation.value is False


def test_explain__split__shows_the_variant_bucket() -> None:
    """A split is decided by a bucket of its own."""
    explanation = told(flag("checkout-layout", variants={"first": 50, "second": 50}), context("user-61"))
    assert (explanation.value, explanation.variant_bucket) == ("second", 0.5698252224547713)


def test_explain__after_the_deciding_condition__stops() -> None:
    """Conditions behind a match, or behind an early exit, were not tried."""
    matched = flag("matched", condition(rollout=0), condition(), condition())
    exited = flag("exited", condition(rollout=0), condition(), filters={"early_exit": True})
    assert [step.index for step in told(matched).conditions] == [0, 1]
    assert [step.index for step in told(exited).conditions] == [0]


def test_explain__flag_for_another_runtime__says_that_it_was_not_considered() -> None:
    """What it would have said is told all the same."""
    explanation = told(flag("backend", evaluation_runtime="server"), context(runtime=Runtime.CLIENT))
    assert explanation.considered is False
    assert explanation.value is True


def test_explain__of_an_operator_without_value__can_be_written_as_json() -> None:
    """Absence never leaks into the output."""
    without_value = {"key": "plan", "type": "person", "operator": "is_set"}
    explanation = told(flag("set", condition(without_value)))
    assert UNSET.value in msgspec.json.encode(explanation).decode()
