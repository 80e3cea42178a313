"""Persons, groups and members of static cohorts in PostgreSQL, written in batches and sampled.

What a batch comes to is planned in batches.py. Invariant: whoever writes takes persons, then distinct ids, then
memberships, each in order, so that two who write the same people wait for each other and never deadlock.
"""

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
from gateway.stores.postgres_pool import GivenUp, PostgresPool, Transaction

# Whoever deletes the project, or imports it anew, waits until the batch is stored, or the batch for them.
_HOLD: Final = """
SELECT coalesce(document -> 'group_types', '[]')::text FROM flagstone.projects WHERE id = $1 FOR KEY SHARE
"""
_STATIC: Final = """
SELECT id FROM flagstone.cohorts
WHERE project_id = $1 AND id = ANY($2::bigint[]) AND NOT deleted AND (document ->> 'is_static')::boolean
"""
_OWNERS: Final = """
SELECT distinct_id, person_id FROM flagstone.distinct_ids JOIN flagstone.persons ON persons.id = person_id
WHERE distinct_ids.project_id = $1 AND distinct_id = ANY($2::text[])
ORDER BY person_id FOR NO KEY UPDATE OF persons
"""
_INSERT_PERSONS: Final = """
INSERT INTO flagstone.persons (project_id, properties)
SELECT $1, properties::jsonb FROM unnest($2::text[]) WITH ORDINALITY AS given (properties, position)
ORDER BY position RETURNING id
"""
_UPDATE_PERSONS: Final = """
UPDATE flagstone.persons SET properties = once::jsonb || persons.properties || given.properties::jsonb
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS given (id, properties, once)
WHERE persons.id = given.id AND once::jsonb || persons.properties || given.properties::jsonb <> persons.properties
"""
_INSERT_IDS: Final = """
INSERT INTO flagstone.distinct_ids (project_id, distinct_id, person_id)
SELECT $1, distinct_id, person_id FROM unnest($2::text[], $3::bigint[]) AS given (distinct_id, person_id)
ORDER BY distinct_id ON CONFLICT DO NOTHING RETURNING 1
"""
_INSERT_MEMBERS: Final = """
INSERT INTO flagstone.cohort_members (person_id, cohort_id)
SELECT person_id, cohort_id FROM unnest($1::bigint[], $2::bigint[]) AS given (person_id, cohort_id)
ORDER BY person_id, cohort_id ON CONFLICT DO NOTHING
"""
_UPSERT_GROUPS: Final = """
INSERT INTO flagstone.groups (project_id, type, key, properties)
SELECT $1, type, key, properties::jsonb FROM unnest($2::text[], $3::text[], $4::text[]) AS given (type, key, properties)
ORDER BY type, key
ON CONFLICT (project_id, type, key) DO UPDATE SET properties = groups.properties || excluded.properties
RETURNING xmax = 0
"""
_FOUND: Final = """
WITH found AS (
  SELECT distinct_id, person_id FROM flagstone.distinct_ids WHERE project_id = $1 AND distinct_id = ANY($3::text[])
)
"""
_JOIN: Final = f"""{_FOUND}, changed AS (
  INSERT INTO flagstone.cohort_members (person_id, cohort_id)
  SELECT DISTINCT person_id, $2::bigint FROM found ORDER BY person_id ON CONFLICT DO NOTHING RETURNING 1
) SELECT (SELECT count(*) FROM changed), ARRAY(SELECT distinct_id FROM found)
"""
_LEAVE: Final = f"""{_FOUND}, changed AS (
  DELETE FROM flagstone.cohort_members
  WHERE cohort_id = $2::bigint AND person_id IN (SELECT person_id FROM found) RETURNING 1
) SELECT (SELECT count(*) FROM changed), ARRAY(SELECT distinct_id FROM found)
"""
_CLEAR: Final = """
WITH batch AS (
  SELECT person_id FROM flagstone.cohort_members JOIN flagstone.persons ON persons.id = person_id
  WHERE cohort_id = $2 AND project_id = $1 AND person_id > $3 ORDER BY person_id LIMIT $4
)
DELETE FROM flagstone.cohort_members USING batch
WHERE cohort_id = $2 AND cohort_members.person_id = batch.person_id RETURNING cohort_members.person_id
"""
_COUNT: Final = """
SELECT count(*) FROM flagstone.cohort_members JOIN flagstone.persons ON persons.id = person_id
WHERE cohort_id = $2 AND project_id = $1
"""
# A few after each of several places between the first id and the last, and more of the first if that is not enough.
# Comparing pairs, in the order of pairs, leaves the database no index to use but that of the project's persons.
_SAMPLE_PERSONS: Final = """
WITH first AS (
  SELECT id FROM flagstone.persons WHERE project_id BETWEEN $1 AND $1 ORDER BY project_id, id LIMIT $2
), ends AS (
  SELECT (SELECT min(id) FROM first) AS low, (
    SELECT id FROM flagstone.persons WHERE project_id BETWEEN $1 AND $1 ORDER BY project_id DESC, id DESC LIMIT 1
  ) AS high
), candidates AS (
  SELECT near.id, 0 AS rank FROM ends, generate_series(0, $3 - 1) AS step, LATERAL (
    SELECT id FROM flagstone.persons
    WHERE (project_id, id) >= ($1, low + (high - low) * step / $3) AND project_id <= $1
    ORDER BY project_id, id LIMIT $2 / $3
  ) AS near
  UNION ALL SELECT id, 1 FROM first
)
SELECT id FROM candidates GROUP BY id ORDER BY min(rank), id LIMIT $2
"""
_PERSONS: Final = """
SELECT ARRAY(SELECT distinct_id FROM flagstone.distinct_ids WHERE person_id = persons.id ORDER BY distinct_id),
  properties::text,
  ARRAY(SELECT cohort_id FROM flagstone.cohort_members WHERE person_id = persons.id ORDER BY cohort_id)
FROM flagstone.persons WHERE id = ANY($1::bigint[]) ORDER BY id
"""
_SAMPLE_GROUPS: Final = """
WITH candidates AS (
  SELECT near.key, 0 AS rank FROM unnest($4::text[]) AS start, LATERAL (
    SELECT key FROM flagstone.groups WHERE project_id = $1 AND type = $2 AND key >= start
    ORDER BY key LIMIT $3 / cardinality($4)
  ) AS near
  UNION ALL
  (SELECT key, 1 FROM flagstone.groups WHERE project_id = $1 AND type = $2 ORDER BY key LIMIT $3)
), chosen AS (
  SELECT key FROM candidates GROUP BY key ORDER BY min(rank), key LIMIT $3
)
SELECT key, properties::text FROM chosen JOIN flagstone.groups USING (key)
WHERE project_id = $1 AND type = $2 ORDER BY key
"""


class PostgresPeople:
    def __init__(self, writer: PostgresPool, reader: PostgresPool) -> None:
        self._writer = writer
        self._reader = reader

    async def upsert_persons(
        self, project_id: int, persons: Sequence[PersonDocument], once: Sequence[Properties] = ()
    ) -> Upserted:
        return await self._writer.repeated(lambda: self._upsert_persons(project_id, persons, once))

    async def _upsert_persons(
        self, project_id: int, persons: Sequence[PersonDocument], once: Sequence[Properties]
    ) -> Upserted:
        names = storable([name for person in persons for name in person.distinct_ids])
        cohorts = known_ids([cohort_id for person in persons for cohort_id in person.cohorts])
        async with self._writer.transaction() as transaction:
            if not await transaction.fetch(_HOLD, project_id):
                return all_refused(persons)
            static = await transaction.fetch(_STATIC, project_id, list(set(cohorts))) if cohorts else []
            owners = await transaction.fetch(_OWNERS, project_id, names)
            plan = plan_persons(persons, dict(owners), {cohort_id for (cohort_id,) in static}, once)
            await _store(transaction, project_id, plan.changes)
        return plan.outcome

    async def upsert_groups(self, project_id: int, groups: Sequence[GroupDocument]) -> Upserted:
        return await self._writer.repeated(lambda: self._upsert_groups(project_id, groups))

    async def _upsert_groups(self, project_id: int, groups: Sequence[GroupDocument]) -> Upserted:
        async with self._writer.transaction() as transaction:
            rows = await transaction.fetch(_HOLD, project_id)
            if not rows:
                return all_refused(groups)
            changes, refused = plan_groups(groups, msgspec.json.decode(rows[0][0]))
            columns = ([kind for kind, _ in changes], [key for _, key in changes], [*map(_json, changes.values())])
            rows = await transaction.fetch(_UPSERT_GROUPS, project_id, *columns)
        created = sum(is_new for (is_new,) in rows)
        return Upserted(created, len(groups) - len(refused) - created, refused)

    async def change_members(
        self, project_id: int, cohort_id: int, distinct_ids: Sequence[str], *, are_members: bool
    ) -> Members:
        statement, names = _JOIN if are_members else _LEAVE, storable(distinct_ids)
        rows = await self._writer.repeated(lambda: self._writer.fetch(statement, project_id, cohort_id, names))
        changed, found = rows[0][0], set(rows[0][1])
        return Members(changed, [name for name in dict.fromkeys(distinct_ids) if name not in found])

    async def clear_members(self, project_id: int, cohort_id: int) -> int:
        """In batches, as there may be a great many; if that ends early, repeating it goes on from there."""
        cleared, last_id = 0, 0
        while rows := await self._writer.fetch(_CLEAR, project_id, cohort_id, last_id, DELETED_AT_ONCE):
            cleared += len(rows)
            last_id = max(person_id for (person_id,) in rows)
        return cleared

    async def count_members(self, project_id: int, cohort_id: int) -> int:
        rows = await self._reader.fetch(_COUNT, project_id, cohort_id)
        count: int = rows[0][0]
        return count

    async def sample_persons(self, project_id: int, limit: int) -> list[PersonDocument]:
        ids = await self._reader.fetch(_SAMPLE_PERSONS, project_id, limit, starts_of(limit))
        rows = await self._reader.fetch(_PERSONS, [person_id for (person_id,) in ids])
        return [
            PersonDocument(distinct_ids=names, properties=msgspec.json.decode(properties), cohorts=cohorts)
            for names, properties, cohorts in rows
        ]

    async def sample_groups(self, project_id: int, group_type: str, limit: int) -> list[GroupDocument]:
        if not storable([group_type]):
            return []
        rows = await self._reader.fetch(_SAMPLE_GROUPS, project_id, group_type, limit, group_starts_of(limit))
        return [
            GroupDocument(type=group_type, key=key, properties=msgspec.json.decode(properties))
            for key, properties in rows
        ]


async def _store(transaction: Transaction, project_id: int, changes: Sequence[Change]) -> None:
    new = [change for change in changes if change.id is None]
    if new:
        rows = await transaction.fetch(_INSERT_PERSONS, project_id, [_json(change.properties) for change in new])
        for change, (person_id,) in zip(new, sorted(rows), strict=True):
            change.id = person_id
    updates = [
        (change.id, _json(change.properties), _json(change.once))
        for change in changes[len(new) :]
        if change.properties or change.once
    ]
    if updates:
        await transaction.fetch(_UPDATE_PERSONS, *_columns(updates))
    names = [(name, change.id) for change in changes for name in change.distinct_ids]
    if names and len(await transaction.fetch(_INSERT_IDS, project_id, *_columns(names))) < len(names):
        # Somebody else has just given one of these ids to a person, whom the next try finds.
        raise GivenUp("a distinct id was taken meanwhile")
    members = [(change.id, cohort_id) for change in changes for cohort_id in change.cohorts]
    if members:
        await transaction.fetch(_INSERT_MEMBERS, *_columns(members))


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*rows, strict=True)))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
