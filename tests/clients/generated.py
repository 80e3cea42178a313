"""Generated flags and persons, on which the released SDKs' own evaluators and ours are compared.

Wherever an SDK reaches a conclusion, ours is the same, but for differences that have a name. Each named difference must
still show up, so that the lists stay exact.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.builders import condition, flag, person

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

    def __init__(self, differences: Mapping[str, Callable[[Case], bool]]) -> None:
        self._differences = differences
        self.named: Counter[str] = Counter()
        self.unnamed: list[str] = []

    def add(self, case: Case, sdk: object, ours: object) -> None:
        names = [name for name, applies in self._differences.items() if applies(case)]
        if names:
            self.named.update(names)
            return
        told = [(filter_["operator"], filter_["value"], seen) for filter_, seen in wanted_of(case)]
        self.unnamed.append(
            f"sdk {sdk!r}, ours {ours!r}, version {case[2]}: {told} in {json.dumps(case[0]['filters'])}"
        )
