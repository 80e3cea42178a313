"""Cohorts beyond the corpus: nesting, problems, and being evaluated once."""

from typing import Any

import pytest

from evaluator.cohorts import MAX_NESTING
from evaluator.types import Needs
from tests.builders import TIMEOUT, ask, condition, context, flag, known, person, results, snapshot


def tree(*values: Any) -> dict[str, Any]:
    return {"properties": {"type": "AND", "values": [{"type": "OR", "values": list(values)}]}}


def member(cohort_id: Any, operator: str = "in") -> dict[str, Any]:
    return {"key": "id", "type": "cohort", "value": cohort_id, "operator": operator}


def chain(length: int, *, upwards: bool) -> list[dict[str, Any]]:
    """Cohorts 1 to `length`, each referring to the next, the last to a property."""
    cohorts = [{"id": number, "filters": tree(member(number + 1))} for number in range(1, length)]
    cohorts.append({"id": length, "filters": tree(person("plan", "pro"))})
    return cohorts if upwards else cohorts[::-1]


@pytest.mark.parametrize("upwards", [True, False])
def test_cohort__nested_to_the_bound__is_evaluated(upwards: bool) -> None:
    """Cohorts may refer to cohorts as deep as the bound, in whatever order they come."""
    built = snapshot(flag("deep", condition(member(1))), cohorts=chain(MAX_NESTING, upwards=upwards))
    assert results(ask(built, context(person_properties={"plan": "pro"})))["deep"].enabled
    assert not built.problems


@pytest.mark.parametrize("first", [1, MAX_NESTING * 20])
def test_cohort__nested_too_deep__fails_its_flags_and_is_named(first: int) -> None:
    """Beyond the bound nothing recurses, also when the lower part was compiled before by another flag."""
    cohorts = chain(MAX_NESTING * 20, upwards=True)
    below = [flag(f"f{number}", condition(member(number))) for number in range(MAX_NESTING * 20, 0, -1)]
    built = snapshot(flag("first", condition(member(first))), *below, cohorts=cohorts)
    evaluation = ask(built, context(person_properties={"plan": "pro"}))
    found = results(evaluation)
    assert found["f1"].reason.code == "cohort_filters_parsing_error"
    assert evaluation.errors
    assert any("nests too deep" in problem.message for problem in built.problems)


def test_cohort_tree__nested_too_deep__has_nobody() -> None:
    """A tree inside one cohort is bounded as well."""
    values: Any = person("plan", "pro")
    for _ in range(MAX_NESTING + 5):
        values = {"type": "AND", "values": [values]}
    built = snapshot(flag("deep", condition(member(1))), cohorts=[{"id": 1, "filters": {"properties": values}}])
    assert not results(ask(built, context(person_properties={"plan": "pro"})))["deep"].enabled
    assert "make no sense" in built.problems[0].message


def test_cohort__with_a_date_and_no_time_zone__has_nobody() -> None:
    """A date without a time zone is not guessed at."""
    dated = {"id": 1, "filters": tree(person("born", "2000-01-01", "is_date_after"))}
    built = snapshot(flag("dated", condition(member(1))), cohorts=[dated], timezone="Mars/Olympus")
    assert not results(ask(built, context(person_properties={"born": "2020-01-01"})))["dated"].enabled
    assert "$.cohorts[0].filters.properties.values[0].values[0]" in [problem.path for problem in built.problems]


@pytest.mark.parametrize(
    "leaf",
    [member("x"), member(True), member(1, "gt"), {"key": "plan", "type": "group", "value": 1}, {"key": "plan"}, 5],
)
def test_cohort__with_a_leaf_it_cannot_have__names_it(leaf: Any) -> None:
    """What makes no sense in a cohort matches nobody, and is told with its place."""
    built = snapshot(flag("odd", condition(member(1))), cohorts=[{"id": 1, "filters": tree(leaf)}])
    assert not results(ask(built))["odd"].enabled
    (problem,) = built.problems
    assert problem.path == "$.cohorts[0].filters.properties.values[0].values[0]"


def test_cohort__that_cannot_be_decoded__is_named_and_does_not_exist() -> None:
    """A broken cohort spoils only the flags that refer to it."""
    broken = {"id": 1, "is_static": "perhaps"}
    built = snapshot(flag("odd", condition(member(1))), flag("fine"), cohorts=[broken])
    found = results(ask(built))
    assert (found["odd"].reason.code, found["fine"].enabled) == ("dependency_not_found_cohort", True)
    assert built.problems[0].path == "$.cohorts[0].is_static"


def test_needs__of_cohorts__name_properties_and_static_ones() -> None:
    """A cohort asks for what its undecided parts ask for, and nothing when one part settles it."""
    cohorts = [
        {"id": 1, "filters": tree(person("plan", "pro"), member(2))},
        {"id": 2, "is_static": True},
        {"id": 3, "filters": {"properties": {"type": "AND", "values": [person("country", "DE"), member(2)]}}},
    ]
    built = snapshot(flag("any", condition(member(1))), flag("all", condition(member(3))), cohorts=cohorts)
    unknown = known(cohorts=TIMEOUT)
    asked = context(person_properties={"country": "FR", "plan": "free"})
    assert ask(built, asked, unknown).needs == Needs(cohorts=frozenset({2}))
    decided = context(person_properties={"country": "FR", "plan": "pro"})
    assert not ask(built, decided, unknown).needs


def test_cohort__used_by_many_flags__is_evaluated_once() -> None:
    """Properties of a shared cohort are looked at once per request, however many flags use it."""

    class Counting(dict[str, object]):
        looks = 0

        def get(self, key: str, default: object = None) -> object:
            self.looks += key == "plan"
            return super().get(key, default)

    flags = [flag(f"f{number}", condition(member(1))) for number in range(50)]
    built = snapshot(*flags, cohorts=[{"id": 1, "filters": tree(person("plan", "pro"))}])
    properties = Counting(plan="pro")
    assert all(result.enabled for result in results(ask(built, context(person_properties=properties))).values())
    assert properties.looks == 1
