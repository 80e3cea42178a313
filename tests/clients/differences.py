"""Where the released SDKs' own evaluators and ours come to different conclusions, by name and with the reason.

Invariant: whatever has no name here is the same, and each name must still show up, so that the lists stay exact.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Case = tuple[dict[str, Any], dict[str, Any], int]
"""A flag, the properties of a person, and the project's matching version."""


Differences = Mapping[str, Callable[[Case], bool]]


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


SHARED_DIFFERENCES: Differences = {
    "a condition on a property that is not set": misses_a_property,
    "a version with a prerelease or build": has_a_prerelease,
    "a version pattern without a star": has_a_pattern_without_star,
}
"""Why an SDK's own evaluator and ours may differ in a case; each has to show up."""


def asks_for_an_empty_cohort(case: Case) -> bool:
    """A cohort without any filter has everybody for this SDK; here, and for posthog-node, it has nobody."""
    is_of_cohort = case[0]["key"].startswith("in-cohort")
    return is_of_cohort and not any(group["properties"] for group in case[0]["filters"]["groups"])


def has_a_condition_left_to_the_service(case: Case) -> bool:
    """This SDK passes over inline flags in patterns and numbers for dates, and a later condition may match."""
    is_left = any(
        (filter_["operator"].endswith("regex") and "(?" in str(filter_["value"]))
        or (filter_["operator"].startswith("is_date") and isinstance(seen, int))
        for filter_, seen in wanted_of(case)
    )
    return is_left and len(case[0]["filters"]["groups"]) > 1


PYTHON_DIFFERENCES = {
    **SHARED_DIFFERENCES,
    "a cohort without filters": asks_for_an_empty_cohort,
    "a condition that the SDK leaves to the service": has_a_condition_left_to_the_service,
}


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


NODE_DIFFERENCES: Differences = {
    **SHARED_DIFFERENCES,
    "a number compared with something else": compares_no_number,
    "a date given as a number": dates_by_number,
    "a list or an object as text": has_structure,
    "a rollout miss that ends the walk": exits_early,
}


def with_leaves(document: dict[str, Any], trees: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The flag with the filters behind its cohort or dependency, to tell by them why two answers differ."""
    asked = [filter_ for group in document["filters"]["groups"][:1] for filter_ in group["properties"]]
    if any(filter_["type"] == "flag" for filter_ in asked):
        return base
    number = next((str(filter_["value"]) for filter_ in asked if filter_["type"] == "cohort"), None)
    if number is None:
        return document
    leaves = [leaf for group in trees["1" if number == "3" else number]["values"] for leaf in group["values"]]
    return {**document, "filters": {"groups": [{"properties": leaves}]}}


class Disagreements:
    """What differed, by the name of the difference; without a name it is a failure."""

    def __init__(self, differences: Differences) -> None:
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
