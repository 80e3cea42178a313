"""What managing definitions takes and gives beyond single items: wanted states, plans, flips. No decisions live here.

These are answered as they stand here, so they are the wire's shapes as well. Invariant: none of them is unbounded.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.editing_ports import Item, Kind

MAX_CHANGES: Final = 5_000
"""Of one plan."""
MAX_MEMBER_CHANGES: Final = 100
"""That a plan shows of one item."""
MAX_SAMPLE: Final = 10_000
MAX_EXAMPLES: Final = 5


class Saved(msgspec.Struct, frozen=True):
    """An item as it is stored now, also when nothing had to be written; and the project's version."""

    item: Item
    is_new: bool
    project_version: int


class Desired(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wanted state, as a file in version control has it. Flags go by key, cohorts by id or else by name."""

    flags: Annotated[list[dict[str, Any]], Meta(description="All flags there shall be; members as when creating one.")]
    cohorts: Annotated[
        list[dict[str, Any]] | None,
        Meta(description="All cohorts there shall be. Without this member cohorts are left alone."),
    ] = None


class MemberChange(msgspec.Struct, frozen=True):
    """A member of an item that is not as the file says. A side that is left out has no such member."""

    path: str
    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET


class PlannedChange(msgspec.Struct, frozen=True, kw_only=True):
    """One item that is not as the file says."""

    action: Literal["create", "change", "delete"]
    kind: Kind
    name: Annotated[str, Meta(description="The key of a flag, the name of a cohort.")]
    id: Annotated[int, Meta(description="Of an item yet to be created, the id it gets if nobody else is first.")]
    changes: Annotated[Sequence[MemberChange], Meta(description=f"At most {MAX_MEMBER_CHANGES}.")] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to bring a project to the wanted state; or took, once it was applied."""

    version: Annotated[int, Meta(description="The project's version that this is about; after applying, its new one.")]
    changes: Annotated[Sequence[PlannedChange], Meta(description="In the order they are carried out.")]
    unchanged: Annotated[int, Meta(description="How many items of the file are stored just so.")]
    unmanaged: Annotated[int, Meta(description="How many stored items the file lacks, which are left alone.")]


class FlippedValue(msgspec.Struct, frozen=True, kw_only=True):
    """Those who had one value and would have another."""

    before: Any
    after: Any
    count: int
    examples: Annotated[Sequence[str], Meta(description="Some of their distinct ids, or keys of groups.")]


class Flips(msgspec.Struct, frozen=True, kw_only=True):
    """Who, of a sample of those known, would see another value of a flag. Nothing was written."""

    sampled: int
    flipped: int
    failed: Annotated[int, Meta(description="Of the sampled, how many had or would have no certain value.")]
    by_value: Annotated[Sequence[FlippedValue], Meta(description="Most frequent first.")]
