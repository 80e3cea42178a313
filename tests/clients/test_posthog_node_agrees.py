"""The released posthog-node's own local evaluator and ours, asked the same of generated flags, cohorts and groups."""

import json
import random
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from evaluator.evaluate import evaluate
from tests.builders import NOTHING_STORED, context, snapshot
from tests.clients.differences import NODE_DIFFERENCES, Disagreements, with_leaves
from tests.clients.generated import generated_person, round_of
from tests.clients.node_client import NODE, node_with

pytestmark = pytest.mark.client

ROUNDS = 40
PERSONS_PER_ROUND = 8


@pytest.fixture(scope="session")
def ask_node() -> Callable[[dict[str, Any]], Any]:
    """Runs the script beside this file; its packages are pinned and installed by `make`."""
    node = node_with("posthog-node")

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
    found, compared = Disagreements(NODE_DIFFERENCES), 0
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
    assert set(found.named) == set(NODE_DIFFERENCES)
