"""All flags that a request asks for, in order -> an Evaluation.

The first pass knows only what the request itself says. Flags that it cannot decide name the facts they need; once
those are loaded, or known to be missing, only these flags are looked at again. A fact that stays missing fails only
the flags whose outcome it could have changed.
"""

from datetime import datetime
from typing import Final, cast

from evaluator.frame import Frame, Wanted
from evaluator.hashing import murmur_digest
from evaluator.snapshot import Selection, Snapshot
from evaluator.types import NEVER_ASKED, Context, Facts, Missing, Needs, Outcome, OverrideWrite

NO_NEEDS: Final = Needs()


class Evaluation:
    """The answer as far as the facts go.

    `outcomes` stand in an order that is the same for every request. `errors` says that not all flags could be decided;
    those are failed outcomes, and `needs` names the facts that would decide them. `write` is what the caller should
    keep for the next time, if anything.
    """

    __slots__ = ("_selection", "_undecided", "errors", "frame", "needs", "outcomes", "snapshot")

    def __init__(self, snapshot: Snapshot, selection: Selection, frame: Frame, outcomes: list[Outcome | None]) -> None:
        self.snapshot = snapshot
        self.needs = NO_NEEDS
        self._undecided: list[int] = []
        if frame.in_doubt:
            self._fail_undecided(selection, frame, outcomes)
        self.outcomes = cast("list[Outcome]", outcomes)
        self.errors = bool(self._undecided) or selection.is_cyclic
        self._selection = selection
        self.frame = frame

    def _fail_undecided(self, selection: Selection, frame: Frame, outcomes: list[Outcome | None]) -> None:
        wanted = Wanted()
        for position, outcome in enumerate(outcomes):
            if outcome is None:
                flag = selection.flags[position]
                wanted.missing = None
                flag.want(frame, wanted)
                missing = wanted.missing or NEVER_ASKED
                frame.lacking[flag.document.id] = missing
                outcomes[position] = flag.failed(missing)
                self._undecided.append(position)
        self.needs = wanted.needs()

    def with_facts(self, facts: Facts) -> "Evaluation":
        """The evaluation once facts were loaded, or found to be missing. Looks only at flags still undecided."""
        frame = Frame(self.frame.context, facts, self.frame.now)
        frame.results.update(self.frame.results)
        outcomes: list[Outcome | None] = list(self.outcomes)
        for position in self._undecided:
            outcome = outcomes[position] = self._selection.flags[position].match(frame)
            flag_id = self._selection.flags[position].document.id
            if flag_id in frame.results:
                frame.results[flag_id] = outcome
        return Evaluation(self.snapshot, self._selection, frame, outcomes)

    @property
    def write(self) -> OverrideWrite | None:
        """Overrides to keep, so that people stay in their bucket once they are known by another id.

        There are some when the request names the anonymous id of before, and a flag with continuity, whose overrides
        were looked up, has none yet.
        """
        context, overrides = self.frame.context, self.frame.facts.overrides
        if not context.anon_distinct_id or isinstance(overrides, Missing):
            return None
        lacking = [key for key in self._selection.continuous if key not in overrides]
        if not lacking:
            return None
        ids = (context.distinct_id, context.anon_distinct_id)
        return OverrideWrite(ids, dict.fromkeys(lacking, context.anon_distinct_id))

    def __repr__(self) -> str:
        return f"<Evaluation of {len(self.outcomes)} flags, {len(self._undecided)} undecided>"


def evaluate(snapshot: Snapshot, context: Context, facts: Facts, now: datetime) -> Evaluation:
    """Evaluate for one context at the moment `now` (aware). Never raises for what a caller sent."""
    frame = Frame(context, facts, now)
    selection = snapshot.select(context)
    outcomes: list[Outcome | None] = []
    append, identity = outcomes.append, frame.identity
    if identity:
        for prefix, threshold, inside, outside in selection.rollouts:
            hashed = prefix()
            hashed.update(identity)
            append(inside if hashed.digest() < threshold else outside)
        for salt, threshold, inside, outside in selection.murmur_rollouts:
            append(inside if murmur_digest(salt + identity) < threshold else outside)
    else:  # Its bucket is 0.0 by rule, not by hashing; the matchers know that.
        outcomes += [flag.match(frame) for flag in selection.flags[: -len(selection.matchers) or None]]
    outcomes += [match(frame) for match in selection.matchers]
    return Evaluation(snapshot, selection, frame, outcomes)
