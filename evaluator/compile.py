"""Flag documents -> compiled flags, once, when a snapshot is built.

Everything that does not depend on the request is settled here: predicates, thresholds, and every outcome a flag can
have, already encoded. Invariant: compiling never raises; a flag that cannot be compiled is off, with its problem.
"""

from collections.abc import Mapping
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from evaluator import identity
from evaluator.cohorts import Cohorts
from evaluator.definitions import CohortDocument, ConditionDocument, FilterDocument, FlagDocument, HoldoutDocument
from evaluator.filters import Filter, flag_filter, group_filter, never_filter, person_filter
from evaluator.flag import Flag, has_continuity, off, outcome_of
from evaluator.gates import Enrollment, Holdout, murmur_of_held_out, sha1_of_held_out
from evaluator.hashing import Buckets, MurmurBuckets, Sha1Buckets, prehashed, threshold_at_most, variant_thresholds
from evaluator.identity import Identify
from evaluator.match import (
    Condition,
    choose_matcher,
)
from evaluator.operators import Predicate, compile_operator
from evaluator.rules import RulesCompiler
from evaluator.types import (
    Encode,
    Outcome,
    Problem,
    Reason,
    ReasonCode,
)

NO_CONDITIONS: Final = Reason(ReasonCode.NO_GROUP_TYPE, None, "No group type")
UNDECODABLE: Final = Reason(ReasonCode.FLAG_DISABLED, None, "Feature flag definition is invalid")


NO_DEPENDENCY: Final = Reason(ReasonCode.MISSING_DEPENDENCY, None, "Flag cannot be evaluated due to missing dependency")


class Project(msgspec.Struct, frozen=True):
    """What a project decides for all of its flags. `timezone` None says that it could not be found."""

    timezone: ZoneInfo | None
    property_matching_version: Literal[1, 2]
    group_types: tuple[str, ...]
    cohorts: Mapping[int, tuple[str, CohortDocument]]
    encode: Encode
    bucketing: Literal["sha1", "murmur3"] = "sha1"


def dependencies_of(document: FlagDocument) -> frozenset[int]:
    """The ids of the flags that this one depends on."""
    filters = document.filters
    of_conditions = [condition.properties or [] for condition in filters.groups]
    of_rules = [rule.targeting.properties for rule in filters.rules]
    return frozenset(
        flag_id
        for properties in (of_rules if filters.version == 2 else of_conditions)
        for filter_ in properties
        if filter_.type == "flag" and (flag_id := flag_id_of(filter_.key)) is not None
    )


class Compiler:
    """Compiles the flags of one project; keeps the problems found and the cohorts they share."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.problems: list[Problem] = []
        self.reads_clock = False
        """Whether some filter compares with a date, which may be relative to now."""
        self.cohorts = Cohorts(project.cohorts, self._cohort_leaf, self.problems)

    def compile(self, document: FlagDocument, path: str) -> Flag:
        return _FlagCompiler(self, document, path).compile()

    def predicate(self, document: FilterDocument, path: str, flag: str | None) -> Predicate:
        self.reads_clock = self.reads_clock or is_of_dates(document)

        def warn(message: str) -> None:
            self.problems.append(Problem("never_matches", f"{path}.value", flag, message))

        return compile_operator(
            document,
            matching_version=self.project.property_matching_version,
            timezone=self.project.timezone or ZoneInfo("UTC"),
            warn=warn,
        )

    def lacks_timezone(self, document: FilterDocument) -> bool:
        """Whether the filter compares dates, which have no meaning without a time zone."""
        return self.project.timezone is None and is_of_dates(document)

    def group_type(self, index: int | None) -> str | None:
        names = self.project.group_types
        return names[index] if index is not None and 0 <= index < len(names) else None

    def _cohort_leaf(self, document: FilterDocument, path: str) -> Filter:
        if self.lacks_timezone(document):
            self.problems.append(Problem("undecodable", path, None, NO_TIMEZONE))
            return never_filter(document, path)
        return person_filter(document, path, self.predicate(document, path, None))


NO_TIMEZONE: Final = "the project's time zone is unknown, so dates have no meaning"


class _FlagCompiler:
    """Compiles one flag; holds what its parts share."""

    def __init__(self, compiler: Compiler, document: FlagDocument, path: str) -> None:
        self.compiler = compiler
        self.document = document
        self.path = path
        self.encode = compiler.project.encode
        self.broken = False
        multivariate = document.filters.multivariate
        self.variants = multivariate.variants if multivariate else []
        payloads = {} if document.has_encrypted_payloads else document.filters.payloads or {}
        self.payloads = {name: _payload_text(payload) for name, payload in payloads.items()}
        thresholds = variant_thresholds(variant.rollout_percentage for variant in self.variants)
        self.by_murmur = compiler.project.bucketing == "murmur3"
        self.buckets: Buckets = (
            MurmurBuckets(document.key, thresholds)
            if self.by_murmur
            else Sha1Buckets(prehashed(f"{document.key}."), thresholds)
        )

    def compile(self) -> Flag:
        document, filters = self.document, self.document.filters
        if filters.version == 2:
            return self.compile_rules(filters.aggregation_group_type_index)
        conditions = tuple(map(self.condition, range(len(filters.groups)), filters.groups))
        if self.broken:
            return off(document, self.encode, UNDECODABLE)
        match = choose_matcher(
            conditions, self.outcome(NO_CONDITIONS, enabled=False), early_exit=bool(filters.early_exit)
        )
        holdout = self.holdout()
        if holdout:
            match = holdout.before(match)
        enrollment = self.enrollment() if filters.feature_enrollment else None
        if enrollment:
            match = enrollment.before(match)
        return Flag(document, self.encode, match, conditions=conditions, enrollment=enrollment, holdout=holdout)

    def compile_rules(self, aggregation: int | None) -> Flag:
        identify = identity.person if aggregation is None else identity.group(self.compiler.group_type(aggregation))
        compiler = RulesCompiler(
            self.document, self.encode, identify, lambda filter_, path: self.filter(filter_, path, aggregation)
        )
        match, rules = compiler.compile(self.path)
        if self.broken:
            return off(self.document, self.encode, UNDECODABLE)
        return Flag(self.document, self.encode, match, rules=rules)

    def condition(self, index: int, document: ConditionDocument) -> Condition:
        path = f"{self.path}.filters.groups[{index}]"
        percentage = 100.0 if document.rollout_percentage is None else document.rollout_percentage
        group_index = document.aggregation_group_type_index
        if group_index is msgspec.UNSET:
            group_index = self.document.filters.aggregation_group_type_index
        is_of_group = isinstance(group_index, int)
        matched = Reason(ReasonCode.CONDITION_MATCH, index, f"Matched condition set {index + 1}")
        missed = Reason(ReasonCode.OUT_OF_ROLLOUT_BOUND, index, "Out of rollout bound")
        unmatched = Reason(ReasonCode.NO_CONDITION_MATCH, index, "No matching condition set")
        missed_outcome = self.outcome(missed, enabled=False)
        no_group = Reason(ReasonCode.NO_GROUP_TYPE, index, "No group type")
        unusable = self.outcome(no_group, enabled=False) if is_of_group else missed_outcome
        keys = [variant.key for variant in self.variants]
        answers: list[str | None] = [document.variant] if document.variant in keys else [*keys, None]
        aggregation = group_index if isinstance(group_index, int) else None
        return Condition(
            index=index,
            filters=tuple(
                self.filter(filter_, f"{path}.properties[{position}]", aggregation)
                for position, filter_ in sorted(
                    enumerate(document.properties or []), key=lambda numbered: _FILTER_ORDER.get(numbered[1].type, 1)
                )
            ),
            percentage=percentage,
            threshold=None if percentage >= 100 else threshold_at_most(percentage / 100),
            buckets=self.buckets,
            identify=self.identify(aggregation),
            is_of_group=is_of_group,
            matched=tuple(self.outcome(matched, enabled=True, variant=variant) for variant in answers),
            missed=missed_outcome,
            unmatched=self.outcome(unmatched, enabled=False),
            unusable=unusable,
        )

    def identify(self, aggregation: int | None) -> Identify:
        """Whom a condition, or the flag as a whole, hashes."""
        if aggregation is not None:
            return identity.group(self.compiler.group_type(aggregation))
        if self.document.bucketing_identifier == "device_id":
            return identity.device
        return identity.continuous(self.document.key) if has_continuity(self.document) else identity.person

    def filter(self, document: FilterDocument, path: str, aggregation: int | None) -> Filter:
        compiler = self.compiler
        if document.type == "cohort":
            found = compiler.cohorts.filter(document, path)
            return found or self.never(document, path, "this operator and value name no cohort")
        if document.type == "flag":
            flag_id = flag_id_of(document.key)
            if document.operator != "flag_evaluates_to" or flag_id is None:
                return self.never(document, path, "flags are compared by id with flag_evaluates_to")
            return flag_filter(document, path, flag_id)
        if compiler.lacks_timezone(document):
            self.report("undecodable", path, NO_TIMEZONE)
        predicate = compiler.predicate(document, path, self.document.key)
        if document.type == "group":
            index = document.group_type_index if document.group_type_index is not None else aggregation
            return group_filter(document, path, predicate, compiler.group_type(index))
        return person_filter(document, path, predicate)

    def never(self, document: FilterDocument, path: str, why: str) -> Filter:
        self.compiler.problems.append(Problem("never_matches", path, self.document.key, why))
        return never_filter(document, path)

    def enrollment(self) -> Enrollment:
        reason = Reason(ReasonCode.SUPER_CONDITION_VALUE, 0, "Super condition value")
        document = FilterDocument(key=f"$feature_enrollment/{self.document.key}", type="person", operator="is_set")
        filter_ = person_filter(document, f"{self.path}.filters.feature_enrollment", lambda *_: True)
        return Enrollment(filter_, self.outcome(reason, enabled=True), self.outcome(reason, enabled=False))

    def holdout(self) -> Holdout | None:
        filters = self.document.filters
        variant, percentage = _holdout(filters.holdout, filters.holdout_groups)
        if variant is None:
            return None
        reason = Reason(ReasonCode.HOLDOUT_CONDITION_VALUE, None, "Holdout condition value")
        held = self.outcome(reason, enabled=True, variant=variant)
        digest = murmur_of_held_out if self.by_murmur else sha1_of_held_out
        return Holdout(percentage, self.identify(filters.aggregation_group_type_index), held, digest)

    def report(self, code: Literal["undecodable"], path: str, message: str) -> None:
        """Note a problem that makes the flag mean something unknown, so that it has to be off."""
        self.broken = True
        self.compiler.problems.append(Problem(code, path, self.document.key, message))

    def outcome(self, reason: Reason, *, enabled: bool, variant: str | None = None) -> Outcome:
        payload = self.payloads.get(variant or "true") if enabled else None
        return outcome_of(self.document, self.encode, reason, enabled=enabled, variant=variant, payload=payload)


_FILTER_ORDER: Final = {"flag": 0, "cohort": 2}
"""Filters on flags are looked at first and cohorts last; the others between them, as they came."""


def _payload_text(payload: object) -> str | None:
    """Payloads are stored as JSON text; anything else that was stored is written as such."""
    if payload is None or isinstance(payload, str):
        return payload
    return msgspec.json.encode(payload).decode()


def _holdout(holdout: HoldoutDocument | None, groups: list[object] | None) -> tuple[str | None, float]:
    """The holdout's variant and percentage. Before there were holdouts, the first of `holdout_groups` said the same."""
    if holdout is not None:
        return f"holdout-{holdout.id}", holdout.exclusion_percentage
    first = groups[0] if groups else None
    if isinstance(first, dict) and isinstance(first.get("variant"), str):
        percentage = first.get("rollout_percentage")
        return first["variant"], percentage if isinstance(percentage, int | float) else 100.0
    return None, 0.0


def is_of_dates(document: FilterDocument) -> bool:
    """Whether the filter compares dates."""
    return (document.operator or "").startswith("is_date")


def flag_id_of(key: str) -> int | None:
    """The id in the key of a filter on a flag; None when it is not one."""
    return int(key) if key.isdecimal() and len(key) < 20 else None
