"""All flags that a request asks for, in order -> an Evaluation.

The first pass knows only what the request itself says. Flags that it cannot decide name the facts they need; once
those are loaded, or known to be missing, only these flags are looked at again. A fact that stays missing fails only
the flags whose outcome it could have changed.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from evaluator.compile import CompiledFlag
from evaluator.match import Frame
from evaluator.snapshot import Snapshot
from evaluator.types import Context, Facts, Needs, Outcome


class Evaluation:
    """The answer as far as the facts go.

    `outcomes` stand in an order that is the same for every request. `errors` says that some flags could not be
    decided; they are failed outcomes, and `needs` names the facts that would decide them.
    """

    __slots__ = ("_flags", "_frame", "_undecided", "errors", "needs", "outcomes", "snapshot")

    def __init__(
        self, snapshot: Snapshot, flags: Sequence[CompiledFlag], frame: Frame, outcomes: list[Outcome | None]
    ) -> None:
        undecided: list[int] = []
        needed: set[str] = set()
        if frame.in_doubt:
            undecided = [position for position, outcome in enumerate(outcomes) if outcome is None]
            for position in undecided:
                needed.update(flags[position].needs(frame))
                outcomes[position] = flags[position].failed(frame.facts.missing)
        self.snapshot = snapshot
        self.outcomes = cast("list[Outcome]", outcomes)
        self.errors = bool(undecided)
        self.needs = Needs(frozenset(needed))
        self._flags = flags
        self._frame = frame
        self._undecided = undecided

    def with_facts(self, facts: Facts) -> "Evaluation":
        """The evaluation once facts were loaded, or found to be missing. Looks only at flags still undecided."""
        frame = Frame(self._frame.context, facts, self._frame.now)
        outcomes: list[Outcome | None] = list(self.outcomes)
        for position in self._undecided:
            outcomes[position] = self._flags[position].match(frame)
        return Evaluation(self.snapshot, self._flags, frame, outcomes)

    def __repr__(self) -> str:
        return f"<Evaluation of {len(self.outcomes)} flags, {len(self._undecided)} undecided>"


def evaluate(snapshot: Snapshot, context: Context, facts: Facts, now: datetime) -> Evaluation:
    """Evaluate for one context at the moment `now` (aware). Never raises for what a caller sent."""
    frame = Frame(context, facts, now)
    selection = snapshot.select(context)
    if not frame.identity:  # Its bucket is 0.0 by rule, not by hashing; the matchers know that.
        return Evaluation(snapshot, selection.flags, frame, [flag.match(frame) for flag in selection.flags])
    outcomes: list[Outcome | None] = []
    append, identity = outcomes.append, frame.identity
    for prefix, threshold, inside, outside in selection.rollouts:
        hashed = prefix()
        hashed.update(identity)
        append(inside if hashed.digest() < threshold else outside)
    outcomes += [match(frame) for match in selection.matchers]
    return Evaluation(snapshot, selection.flags, frame, outcomes)
