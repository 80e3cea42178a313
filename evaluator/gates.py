"""What comes before a flag's conditions: enrollment in a feature, and holdouts.

Each gate wraps a matcher: it answers itself, or lets the matcher answer. Invariant: a gate that cannot tell for want
of facts answers None, and says in `want` which.
"""

from collections.abc import Callable
from typing import Final

from evaluator.filters import Filter
from evaluator.frame import Frame, Wanted
from evaluator.hashing import murmur_digest, prehashed, threshold_at_most
from evaluator.identity import Identify
from evaluator.match import Match
from evaluator.types import NOT_FETCHED, UNSET, Absence, Outcome

Gate = Callable[[Match], Match]


def sha1_of_held_out(identity: bytes) -> bytes:
    """The holdout's id is not hashed, so that all holdouts of a project hold out the same people first."""
    hashed = _HOLDOUT_PREFIX()
    hashed.update(identity)
    return hashed.digest()


def murmur_of_held_out(identity: bytes) -> bytes:
    """The same for projects that bucket by murmur3."""
    return murmur_digest(b"holdout:" + identity)


_HOLDOUT_PREFIX: Final = prehashed("holdout-")


def is_enrolled(seen: object) -> bool:
    """Whether the value of an enrollment property says yes; any other says no."""
    return seen is True or (isinstance(seen, str) and seen.lower() == "true")


class Enrollment:
    """People who chose to try a feature, or not to, get what they chose."""

    __slots__ = ("enrolled", "filter", "refused")

    def __init__(self, filter_: Filter, enrolled: Outcome, refused: Outcome) -> None:
        self.filter = filter_
        self.enrolled = enrolled
        self.refused = refused

    def before(self, match: Match) -> Match:
        def gated(frame: Frame) -> Outcome | None:
            seen = self.filter.seen(frame)
            if seen is NOT_FETCHED:
                frame.in_doubt = True
                return None
            if seen is UNSET:
                return match(frame)
            return self.enrolled if is_enrolled(seen) else self.refused

        return gated

    def want(self, frame: Frame, wanted: Wanted) -> None:
        if self.filter.seen(frame) is NOT_FETCHED:
            self.filter.want(frame, wanted)


class Holdout:
    """A share of everyone that is kept out, whatever the conditions say."""

    __slots__ = ("digest", "held", "identify", "percentage", "threshold")

    def __init__(
        self, percentage: float, identify: Identify, held: Outcome, digest: Callable[[bytes], bytes] = sha1_of_held_out
    ) -> None:
        """`digest` hashes the identity; here an empty one is hashed like any other."""
        self.digest = digest
        self.percentage = percentage
        self.threshold = threshold_at_most(percentage / 100)
        self.identify = identify
        self.held = held

    def holds_out(self, frame: Frame) -> bool | None:
        """Whether the identity is held out; None when an override that was not fetched could say either."""
        identity = self.identify(frame)
        if isinstance(identity, Absence):
            return None if identity is NOT_FETCHED else False
        return self.digest(identity) < self.threshold

    def before(self, match: Match) -> Match:
        def gated(frame: Frame) -> Outcome | None:
            held_out = self.holds_out(frame)
            if held_out is None:
                return None
            return self.held if held_out else match(frame)

        return gated

    def want(self, frame: Frame, wanted: Wanted, flag_key: str) -> None:
        if self.holds_out(frame) is None:
            wanted.override(flag_key, frame.facts)
