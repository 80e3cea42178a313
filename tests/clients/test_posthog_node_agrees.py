"""The released posthog-node's own local evaluator and ours, asked the same of generated flags, cohorts and groups."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evaluator.evaluate import evaluate
from tests.builders import NOTHING_STORED, condition, context, flag, person, snapshot
from tests.clients.generated import DIFFERENCES as SHARED_DIFFERENCES
from tests.clients.generated import Case, Disagreements, filters_of, generated_flag, generated_person, wanted_of

pytestmark = pytest.mark.client

NODE = Path(__file__).parent / "node"
ROUNDS = 40
FLAGS_PER_ROUND = 14
PERSONS_PER_ROUND = 8


def compares_no_number(case: Case) -> bool:
    """The SDK compares as text what is no number; the service never matches it."""
    return any(
        filter_["operator"] in {"gt", "gte", "lt", "lte"} and (isinstance(seen, bool) or not is_number(seen))
        for filter_, seen in wanted_of(case)
    )


def is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def dates_by_number(case: Case) -> bool:
    """The SDK takes a number for milliseconds since 1970, the service for seconds."""
    return any(filter_["operator"].startswith("is_date") and isinstance(seen, int) for filter_, seen in wanted_of(case))


def has_structure(case: Case) -> bool:
    """The SDK writes lists and objects as JavaScript does (`[object Object]`), the service as JSON."""
    return any(
        isinstance(seen, list | dict) or (isinstance(filter_["value"], list) and "contains" in filter_["operator"])
        for filter_, seen in wanted_of(case)
    )


def exits_early(case: Case) -> bool:
    """This SDK does not know early exit, and goes on to later conditions."""
    return bool(case[0]["filters"].get("early_exit"))


DIFFERENCES: dict[str, Callable[[Case], bool]] = {
    **SHARED_DIFFERENCES,
    "a number compared with something else": compares_no_number,
    "a date given as a number": dates_by_number,
    "a list or an object as text": has_structure,
    "a rollout miss that ends the walk": exits_early,
}


@pytest.fixture(scope="session")
def ask_node() -> Callable[[dict[str, Any]], Any]:
    """Runs the script beside this file; its packages are pinned and installed by `make`."""
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules" / "posthog-node").is_dir():
        message = "node, or posthog-node in tests/clients/node, is not installed"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)

    def ask(document: dict[str, Any]) -> Any:
        ran = subprocess.run(
            [node, "evaluate.mjs"],
            check=False,
            cwd=NODE,
            input=json.dumps(document),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return ask


def cohort_tree(chance: random.Random) -> dict[str, Any]:
    """A cohort in the form that the service and the SDKs share."""
    groups = [
        {
            "type": "AND",
            "values": [{**filter_, "negation": chance.random() < 0.3} for filter_ in filters_of(chance)],
        }
        for _ in range(chance.choice((1, 2)))
    ]
    return {"type": "OR", "values": [group for group in groups if group["values"]]}


def with_leaves(document: dict[str, Any], trees: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The flag with the filters behind its cohort or dependency, to tell by them why two answers differ."""
    (first, *_) = document["filters"]["groups"]
    if any(filter_["type"] == "flag" for filter_ in first["properties"]):
        return base
    number = next((str(filter_["value"]) for filter_ in first["properties"] if filter_["type"] == "cohort"), None)
    if number is None:
        return document
    leaves = [leaf for group in trees["1" if number == "3" else number]["values"] for leaf in group["values"]]
    return {**document, "filters": {"groups": [{"properties": leaves}]}}


def round_of(chance: random.Random) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Definitions for the SDK, the same flags for us, and our cohorts by id."""
    cohorts = {str(number): cohort_tree(chance) for number in (1, 2)}
    cohorts["3"] = {"type": "AND", "values": [{"key": "id", "type": "cohort", "value": 1, "negation": False}]}
    flags = [generated_flag(chance, f"flag-{number}") for number in range(FLAGS_PER_ROUND)]
    for number in (1, 2, 3):
        member = {"key": "id", "type": "cohort", "value": number, "operator": chance.choice(("in", "not_in"))}
        flags.append(flag(f"in-cohort-{number}", condition(member, rollout=chance.choice((100, 60)))))
    group_plan = {**person("plan", "pro"), "type": "group", "group_type_index": 0}
    by_group = {"aggregation_group_type_index": 0}
    flags += [
        flag("group-rollout", rollout=50, filters=by_group),
        flag("group-plan", condition(group_plan), filters=by_group),
    ]
    base, above = flags[0], flag("above")
    value = chance.choice((True, False))
    depends = {"type": "flag", "operator": "flag_evaluates_to", "value": value}
    theirs = {**depends, "key": base["key"], "dependency_chain": [base["key"]]}
    ours = {**depends, "key": str(base["id"])}
    definitions = {
        "flags": [*flags, {**above, "filters": {"groups": [condition(theirs)]}}],
        "group_type_mapping": {"0": "organization"},
        "cohorts": cohorts,
    }
    return definitions, [*flags, {**above, "filters": {"groups": [condition(ours)]}}], cohorts


def test_node__of_generated_flags_and_persons__agrees(ask_node: Callable[[dict[str, Any]], Any]) -> None:
    """Thousands of conclusions of posthog-node's local evaluator are those of ours."""
    chance = random.Random(20260116)
    rounds = [round_of(chance) for _ in range(ROUNDS)]
    people: list[list[dict[str, Any]]] = [
        [
            {
                "distinct_id": distinct_id,
                "person_properties": properties,
                "groups": {"organization": f"org-{chance.randrange(1000)}"},
                "group_properties": {"organization": {"plan": chance.choice(("pro", "free"))}},
            }
            for distinct_id, properties in (generated_person(chance) for _ in range(PERSONS_PER_ROUND))
        ]
        for _ in rounds
    ]
    projects = [
        {"definitions": definitions, "cases": cases} for (definitions, _, _), cases in zip(rounds, people, strict=True)
    ]
    answers = ask_node({"projects": projects})
    found, compared = Disagreements(DIFFERENCES), 0
    seen: set[str] = set()
    for (_, flags, trees), cases, told in zip(rounds, people, answers, strict=True):
        cohorts = [{"id": int(id_), "filters": {"properties": tree}} for id_, tree in trees.items()]
        built = snapshot(*flags, cohorts=cohorts)
        for case, node in zip(cases, told, strict=True):
            asked = context(
                case["distinct_id"],
                person_properties=case["person_properties"],
                groups=case["groups"],
                group_properties=case["group_properties"],
            )
            # The SDK reads the real clock for spans such as -7d.
            evaluation = evaluate(built, asked, NOTHING_STORED, datetime.now(UTC))
            ours = {outcome.result.key: outcome.result.value for outcome in evaluation.outcomes}
            for document in flags:
                key = document["key"]
                if key not in node:
                    continue
                compared += 1
                seen.add(key)
                if node[key] != ours[key]:
                    found.add(
                        (with_leaves(document, trees, flags[0]), case["person_properties"], 1), node[key], ours[key]
                    )
    assert not found.unnamed, "\n".join([f"{len(found.unnamed)} of {compared}", *found.unnamed[:12]])
    assert compared > 3000
    assert {"in-cohort-1", "in-cohort-2", "in-cohort-3", "group-rollout", "group-plan", "above"} <= seen
    assert set(found.named) == set(DIFFERENCES)
