"""The Protocols that stores fulfil, the Clock, and the Deadline. No implementation but the system clock lives here.

Every method of a store raises StoreError (or a subclass) and nothing else; "not there" is an answer, never an error.
Invariant: a call that is cancelled lets go of what it holds at once, whatever its server does.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from gateway.document import Progress, WholeProject

ETAG_CHARACTERS: Final = 32
UNPUBLISHED: Final = 0
"""Stands for the version of a project that exists and of which nothing was published yet."""


class Definitions(msgspec.Struct, frozen=True):
    """A project's definitions document as published: JSON bytes, and a version that grows with every change."""

    project_id: int
    version: int
    document: bytes

    @property
    def etag(self) -> str:
        """The beginning of the SHA-256 of the document, in hexadecimal: the same for the same document."""
        return hashlib.sha256(self.document).hexdigest()[:ETAG_CHARACTERS]


class FactsQuery(msgspec.Struct, frozen=True):
    """What is asked of the store for one request. Equal ones have equal answers, so they may share a query.

    The first of `distinct_ids` is the person asked about; `groups` has pairs of group type and key. Only what is named
    in `properties`, `cohorts` and `group_properties` need be in the answer; None stands for all there is.
    """

    project_id: int
    distinct_ids: tuple[str, ...]
    properties: frozenset[str] | None = frozenset()
    cohorts: frozenset[int] | None = frozenset()
    groups: frozenset[tuple[str, str]] = frozenset()
    group_properties: frozenset[str] | None = frozenset()
    wants_overrides: bool = False


class StoredFacts(msgspec.Struct, frozen=True):
    """What is stored of the things asked for. Whoever or whatever is not stored has nothing here.

    `groups` maps group types to properties. `overrides` maps flag keys to hash keys; the person of the first id wins.
    """

    person_properties: Mapping[str, object] = {}
    cohorts: frozenset[int] = frozenset()
    groups: Mapping[str, Mapping[str, object]] = {}
    overrides: Mapping[str, str] = {}


class LastGood(msgspec.Struct, frozen=True):
    """Definitions kept on disk, and when they were last known to be current."""

    definitions: Definitions
    kept_at: datetime


class Clock(Protocol):
    """The only source of time. Tests move a fake one; nothing sleeps."""

    def now(self) -> datetime:
        """The moment in UTC, for stored and shown times."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for durations."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)
    """Itself, not a method around it: it is asked some twenty times per request."""


class Deadline:
    """The moment by which a request must be answered, measured from its arrival."""

    __slots__ = ("_clock", "_ends_at", "budget_s")

    def __init__(self, clock: Clock, budget_s: float) -> None:
        self._clock = clock
        self.budget_s = budget_s
        self._ends_at = clock.monotonic() + budget_s

    def remaining_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self._ends_at - self._clock.monotonic()

    def within(self, most_s: float) -> "Deadline":
        """This deadline, or the one in `most_s` from now if that is sooner."""
        return Deadline(self._clock, min(most_s, self.remaining_s()))

    def __repr__(self) -> str:
        return f"<Deadline {self.remaining_s() * 1000:.0f} ms left>"


class DefinitionStore(Protocol):
    async def load_definitions(self, token: str) -> Definitions | None:
        """The definitions of the project with this public token; None says that no project has it. Where nothing was
        published yet, the version is UNPUBLISHED."""
        ...

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        """The published versions by token, cheaper than loading documents. A token left out belongs to no project."""
        ...


class FactsStore(Protocol):
    async def load_facts(self, query: FactsQuery) -> StoredFacts:
        """Everything asked for, in one round trip."""
        ...


class OverrideStore(Protocol):
    async def save_overrides(
        self, project_id: int, distinct_ids: tuple[str, ...], hash_keys: Mapping[str, str]
    ) -> None:
        """Keep hash keys by flag key for the persons behind these ids, where they have none yet."""
        ...


class TransferStore(Protocol):
    """What import and export ask of a store."""

    async def import_projects(self, projects: Sequence[WholeProject], progress: Progress) -> None:
        """Put each project in the place of the stored one with its id, in one transaction; others stay.

        Overrides of persons that are still there are kept. Raises InvalidDefinitions when a token belongs to another
        stored project, with nothing written. `progress` may be called from another thread. Cancelled midway, it
        changes nothing.
        """
        ...

    async def export_projects(self) -> list[WholeProject]:
        """Everything stored, in an order that depends on nothing else."""
        ...


class Usage(msgspec.Struct, frozen=True):
    """Units of a quota that a project used in a period, whose count is kept for so many seconds more."""

    token: str
    period: str
    units: int
    ttl_s: int


class UsageCounter(Protocol):
    """What all processes used together."""

    async def reach(self) -> None:
        """Returns when there is somebody to count."""
        ...

    async def add(self, usages: Sequence[Usage]) -> Sequence[int | None]:
        """The total of each of them after its units were added; None where it is certain that they were not.

        After an error nobody knows what was added and what was not.
        """
        ...


class SharedCache(Protocol):
    """Definitions that many processes share. Whatever it loses or refuses, the store still has."""

    async def load_definitions(self, token: str) -> Definitions | None:
        """The entry of this token; None says that there is none, which says nothing about the project."""
        ...

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        """The versions of the entries there are."""
        ...

    async def claim(self, token: str, ttl_s: float) -> bool:
        """Whether the caller is the one, of all processes, to load this project from the store for the time given."""
        ...

    async def keep_definitions(self, token: str, definitions: Definitions) -> int:
        """Put an entry in the place of an older one, and announce it. The bytes written; 0 when that was not needed."""
        ...

    async def forget_definitions(self, token: str) -> None:
        """Take away the entry of a token that no project has any more."""
        ...


class LastGoodStore(Protocol):
    """The last definitions known to be good, on this machine's disk."""

    async def load_definitions(self, token: str) -> LastGood | None:
        """What was kept last for this token; None when there is nothing, or nothing sound. Raises nothing."""
        ...

    def keep_definitions(self, token: str, definitions: Definitions) -> None:
        """Keep these soon in the place of what was kept before; the same again says that they are still current."""
        ...

    def forget_definitions(self, token: str) -> None:
        """Drop soon what was kept for a token that no project has any more."""
        ...

    async def has_any(self) -> bool:
        """Whether anything is kept, so that a cold process could answer somebody."""
        ...


class ChangeFeed(Protocol):
    def changes(self) -> AsyncIterator[int | None]:
        """Ids of projects as they change. None, which also comes first: messages may have been lost before this.

        Ends with StoreError when the connection is lost; whoever listens calls again, after a pause.
        """
        ...
