"""The released SDK's own local evaluator and ours, asked the same of thousands of generated flags and persons.

Wherever the SDK reaches a conclusion from what we give it, ours is the same, but for differences that have a name
in differences.py. Each of them must still show up, so that the list stays exact.
"""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from posthog import Posthog

from evaluator.evaluate import evaluate
from evaluator.local_evaluation import local_definitions
from tests.builders import GROUP_TYPES, NOTHING_STORED, context, project, snapshot
from tests.clients.differences import PYTHON_DIFFERENCES, SHARED_DIFFERENCES, Disagreements, with_leaves
from tests.clients.generated import generated_flag, generated_person, round_of
from tests.conftest import ServerProcess

pytestmark = [
    pytest.mark.client,
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

ROUNDS = 120
PERSONS_PER_ROUND = 4


def local(flags: list[dict[str, Any]], version: int) -> Posthog:
    """An SDK that has these definitions and asks nobody."""
    client = Posthog(
        "phc", host="http://127.0.0.1:9", personal_api_key="phx", enable_local_evaluation=False, send=False
    )
    client.feature_flags = flags
    client._property_matching_version = version
    return client


def test_local_evaluation__of_generated_flags_and_persons__agrees() -> None:
    """Thousands of conclusions of the SDK's local evaluator are those of ours, payloads included."""
    chance = random.Random(20260115)
    found, compared = Disagreements(PYTHON_DIFFERENCES), 0
    seen: set[str] = set()
    for _ in range(ROUNDS):
        _, flags, trees = round_of(chance)
        version = chance.choice((1, 1, 2))
        cohorts = [{"id": int(id_), "filters": {"properties": tree}} for id_, tree in trees.items()]
        built = snapshot(*flags, property_matching_version=version, cohorts=cohorts)
        shared = {"property_matching_version": version, "cohorts": cohorts, "group_types": GROUP_TYPES}
        document = project(*flags, **shared)
        definitions = json.loads(local_definitions(json.dumps(document).encode()))
        client = local(definitions["flags"], version)
        client.cohorts, client.group_type_mapping = definitions["cohorts"], definitions["group_type_mapping"]
        for _ in range(PERSONS_PER_ROUND):
            distinct_id, properties = generated_person(chance)
            groups = {"organization": f"org-{chance.randrange(1000)}"}
            of_groups = {"organization": {"plan": chance.choice(("pro", "free"))}}
            sdk = client.get_all_flags_and_payloads(
                distinct_id,
                person_properties=properties,
                groups=groups,
                group_properties=of_groups,
                only_evaluate_locally=True,
            )
            asked = context(distinct_id, person_properties=properties, groups=groups, group_properties=of_groups)
            # The SDK reads the real clock for spans such as -7d.
            evaluation = evaluate(built, asked, NOTHING_STORED, datetime.now(UTC))
            ours = {outcome.result.key: outcome.result for outcome in evaluation.outcomes}
            for document in flags:
                key = document["key"]
                concluded = sdk["featureFlags"] or {}
                if key not in concluded:
                    continue
                compared += 1
                seen.add(key)
                theirs = (concluded[key], (sdk["featureFlagPayloads"] or {}).get(key))
                if theirs != (ours[key].value, ours[key].payload):
                    found.add((with_leaves(document, trees, flags[0]), properties, version), theirs, ours[key])
        client.shutdown()
    assert not found.unnamed, "\n".join([f"{len(found.unnamed)} of {compared}", *found.unnamed[:12]])
    assert compared > 3000
    assert {"in-cohort-1", "in-cohort-2", "in-cohort-3", "group-rollout", "group-plan", "above"} <= seen
    assert set(found.named) == set(PYTHON_DIFFERENCES)


def test_server__asked_the_same__agrees_with_local_evaluation(
    start_server: Callable[..., ServerProcess], tmp_path: Any
) -> None:
    """The same holds over the wire: what the SDK concludes by itself is what it is told by our server."""
    chance = random.Random(7)
    flags = [generated_flag(chance, f"flag-{number}") for number in range(60)]
    path = tmp_path / "definitions.json"
    path.write_text(json.dumps({"projects": [{"id": 1, "token": "phc", "flags": flags}]}))
    server = start_server("--set", f"store.url=file:{path}").wait_until_ready()
    remote, alone = Posthog("phc", host=server.url, send=False), local(flags, 1)
    found, compared = Disagreements(SHARED_DIFFERENCES), 0
    for _ in range(40):
        distinct_id, properties = generated_person(chance)
        told = remote.get_all_flags(distinct_id, person_properties=properties)
        sdk = alone.get_all_flags(distinct_id, person_properties=properties, only_evaluate_locally=True)
        for document in flags:
            if document["key"] in sdk:
                compared += 1
                if sdk[document["key"]] != told[document["key"]]:
                    found.add((document, properties, 1), sdk[document["key"]], told[document["key"]])
    remote.shutdown()
    alone.shutdown()
    assert not found.unnamed, "\n".join(found.unnamed[:12])
    assert compared > 500
