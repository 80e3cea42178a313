"""Shapes of the definitions document, and their strict decoding.

A project is decoded in two steps, so that one broken flag cannot spoil the others: first the project with its flags
and cohorts left raw, then each of those by itself. Every problem carries its path in the whole document.
Field names and defaults follow PostHog's flag model; unknown fields are ignored.
"""

import re
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeVar

import msgspec

from evaluator.types import Problem

Operator = Literal[
    "exact", "is_not", "is_set", "is_not_set",
    "icontains", "not_icontains", "icontains_multi", "not_icontains_multi",
    "starts_with", "not_starts_with", "ends_with", "not_ends_with",
    "regex", "not_regex",
    "gt", "gte", "lt", "lte", "between", "not_between",
    "is_date_before", "is_date_after", "is_date_exact",
    "semver_eq", "semver_neq", "semver_gt", "semver_gte", "semver_lt", "semver_lte",
    "semver_tilde", "semver_caret", "semver_wildcard",
    "in", "not_in",
    "flag_evaluates_to",
]  # fmt: skip


class FilterDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One property filter. Without a value, operators that need one never match."""

    key: str
    type: Literal["person", "group", "cohort", "flag", "person_metadata"]
    value: Any = msgspec.UNSET
    operator: Operator | None = None
    negation: bool | None = None
    group_type_index: int | None = None


class ConditionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One condition set. Rollout None means 100; aggregation UNSET means as the flag says, None means by person."""

    properties: list[FilterDocument] | None = None
    rollout_percentage: float | None = None
    variant: str | None = None
    aggregation_group_type_index: int | msgspec.UnsetType | None = msgspec.UNSET


class VariantDocument(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    name: str | None = None
    rollout_percentage: float = 0.0


class MultivariateDocument(msgspec.Struct, frozen=True, kw_only=True):
    variants: list[VariantDocument] = []


class HoldoutDocument(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    exclusion_percentage: float = 0.0


class TargetingDocument(msgspec.Struct, frozen=True, kw_only=True):
    properties: list[FilterDocument] = []


class WeightedVariantDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A variant of an experiment: its share, in percent, of those enrolled, and the value they get."""

    key: str
    weight: float
    value: Any = None


class SeededHoldoutDocument(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    seed: str
    exclusion_percentage: float = 0.0


class RuleDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a flag of configuration version 2. Which fields count depends on the type."""

    id: str
    rule_type: Literal["targeted_release", "percentage_rollout", "experiment"]
    targeting: TargetingDocument = TargetingDocument()
    value: Any = None
    rollout_percentage: float = 100.0
    on_rollout_miss: Literal["continue", "return_default"] = "return_default"
    assignment_algorithm: Literal["sha1_60_v1"] = "sha1_60_v1"
    seed: str = ""
    experiment_id: int | None = None
    paused: bool = False
    variants: list[WeightedVariantDocument] = []
    holdout: SeededHoldoutDocument | None = None


class FiltersDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`payloads` maps a variant, or "true", to JSON text. `version` 2 means rules, in place of conditions."""

    groups: list[ConditionDocument] = []
    multivariate: MultivariateDocument | None = None
    payloads: dict[str, Any] | None = None
    aggregation_group_type_index: int | None = None
    feature_enrollment: bool | None = None
    holdout: HoldoutDocument | None = None
    holdout_groups: list[Any] | None = None
    super_groups: list[Any] | None = None
    early_exit: bool | None = None
    version: Literal[1, 2] | None = None
    default_value: Any = None
    rules: list[RuleDocument] = []


class FlagDocument(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    key: str
    name: str | None = None
    active: bool = False
    deleted: bool = False
    version: int | None = None
    filters: FiltersDocument = FiltersDocument()
    ensure_experience_continuity: bool | None = None
    bucketing_identifier: str | None = None
    evaluation_runtime: str | None = None
    evaluation_contexts: list[str] | None = None
    evaluation_tags: list[str] | None = None
    evaluation_environments: list[str] | None = None
    has_experiment: bool | None = None
    has_encrypted_payloads: bool | None = None
    is_remote_configuration: bool | None = None

    @property
    def contexts(self) -> frozenset[str]:
        """The evaluation contexts, under whichever of their three names they were stored."""
        return frozenset(self.evaluation_contexts or self.evaluation_tags or self.evaluation_environments or ())


class CohortDocument(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str | None = None
    is_static: bool = False
    filters: dict[str, Any] | None = None


class ProjectDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A project with flags and cohorts still raw. `group_types` are names in the order of their indexes."""

    id: int
    token: str
    name: str = ""
    secret_tokens: list[str] = []
    timezone: str = "UTC"
    property_matching_version: Literal[1, 2] = 1
    bucketing: Literal["sha1", "murmur3"] = "sha1"
    group_types: list[str] = []
    flags: list[msgspec.Raw] = []
    cohorts: list[msgspec.Raw] = []


class InvalidDefinitions(Exception):
    """A document of which nothing can be made; `problems` has every reason found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


T = TypeVar("T")
UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
MAX_PROBLEMS: Final = 100
_AT = re.compile(r"^(?P<message>.*?)(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `(?P<name>[^`]+)`")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|(?P<unknown>\[\.\.\.\])")


def decode(data: bytes | msgspec.Raw, shape: type[T], path: str = "$") -> T | tuple[Problem, ...]:
    """The decoded value, or every problem found (at most MAX_PROBLEMS), each with its path below `path`."""
    try:
        return msgspec.json.decode(data, type=shape)
    except UNDECODABLE:
        pass
    try:
        value = msgspec.json.decode(data)
    except UNDECODABLE as error:
        return (Problem("undecodable", path, None, str(error)),)
    return tuple(_problems(value, shape, path))


def _problems(value: object, shape: type[T], path: str) -> list[Problem]:
    """Find each problem by converting, cutting out the item the error names, and converting again."""
    problems: list[Problem] = []
    reported: set[str] = set()
    cut: dict[str, list[int]] = {}
    while len(problems) < MAX_PROBLEMS:
        try:
            msgspec.convert(value, shape)
        except msgspec.ValidationError as error:
            match = _AT.match(str(error))
            assert match is not None  # noqa: S101 - the pattern matches any text
            where, steps = _original_path(match["path"] or "$", cut)
            missing = _MISSING_FIELD.search(match["message"])
            if missing is None or f"{where}.{missing['name']}" not in reported:
                problems.append(Problem("undecodable", path + where, None, match["message"]))
                reported.add(where)
            if not _cut_out(value, steps, cut):
                break
        else:
            break
    return problems


Step = tuple[str, str | int]
"""The path of a container as first written, and the key or present index inside it."""


def _original_path(path: str, cut: dict[str, list[int]]) -> tuple[str, list[Step]]:
    """The path with indexes as they were before anything was cut out, and the steps to walk now.

    There are no steps where the error does not tell the key of a mapping."""
    where = ""
    steps: list[Step] = []
    for step in _STEP.finditer(path):
        if step["name"] is not None:
            steps.append((where, step["name"]))
            where += f".{step['name']}"
        elif step["index"] is not None:
            index = int(step["index"])
            steps.append((where, index))
            where += f"[{_original(index, cut.get(where, ()))}]"
        else:
            return where + path[step.start() :], []
    return where, steps


def _original(index: int, gone: Iterable[int]) -> int:
    """The index an item had before those in `gone` (ascending) were cut out."""
    for earlier in gone:
        index += earlier <= index
    return index


def _cut_out(value: Any, steps: list[Step], cut: dict[str, list[int]]) -> bool:
    """Remove the item the steps lead to; False when it cannot be found or is the whole value."""
    if not steps:
        return False
    for _, step in steps[:-1]:
        value = value[step]
    where, last = steps[-1]
    if isinstance(last, int):
        gone = cut.setdefault(where, [])
        gone.append(_original(last, gone))
        gone.sort()
        del value[last]
        return True
    # A required field fails once more, as missing from its container, which is then cut out as well.
    return value.pop(last, msgspec.UNSET) is not msgspec.UNSET
