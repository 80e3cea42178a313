"""Persons, groups and members of static cohorts in SQLite, written in batches and sampled.

What a batch comes to is planned in batches.py. Invariant: a batch takes the file's write lock before its first read.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.document import GroupDocument, PersonDocument
from gateway.editing_ports import Members, Properties, Upserted
from gateway.stores.batches import (
    DELETED_AT_ONCE,
    Change,
    all_refused,
    group_starts_of,
    plan_groups,
    plan_persons,
    starts_of,
)
from gateway.stores.items import known_ids, storable
from gateway.stores.sqlite_items import json
from gateway.stores.sqlite_lane import Lane

_GROUP_TYPES: Final = "SELECT coalesce(document -> '$.group_types', '[]') FROM projects WHERE id = ?"
_STATIC: Final = """
SELECT id FROM cohorts WHERE project_id = ? AND id IN (SELECT value FROM json_each(?))
AND NOT deleted AND document ->> '$.is_static'
"""
_OWNERS: Final = """
SELECT distinct_id, person_id FROM distinct_ids
WHERE project_id = ? AND distinct_id IN (SELECT value FROM json_each(?))
"""
_COUNT: Final = """
SELECT count(*) FROM cohort_members JOIN persons ON persons.id = person_id WHERE cohort_id = ?2 AND project_id = ?1
"""
_CLEAR: Final = """
DELETE FROM cohort_members WHERE cohort_id = ?2 AND person_id IN (
  SELECT person_id FROM cohort_members JOIN persons ON persons.id = person_id
  WHERE cohort_id = ?2 AND project_id = ?1 AND person_id > ?3 ORDER BY person_id LIMIT ?4
) RETURNING person_id
"""
_ENDS: Final = """
SELECT (SELECT min(id) FROM persons WHERE project_id = ?1), (SELECT max(id) FROM persons WHERE project_id = ?1)
"""
_IDS_FROM: Final = "SELECT id FROM persons WHERE project_id = ? AND id >= ? ORDER BY id LIMIT ?"
_PERSON: Final = """
SELECT (SELECT json_group_array(distinct_id) FROM distinct_ids WHERE person_id = persons.id), properties,
  (SELECT json_group_array(cohort_id) FROM cohort_members WHERE person_id = persons.id)
FROM persons WHERE id = ?
"""
_KEYS_FROM: Final = "SELECT key FROM groups WHERE project_id = ? AND type = ? AND key >= ? ORDER BY key LIMIT ?"
_GROUP: Final = "SELECT properties FROM groups WHERE project_id = ? AND type = ? AND key = ?"
_PUT_GROUP: Final = """
INSERT INTO groups (project_id, type, key, properties) VALUES (?, ?, ?, ?)
ON CONFLICT (project_id, type, key) DO UPDATE SET properties = excluded.properties
"""


class SqlitePeople:
    def __init__(self, writes: Lane, reads: Lane) -> None:
        self._writes = writes
        self._reads = reads

    async def upsert_persons(
        self, project_id: int, persons: Sequence[PersonDocument], once: Sequence[Properties] = ()
    ) -> Upserted:
        return await self._writes.run(_upsert_persons, project_id, persons, once)

    async def upsert_groups(self, project_id: int, groups: Sequence[GroupDocument]) -> Upserted:
        return await self._writes.run(_upsert_groups, project_id, groups)

    async def change_members(
        self, project_id: int, cohort_id: int, distinct_ids: Sequence[str], *, are_members: bool
    ) -> Members:
        return await self._writes.run(_change_members, project_id, cohort_id, distinct_ids, are_members)

    async def clear_members(self, project_id: int, cohort_id: int) -> int:
        """In batches, as there may be a great many; if that ends early, repeating it goes on from there."""
        cleared, last_id = 0, 0
        while ids := await self._writes.run(_clear, project_id, cohort_id, last_id):
            cleared += len(ids)
            last_id = max(ids)
        return cleared

    async def count_members(self, project_id: int, cohort_id: int) -> int:
        return await self._reads.run(_count_members, project_id, cohort_id)

    async def sample_persons(self, project_id: int, limit: int) -> list[PersonDocument]:
        return await self._reads.run(_sample_persons, project_id, limit)

    async def sample_groups(self, project_id: int, group_type: str, limit: int) -> list[GroupDocument]:
        return await self._reads.run(_sample_groups, project_id, group_type, limit) if storable([group_type]) else []


def _upsert_persons(
    connection: sqlite3.Connection, project_id: int, persons: Sequence[PersonDocument], once: Sequence[Properties]
) -> Upserted:
    names = storable([name for person in persons for name in person.distinct_ids])
    cohorts = known_ids([cohort_id for person in persons for cohort_id in person.cohorts])
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute(_GROUP_TYPES, (project_id,)).fetchone() is None:
            return all_refused(persons)
        static = {cohort_id for (cohort_id,) in connection.execute(_STATIC, (project_id, json(cohorts)))}
        owners = dict(connection.execute(_OWNERS, (project_id, json(names))))
        plan = plan_persons(persons, owners, static, once)
        _store(connection, project_id, plan.changes)
    return plan.outcome


def _store(connection: sqlite3.Connection, project_id: int, changes: Sequence[Change]) -> None:
    for change in changes:
        if change.id is None:
            change.id = connection.execute(
                "INSERT INTO persons (project_id, properties) VALUES (?, ?)", (project_id, json(change.properties))
            ).lastrowid
        elif change.properties or change.once:
            (stored,) = connection.execute("SELECT properties FROM persons WHERE id = ?", (change.id,)).fetchone()
            properties = json({**change.once, **msgspec.json.decode(stored), **change.properties})
            if properties != stored:
                connection.execute("UPDATE persons SET properties = ? WHERE id = ?", (properties, change.id))
    connection.executemany(
        "INSERT INTO distinct_ids (project_id, distinct_id, person_id) VALUES (?, ?, ?)",
        [(project_id, name, change.id) for change in changes for name in change.distinct_ids],
    )
    connection.executemany(
        "INSERT OR IGNORE INTO cohort_members (person_id, cohort_id) VALUES (?, ?)",
        [(change.id, cohort_id) for change in changes for cohort_id in change.cohorts],
    )


def _upsert_groups(connection: sqlite3.Connection, project_id: int, groups: Sequence[GroupDocument]) -> Upserted:
    created = 0
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute(_GROUP_TYPES, (project_id,)).fetchone()
        if row is None:
            return all_refused(groups)
        changes, refused = plan_groups(groups, msgspec.json.decode(row[0]))
        for of, properties in changes.items():
            stored = connection.execute(_GROUP, (project_id, *of)).fetchone()
            created += stored is None
            before = {} if stored is None else msgspec.json.decode(stored[0])
            connection.execute(_PUT_GROUP, (project_id, *of, json({**before, **properties})))
    return Upserted(created, len(groups) - len(refused) - created, refused)


def _change_members(
    connection: sqlite3.Connection, project_id: int, cohort_id: int, distinct_ids: Sequence[str], are_members: bool
) -> Members:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        owners = dict(connection.execute(_OWNERS, (project_id, json(storable(distinct_ids)))))
        changed = connection.executemany(
            "INSERT OR IGNORE INTO cohort_members (person_id, cohort_id) VALUES (?, ?)"
            if are_members
            else "DELETE FROM cohort_members WHERE person_id = ? AND cohort_id = ?",
            [(person_id, cohort_id) for person_id in set(owners.values())],
        ).rowcount
    return Members(max(0, changed), [name for name in dict.fromkeys(distinct_ids) if name not in owners])


def _clear(connection: sqlite3.Connection, project_id: int, cohort_id: int, last_id: int) -> list[int]:
    with connection:
        rows = connection.execute(_CLEAR, (project_id, cohort_id, last_id, DELETED_AT_ONCE)).fetchall()
    return [person_id for (person_id,) in rows]


def _count_members(connection: sqlite3.Connection, project_id: int, cohort_id: int) -> int:
    count: int = connection.execute(_COUNT, (project_id, cohort_id)).fetchone()[0]
    return count


def _sample_persons(connection: sqlite3.Connection, project_id: int, limit: int) -> list[PersonDocument]:
    first, last = connection.execute(_ENDS, (project_id,)).fetchone()
    if first is None:
        return []
    number = starts_of(limit)
    starts = [first + (last - first) * step // number for step in range(number)]
    found = []
    for person_id in _spread(connection, _IDS_FROM, (project_id,), [first, *starts], limit):
        names, properties, cohorts = map(msgspec.json.decode, connection.execute(_PERSON, (person_id,)).fetchone())
        found.append(PersonDocument(distinct_ids=names, properties=properties, cohorts=cohorts))
    return found


def _sample_groups(connection: sqlite3.Connection, project_id: int, group_type: str, limit: int) -> list[GroupDocument]:
    of = (project_id, group_type)
    keys = _spread(connection, _KEYS_FROM, of, ["", *group_starts_of(limit)], limit)
    return [
        GroupDocument(
            type=group_type,
            key=key,
            properties=msgspec.json.decode(connection.execute(_GROUP, (*of, key)).fetchone()[0]),
        )
        for key in keys
    ]


def _spread(
    connection: sqlite3.Connection, statement: str, of: tuple[Any, ...], starts: Sequence[Any], limit: int
) -> list[Any]:
    """A few of what follows each start, and more of what follows the first if that is not enough."""
    lowest, *others = starts
    each = limit // len(others)
    few = {value for start in others for (value,) in connection.execute(statement, (*of, start, each))}
    first = [value for (value,) in connection.execute(statement, (*of, lowest, limit))]
    return sorted(list(dict.fromkeys([*few, *first]))[:limit])
