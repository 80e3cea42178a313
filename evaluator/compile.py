"""Flag documents -> compiled flags, once, when a snapshot is built.

Everything that does not depend on the request is settled here: predicates, thresholds, and every outcome a flag can
have, already encoded. Invariant: compiling never raises; a flag that cannot be compiled is off, with its problem.
"""

from collections.abc import Iterator
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from evaluator.definitions import ConditionDocument, FilterDocument, FlagDocument, decode
from evaluator.hashing import Buckets, prehashed, threshold_at_most, variant_thresholds
from evaluator.match import (
    Condition,
    Filter,
    Frame,
    Match,
    choose_matcher,
    match_everyone,
    plain_rollout,
    undecided_filters,
)
from evaluator.operators import compile_operator
from evaluator.types import (
    Encode,
    FlagResult,
    Missing,
    Outcome,
    Problem,
    Reason,
    ReasonCode,
    Runtime,
)

MAX_FAILURES_KEPT: Final = 16
"""Failed outcomes kept per flag. Causes come from a handful of constants; a stranger is encoded each time."""

NO_CONDITIONS: Final = Reason(ReasonCode.NO_GROUP_TYPE, None, "No group type")
UNDECODABLE: Final = Reason(ReasonCode.FLAG_DISABLED, None, "Feature flag definition is invalid")


class Settings(msgspec.Struct, frozen=True):
    """What a project decides for all of its flags. `timezone` None says that it could not be found."""

    timezone: ZoneInfo | None
    property_matching_version: int
    encode: Encode


class CompiledFlag:
    """One flag, ready to be matched.

    `conditions` and `buckets` are what explains it, `match` is what answers; `rollout` says the same as a table's row,
    for flags that are nothing else.
    """

    __slots__ = (
        "_encode",
        "_failures",
        "buckets",
        "conditions",
        "contexts",
        "document",
        "early_exit",
        "match",
        "rollout",
        "runtime",
    )

    def __init__(
        self,
        document: FlagDocument,
        encode: Encode,
        conditions: tuple[Condition, ...],
        buckets: Buckets,
        match: Match,
    ) -> None:
        self.document = document
        self.contexts = document.contexts
        self.runtime = _runtime(document.evaluation_runtime)
        self.early_exit = bool(document.filters.early_exit)
        self.conditions = conditions
        self.buckets = buckets
        self.match = match
        self.rollout = plain_rollout(conditions, buckets)
        self._encode = encode
        self._failures: dict[Missing, Outcome] = {}

    def needs(self, frame: Frame) -> Iterator[str]:
        """Person properties that could still change the outcome; for a flag that `match` left undecided."""
        found = undecided_filters(self.conditions, frame, self.buckets, early_exit=self.early_exit)
        return (filter_.document.key for filter_ in found)

    def failed(self, missing: Missing) -> Outcome:
        """The outcome of a flag that could not be decided for want of facts."""
        outcome = self._failures.get(missing)
        if outcome is None:
            reason = Reason(missing.code, None, missing.description)
            outcome = _outcome(self.document, self._encode, reason, enabled=False, failed=True)
            if len(self._failures) < MAX_FAILURES_KEPT:
                self._failures[missing] = outcome
        return outcome

    def __repr__(self) -> str:
        return f"<CompiledFlag {self.document.key} with {len(self.conditions)} conditions>"


def compile_flag(raw: bytes | msgspec.Raw, path: str, settings: Settings) -> tuple[CompiledFlag | None, list[Problem]]:
    """The compiled flag and everything found wrong with it; None for a flag that never appears in an answer."""
    document = decode(raw, FlagDocument, path)
    if isinstance(document, tuple):
        flag, key = _compile_broken(raw, settings)
        return flag, [msgspec.structs.replace(problem, flag=key) for problem in document]
    if document.deleted or not document.active:
        return None, []
    problems: list[Problem] = []
    compiler = _Compiler(document, path, settings, problems)
    return compiler.compile(), problems


class _Identity(msgspec.Struct, frozen=True):
    """As much of a broken flag as an answer needs."""

    key: str
    id: int = 0
    version: int | None = None
    active: bool = True
    deleted: bool = False


def _compile_broken(raw: bytes | msgspec.Raw, settings: Settings) -> tuple[CompiledFlag | None, str | None]:
    """A flag that says false to everyone, when as much as its key can be read."""
    identity = decode(raw, _Identity)
    if isinstance(identity, tuple):
        return None, None
    if identity.deleted or not identity.active:
        return None, identity.key
    document = FlagDocument(id=identity.id, key=identity.key, version=identity.version, active=True)
    return compile_off(document, settings.encode, UNDECODABLE), identity.key


def compile_off(document: FlagDocument, encode: Encode, reason: Reason) -> CompiledFlag:
    """A flag that says false to everyone for the given reason."""
    off = _outcome(document, encode, reason, enabled=False)
    return CompiledFlag(document, encode, (), Buckets(prehashed(""), []), match_everyone(off))


class _Compiler:
    """Compiles one flag; holds what its parts share."""

    def __init__(self, document: FlagDocument, path: str, settings: Settings, problems: list[Problem]) -> None:
        self.document = document
        self.path = path
        self.settings = settings
        self.problems = problems
        self.broken = False
        multivariate = document.filters.multivariate
        self.variants = multivariate.variants if multivariate else []
        payloads = document.filters.payloads or {}
        self.payloads = {name: _payload_text(payload) for name, payload in payloads.items()}

    def compile(self) -> CompiledFlag:
        document, encode = self.document, self.settings.encode
        for feature in _unsupported(document):
            self.report("unsupported_feature", f"{self.path}.{feature}", f"{feature} is not supported yet")
        conditions = tuple(map(self.condition, range(len(document.filters.groups)), document.filters.groups))
        if self.broken:
            return compile_off(document, encode, UNDECODABLE)
        thresholds = variant_thresholds(variant.rollout_percentage for variant in self.variants)
        buckets = Buckets(prehashed(f"{document.key}."), thresholds)
        nothing = self.outcome(NO_CONDITIONS, enabled=False)
        early_exit = bool(document.filters.early_exit)
        match = choose_matcher(conditions, buckets, nothing, early_exit=early_exit)
        return CompiledFlag(document, encode, conditions, buckets, match)

    def condition(self, index: int, document: ConditionDocument) -> Condition:
        path = f"{self.path}.filters.groups[{index}]"
        percentage = 100.0 if document.rollout_percentage is None else document.rollout_percentage
        matched = Reason(ReasonCode.CONDITION_MATCH, index, f"Matched condition set {index + 1}")
        missed = Reason(ReasonCode.OUT_OF_ROLLOUT_BOUND, index, "Out of rollout bound")
        unmatched = Reason(ReasonCode.NO_CONDITION_MATCH, index, "No matching condition set")
        keys = [variant.key for variant in self.variants]
        answers: list[str | None] = [document.variant] if document.variant in keys else [*keys, None]
        return Condition(
            index=index,
            filters=tuple(
                self.filter(filter_, f"{path}.properties[{position}]")
                for position, filter_ in enumerate(document.properties or [])
            ),
            percentage=percentage,
            threshold=None if percentage >= 100 else threshold_at_most(percentage / 100),
            matched=tuple(self.outcome(matched, enabled=True, variant=variant) for variant in answers),
            missed=self.outcome(missed, enabled=False),
            unmatched=self.outcome(unmatched, enabled=False),
        )

    def filter(self, document: FilterDocument, path: str) -> Filter:
        settings = self.settings
        if document.type not in ("person", "person_metadata"):
            self.report("unsupported_feature", path, f"filters of type {document.type} are not supported yet")
        operator = document.operator or "exact"
        if settings.timezone is None and operator.startswith("is_date"):
            self.report("undecodable", path, "the project's time zone is unknown, so dates have no meaning")
        predicate = compile_operator(
            document,
            matching_version=2 if settings.property_matching_version == 2 else 1,
            timezone=settings.timezone or ZoneInfo("UTC"),
            warn=lambda message: self.problems.append(
                Problem("never_matches", f"{path}.value", self.document.key, message)
            ),
        )
        return Filter(document, path, predicate)

    def report(self, code: Literal["undecodable", "unsupported_feature"], path: str, message: str) -> None:
        """Note a problem that makes the flag mean something unknown, so that it has to be off."""
        self.broken = True
        self.problems.append(Problem(code, path, self.document.key, message))

    def outcome(self, reason: Reason, *, enabled: bool, variant: str | None = None) -> Outcome:
        payload = self.payloads.get(variant or "true") if enabled else None
        return _outcome(self.document, self.settings.encode, reason, enabled=enabled, variant=variant, payload=payload)


def _outcome(
    document: FlagDocument,
    encode: Encode,
    reason: Reason,
    *,
    enabled: bool,
    variant: str | None = None,
    payload: str | None = None,
    failed: bool = False,
) -> Outcome:
    result = FlagResult(
        key=document.key,
        id=document.id,
        version=document.version or 0,
        has_experiment=bool(document.has_experiment),
        enabled=enabled,
        variant=variant,
        payload=payload,
        reason=reason,
        failed=failed,
    )
    return Outcome(result, encode(result))


def _payload_text(payload: object) -> str | None:
    """Payloads are stored as JSON text; anything else that was stored is written as such."""
    if payload is None or isinstance(payload, str):
        return payload
    return msgspec.json.encode(payload).decode()


def _runtime(text: str | None) -> Runtime:
    """The runtime a flag is for; a word that is none of them is for all."""
    return Runtime(text) if text in (Runtime.CLIENT, Runtime.SERVER) else Runtime.ALL


def _unsupported(document: FlagDocument) -> Iterator[str]:
    filters = document.filters
    present = {
        "ensure_experience_continuity": document.ensure_experience_continuity,
        "bucketing_identifier": document.bucketing_identifier == "device_id",
        "filters.aggregation_group_type_index": filters.aggregation_group_type_index is not None,
        "filters.feature_enrollment": filters.feature_enrollment,
        "filters.holdout": filters.holdout,
        "filters.version": filters.version == 2,
    }
    yield from (path for path, is_present in present.items() if is_present)
    for index, condition in enumerate(filters.groups):
        if isinstance(condition.aggregation_group_type_index, int):
            yield f"filters.groups[{index}].aggregation_group_type_index"
