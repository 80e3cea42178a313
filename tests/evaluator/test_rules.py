"""Dependencies, continuity and groups beyond the corpus: order, effects, and what a request must be asked for."""

from typing import Any

import pytest

from evaluator.dependencies import build_graph, with_dependencies
from evaluator.types import Missing, Needs, OverrideWrite
from tests.builders import (
    NOTHING_STORED,
    TIMEOUT,
    UNKNOWN_FACTS,
    answer,
    ask,
    condition,
    context,
    flag,
    known,
    person,
    results,
    snapshot,
)


def on(flag_id: int, value: Any = True) -> dict[str, Any]:
    return {"key": str(flag_id), "type": "flag", "value": value, "operator": "flag_evaluates_to"}


def test_graph__of_any_shape__orders_dependencies_first() -> None:
    """Stages follow the document; what is missing or cyclic spreads upwards and nowhere else."""
    graph = build_graph(
        {
            1: frozenset({2}),
            2: frozenset(),
            3: frozenset({4}),
            4: frozenset({3}),
            5: frozenset({3}),
            6: frozenset({99, 2}),
            7: frozenset({6}),
            8: frozenset({1, 2}),
        }
    )
    assert (graph.order[0], set(graph.order[1:3]), set(graph.order[3:])) == (2, {1, 6}, {7, 8})
    assert (graph.missing, graph.cyclic, graph.depended_on) == ({6, 7}, {3, 4, 5}, {1, 2, 3, 4, 6})
    assert with_dependencies([7, 7], {7: frozenset({6}), 6: frozenset({99, 2}), 2: frozenset()}) == {7, 6, 99, 2}


def test_dependencies__in_a_chain_of_thousands__are_evaluated() -> None:
    """No chain is too long, as nothing recurses along it."""
    flags = [flag("f0", condition(person("plan", "pro")), id=10_000)]
    flags += [flag(f"f{n}", condition(on(9_999 + n)), id=10_000 + n) for n in range(1, 3000)]
    built = snapshot(*reversed(flags))
    found = results(ask(built, context(person_properties={"plan": "pro"})))
    assert found["f2999"].enabled
    assert not results(ask(built))["f2999"].enabled
    undecided = ask(built, None, UNKNOWN_FACTS)
    assert undecided.needs == Needs(person_properties=frozenset({"plan"}))
    assert results(undecided)["f2999"].reason.code == "not_fetched"
    assert results(undecided.with_facts(known({"plan": "pro"})))["f2999"].enabled
    alone = ask(built, context(flag_keys=["f2"], person_properties={"plan": "pro"}))
    assert set(results(alone)) == {"f0", "f1", "f2"}


def test_dependency__on_a_plain_rollout__sees_its_answer() -> None:
    """Flags that others depend on are evaluated where their outcome can be found."""
    built = snapshot(flag("base", rollout=50, id=1), flag("above", condition(on(1))), flag("other", rollout=50))
    for number in range(50):
        found = results(ask(built, context(f"u{number}")))
        assert found["above"].enabled is found["base"].enabled
    assert results(ask(built, context("")))["above"].enabled


def test_flags__with_one_id__count_once() -> None:
    """Of two flags with one id the first counts, and the second is named."""
    built = snapshot(flag("first", id=7), flag("second", id=7))
    assert set(built.flags) == {"first"}
    assert [(problem.code, problem.path) for problem in built.problems] == [("duplicate", "$.flags[1].id")]


CONTINUOUS: dict[str, Any] = {"ensure_experience_continuity": True}


def test_needs__of_continuity__only_where_the_identity_decides() -> None:
    """A flag for everyone without a split asks for no override; one with a rollout, split or holdout does."""
    held: dict[str, Any] = {"holdout": {"id": 1, "exclusion_percentage": 5}}
    flags = [
        flag("everyone", **CONTINUOUS),
        flag("rollout", rollout=50, **CONTINUOUS),
        flag("split", variants={"a": 50, "b": 50}, **CONTINUOUS),
        flag("held", filters=held, **CONTINUOUS),
        flag("plain", rollout=50),
        flag("nobody-here", condition(person("plan", "pro"), rollout=50), **CONTINUOUS),
    ]
    evaluation = ask(snapshot(*flags), context(person_properties={"plan": "free"}), known(overrides=TIMEOUT))
    assert evaluation.needs == Needs(overrides=frozenset({"rollout", "split", "held"}))
    failed = {key for key, result in results(evaluation).items() if result.failed}
    assert failed == {"rollout", "split", "held"}


def test_write__for_an_anonymous_id_without_overrides__names_all_that_lack_one() -> None:
    """The effect keeps the anonymous id for every continuity flag without a row, and is only returned."""
    built = snapshot(
        flag("one", rollout=50, **CONTINUOUS), flag("two", rollout=50, **CONTINUOUS), flag("plain", rollout=50)
    )
    asked = context("u1", anon_distinct_id="anon")
    found = ask(built, asked, known(overrides={"one": "before"})).write
    assert found == OverrideWrite(("u1", "anon"), {"two": "anon"})
    assert ask(built, asked, known(overrides={"one": "x", "two": "y"})).write is None
    assert ask(built, context("u1"), NOTHING_STORED).write is None
    assert ask(built, asked, known(overrides=TIMEOUT)).write is None


def test_holdout__in_doubt_or_not__asks_for_no_more_than_it_must() -> None:
    """Whoever is held out for sure needs nothing else; a holdout in doubt needs its override and what follows."""
    filters: dict[str, Any] = {"holdout": {"id": 1, "exclusion_percentage": 100}, "feature_enrollment": True}
    targeted = flag("held", condition(person("plan", "pro")), filters=filters)
    assert ask(snapshot(targeted), None, UNKNOWN_FACTS).needs.person_properties == {"$feature_enrollment/held"}
    some: dict[str, Any] = {"holdout": {"id": 1, "exclusion_percentage": 50}}
    in_doubt = flag("held", condition(person("plan", "pro")), filters=some, **CONTINUOUS)
    wanted = ask(snapshot(in_doubt), None, UNKNOWN_FACTS).needs
    assert wanted == Needs(person_properties=frozenset({"plan"}), overrides=frozenset({"held"}))
    enrolled = flag("tried", condition(person("plan", "pro")), filters={"feature_enrollment": True})
    knows = context(person_properties={"$feature_enrollment/tried": None})
    assert ask(snapshot(enrolled), knows, UNKNOWN_FACTS).needs == Needs()


def test_gates__that_let_through__leave_the_doubt_to_the_conditions() -> None:
    """Neither an enrollment known to be unset nor a holdout that spares somebody is asked for again."""
    grouped = condition({"key": "size", "type": "group", "value": 1, "group_type_index": 0})
    spares: dict[str, Any] = {"holdout": {"id": 1, "exclusion_percentage": 0}, "feature_enrollment": True}
    asked = context(groups={"organization": "acme"})
    evaluation = ask(snapshot(flag("gated", grouped, filters=spares)), asked, known(groups={"organization": TIMEOUT}))
    assert evaluation.needs == Needs(groups={"organization": frozenset({"size"})})


def test_split__of_an_empty_id__is_the_first_variant() -> None:
    """By rule an empty id is at 0.0, in a split as in a rollout."""
    assert answer(flag("split", variants={"a": 50, "b": 50}), context("")).value == "a"


def test_outcome__shown_to_a_developer__tells_value_and_reason() -> None:
    """The repr of a prepared outcome says what it answers."""
    (outcome,) = ask(snapshot(flag("shown"))).outcomes
    assert repr(outcome) == "<Outcome shown=True condition_match>"


def test_reason__of_a_split_in_doubt__is_that_of_the_override() -> None:
    """A flag that fails for its override says so, even where properties are missing for others."""
    missing = Missing("hash_key_override_error", "late")
    result = answer(flag("split", variants={"a": 50, "b": 50}, **CONTINUOUS), None, known(overrides=missing))
    assert (result.failed, result.reason.code) == (True, "hash_key_override_error")


@pytest.mark.parametrize("kind", ["organization", "team"])
def test_needs__of_groups__name_the_type_and_its_properties(kind: str) -> None:
    """Only groups that the request names, and properties it does not say, are asked for."""
    index = {"organization": 0, "team": 1}[kind]
    filters = [{"key": key, "type": "group", "value": 1, "group_type_index": index} for key in ("size", "age")]
    built = snapshot(flag("grouped", condition(*filters)))
    asked = context(groups={kind: "acme"}, group_properties={kind: {"size": 1}})
    assert ask(built, asked, UNKNOWN_FACTS).needs == Needs(groups={kind: frozenset({"age"})})
    assert not ask(built, context(), UNKNOWN_FACTS).needs


def test_needs__as_a_truth__say_whether_there_are_any() -> None:
    """Needs are falsy when empty, whatever part they have otherwise."""
    assert not Needs()
    for part in (Needs(cohorts=frozenset({1})), Needs(groups={"team": frozenset()}), Needs(overrides=frozenset("a"))):
        assert part


def ruled(key: str, *rules: dict[str, Any]) -> dict[str, Any]:
    documents = [{"id": f"r{index}", "rule_type": "targeted_release", **rule} for index, rule in enumerate(rules)]
    return flag(key, filters={"version": 2, "rules": documents})


def test_needs__of_rules__end_with_the_rule_that_is_sure() -> None:
    """Rules behind one that is sure to decide ask for nothing."""
    wants = {"targeting": {"properties": [person("plan", "pro")]}, "value": 1}
    later = {"targeting": {"properties": [person("team", "x")]}, "value": 3}
    evaluation = ask(snapshot(ruled("sure", wants, {"value": 2}, later)), None, UNKNOWN_FACTS)
    assert evaluation.needs == Needs(person_properties=frozenset({"plan"}))


def test_rules__with_a_date_and_no_time_zone__are_off() -> None:
    """A date without a time zone has no meaning in rules either."""
    dated = {"targeting": {"properties": [person("born", "2000-01-01", "is_date_after")]}, "value": True}
    built = snapshot(ruled("dated", dated), timezone="Mars/Olympus")
    result = results(ask(built, context(person_properties={"born": "2020-01-01"})))["dated"]
    assert (result.enabled, result.reason.code) == (False, "flag_disabled")


@pytest.mark.parametrize("version", [0, 3, "2"])
def test_configuration_version__that_is_not_known__is_not_guessed_at(version: Any) -> None:
    """A flag of a later version is off and named, whatever else it says."""
    built = snapshot(flag("later", filters={"version": version}))
    assert results(ask(built))["later"].reason.code == "flag_disabled"
    assert built.problems[0].path == "$.flags[0].filters.version"


def test_project__that_buckets_by_murmur__answers_alike_however_it_is_asked() -> None:
    """Rows, matchers and selections agree; holdouts and splits are hashed the same way."""
    held: dict[str, Any] = {"holdout": {"id": 1, "exclusion_percentage": 50}}
    flags = [flag("rollout", rollout=50), flag("split", variants={"a": 50, "b": 50}), flag("held", filters=held)]
    built = snapshot(*flags, bucketing="murmur3")
    by_sha1 = snapshot(*flags)
    values: dict[str, set[Any]] = {key: set() for key in built.flags}
    differs = 0
    for number in range(200):
        found = results(ask(built, context(f"u{number}")))
        for key, result in found.items():
            values[key].add(result.value)
            assert results(ask(built, context(f"u{number}", flag_keys=[key]))) == {key: result}
        differs += found != results(ask(by_sha1, context(f"u{number}")))
    assert values == {"rollout": {True, False}, "split": {"a", "b"}, "held": {True, "holdout-1"}}
    assert differs > 100
    assert results(ask(built, context("")))["rollout"].enabled


def test_local_evaluation__of_murmur_buckets__is_refused_with_the_reason() -> None:
    """SDKs would put people in other buckets, so they must not be handed these flags."""
    assert snapshot().local_evaluation_refusal is None
    refusal = snapshot(bucketing="murmur3").local_evaluation_refusal
    assert refusal == "project 1 buckets by murmur3, and SDKs only know sha1: they would disagree"
