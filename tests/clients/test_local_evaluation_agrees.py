"""The released SDK's own local evaluator and ours, asked the same of thousands of generated flags and persons.

Wherever the SDK reaches a conclusion, ours is the same, but for differences that have a name below. Each named
difference must still show up, so that the list stays exact.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from posthog import Posthog

from evaluator.evaluate import evaluate
from tests.builders import NOTHING_STORED, condition, context, flag, person, snapshot
from tests.conftest import ServerProcess

pytestmark = [
    pytest.mark.client,
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

ROUNDS = 120
FLAGS_PER_ROUND = 12
PERSONS_PER_ROUND = 4

KEYS = ("plan", "age", "email", "version", "joined", "beta", "tags")
TEXTS = ("pro", "PRO", "free", "ada@example.com", "Ä", "ß", "", "true", "False", "10", "9.5", "1e3", " 5", "null")
NUMBERS = (0, 1, 5, 10, -3, 9.5, 5.0, 1e16, 2**53)
VERSIONS = ("1.2.3", "1.2", "2.0.0", "v1.2.3", "1.2.3-alpha", "0.3.1", "1.10.0", "banana", "1.2.3+build")
DATES = ("2026-01-01", "2025-06-30", "2026-01-10T12:00:00Z", "2020-02-29 10:30:00", "-7d", "-1m", "-2y", "-36h")
MOMENTS = ("2026-01-01", "2025-12-31T23:59:59Z", "2026-01-14T00:00:00+02:00", 1767225600, "soon", "2019-05-05")
VALUES: dict[str, tuple[Any, ...]] = {
    "plan": (*TEXTS, True, False, None, 1),
    "age": (*NUMBERS, "7", "10", "abc", True, None),
    "email": ("ada@example.com", "Bob@Example.COM", "", "x", 5, None),
    "version": (*VERSIONS, 2, 1.5),
    "joined": MOMENTS,
    "beta": (True, False, "true", "FALSE", "banana", 0, 1, None, []),
    "tags": (["a", "B"], [], "a", ["true"], {"a": 1}, "b"),
}
OPERATORS: dict[str, tuple[str, ...]] = {
    "plan": ("exact", "is_not", "icontains", "not_icontains", "is_set", "is_not_set"),
    "age": ("gt", "gte", "lt", "lte", "exact", "is_not"),
    "email": ("regex", "not_regex", "starts_with", "not_starts_with", "ends_with", "not_ends_with", "icontains"),
    "version": tuple(
        f"semver_{kind}" for kind in ["eq", "neq", "gt", "gte", "lt", "lte", "tilde", "caret", "wildcard"]
    ),
    "joined": ("is_date_before", "is_date_after"),
    "beta": ("exact", "is_not"),
    "tags": ("exact", "is_not", "icontains", "not_icontains"),
}
WANTED: dict[str, tuple[Any, ...]] = {
    "plan": (*TEXTS, ["pro", "free"], ["Ä"], True, 5),
    "age": (*NUMBERS, "5", "7"),
    "email": ("@example", "^ada", "com$", "(?i)bob", "a.a", "EXAMPLE", "x|y", "[a-c]+@"),
    "version": ("1.2.3", "1.2", "2.0.0", "0.3.0", "1.2.*", "1.*", "1.2.3-alpha"),
    "joined": DATES,
    "beta": (True, False, "true", ["true", "false"], [True], [], "banana"),
    "tags": ("a", ["a", "B"], "b", [], ["true"]),
}


def filters_of(chance: random.Random) -> list[dict[str, Any]]:
    keys = chance.sample(KEYS, chance.choice((0, 1, 1, 2)))
    return [person(key, chance.choice(WANTED[key]), chance.choice(OPERATORS[key])) for key in keys]


def generated_flag(chance: random.Random, name: str) -> dict[str, Any]:
    variants = chance.choice((None, {"a": 50, "b": 50}, {"a": 33.33, "b": 33.33, "c": 33.34}, {"only": 40}))
    names = [*(variants or {}), "gone", None, None]
    conditions = [
        condition(*filters_of(chance), rollout=chance.choice((None, 100, 50, 10.5, 0)), variant=chance.choice(names))
        for _ in range(chance.choice((1, 1, 2, 3)))
    ]
    extra: dict[str, Any] = {}
    if chance.random() < 0.2:
        extra["early_exit"] = True
    if chance.random() < 0.1:
        extra["holdout"] = {"id": 3, "exclusion_percentage": chance.choice((10, 50))}
    payloads = {name: f'"{name}"' for name in variants or {}} | {"true": "1"}
    return flag(name, *conditions, variants=variants, payloads=payloads, filters=extra)


def generated_person(chance: random.Random) -> tuple[str, dict[str, Any]]:
    known = [key for key in KEYS if chance.random() < 0.85]
    return f"person-{chance.randrange(10**6)}", {key: chance.choice(VALUES[key]) for key in known}


Case = tuple[dict[str, Any], dict[str, Any], int]
"""A flag, the properties of a person, and the project's matching version."""


def wanted_of(case: Case) -> Iterator[tuple[dict[str, Any], Any]]:
    for group in case[0]["filters"]["groups"]:
        for filter_ in group["properties"]:
            if filter_["key"] in case[1]:
                yield filter_, case[1][filter_["key"]]


def misses_a_property(case: Case) -> bool:
    """The SDK passes over a condition whose property it does not know, and may match a later one.

    The service knows that the property is not set, which decides the condition.
    """
    groups = case[0]["filters"]["groups"]
    return len(groups) > 1 and any(filter_["key"] not in case[1] for group in groups for filter_ in group["properties"])


def versions_of(case: Case) -> Iterator[tuple[str, str, str]]:
    for filter_, seen in wanted_of(case):
        if filter_["operator"].startswith("semver_"):
            yield filter_["operator"], str(filter_["value"]), str(seen)


def has_a_prerelease(case: Case) -> bool:
    """The SDK leaves prerelease and build out of a version; the service orders by them."""
    return any("-" in wanted + seen or "+" in wanted + seen for _, wanted, seen in versions_of(case))


def has_a_pattern_without_star(case: Case) -> bool:
    """The SDK takes a whole version as a pattern that only it satisfies; here it is a filter that cannot match."""
    return any(operator == "semver_wildcard" and "*" not in wanted for operator, wanted, _ in versions_of(case))


DIFFERENCES: dict[str, Callable[[Case], bool]] = {
    "a condition on a property that is not set": misses_a_property,
    "a version with a prerelease or build": has_a_prerelease,
    "a version pattern without a star": has_a_pattern_without_star,
}
"""Why the two may differ in a case; each has to show up."""


class Disagreements:
    """What differed, by the name of the difference; without a name it is a failure."""

    def __init__(self) -> None:
        self.named: Counter[str] = Counter()
        self.unnamed: list[str] = []

    def add(self, case: Case, sdk: object, ours: object) -> None:
        names = [name for name, applies in DIFFERENCES.items() if applies(case)]
        if names:
            self.named.update(names)
            return
        told = [(filter_["operator"], filter_["value"], seen) for filter_, seen in wanted_of(case)]
        self.unnamed.append(
            f"sdk {sdk!r}, ours {ours!r}, version {case[2]}: {told} in {json.dumps(case[0]['filters'])}"
        )


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
    found, compared = Disagreements(), 0
    for _ in range(ROUNDS):
        flags = [generated_flag(chance, f"flag-{number}") for number in range(FLAGS_PER_ROUND)]
        version = chance.choice((1, 1, 2))
        built, client = snapshot(*flags, property_matching_version=version), local(flags, version)
        for _ in range(PERSONS_PER_ROUND):
            distinct_id, properties = generated_person(chance)
            sdk = client.get_all_flags_and_payloads(
                distinct_id, person_properties=properties, only_evaluate_locally=True
            )
            asked = context(distinct_id, person_properties=properties)
            # The SDK reads the real clock for spans such as -7d.
            evaluation = evaluate(built, asked, NOTHING_STORED, datetime.now(UTC))
            ours = {outcome.result.key: outcome.result for outcome in evaluation.outcomes}
            for document in flags:
                key = document["key"]
                concluded = sdk["featureFlags"] or {}
                if key not in concluded:
                    continue
                compared += 1
                theirs = (concluded[key], (sdk["featureFlagPayloads"] or {}).get(key))
                if theirs != (ours[key].value, ours[key].payload):
                    found.add((document, properties, version), theirs, ours[key])
        client.shutdown()
    assert not found.unnamed, "\n".join([f"{len(found.unnamed)} of {compared}", *found.unnamed[:12]])
    assert compared > 3000
    assert set(found.named) == set(DIFFERENCES)


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
    found, compared = Disagreements(), 0
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
