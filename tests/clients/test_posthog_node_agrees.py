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
from tests.builders import NOTHING_STORED, context, snapshot
from tests.clients.generated import DIFFERENCES as SHARED_DIFFERENCES
from tests.clients.generated import Case, Disagreements, generated_person, round_of, wanted_of, with_leaves

pytestmark = pytest.mark.client

NODE = Path(__file__).parent / "node"
ROUNDS = 40
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
