"""Snapshots: what is kept, what is dropped, and what is said about the rest."""

import msgspec
import pytest

from evaluator.definitions import InvalidDefinitions
from evaluator.snapshot import build_snapshot
from evaluator.types import Problem
from tests.builders import answer, ask, condition, context, flag, fragments, person, project, results, snapshot


def test_build_snapshot__of_a_document__keeps_what_identifies_the_project() -> None:
    """Ids, tokens and version come through, and repr tells which snapshot it is."""
    built = snapshot(flag("a"), secret_tokens=["phs_1"], id=7)
    assert (built.project_id, built.token, built.name, built.version) == (7, "phc_test", "Test", 1)
    assert built.secret_tokens == {"phs_1"}
    assert repr(built) == "<Snapshot of project 7 v1, 1 flags>"
    assert "a with 1 conditions" in repr(built.flags["a"])


def test_build_snapshot__of_something_else__raises_with_every_problem() -> None:
    """A document that is no project is refused whole, with all that is wrong."""
    with pytest.raises(InvalidDefinitions, match="token") as caught:
        build_snapshot(b'{"token":5,"flags":{}}', 1, fragments)
    assert [problem.path for problem in caught.value.problems] == ["$.token", "$.flags", "$"]


def test_build_snapshot__with_a_flag_key_twice__keeps_the_first() -> None:
    """Which of two counts must not depend on chance."""
    built = snapshot(flag("twin", rollout=0), flag("twin", rollout=100))
    assert not results(ask(built))["twin"].enabled
    assert [(problem.code, problem.path, problem.flag) for problem in built.problems] == [
        ("duplicate", "$.flags[1].key", "twin")
    ]


def test_build_snapshot__with_a_broken_flag__names_it_and_its_place() -> None:
    """Every problem of a broken flag carries the flag's key and the path in the document."""
    broken = flag("broken", condition({"key": "plan", "value": "pro"}, {"type": "person"}))
    assert snapshot(flag("fine"), broken).problems == (
        Problem(
            "undecodable",
            "$.flags[1].filters.groups[0].properties[0]",
            "broken",
            "Object missing required field `type`",
        ),
        Problem(
            "undecodable",
            "$.flags[1].filters.groups[0].properties[1]",
            "broken",
            "Object missing required field `key`",
        ),
    )


def test_build_snapshot__with_a_pattern_re2_cannot_take__warns_and_goes_on() -> None:
    """Such a filter never matches, and says so, while the rest of the flag works."""
    look_ahead = condition(person("email", "(?=x)", "regex"))
    built = snapshot(flag("partly", look_ahead, condition(person("plan", "pro"))))
    assert [(problem.code, problem.path) for problem in built.problems] == [
        ("never_matches", "$.flags[0].filters.groups[0].properties[0].value")
    ]
    asked = context(person_properties={"email": "x", "plan": "pro"})
    assert results(ask(built, asked))["partly"].reason.condition_index == 1


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_build_snapshot__with_an_unknown_time_zone__turns_date_flags_off(zone: str) -> None:
    """Dates without a time zone would mean something else, so flags that use them are off; others are untouched."""
    dated = flag("dated", condition(person("born", "2000-01-01", "is_date_after")))
    built = snapshot(dated, flag("plain"), timezone=zone)
    asked = context(person_properties={"born": "2020-05-05"})
    found = results(ask(built, asked))
    assert (found["dated"].enabled, found["plain"].enabled) == (False, True)
    assert [problem.path for problem in built.problems] == [
        "$.timezone",
        "$.flags[0].filters.groups[0].properties[0]",
    ]


def test_build_snapshot__with_matching_version_2__compares_as_that_says() -> None:
    """The project's matching version reaches its filters."""
    document = flag("strict", condition(person("beta", False)))
    asked = context(person_properties={"beta": "banana"})
    one, two = snapshot(document), snapshot(document, property_matching_version=2)
    assert results(ask(one, asked))["strict"].enabled
    assert not results(ask(two, asked))["strict"].enabled


def test_broken_flag__without_a_key__is_named_by_its_place_alone() -> None:
    """Nobody can ask for a flag whose key cannot be read; its place is reported all the same."""
    built = build_snapshot(msgspec.json.encode(project({"id": 3, "active": True}, 5)), 1, fragments)
    assert not built.flags
    assert [(problem.path, problem.flag) for problem in built.problems] == [("$.flags[0]", None), ("$.flags[1]", None)]


def test_broken_flag__answers_off_with_its_own_reason() -> None:
    """The reason tells the broken flag from one that was switched off."""
    broken = flag("broken", condition({"key": "plan"}), version=4)
    result = answer(broken)
    assert (result.enabled, result.failed, result.version) == (False, False, 4)
    assert result.reason.code == "flag_disabled"
    assert result.reason.description == "Feature flag definition is invalid"


@pytest.mark.parametrize("operator", ["is_date_before", "is_date_after", "is_date_exact"])
def test_snapshot__with_a_filter_on_dates__reads_the_clock(operator: str) -> None:
    """Where time alone may change an answer, the snapshot says so; also when it is a cohort that compares."""
    dated = person("joined", "-7d", operator)
    tree = {"properties": {"type": "AND", "values": [{"type": "AND", "values": [dated]}]}}
    member = {"key": "id", "type": "cohort", "value": 5, "operator": "in"}
    rule = {"id": "r", "rule_type": "targeted_release", "value": 1, "targeting": {"properties": [dated]}}
    assert snapshot(flag("recent", condition(dated))).reads_clock
    assert snapshot(flag("in", condition(member)), cohorts=[{"id": 5, "filters": tree}]).reads_clock
    assert snapshot(flag("ruled", filters={"version": 2, "rules": [rule]})).reads_clock
    assert not snapshot(
        flag("plain", condition(person("joined", "2026-01-01"), person("x", None, "is_set")))
    ).reads_clock


def test_snapshot__of_flags_that_are_off__knows_their_keys() -> None:
    """A flag that exists and is not active is told from one that does not exist; an active one of its key counts."""
    built = snapshot(
        flag("off", active=False), flag("gone", deleted=True), flag("twin", active=False), flag("twin"), flag("on")
    )
    assert built.inactive == {"off"}


def test_flag_result__says_whether_there_are_variants() -> None:
    """Whoever turns a result into a typed value has to know what it would be if the flag were on."""
    found = results(
        ask(snapshot(flag("split", variants={"a": 0}), flag("none", variants={}), flag("miss", rollout=0), flag("on")))
    )
    assert {key for key, result in found.items() if result.has_variants} == {"split"}
