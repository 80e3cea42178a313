"""How the service stands, in the shapes in which processes tell it each other; and what callers get meanwhile.

Found out in services/status.py, put into bytes in wire/status.py. Invariant: EFFECTS says the same, word for word, as
docs/degradation.md; what is felt names no part of the installation, for it is shown to everybody.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from math import inf
from typing import Final

from msgspec import Struct


class Level(StrEnum):
    """UNKNOWN: it failed when it was needed last, and nobody has needed it since; that counts for nothing."""

    UNKNOWN = "unknown"
    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"


_RANKS: Final = {level: rank for rank, level in enumerate(Level)}


def worst(levels: Iterable[Level]) -> Level:
    """OK when there is nothing to complain of."""
    return max(levels, key=_RANKS.__getitem__, default=Level.OK)


class Effect(Struct, frozen=True):
    """What callers get while something is not as it should be; `is_felt` when they can notice."""

    text: str
    is_felt: bool


_SAME: Final = "the same answers"
EFFECTS: Final = {
    "definitions": Effect("the flags as they last were, however old; edits are in force later", True),
    "cold": Effect("503 with Retry-After for projects that are not in memory", True),
    "persons": Effect("flags that need stored facts may be marked as failed, all others are exact", True),
    "writer": Effect("nothing wrong now; a person may change buckets the next time", False),
    "keys": Effect("keys that are known go on reading definitions, others get 503 with Retry-After", True),
    "redis": Effect(f"{_SAME}; definitions come from the store", False),
    "limits": Effect(f"{_SAME}; each worker's own count decides", False),
    "quota": Effect(f"{_SAME}; each worker goes by its own count", False),
    "capture": Effect(f"{_SAME}; events may be lost", True),
    "disk": Effect("nothing, until the start after the next outage", False),
    "feed": Effect(f"{_SAME}; edits are in force a little later", False),
    "builder": Effect("the last published definitions; nothing wrong, only later", True),
    "overload": Effect("those that can be are answered in time, the rest is refused with 503 and Retry-After", True),
    "address_limit": Effect("nothing: the limit on addresses is not enforced", False),
    "reload": Effect("nothing: the old settings stay in force", False),
    "workers": Effect("only what a worker had in hand is lost; another takes its place", False),
}


class Standing(Struct, frozen=True, kw_only=True):
    """How one thing stands, since when, and why. `kind` is its key in EFFECTS, `breaker` its breaker's state."""

    name: str
    kind: str
    level: Level = Level.OK
    since: datetime | None = None
    why: str | None = None
    breaker: str | None = None

    @property
    def effect(self) -> Effect | None:
        """What callers get; None when all is well."""
        return EFFECTS[self.kind] if self.level in (Level.DEGRADED, Level.FAILING) else None

    @property
    def is_felt(self) -> bool:
        return self.effect is not None and self.effect.is_felt


STALE_REFRESHES: Final = 10
STALE_S: Final = 5.0


def stale_after_s(refresh_s: float) -> float:
    """The age from which a snapshot is stale: one comparison that failed is made up for by then."""
    return max(STALE_S, STALE_REFRESHES * refresh_s)


class Freshness(Struct, frozen=True, kw_only=True):
    """Projects by how current their definitions are, and the age of the oldest ones."""

    fresh: int = 0
    """Not older than `stale_after_s`."""
    stale: int = 0
    expired: int = 0
    """Older than `snapshots.hard_ttl_s`."""
    unavailable: int = 0
    """Not in memory, and asked for in vain within the last minute."""
    oldest_s: float = 0.0


class WorkerReport(Struct, frozen=True, kw_only=True):
    """What one worker knows."""

    level: Level
    since: datetime
    standings: tuple[Standing, ...]
    snapshots: Freshness = Freshness()
    generation: int = 0


class WorkerState(Struct, frozen=True, kw_only=True):
    """A worker as its supervisor sees it."""

    worker: int
    pid: int
    state: str
    age_s: float


class Reloaded(Struct, frozen=True, kw_only=True):
    """What became of the last reload of the settings."""

    result: str
    at: datetime
    problems: tuple[str, ...] = ()


class SupervisorReport(Struct, frozen=True, kw_only=True):
    """What the supervisor knows."""

    generation: int
    wanted: int
    workers: tuple[WorkerState, ...]
    reload: Reloaded | None = None


def joined(standings: Sequence[Standing]) -> Standing:
    """One of the same thing in several workers: the worst, since the first of those."""
    level = worst(it.level for it in standings)
    of_that = [it for it in standings if it.level is level]
    return min(of_that, key=lambda it: it.since.timestamp() if it.since else inf)
