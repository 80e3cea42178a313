"""Every operator row and coercion of the corpus, and what holds for all values."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.definitions import FilterDocument
from evaluator.operators import Predicate, compile_operator
from evaluator.types import UNSET
from evaluator.values import moment_of_filter
from tests.builders import NOW

CORPUS = Path(__file__).parent.parent / "corpus" / "operators"
CASES = [
    pytest.param(case, id=f"{path.stem}-{position}: {case['operator']} {str(case.get('value', ''))[:30]}")
    for path in sorted(CORPUS.glob("*.json"))
    for position, case in enumerate(json.loads(path.read_text())["cases"])
]
UTC_ZONE = ZoneInfo("UTC")


def compiled(case: dict[str, Any], warnings: list[str] | None = None) -> Predicate:
    fields = {"value": case["value"]} if "value" in case else {}
    return compile_operator(
        FilterDocument(key="k", type="person", operator=case["operator"], **fields),
        matching_version=case.get("matching_version", 1),
        timezone=ZoneInfo(case.get("timezone", "UTC")),
        warn=(warnings if warnings is not None else []).append,
    )


@pytest.mark.parametrize("case", CASES)
def test_operator__of_the_corpus__matches_as_expected(case: dict[str, Any]) -> None:
    """Each row of the tables gives what the row says."""
    value = UNSET if case.get("missing") else case["property"]
    now = datetime.fromisoformat(case["now"]) if "now" in case else NOW
    assert compiled(case)(value, now) is case["expected"]


def test_corpus__of_operators__has_every_operator() -> None:
    """No operator goes without a case that matches and one that does not, where it can match at all."""
    seen: dict[str, set[bool]] = {}
    for parameter in CASES:
        case: Any = parameter.values[0]
        seen.setdefault(case["operator"] or "exact", set()).add(case["expected"])
    never = {"in", "not_in", "flag_evaluates_to"}
    operators = set(FilterDocument.__annotations__["operator"].__args__[0].__args__)
    assert set(seen) == operators
    assert {operator for operator, results in seen.items() if results != {True, False}} == never


@pytest.mark.parametrize(
    ("operator", "value", "message"),
    [
        ("exact", None, "exact needs a value"),
        ("in", 5, "in does not compare properties"),
        ("gt", "x", "gt needs a number"),
        ("between", [1], "between needs a list of two numbers"),
        ("not_icontains_multi", "x", "icontains_multi needs a list"),
        ("is_date_after", "soon", "is_date_after needs a date, or a span such as -7d"),
        ("semver_gt", "x", "semver_gt needs a version"),
        ("semver_caret", "x", "semver_caret needs a version"),
        ("semver_wildcard", "1.2", "semver_wildcard needs a pattern such as 1.2.*"),
        ("regex", "a" * 1001, "patterns may have 1000 characters; this one has 1001"),
        ("regex", "(?=x)", "RE2 cannot take the pattern '(?=x)': invalid perl operator: (?="),
        ("not_regex", "(", "RE2 cannot take the pattern '(': missing ): ("),
        ("regex", "\ud800", "RE2 cannot take the pattern '\\ud800': utf-8"),
    ],
)
def test_compile_operator__that_can_never_match__says_why(operator: str, value: object, message: str) -> None:
    """Whoever wrote the filter is told what is wrong with it."""
    warnings: list[str] = []
    compiled({"operator": operator, "value": value}, warnings)
    assert warnings == [message]


def test_regex__on_a_long_subject__looks_at_its_beginning() -> None:
    """Time is bounded by looking at no more than the first part of a huge value."""
    predicate = compiled({"operator": "regex", "value": "needle"})
    assert predicate("needle" + "x" * 200_000, NOW)
    assert not predicate("x" * 200_000 + "needle", NOW)


def test_relative_date__beyond_the_calendar__is_no_moment() -> None:
    """A span that leads before the year 1 names nothing, and raises nothing."""
    early = datetime(1, 1, 2, tzinfo=UTC)
    for span in ("-9999h", "-9999d", "-9999w", "-9999m", "-9999y", "-1m"):
        moment = moment_of_filter(span, UTC_ZONE)
        assert moment is not None
        assert moment(early) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.sampled_from(
        ["2026-01-01", "-7d", "1.2.3", "true", "1e5", "May 8, 2009", "0001-01-01", "9999-12-31T23:59:59Z"]
    ),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)  # fmt: skip
operators = st.sampled_from(sorted(FilterDocument.__annotations__["operator"].__args__[0].__args__))
zones = st.sampled_from(["UTC", "Pacific/Kiritimati", "America/New_York"])


@given(operators, json_values, json_values | st.just(UNSET), st.sampled_from([1, 2]), zones)
def test_operator__for_any_filter_and_value__answers_without_raising(
    operator: str, wanted: Any, value: Any, version: int, zone: str
) -> None:
    """Whatever is compared with whatever, the answer is yes or no."""
    case = {"operator": operator, "value": wanted, "matching_version": version, "timezone": zone}
    assert compiled(case)(value, NOW) in {True, False}


COMPLEMENTS = {
    "is_not": "exact",
    "not_icontains": "icontains",
    "not_starts_with": "starts_with",
    "not_ends_with": "ends_with",
}


@given(st.sampled_from(sorted(COMPLEMENTS)), json_values.filter(lambda value: value is not None), json_values)
def test_negative_operator__for_a_present_value__is_the_complement(negative: str, wanted: Any, value: Any) -> None:
    """What the positive operator matches its negative does not, and the other way round."""
    positive = compiled({"operator": COMPLEMENTS[negative], "value": wanted})(value, NOW)
    assert compiled({"operator": negative, "value": wanted})(value, NOW) is not positive
