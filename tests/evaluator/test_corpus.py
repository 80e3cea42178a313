"""The corpus of evaluation: definitions, context and facts -> what each flag says. Language-neutral JSON."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evaluator.evaluate import evaluate
from evaluator.explain import explain
from evaluator.snapshot import Snapshot, build_snapshot
from evaluator.types import Context, Facts, Missing
from tests.builders import GROUP_TYPES, NOW, fragments, results

CORPUS = Path(__file__).parent.parent / "corpus" / "evaluation"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(CORPUS.glob("*.json"))}
FILES_GROUPS: dict[str, Any] = {kind: {} for kind in GROUP_TYPES}
CASES = [pytest.param(name, case, id=f"{name}: {case['about']}") for name in FILES for case in FILES[name]["cases"]]


def snapshot_of(name: str) -> Snapshot:
    return build_snapshot(msgspec.json.encode(FILES[name]["project"]), 1, fragments)


def facts_of(case: dict[str, Any]) -> Facts:
    """What is stored; `missing` says why a part cannot be had, for all parts or by the part's name."""
    groups = FILES_GROUPS | case.get("groups", {})
    parts: dict[str, Any] = {
        "person_properties": case.get("stored", {}),
        "cohorts": frozenset(case.get("cohorts", ())),
        "groups": groups,
        "overrides": case.get("overrides", {}),
    }
    missing = case.get("missing", {})
    for part in parts:
        why = missing if "code" in missing else missing.get(part)
        if why is not None:
            parts[part] = dict.fromkeys(groups, Missing(**why)) if part == "groups" else Missing(**why)
    return Facts(**parts)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_corpus__case__is_answered_as_expected(name: str, case: dict[str, Any]) -> None:
    """Value, reason, index, payload and failure are as the case says; `only` says that nothing else is answered."""
    context = msgspec.convert(case["context"], Context)
    evaluation = evaluate(snapshot_of(name), context, facts_of(case), NOW)
    found = results(evaluation)
    assert evaluation.errors is case.get("errors", False)
    if case.get("only"):
        assert set(found) == set(case["expect"])
    for key, expected in case["expect"].items():
        result = found[key]
        assert result.value == expected["value"], key
        assert [result.reason.code, result.reason.condition_index] == expected["reason"], key
        assert result.failed is expected.get("failed", False), key
        if "typed" in expected:
            assert result.rule is not None
            assert (result.rule.value, type(result.rule.value)) == (expected["typed"], type(expected["typed"])), key
        if "payload" in expected:
            assert result.payload == expected["payload"], key


@pytest.mark.parametrize(("name", "case"), CASES)
def test_corpus__asked_in_two_steps__is_answered_the_same(name: str, case: dict[str, Any]) -> None:
    """Evaluating with what the request says, and then with the facts it needs, ends where one pass with facts does."""
    snapshot, context, facts = snapshot_of(name), msgspec.convert(case["context"], Context), facts_of(case)
    first = evaluate(snapshot, context, Facts(), NOW)
    assert results(first.with_facts(facts)) == results(evaluate(snapshot, context, facts, NOW))


@pytest.mark.parametrize(("name", "case"), CASES)
def test_corpus__one_flag_at_a_time__is_answered_the_same(name: str, case: dict[str, Any]) -> None:
    """A flag says the same whether it is asked for alone, among all, or with its explanation."""
    snapshot, context, facts = snapshot_of(name), msgspec.convert(case["context"], Context), facts_of(case)
    for key, result in results(evaluate(snapshot, context, facts, NOW)).items():
        alone = evaluate(snapshot, msgspec.structs.replace(context, flag_keys=frozenset({key})), facts, NOW)
        assert results(alone)[key] == result
        explanation = explain(snapshot, key, context, facts, NOW)
        assert explanation is not None
        assert explanation.result == result
        assert msgspec.json.encode(explanation)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_corpus__explained_steps__lead_to_the_answer(name: str, case: dict[str, Any]) -> None:
    """The last step of an explanation is what decided, and no earlier step could have."""
    snapshot, context, facts = snapshot_of(name), msgspec.convert(case["context"], Context), facts_of(case)
    for key, result in results(evaluate(snapshot, context, facts, NOW)).items():
        explanation = explain(snapshot, key, context, facts, NOW)
        assert explanation is not None
        deciding = [step.index for step in explanation.conditions if step.verdict == "matched"]
        if result.reason.code == "condition_match":
            assert deciding == [result.reason.condition_index]
        elif not result.failed:
            assert deciding == []
