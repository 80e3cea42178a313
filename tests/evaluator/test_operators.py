"""Every operator row and coercion of the corpus, and what holds for all values."""

import json
from datetime import datetime
from pathlib import Path
from time import process_time
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.definitions import FilterDocument
from evaluator.operators import MAX_SUBJECT_CHARACTERS, Predicate, compile_operator
from evaluator.types import UNSET
from tests.builders import NOW

CORPUS = Path(__file__).parent.parent / "corpus" / "operators"
CASES = [
    pytest.param(case, id=f"{path.stem}-{position}: {case['operator']} {str(case.get('value', ''))[:30]}")
    for path in sorted(CORPUS.glob("*.json"))
    for position, case in enumerate(json.loads(path.read_text())["cases"])
]


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
        ("between", [1], "between needs a list of two numbers, the smaller one first"),
        ("not_between", [3, 1], "between needs a list of two numbers, the smaller one first"),
        ("is_date_after", "soon", "is_date_after needs a date, or a span such as -7d"),
        ("semver_gt", "x", "semver_gt needs a version"),
        ("semver_caret", "x", "semver_caret needs a version"),
        ("semver_wildcard", "1.2", "semver_wildcard needs a pattern such as 1.2.*"),
        ("regex", "a" * 1001, "patterns may have 1000 characters; this one has 1001"),
        ("regex", "(?=x)", "RE2 cannot take the pattern '(?=x)': invalid perl operator: (?="),
        ("not_regex", "(", "RE2 cannot take the pattern '(': missing ): ("),
        ("regex", "\ud800", "regex cannot read its value"),
    ],
)
def test_compile_operator__that_can_never_match__says_why(operator: str, value: object, message: str) -> None:
    """Whoever wrote the filter is told what is wrong with it."""
    warnings: list[str] = []
    compiled({"operator": operator, "value": value}, warnings)
    assert warnings == [message]


@pytest.mark.parametrize("operator", ["regex", "not_regex"])
@pytest.mark.parametrize("value", ["needle" + "x" * MAX_SUBJECT_CHARACTERS, "x\ud800"])
def test_regex__on_what_cannot_be_searched__is_no_match_either_way(operator: str, value: str) -> None:
    """Text too long to search in bounded time, or that is no Unicode text, is neither like nor unlike the pattern."""
    predicate = compiled({"operator": operator, "value": "needle"})
    assert predicate(value, NOW) is False


def test_regex__at_the_bounds_with_a_costly_pattern__answers_within_a_second() -> None:
    """The bounds of pattern and subject keep the worst search to tens of milliseconds, here with ample room."""
    predicate = compiled({"operator": "regex", "value": "(?:[ab]?){999}c"})
    started = process_time()
    assert not predicate("ab" * (MAX_SUBJECT_CHARACTERS // 2), NOW)
    assert process_time() - started < 1


def nested(depth: int, leaf: str) -> list[Any]:
    value: list[Any] = [leaf]
    for _ in range(depth):
        value = [value]
    return value


UNREADABLE = [nested(10_000, "true"), {"a": "\ud800"}, 10**5000]


@pytest.mark.parametrize("value", UNREADABLE, ids=["deep", "surrogate", "huge"])
@pytest.mark.parametrize("operator", ["exact", "is_not", "icontains", "not_icontains", "not_regex", "not_between"])
def test_operator__on_a_value_without_text__is_no_match_either_way(operator: str, value: object) -> None:
    """What cannot even be written down is neither equal nor unequal to anything."""
    wanted = [1, 2] if operator == "not_between" else "x"
    assert compiled({"operator": operator, "value": wanted})(value, NOW) is False


@pytest.mark.parametrize("value", UNREADABLE, ids=["deep", "surrogate", "huge"])
def test_compile_operator__of_a_value_without_text__never_matches_and_says_so(value: object) -> None:
    """A filter that nothing can be made of does not spoil its snapshot."""
    warnings: list[str] = []
    predicate = compiled({"operator": "is_not", "value": value, "matching_version": 2}, warnings)
    assert [predicate("x", NOW), predicate(UNSET, NOW)] == [False, False]
    assert warnings == ["is_not cannot read its value"]


def test_exact__true_against_deeply_nested_arrays__looks_into_them_all() -> None:
    """Truth of arrays is found at any depth, without the stack giving out."""
    predicate = compiled({"operator": "exact", "value": True})
    assert predicate(nested(10_000, "true"), NOW)
    assert not predicate(nested(10_000, "no"), NOW)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30) | st.sampled_from(
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
    "not_icontains_multi": "icontains_multi",
    "not_starts_with": "starts_with",
    "not_ends_with": "ends_with",
}
readable = json_values.filter(lambda value: "\\ud" not in json.dumps(value))


@given(st.sampled_from(sorted(COMPLEMENTS)), readable.filter(lambda value: value is not None), readable)
def test_negative_operator__for_a_present_value__is_the_complement(negative: str, wanted: Any, value: Any) -> None:
    """What the positive operator matches its negative does not, and the other way round."""
    positive = compiled({"operator": COMPLEMENTS[negative], "value": wanted})(value, NOW)
    assert compiled({"operator": negative, "value": wanted})(value, NOW) is not positive


@given(st.sampled_from(["regex", "between"]), json_values, json_values)
def test_negative_operator__of_what_may_be_incomparable__never_matches_along(
    operator: str, wanted: Any, value: Any
) -> None:
    """A pattern or a range and its negation never both match; both fail on what cannot be compared."""
    positive = compiled({"operator": operator, "value": wanted})(value, NOW)
    assert not (positive and compiled({"operator": f"not_{operator}", "value": wanted})(value, NOW))
