"""A compiled flag: what answers for it, and what explains it.

Invariant: apart from the few failed outcomes it keeps once made, a flag does not change after it was compiled.
"""

from typing import Final

from evaluator.definitions import FlagDocument
from evaluator.frame import Frame, Wanted
from evaluator.gates import Enrollment, Holdout
from evaluator.match import Condition, Match, match_everyone, rollout_row, want_conditions
from evaluator.rules import UNRESOLVED, Rule, want_rules
from evaluator.types import Encode, FlagResult, Missing, Outcome, Reason, RuleAnswer, Runtime

MAX_FAILURES_KEPT: Final = 16
"""Failed outcomes kept per flag. Causes come from a handful of constants; a stranger is encoded each time."""


class Flag:
    """One flag, ready to be matched.

    `match` is what answers, and `rollout` says the same as a table's row for flags that are nothing else; the other
    fields are what explains it.
    """

    __slots__ = (
        "_encode",
        "_failures",
        "conditions",
        "contexts",
        "document",
        "early_exit",
        "enrollment",
        "has_continuity",
        "holdout",
        "is_cyclic",
        "match",
        "rollout",
        "rules",
        "runtime",
    )

    def __init__(
        self,
        document: FlagDocument,
        encode: Encode,
        match: Match,
        *,
        conditions: tuple[Condition, ...] = (),
        enrollment: Enrollment | None = None,
        holdout: Holdout | None = None,
        rules: tuple[Rule, ...] = (),
    ) -> None:
        self.document = document
        self.contexts = document.contexts
        self.runtime = _runtime(document.evaluation_runtime)
        self.early_exit = bool(document.filters.early_exit)
        self.conditions = conditions
        self.enrollment = enrollment
        self.holdout = holdout
        self.rules = rules
        self.has_continuity = bool(conditions) and has_continuity(document)
        self.is_cyclic = False
        self.match = match
        self.rollout = None if enrollment or holdout else rollout_row(conditions)
        self._encode = encode
        self._failures: dict[Missing, Outcome] = {}

    def want(self, frame: Frame, wanted: Wanted) -> None:
        """What could still change the outcome; for a flag that `match` left undecided."""
        if self.document.filters.version == 2:
            want_rules(self.rules, frame, wanted, self.document.key)
            if not self.rules:  # Such a flag is undecided for one reason alone.
                wanted.lacks(UNRESOLVED)
            return
        if self.enrollment:
            self.enrollment.want(frame, wanted)
        if self.holdout:
            if self.holdout.holds_out(frame):
                return
            self.holdout.want(frame, wanted, self.document.key)
        want_conditions(self.conditions, frame, wanted, self.document.key, early_exit=self.early_exit)

    def failed(self, missing: Missing) -> Outcome:
        """The outcome of a flag that could not be decided for want of facts."""
        outcome = self._failures.get(missing)
        if outcome is None:
            of_rules = self.document.filters.version == 2
            code = "error" if of_rules and missing is not UNRESOLVED else missing.code
            reason = Reason(code, None, missing.description)
            outcome = outcome_of(self.document, self._encode, reason, enabled=False, failed=True)
            if len(self._failures) < MAX_FAILURES_KEPT:
                self._failures[missing] = outcome
        return outcome

    def __repr__(self) -> str:
        return f"<Flag {self.document.key} with {len(self.conditions)} conditions>"


def unresolved(document: FlagDocument, encode: Encode) -> Flag:
    """A flag of rules whose dependencies cannot be resolved: it fails for everyone."""

    def match(frame: Frame) -> Outcome | None:
        frame.in_doubt = True
        return None

    return Flag(document, encode, match)


def off(document: FlagDocument, encode: Encode, reason: Reason) -> Flag:
    """A flag that says false to everyone for the given reason."""
    return Flag(document, encode, match_everyone(outcome_of(document, encode, reason, enabled=False)))


def outcome_of(
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
        rule=RuleAnswer(value=None) if document.filters.version == 2 else None,
        has_variants=bool(document.filters.multivariate and document.filters.multivariate.variants),
    )
    return Outcome(result, encode(result))


def _runtime(text: str | None) -> Runtime:
    """The runtime a flag is for; a word that is none of them is for all."""
    return Runtime(text) if text in (Runtime.CLIENT, Runtime.SERVER) else Runtime.ALL


def has_continuity(document: FlagDocument) -> bool:
    """Whether the flag keeps to the identifier it first hashed; only persons by their distinct ids do."""
    return bool(
        document.ensure_experience_continuity
        and document.bucketing_identifier != "device_id"
        and document.filters.aggregation_group_type_index is None
    )
