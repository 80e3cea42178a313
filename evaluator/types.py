"""Everything that crosses the evaluator's boundary.

Frozen values only: what a caller hands in (Context, Facts), and what it gets back (FlagResult inside an Outcome).
Invariant: "never fetched" (Missing) and "known to be unset" (UNSET) are different values everywhere.
"""

from collections.abc import Callable, Mapping
from enum import Enum, StrEnum
from typing import Final, Literal

import msgspec

MAX_DISTINCT_ID_CHARACTERS: Final = 200
"""Longer ids are cut to this many code points before anything uses them, as PostHog's service does."""


class Runtime(StrEnum):
    """Where the caller runs. ALL keeps every flag; UNKNOWN keeps only flags that are for every runtime."""

    ALL = "all"
    CLIENT = "client"
    SERVER = "server"
    UNKNOWN = "unknown"


class Absence(Enum):
    """Why a property has no value. A stored null is a value (None) and is neither of these."""

    UNSET = "unset"
    NOT_FETCHED = "not_fetched"


UNSET: Final = Absence.UNSET
NOT_FETCHED: Final = Absence.NOT_FETCHED


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and what the request itself says about them.

    `groups` maps a group type's name to a usable key (non-empty text). `flag_keys` None means every flag.
    Values of properties are plain JSON values.
    """

    distinct_id: str
    person_properties: Mapping[str, object] = {}
    groups: Mapping[str, str] = {}
    group_properties: Mapping[str, Mapping[str, object]] = {}
    anon_distinct_id: str | None = None
    device_id: str | None = None
    runtime: Runtime = Runtime.ALL
    evaluation_contexts: frozenset[str] = frozenset()
    flag_keys: frozenset[str] | None = None
    only_surveys: bool = False

    def __post_init__(self) -> None:
        if len(self.distinct_id) > MAX_DISTINCT_ID_CHARACTERS:
            cut = self.distinct_id[:MAX_DISTINCT_ID_CHARACTERS]
            msgspec.structs.force_setattr(self, "distinct_id", cut)


class Missing(msgspec.Struct, frozen=True):
    """A part of the facts that is not there: a stable code for the wire, and a sentence for people."""

    code: str
    description: str


NEVER_ASKED: Final = Missing("not_fetched", "Stored facts were not asked for")


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """The stored facts that could still change an answer. Falsy when there are none.

    `groups` maps a group type's name to keys of its properties; `overrides` has the keys of flags.
    """

    person_properties: frozenset[str] = frozenset()
    cohorts: frozenset[int] = frozenset()
    groups: Mapping[str, frozenset[str]] = {}
    overrides: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.person_properties or self.cohorts or self.groups or self.overrides)


class Facts(msgspec.Struct, frozen=True):
    """What the stores know, part by part. Missing says that nothing is known of a part, and why.

    A property that a mapping lacks is unset. `cohorts` are static ones the person is in. A group type that `groups`
    lacks was never asked for. `overrides` maps flag keys to the identifier that is hashed instead.
    """

    person_properties: Mapping[str, object] | Missing = NEVER_ASKED
    cohorts: frozenset[int] | Missing = NEVER_ASKED
    groups: Mapping[str, Mapping[str, object] | Missing] = {}
    overrides: Mapping[str, str] | Missing = NEVER_ASKED


class OverrideWrite(msgspec.Struct, frozen=True):
    """An effect of an evaluation, for the caller to carry out: keep these hash keys for the persons of these ids."""

    distinct_ids: tuple[str, ...]
    hash_keys: Mapping[str, str]


class ReasonCode(StrEnum):
    """Why a flag has its value, as PostHog's wire names it."""

    SUPER_CONDITION_VALUE = "super_condition_value"
    HOLDOUT_CONDITION_VALUE = "holdout_condition_value"
    CONDITION_MATCH = "condition_match"
    OUT_OF_ROLLOUT_BOUND = "out_of_rollout_bound"
    NO_CONDITION_MATCH = "no_condition_match"
    NO_GROUP_TYPE = "no_group_type"
    FLAG_DISABLED = "flag_disabled"
    MISSING_DEPENDENCY = "missing_dependency"
    TARGETING_MATCH = "targeting_match"
    ROLLOUT_MISS = "rollout_miss"
    EXPERIMENT_PAUSED = "experiment_paused"
    HOLDOUT = "holdout"
    EXPERIMENT_SPLIT = "experiment_split"
    NO_RULE_MATCH = "no_rule_match"
    MISSING_GROUP_KEY = "missing_group_key"


class Reason(msgspec.Struct, frozen=True):
    """A reason code (or the code of what is missing), the index of the condition in `groups`, and a sentence."""

    code: str
    condition_index: int | None
    description: str


class RuleAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a flag of rules adds to its result: a typed value (JSON), and the rule that gave it."""

    value: object
    rule_type: str | None = None
    rule_id: str | None = None
    variant_key: str | None = None
    experiment_id: int | None = None
    holdout_id: int | None = None


class FlagResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one flag says. `payload` is the stored JSON text, never parsed; `rule` is there for flags of rules alone.

    `has_variants` says of the other flags that their value is text, or would be.
    """

    key: str
    id: int
    version: int
    has_experiment: bool
    enabled: bool
    variant: str | None
    payload: str | None
    reason: Reason
    failed: bool = False
    rule: RuleAnswer | None = None
    has_variants: bool = False

    @property
    def value(self) -> str | bool:
        """The variant where there is one, else whether the flag is on; `rule` has the typed value of rules."""
        return self.enabled if self.variant is None else self.variant


Fragments = tuple[bytes | None, ...]
"""One flag's outcome, encoded once per response shape. Which shape stands where is the encoder's business."""

Encode = Callable[[FlagResult], Fragments]


class Outcome:
    """One possible answer of one flag, with its fragments already encoded. Made when a snapshot is built."""

    __slots__ = ("fragments", "result")

    def __init__(self, result: FlagResult, fragments: Fragments) -> None:
        self.result = result
        self.fragments = fragments

    def __repr__(self) -> str:
        return f"<Outcome {self.result.key}={self.result.value!r} {self.result.reason.code}>"


class Problem(msgspec.Struct, frozen=True):
    """Something wrong in a definition: a stable code, the path of it, the flag it spoils (if one), and a sentence."""

    code: Literal["undecodable", "invalid", "duplicate", "never_matches", "unresolved", "in_use"]
    path: str
    flag: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"
