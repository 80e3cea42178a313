"""The Protocols that stores fulfil, the Clock, and the Deadline. No implementation but the system clock lives here.

Every method of a store raises StoreError (or a subclass) and nothing else; "not there" is None, never an error.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from gateway.document import Progress, WholeProject


class Definitions(msgspec.Struct, frozen=True):
    """A project's definitions document as stored: JSON bytes, and a version that grows with each change."""

    version: int
    document: bytes


class Person(msgspec.Struct, frozen=True):
    """What is stored of a person: all properties asked for that are set, and static cohorts they belong to."""

    properties: Mapping[str, object]
    cohorts: frozenset[int] = frozenset()


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

    def monotonic(self) -> float:
        return time.monotonic()


class Deadline:
    """The moment by which a request must be answered, measured from its arrival."""

    __slots__ = ("_clock", "_ends_at")

    def __init__(self, clock: Clock, budget_s: float) -> None:
        self._clock = clock
        self._ends_at = clock.monotonic() + budget_s

    def remaining_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self._ends_at - self._clock.monotonic()

    def __repr__(self) -> str:
        return f"<Deadline {self.remaining_s() * 1000:.0f} ms left>"


class DefinitionStore(Protocol):
    async def load_definitions(self, token: str) -> Definitions | None:
        """The definitions of the project with this public token; None says that no project has it."""
        ...

    async def definitions_version(self, token: str) -> int | None:
        """The current version, cheaper than loading the document; None says that no project has the token."""
        ...


class PersonStore(Protocol):
    async def load_person(self, project_id: int, distinct_id: str) -> Person | None:
        """The person behind a distinct id; None says that there is none."""
        ...


class GroupStore(Protocol):
    async def load_groups(self, project_id: int, keys: Mapping[str, str]) -> Mapping[str, Mapping[str, object]]:
        """Properties by group type, for `keys` of group type -> group key. A group not stored is left out."""
        ...


class OverrideStore(Protocol):
    async def load_overrides(self, project_id: int, distinct_ids: tuple[str, ...]) -> Mapping[str, str]:
        """Hash keys by flag key for the persons behind these ids; the person of the first id wins."""
        ...

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
