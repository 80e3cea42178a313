"""What the members of one flag must be like together: keys, shares, variants, payloads, group types.

Only bounds and agreement are judged here, on what decodes; what does not is told of by compiling. Invariant: nothing is
asked of anybody, and every problem found has its path.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from evaluator.definitions import ConditionDocument, FilterDocument, FiltersDocument, FlagDocument, RuleDocument, decode
from evaluator.types import Problem
from gateway.services.editing_fields import Document

MAX_KEY_CHARACTERS: Final = 400
TOLERANCE: Final = 1e-6
"""How far shares may be from 100 % in all: as far as rounding takes them."""
_KEY: Final = re.compile(r"[a-zA-Z0-9_-]+")

Shares = list[tuple[str, str, float]]
"""The path, key and share of each variant."""


def flag_problems(document: Document, project: Document, path: str) -> Iterator[Problem]:
    """What is wrong with a flag by itself."""
    yield from _key(document.get("key"), f"{path}.key")
    flag = decode(msgspec.json.encode(document), FlagDocument)
    if isinstance(flag, tuple):
        return
    at, filters = f"{path}.filters", flag.filters
    names = project.get("group_types")
    group_types = len(names) if isinstance(names, list) else 0
    variants = filters.multivariate.variants if filters.multivariate else []
    here = f"{at}.multivariate.variants"
    shares = [(f"{here}[{i}].rollout_percentage", it.key, it.rollout_percentage) for i, it in enumerate(variants)]
    yield from _shares(shares, here)
    yield from _group_type(filters.aggregation_group_type_index, group_types, f"{at}.aggregation_group_type_index")
    if filters.holdout:
        yield from _percentage(filters.holdout.exclusion_percentage, f"{at}.holdout.exclusion_percentage")
    keys = {it.key for it in variants}
    if filters.version == 2:
        for index, rule in enumerate(filters.rules):
            yield from _rule(rule, filters, group_types, f"{at}.rules[{index}]")
    else:
        for index, condition in enumerate(filters.groups):
            yield from _condition(condition, filters, keys, group_types, f"{at}.groups[{index}]")
    if not flag.has_encrypted_payloads:
        yield from _payloads(filters, keys, at)


def _key(key: object, path: str) -> Iterator[Problem]:
    if not isinstance(key, str) or not key:
        yield _invalid(path, "a flag needs a key")
    elif len(key) > MAX_KEY_CHARACTERS:
        yield _invalid(path, f"a key has at most {MAX_KEY_CHARACTERS} characters")
    elif not _KEY.fullmatch(key):
        yield _invalid(path, "a key has only letters, digits, - and _ of ASCII")


def _condition(
    condition: ConditionDocument, filters: FiltersDocument, variants: set[str], group_types: int, path: str
) -> Iterator[Problem]:
    if condition.rollout_percentage is not None:
        yield from _percentage(condition.rollout_percentage, f"{path}.rollout_percentage")
    if condition.variant and condition.variant not in variants:
        yield Problem("unresolved", f"{path}.variant", None, f"the flag has no variant {condition.variant!r}")
    group_type = condition.aggregation_group_type_index
    if isinstance(group_type, int):
        yield from _group_type(group_type, group_types, f"{path}.aggregation_group_type_index")
    elif group_type is msgspec.UNSET:
        group_type = filters.aggregation_group_type_index
    yield from _filters(condition.properties or (), group_type, group_types, f"{path}.properties")


def _rule(rule: RuleDocument, filters: FiltersDocument, group_types: int, path: str) -> Iterator[Problem]:
    yield from _percentage(rule.rollout_percentage, f"{path}.rollout_percentage")
    if rule.rule_type == "experiment":
        here = f"{path}.variants"
        yield from _shares([(f"{here}[{i}].weight", it.key, it.weight) for i, it in enumerate(rule.variants)], here)
    if rule.holdout:
        yield from _percentage(rule.holdout.exclusion_percentage, f"{path}.holdout.exclusion_percentage")
    group_type = filters.aggregation_group_type_index
    yield from _filters(rule.targeting.properties, group_type, group_types, f"{path}.targeting.properties")


def _filters(
    filters: Iterable[FilterDocument], group_type: int | None, group_types: int, path: str
) -> Iterator[Problem]:
    for index, it in enumerate(filters):
        if it.type == "group":
            used = group_type if it.group_type_index is None else it.group_type_index
            at = f"{path}[{index}].group_type_index"
            if used is None:
                yield _invalid(at, "a filter on a group names the type of the group")
            elif it.group_type_index is not None:
                yield from _group_type(used, group_types, at)


def _group_type(index: int | None, group_types: int, path: str) -> Iterator[Problem]:
    if index is not None and not 0 <= index < group_types:
        yield Problem("unresolved", path, None, f"the project has no group type {index}, it has {group_types} of them")


def _shares(shares: Shares, path: str) -> Iterator[Problem]:
    """Variants have different keys, and shares that come to 100 % in all."""
    seen: set[str] = set()
    for index, (at, key, share) in enumerate(shares):
        yield from _percentage(share, at)
        if not key:
            yield _invalid(f"{path}[{index}].key", "a variant needs a key")
        elif key in seen:
            yield Problem("duplicate", f"{path}[{index}].key", None, f"an earlier variant has the key {key!r}")
        seen.add(key)
    total = sum(share for _, _, share in shares)
    if shares and abs(total - 100) > TOLERANCE:
        yield _invalid(path, f"the variants' shares come to {total:g}, and not to 100")


def _percentage(value: float, path: str) -> Iterator[Problem]:
    if not 0 <= value <= 100:
        yield _invalid(path, f"{value:g} is not within 0 to 100")


def _payloads(filters: FiltersDocument, variants: set[str], path: str) -> Iterator[Problem]:
    for name, payload in (filters.payloads or {}).items():
        at = f"{path}.payloads.{name}"
        if name != "true" and name not in variants:
            yield Problem("unresolved", at, None, f'the flag has no variant {name!r}; without variants, name it "true"')
        elif isinstance(payload, str):
            try:
                msgspec.json.decode(payload)
            except (msgspec.DecodeError, RecursionError) as error:
                yield _invalid(at, f"a payload is JSON, and this is not: {error}")


def _invalid(path: str, message: str) -> Problem:
    return Problem("invalid", path, None, message)
