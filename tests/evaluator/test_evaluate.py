"""Evaluation as a whole: needs, facts, order, and the promise that nothing a caller sends can make it raise."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.evaluate import evaluate
from evaluator.snapshot import build_snapshot
from evaluator.types import MAX_DISTINCT_ID_CHARACTERS, Context, Facts, Needs
from tests.builders import (
    NOTHING_STORED,
    NOW,
    TIMEOUT,
    UNKNOWN_FACTS,
    answer,
    ask,
    condition,
    context,
    flag,
    fragments,
    known,
    person,
    project,
    results,
    snapshot,
)


def needs(*flags: Any, **properties: Any) -> Needs:
    return ask(snapshot(*flags), context(person_properties=properties), UNKNOWN_FACTS).needs


def test_needs__of_a_request_that_says_everything__are_empty() -> None:
    """Properties in the request leave nothing to load."""
    wanted = needs(flag("targeted", condition(person("plan", "pro"))), plan="free")
    assert not wanted
    assert wanted == Needs()


def test_needs__of_flags_without_filters__are_empty() -> None:
    """A rollout, a split, and an inactive flag ask for no stored fact."""
    inactive = flag("off", condition(person("plan", "pro")), active=False)
    assert not needs(flag("rollout", rollout=50), flag("split", variants={"a": 50, "b": 50}), inactive)


def test_needs__of_undecided_flags__name_only_what_could_change_them() -> None:
    """A filter that is already false, and conditions after one that is sure to match, ask for nothing."""
    wanted = needs(
        flag("open", condition(person("plan", "pro"), person("age", 3, "gt"))),
        flag("closed", condition(person("city", "Rome"), person("country", "DE"))),
        flag("sure", condition(person("country", "FR")), condition(person("team", "x"))),
        flag("later", condition(person("size", "L"), rollout=0), condition(person("shade", "red"))),
        country="FR",
    )
    assert wanted == Needs(person_properties=frozenset({"plan", "age", "size", "shade"}))


def test_needs__after_an_early_exit_for_sure__stop_there() -> None:
    """Conditions behind a sure early exit are never looked at, so they need nothing."""
    first, second = condition(person("size", "L")), condition(person("country", "FR"), rollout=0)
    last = condition(person("team", "x"))
    wanted = needs(flag("exits", first, second, last, filters={"early_exit": True}), country="FR")
    assert wanted == Needs(person_properties=frozenset({"size"}))


def test_evaluation__without_facts__fails_undecided_flags_and_says_why() -> None:
    """Until facts are there, flags in doubt are failed records that name the cause."""
    evaluation = ask(snapshot(flag("plain"), flag("targeted", condition(person("plan", "pro")))), None, UNKNOWN_FACTS)
    found = results(evaluation)
    assert evaluation.errors
    assert found["plain"].enabled
    assert found["targeted"].failed
    assert found["targeted"].reason.code == "not_fetched"
    assert "1 undecided" in repr(evaluation)


def test_with_facts__missing__fails_with_the_cause_of_the_store() -> None:
    """The cause a store gave is the reason a flag gives, encoded once and kept."""
    first = ask(snapshot(flag("targeted", condition(person("plan", "pro")))), None, UNKNOWN_FACTS)
    second, third = first.with_facts(Facts(TIMEOUT)), first.with_facts(Facts(TIMEOUT))
    assert results(second)["targeted"].reason.code == "timeout"
    assert second.errors
    assert second.outcomes[0] is third.outcomes[0]


def test_failed_outcomes__of_many_causes__are_kept_within_a_bound() -> None:
    """However many different causes turn up, a flag keeps only a few encoded."""
    first = ask(snapshot(flag("targeted", condition(person("plan", "pro")))), None, UNKNOWN_FACTS)
    for number in range(40):
        facts = Facts(msgspec.structs.replace(TIMEOUT, code=f"cause-{number}"))
        assert results(first.with_facts(facts))["targeted"].reason.code == f"cause-{number}"
    late = Facts(msgspec.structs.replace(TIMEOUT, code="cause-39"))
    assert first.with_facts(late).outcomes[0] is not first.with_facts(late).outcomes[0]


def test_with_facts__present__decides_and_leaves_no_error() -> None:
    """Once the facts are there the answer is whole."""
    first = ask(snapshot(flag("targeted", condition(person("plan", "pro")))), None, UNKNOWN_FACTS)
    second = first.with_facts(known({"plan": "pro"}))
    assert not second.errors
    assert not second.needs
    assert results(second)["targeted"].enabled


def test_context__with_a_long_id__is_cut_once_for_everyone() -> None:
    """The cut id is what hashing and stores get to see."""
    assert len(context("é" * 500).distinct_id) == MAX_DISTINCT_ID_CHARACTERS
    assert context("é" * 200).distinct_id == "é" * 200


def test_outcomes__for_the_same_flags__stand_in_one_order() -> None:
    """The order of an answer depends on the definitions alone."""
    flags = [flag("b", variants={"x": 100}), flag("a", rollout=50), flag("c", condition(person("k", 1)))]
    orders = {
        tuple(outcome.result.key for outcome in ask(snapshot(*flags), context(f"u{number}")).outcomes)
        for number in range(20)
    }
    assert len(orders) == 1


@pytest.mark.parametrize("variants", [None, {"a": 30.0, "b": 70.0}])
def test_rollout__as_the_percentage_grows__never_loses_anyone(variants: dict[str, float] | None) -> None:
    """Whoever is in at some percentage is in at every higher one, with the same variant."""
    values: dict[str, list[str | bool]] = {}
    for percentage in (0, 1, 10, 33.3, 50, 99.99, 100):
        compiled = snapshot(flag("grows", rollout=percentage, variants=variants))
        for number in range(200):
            value = results(ask(compiled, context(f"u{number}")))["grows"].value
            values.setdefault(f"u{number}", []).append(value)
    for history in values.values():
        since = next(position for position, value in enumerate(history) if value is not False)
        assert len(set(history[since:])) == 1
        assert False not in history[since:]


@given(st.floats(0, 100), st.floats(0, 100), st.text(max_size=220))
def test_rollout__for_anyone__is_monotone_in_percentage(one: float, other: float, distinct_id: str) -> None:
    """Raising a rollout keeps everyone who was in."""
    low, high = sorted((one, other))
    inside = answer(flag("grows", rollout=low), context(distinct_id)).enabled
    assert not inside or answer(flag("grows", rollout=high), context(distinct_id)).enabled


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), json_values), st.text(max_size=300))
def test_evaluate__for_any_properties_and_id__never_raises(properties: dict[str, object], distinct_id: str) -> None:
    """Whatever JSON a caller sends as properties, every flag gets an answer."""
    operators = ["exact", "gt", "regex", "is_date_before", "semver_gt", "between", "icontains", "is_not_set"]
    values = ["1.2", "^x", "-7d", [1, 2], "2026-01-01", 5, True, None]
    flags = [
        flag(f"{operator}-{position}", condition(person(key, value, operator), rollout=50))
        for position, (operator, value) in enumerate(zip(operators, values, strict=True))
        for key in "abc"
    ]
    compiled = snapshot(*flags)
    asked = Context(distinct_id=distinct_id, person_properties=properties)
    assert len(evaluate(compiled, asked, UNKNOWN_FACTS, NOW).outcomes) == len(compiled.flags)
    assert not evaluate(compiled, asked, NOTHING_STORED, NOW).errors


@given(st.lists(json_values, max_size=5))
def test_build_snapshot__of_arbitrary_flags__never_raises(flags: list[object]) -> None:
    """Anything may stand where flags should; it costs at most the flag it stands for."""
    good = flag("good")
    built = build_snapshot(msgspec.json.encode(project(good, *flags)), 1, fragments)
    assert results(ask(built))["good"].enabled


PIECES = ("groups", "multivariate", "payloads", "early_exit", "holdout", "version", "super_groups")
flag_pieces = st.fixed_dictionaries({}, optional=dict.fromkeys(PIECES, json_values))


@given(flag_pieces, st.dictionaries(st.sampled_from(["active", "version", "evaluation_runtime"]), json_values))
def test_build_snapshot__of_odd_pieces__answers_or_names_the_flag(filters: Any, fields: Any) -> None:
    """A flag with odd parts either says something or is named among the problems."""
    odd = {**flag("odd"), "filters": filters, **fields}
    built = build_snapshot(msgspec.json.encode(project(odd)), 1, fragments)
    evaluation = ask(built)
    inactive = fields.get("active", True) is not True
    assert len(evaluation.outcomes) == 1 or inactive or built.problems
