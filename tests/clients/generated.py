"""Generated flags, cohorts and persons, on which clients, protocols and our evaluator are compared.

Invariant: the same seed gives the same cases, on every machine.
"""

import random
from typing import Any

from tests.builders import condition, flag, person

FLAGS_PER_ROUND = 12
KEYS = ("plan", "age", "email", "version", "joined", "beta", "tags")
TEXTS = ("pro", "PRO", "free", "ada@example.com", "Ä", "ß", "", "true", "False", "10", "9.5", "1e3", " 5", "null")
NUMBERS = (0, 1, 5, 10, -3, 9.5, 5.0, 1e16, 2**53)
VERSIONS = ("1.2.3", "1.2", "2.0.0", "v1.2.3", "1.2.3-alpha", "0.3.1", "1.10.0", "banana", "1.2.3+build")
DATES = ("2026-01-01", "2025-06-30", "2026-01-10T12:00:00Z", "2020-02-29 10:30:00", "-7d", "-1m", "-2y", "-36h")
MOMENTS = ("2026-01-01", "2025-12-31T23:59:59Z", "2026-01-14T00:00:00+02:00", 1767225600, "soon", "2019-05-05")
Round = tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]
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


def round_of(chance: random.Random, size: int = FLAGS_PER_ROUND) -> Round:
    """Definitions for the SDK, the same flags for us, and our cohorts by id."""
    cohorts = {str(number): cohort_tree(chance) for number in (1, 2)}
    cohorts["3"] = {"type": "AND", "values": [{"key": "id", "type": "cohort", "value": 1, "negation": False}]}
    flags = [generated_flag(chance, f"flag-{number}") for number in range(size)]
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
