"""Plans what a batch of persons or groups changes, given what is stored; adapters read before it and write after it.

No database is known here. Invariant: a plan is what storing the batch one by one would come to, each person once.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.document import GroupDocument, PersonDocument
from gateway.editing_ports import Properties, Upserted
from gateway.stores.items import is_storable, is_storable_value

DELETED_AT_ONCE: Final = 5000
"""Rows that one statement removes at most; what removes more repeats it."""
STARTS: Final = 20
"""Places of a project that a sample is taken from."""
GROUP_STARTS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""Likewise of the keys of a type."""
NO_PROJECT: Final = "There is no such project."
UNSTORABLE: Final = "It holds text that cannot be stored, such as a NUL character."


class Change(msgspec.Struct):
    """What becomes of one person: `id` is None if new. Only what is to be added is named.

    `properties` go over the stored ones, and `once` under them; of a new person all are in `properties`.
    """

    id: int | None
    properties: dict[str, Any] = {}
    once: dict[str, Any] = {}
    distinct_ids: list[str] = []
    cohorts: set[int] = set()


class Plan(msgspec.Struct, frozen=True):
    """Changes, new persons first, and what to tell of the batch."""

    changes: Sequence[Change]
    outcome: Upserted


def starts_of(limit: int) -> int:
    """How many places a sample of this many persons is taken from."""
    return min(STARTS, limit)


def group_starts_of(limit: int) -> list[str]:
    """The places that a sample of this many groups is taken from."""
    return list(GROUP_STARTS[:: -(-len(GROUP_STARTS) // limit)])


def all_refused(batch: Sequence[object]) -> Upserted:
    """What becomes of a batch for a project that does not exist."""
    return Upserted(0, 0, tuple((position, NO_PROJECT) for position in range(len(batch))))


def plan_persons(
    persons: Sequence[PersonDocument],
    owners: Mapping[str, int],
    static: Collection[int],
    once: Sequence[Properties] = (),
) -> Plan:
    """What changes, given the stored persons of the distinct ids named, and those cohorts that are static."""
    by_id: dict[int, Change] = {}
    by_distinct_id: dict[str, Change] = {
        distinct_id: by_id.setdefault(person_id, Change(person_id)) for distinct_id, person_id in owners.items()
    }
    new: list[Change] = []
    refused: list[tuple[int, str]] = []
    for position, person in enumerate(persons):
        if_new = once[position] if once else {}
        found = {id(it): it for name in person.distinct_ids if (it := by_distinct_id.get(name)) is not None}
        why = _why_not(person, if_new, static) or ("Its ids belong to different persons." if len(found) > 1 else None)
        if why is not None:
            refused.append((position, why))
            continue
        change = next(iter(found.values()), None)
        if change is None:
            change = Change(None)
            new.append(change)
        change.properties.update(person.properties)
        change.once = {**if_new, **change.once}
        change.cohorts.update(person.cohorts)
        for name in person.distinct_ids:
            if name not in by_distinct_id:
                change.distinct_ids.append(name)
                by_distinct_id[name] = change
    for change in new:
        change.properties, change.once = {**change.once, **change.properties}, {}
    updated = len(persons) - len(new) - len(refused)
    return Plan([*new, *by_id.values()], Upserted(len(new), updated, tuple(refused)))


def _why_not(person: PersonDocument, once: Properties, static: Collection[int]) -> str | None:
    if not person.distinct_ids:
        return "It needs a distinct id."
    if not all(map(is_storable, person.distinct_ids)) or not is_storable_value([person.properties, once]):
        return UNSTORABLE
    wrong = next((cohort_id for cohort_id in person.cohorts if cohort_id not in static), None)
    return None if wrong is None else f"Cohort {wrong} is not a static cohort of the project."


def plan_groups(
    groups: Sequence[GroupDocument], types: Collection[str]
) -> tuple[dict[tuple[str, str], dict[str, Any]], tuple[tuple[int, str], ...]]:
    """What is put over each group, in an order that all callers keep, and what is refused and why."""
    changes: dict[tuple[str, str], dict[str, Any]] = {}
    refused: list[tuple[int, str]] = []
    for position, group in enumerate(groups):
        if group.type not in types:
            refused.append((position, "The project has no such group type."))
        elif not is_storable(group.key) or not is_storable_value(group.properties):
            refused.append((position, UNSTORABLE))
        else:
            changes.setdefault((group.type, group.key), {}).update(group.properties)
    return dict(sorted(changes.items())), tuple(refused)
