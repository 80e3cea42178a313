"""One flag, one request -> one of the flag's prepared outcomes, or None while facts that could decide it are missing.

Matchers are closures chosen when a snapshot is built, by the shape of the flag; they differ in speed alone.
Logic has three values: a filter over a property that was never fetched is neither true nor false, and only what
cannot change the outcome is decided without it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from evaluator.definitions import FilterDocument
from evaluator.hashing import ZERO_DIGEST, Buckets, Hash
from evaluator.operators import Predicate
from evaluator.types import NOT_FETCHED, UNSET, Absence, Context, Facts, Missing, Outcome


class Frame:
    """What one evaluation looks at: the request's properties over the stored ones, and the identity to hash.

    `in_doubt` turns true with the first property that was wanted and not fetched.
    """

    __slots__ = ("absent", "context", "facts", "identity", "in_doubt", "now", "properties")

    def __init__(self, context: Context, facts: Facts, now: datetime) -> None:
        self.context = context
        self.facts = facts
        self.now = now
        self.in_doubt = False
        self.identity = context.distinct_id.encode(errors="replace")
        stored = facts.person_properties
        self.properties: Mapping[str, object]
        self.absent: Absence
        if isinstance(stored, Missing):
            self.properties, self.absent = context.person_properties, NOT_FETCHED
        else:
            self.properties, self.absent = {**stored, **context.person_properties}, UNSET


Test = Callable[[Frame], bool | None]
"""None says that it cannot be told without facts that were not fetched."""

Match = Callable[[Frame], Outcome | None]

Rollout = tuple[Callable[[], Hash], bytes, Outcome, Outcome]
"""A flag that is nothing but a rollout: its hash, the threshold, the outcomes inside and outside."""


class Filter:
    """A filter of a condition: its document and path, and the test it was compiled to."""

    __slots__ = ("document", "path", "test")

    def __init__(self, document: FilterDocument, path: str, predicate: Predicate) -> None:
        self.document = document
        self.path = path
        self.test = _person_test(document.key, predicate)


def _person_test(key: str, predicate: Predicate) -> Test:
    def test(frame: Frame) -> bool | None:
        value = frame.properties.get(key, frame.absent)
        if value is NOT_FETCHED:
            frame.in_doubt = True
            return None
        return predicate(value, frame.now)

    return test


class Condition:
    """One condition set and its prepared outcomes.

    `threshold` None admits everyone. `matched` has one outcome per variant and one for none, or just one when the
    variant does not depend on the identity.
    """

    __slots__ = ("filters", "index", "matched", "missed", "percentage", "threshold", "unmatched")

    def __init__(
        self,
        *,
        index: int,
        filters: tuple[Filter, ...],
        percentage: float,
        threshold: bytes | None,
        matched: tuple[Outcome, ...],
        missed: Outcome,
        unmatched: Outcome,
    ) -> None:
        self.index = index
        self.filters = filters
        self.percentage = percentage
        self.threshold = threshold
        self.matched = matched
        self.missed = missed
        self.unmatched = unmatched

    def holds(self, frame: Frame) -> bool | None:
        """Whether every filter holds; None when unknown facts could make it either."""
        verdict: bool | None = True
        for filter_ in self.filters:
            found = filter_.test(frame)
            if found is False:
                return False
            if found is None:
                verdict = None
        return verdict

    def admits(self, frame: Frame, buckets: Buckets) -> bool:
        """Whether the rollout includes the identity."""
        return self.threshold is None or buckets.rollout_digest(frame.identity) < self.threshold

    def outcome(self, frame: Frame, buckets: Buckets) -> Outcome:
        """What a match answers."""
        matched = self.matched
        return matched[0] if len(matched) == 1 else matched[buckets.variant(frame.identity)]


def match_conditions(
    conditions: tuple[Condition, ...], buckets: Buckets, nothing: Outcome, *, early_exit: bool
) -> Match:
    """The general matcher: conditions in stored order, and the highest-ranked reason when none matches.

    Of two reasons with one rank the later is kept. A rollout miss outranks unmatched filters.
    """

    def match(frame: Frame) -> Outcome | None:
        kept, kept_missed, in_doubt = nothing, False, False
        for condition in conditions:
            verdict = condition.holds(frame)
            if verdict is False:
                if not kept_missed:
                    kept = condition.unmatched
                continue
            admitted = condition.admits(frame, buckets)
            if verdict is None:
                if admitted or early_exit:
                    return None
                in_doubt = True  # The reason is either of two, until a later miss outranks both.
            elif admitted:
                return condition.outcome(frame, buckets)
            else:
                kept, kept_missed, in_doubt = condition.missed, True, False
                if early_exit:
                    break
        return None if in_doubt else kept

    return match


def match_everyone(outcome: Outcome) -> Match:
    """A flag that is the same for everyone."""

    def match(_: Frame) -> Outcome | None:
        return outcome

    return match


def match_rollout(rollout: Rollout) -> Match:
    """The commonest flag: one condition without filters, a rollout, no split."""
    prefix, threshold, inside, outside = rollout

    def match(frame: Frame) -> Outcome | None:
        if identity := frame.identity:
            hashed = prefix()
            hashed.update(identity)
            return inside if hashed.digest() < threshold else outside
        return inside if threshold > ZERO_DIGEST else outside

    return match


def match_split(matched: Sequence[Outcome], buckets: Buckets) -> Match:
    """One condition without filters that takes everyone and splits them in variants."""
    prefix, thresholds = buckets.prefix, buckets.thresholds

    def match(frame: Frame) -> Outcome | None:
        if identity := frame.identity:
            hashed = prefix()
            hashed.update(identity + b"variant")
            return matched[bisect_right(thresholds, hashed.digest())]
        return matched[bisect_right(thresholds, ZERO_DIGEST)]

    return match


def match_one(condition: Condition, buckets: Buckets) -> Match:
    """One condition: nothing to rank, so whatever it says is the answer."""
    test = condition.filters[0].test if len(condition.filters) == 1 else condition.holds
    admits, outcome = condition.admits, condition.outcome
    unmatched, missed, threshold = condition.unmatched, condition.missed, condition.threshold
    matched = condition.matched[0] if len(condition.matched) == 1 else None

    def match(frame: Frame) -> Outcome | None:
        verdict = test(frame)
        if verdict is None:
            return None
        if not verdict:
            return unmatched
        if threshold is not None and not admits(frame, buckets):
            return missed
        return matched or outcome(frame, buckets)

    return match


def choose_matcher(conditions: tuple[Condition, ...], buckets: Buckets, nothing: Outcome, *, early_exit: bool) -> Match:
    """The quickest matcher for the shape of a flag."""
    if len(conditions) > 1:
        return match_conditions(conditions, buckets, nothing, early_exit=early_exit)
    if not conditions:
        return match_everyone(nothing)
    condition = conditions[0]
    if rollout := plain_rollout(conditions, buckets):
        return match_rollout(rollout)
    if condition.filters or condition.threshold is not None:
        return match_one(condition, buckets)
    if len(condition.matched) == 1:
        return match_everyone(condition.matched[0])
    return match_split(condition.matched, buckets)


def plain_rollout(conditions: tuple[Condition, ...], buckets: Buckets) -> Rollout | None:
    """The row for a flag that is nothing but a rollout; None for any other."""
    if len(conditions) != 1:
        return None
    condition = conditions[0]
    if condition.filters or condition.threshold is None or len(condition.matched) > 1:
        return None
    return buckets.prefix, condition.threshold, condition.matched[0], condition.missed


def undecided_filters(
    conditions: tuple[Condition, ...], frame: Frame, buckets: Buckets, *, early_exit: bool
) -> Iterator[Filter]:
    """The filters whose facts could still change the outcome: all that a later, final pass may look at."""
    for condition in conditions:
        verdict = condition.holds(frame)
        if verdict is None:
            yield from (filter_ for filter_ in condition.filters if filter_.test(frame) is None)
        elif verdict and (early_exit or condition.admits(frame, buckets)):
            return
