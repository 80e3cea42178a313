"""One flag, one request -> one of the flag's prepared outcomes, or None while facts that could decide it are missing.

Matchers are closures chosen when a snapshot is built, by the shape of the flag; they differ in speed alone.
Logic has three values: a filter over a property that was never fetched is neither true nor false, and only what
cannot change the outcome is decided without it.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, cast

import msgspec

from evaluator.filters import Filter
from evaluator.frame import Frame, Wanted
from evaluator.hashing import ZERO_DIGEST, Buckets, Hash, Sha1Buckets
from evaluator.identity import Identify, person
from evaluator.types import NOT_FETCHED, UNSET, Absence, Outcome

Match = Callable[[Frame], Outcome | None]

Rollout = tuple[Callable[[], Hash], bytes, Outcome, Outcome]
"""A flag that is nothing but a rollout: its hash, the threshold, the outcomes inside and outside."""

MurmurRollout = tuple[bytes, bytes, Outcome, Outcome]
"""The same by murmur3: what is hashed before the identity, the threshold, the outcomes."""


class Verdict(Enum):
    """What a condition comes to. In doubt, it may match; doubtless out, only the reason is in doubt."""

    MATCHED = "matched"
    MISSED = "missed"
    UNMATCHED = "unmatched"
    UNUSABLE = "unusable"
    IN_DOUBT = "in_doubt"
    OUT_IN_DOUBT = "out_in_doubt"


MATCHED: Final = Verdict.MATCHED
MISSED: Final = Verdict.MISSED
UNMATCHED: Final = Verdict.UNMATCHED
UNUSABLE: Final = Verdict.UNUSABLE
IN_DOUBT: Final = Verdict.IN_DOUBT
OUT_IN_DOUBT: Final = Verdict.OUT_IN_DOUBT


class Condition(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """One condition set and its prepared outcomes.

    `threshold` None admits everyone. `matched` has one outcome per variant and one for none, or just one when the
    variant does not depend on the identity. `kind` is the group type whose key is hashed, or None for persons and
    devices. `unusable` answers for a request that names no such identity.
    """

    index: int
    filters: tuple[Filter, ...]
    percentage: float
    threshold: bytes | None
    buckets: Buckets
    identify: Identify
    is_of_group: bool
    matched: tuple[Outcome, ...]
    missed: Outcome
    unmatched: Outcome
    unusable: Outcome

    @property
    def hashes(self) -> bool:
        """Whether anything depends on the identity at all."""
        return self.threshold is not None or len(self.matched) > 1

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

    def admits(self, identity: bytes) -> bool:
        """Whether the rollout includes the identity."""
        return self.threshold is None or self.buckets.rollout_digest(identity) < self.threshold

    def judge(self, frame: Frame) -> Verdict:
        """What the condition comes to, as far as the facts tell."""
        identity = self.identify(frame)
        if identity is UNSET and (self.is_of_group or self.hashes):
            return UNUSABLE
        holds = self.holds(frame)
        if holds is False:
            return UNMATCHED
        admitted: bool | None = True
        if self.hashes:
            admitted = None if isinstance(identity, Absence) else self.admits(identity)
        if admitted is False:
            return MISSED if holds else OUT_IN_DOUBT
        return MATCHED if holds and admitted else IN_DOUBT

    def outcome(self, frame: Frame) -> Outcome:
        """What a match answers; asked only after the judgement that it is one."""
        matched = self.matched
        if len(matched) == 1:
            return matched[0]
        identity = self.identify(frame)
        assert isinstance(identity, bytes)  # noqa: S101 - without one it could not have been judged a match
        return matched[self.buckets.variant(identity)]

    def want(self, frame: Frame, wanted: Wanted, flag_key: str) -> None:
        """What would tell, of a condition in doubt."""
        for filter_ in self.filters:
            if filter_.test(frame) is None:
                filter_.want(frame, wanted)
        if self.hashes and self.identify(frame) is NOT_FETCHED:
            wanted.override(flag_key, frame.facts)


def match_conditions(conditions: tuple[Condition, ...], nothing: Outcome, *, early_exit: bool) -> Match:
    """The general matcher: conditions in stored order, and the highest-ranked reason when none matches.

    A rollout miss outranks unmatched filters, which outrank an unusable identity; of equals the later is kept.
    """

    def match(frame: Frame) -> Outcome | None:
        kept, rank, in_doubt = nothing, 0, False
        for condition in conditions:
            verdict = condition.judge(frame)
            if verdict is MATCHED:
                return condition.outcome(frame)
            if verdict is UNMATCHED:
                if rank <= 1:
                    kept, rank = condition.unmatched, 1
            elif verdict is MISSED:
                kept, rank, in_doubt = condition.missed, 2, False
                if early_exit:
                    break
            elif verdict is UNUSABLE:
                # Without a device there is no bucket to be in; without a group there is nothing to look at.
                if not condition.is_of_group:
                    kept, rank, in_doubt = condition.unusable, 2, False
                elif rank == 0:
                    kept = condition.unusable
            elif verdict is IN_DOUBT or early_exit:
                return None
            else:
                in_doubt = True  # The reason is either of two, until a later miss outranks both.
        return None if in_doubt else kept

    return match


def want_conditions(
    conditions: tuple[Condition, ...], frame: Frame, wanted: Wanted, flag_key: str, *, early_exit: bool
) -> None:
    """What could still change the outcome: all that a later, final pass may look at."""
    for condition in conditions:
        verdict = condition.judge(frame)
        if verdict is IN_DOUBT or verdict is OUT_IN_DOUBT:
            condition.want(frame, wanted, flag_key)
        elif verdict is MATCHED or (verdict is MISSED and early_exit):
            return


def match_everyone(outcome: Outcome) -> Match:
    """A flag that is the same for everyone."""

    def match(_: Frame) -> Outcome | None:
        return outcome

    return match


def match_rollout(condition: Condition) -> Match:
    """The commonest flag: one condition without filters, a rollout, no split."""
    admits, inside, outside = condition.admits, condition.matched[0], condition.missed

    def match(frame: Frame) -> Outcome | None:
        return inside if admits(frame.identity) else outside

    return match


def match_split(matched: Sequence[Outcome], buckets: Buckets) -> Match:
    """One condition without filters that takes everyone and splits them in variants."""
    if not isinstance(buckets, Sha1Buckets):
        return lambda frame: matched[buckets.variant(frame.identity)]
    prefix, thresholds = buckets.prefix, buckets.thresholds

    def match(frame: Frame) -> Outcome | None:
        if identity := frame.identity:
            hashed = prefix()
            hashed.update(identity + b"variant")
            return matched[bisect_right(thresholds, hashed.digest())]
        return matched[bisect_right(thresholds, ZERO_DIGEST)]

    return match


def match_targeted(condition: Condition) -> Match:
    """One filter that decides everything."""
    (filter_,) = condition.filters
    test, matched, unmatched = filter_.test, condition.matched[0], condition.unmatched

    def match(frame: Frame) -> Outcome | None:
        verdict = test(frame)
        return None if verdict is None else matched if verdict else unmatched

    return match


def choose_matcher(conditions: tuple[Condition, ...], nothing: Outcome, *, early_exit: bool) -> Match:
    """The quickest matcher for the shape of a flag's conditions."""
    if not conditions:
        return match_everyone(nothing)
    condition = conditions[0]
    if len(conditions) == 1 and condition.identify is person:
        if is_plain_rollout(conditions):
            return match_rollout(condition)
        if condition.threshold is None and not condition.filters:
            if len(condition.matched) == 1:
                return match_everyone(condition.matched[0])
            return match_split(condition.matched, condition.buckets)
        if len(condition.filters) == 1 and not condition.hashes:
            return match_targeted(condition)
    return match_conditions(conditions, nothing, early_exit=early_exit)


def is_plain_rollout(conditions: tuple[Condition, ...]) -> bool:
    """Whether a flag is nothing but a rollout of persons."""
    if len(conditions) != 1:
        return False
    condition = conditions[0]
    is_bare = not condition.filters and condition.threshold is not None and len(condition.matched) == 1
    return is_bare and condition.identify is person


def rollout_row(conditions: tuple[Condition, ...]) -> Rollout | MurmurRollout | None:
    """The row for a flag that is nothing but a rollout; None for any other."""
    if not is_plain_rollout(conditions):
        return None
    condition = conditions[0]
    row = (condition.buckets.prefix, condition.threshold, condition.matched[0], condition.missed)
    return cast("Rollout | MurmurRollout", row)
