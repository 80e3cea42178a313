"""The store in PostgreSQL: definitions, persons and overrides, each through a pool of its own.

Connections are in postgres_pool.py, import and export in postgres_transfer.py. Invariant: each call is one statement
against the relations of schema `flagstone`; readers never use the writer's pool, nor wait for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, Pool, WriterPool
from config.settings import Settings
from gateway.document import Progress, WholeProject
from gateway.errors import StoreError
from gateway.ports import Definitions, FactsQuery, StoredFacts
from gateway.stores.postgres_builds import PostgresBuilds
from gateway.stores.postgres_managed import PostgresManaged
from gateway.stores.postgres_pool import PostgresPool
from gateway.stores.postgres_transfer import Transfer

PATIENT_CONNECTIONS: Final = 8
PATIENT_TIMEOUT_MS: Final = 30_000
LOAD_DEFINITIONS: Final = """
SELECT projects.id, coalesce(published.version, 0),
  ARRAY(SELECT part FROM flagstone.published_parts
        WHERE project_id = projects.id AND build = published.build ORDER BY number)
FROM flagstone.projects LEFT JOIN flagstone.published ON project_id = id WHERE token = $1
"""
VERSIONS: Final = """
SELECT token, coalesce(published.version, 0)
FROM flagstone.projects LEFT JOIN flagstone.published ON project_id = id WHERE token = ANY($1::text[])
"""
LOAD_FACTS: Final = """
WITH person AS (
  SELECT persons.id, persons.properties
  FROM flagstone.distinct_ids JOIN flagstone.persons ON persons.id = distinct_ids.person_id
  WHERE distinct_ids.project_id = $1 AND distinct_ids.distinct_id = $2
)
SELECT
  CASE WHEN $3::text[] IS NULL THEN (SELECT properties FROM person)
   ELSE (SELECT jsonb_object_agg(name, properties -> name)
         FROM person CROSS JOIN unnest($3::text[]) AS name WHERE properties ? name) END::text,
  ARRAY(SELECT cohort_id FROM flagstone.cohort_members
   WHERE person_id = (SELECT id FROM person) AND ($4::bigint[] IS NULL OR cohort_id = ANY($4::bigint[]))),
  (SELECT jsonb_object_agg(groups.type, CASE WHEN $7::text[] IS NULL THEN groups.properties ELSE
     (SELECT coalesce(jsonb_object_agg(name, groups.properties -> name), '{}')
      FROM unnest($7::text[]) AS name WHERE groups.properties ? name) END)
   FROM unnest($5::text[], $6::text[]) AS wanted (type, key)
   JOIN flagstone.groups ON groups.project_id = $1 AND groups.type = wanted.type AND groups.key = wanted.key)::text,
  (SELECT jsonb_object_agg(flag_key, hash_key ORDER BY position DESC)
   FROM unnest($8::text[]) WITH ORDINALITY AS ids (distinct_id, position)
   JOIN flagstone.distinct_ids ON distinct_ids.project_id = $1 AND distinct_ids.distinct_id = ids.distinct_id
   JOIN flagstone.overrides ON overrides.project_id = $1 AND overrides.person_id = distinct_ids.person_id)::text
"""
SAVE_OVERRIDES: Final = """
INSERT INTO flagstone.overrides (project_id, person_id, flag_key, hash_key)
SELECT $1, person_id, flag_key, hash_key
FROM (SELECT DISTINCT person_id FROM flagstone.distinct_ids
      WHERE project_id = $1 AND distinct_id = ANY($2::text[])) AS people
CROSS JOIN unnest($3::text[], $4::text[]) AS kept (flag_key, hash_key)
ON CONFLICT DO NOTHING
"""


class PostgresStore:
    """Every store port over one database, or one per pool. Use as an async context manager."""

    def __init__(self, url: Address, definitions: DefinitionsPool, persons: PersonsPool, writer: WriterPool) -> None:
        self._definitions = PostgresPool("definitions", definitions.url or url, definitions)
        self._persons = PostgresPool("persons", persons.url or url, persons)
        self._writer = PostgresPool("writer", writer.url or url, writer)
        # Apart, as editors who wait for each other at one project must not keep others from being built.
        builder, managing = (PostgresPool(name, url, _patient(writer)) for name in ("builder", "managing"))
        self.pools = (self._definitions, self._persons, self._writer, builder, managing)
        self.builds = PostgresBuilds(builder)
        self.managed = PostgresManaged(managing, managing)
        is_one_database = {url} == {pool.url or url for pool in (definitions, persons, writer)}
        self._transfer = Transfer(url, definitions) if is_one_database else None
        self._opened = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<PostgresStore {self.pools}>"

    def adopt(self, settings: Settings) -> None:
        """Keep to these bounds from now on."""
        writer = settings.writer_pool
        bounds: tuple[Pool, ...] = (
            settings.definitions_pool,
            settings.persons_pool,
            writer,
            _patient(writer),
            _patient(writer),
        )
        for pool, bound in zip(self.pools, bounds, strict=True):
            pool.adopt(bound)

    async def __aenter__(self) -> "PostgresStore":
        async with AsyncExitStack() as opened:
            for pool in self.pools:
                await opened.enter_async_context(pool)
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def load_definitions(self, token: str) -> Definitions | None:
        rows = await self._definitions.fetch(LOAD_DEFINITIONS, token) if _is_storable(token) else []
        if not rows:
            return None
        project_id, version, parts = rows[0]
        return Definitions(project_id, version, b"".join(parts))

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        rows = await self._definitions.fetch(VERSIONS, [token for token in tokens if _is_storable(token)])
        return dict(rows)

    async def load_facts(self, query: FactsQuery) -> StoredFacts:
        groups = [pair for pair in query.groups if all(map(_is_storable, pair))]
        distinct_id = query.distinct_ids[0]
        rows = await self._persons.fetch(
            LOAD_FACTS,
            query.project_id,
            distinct_id if _is_storable(distinct_id) else None,
            None if query.properties is None else _storable(query.properties),
            None if query.cohorts is None else list(query.cohorts),
            [kind for kind, _ in groups],
            [key for _, key in groups],
            None if query.group_properties is None else _storable(query.group_properties),
            _storable(query.distinct_ids) if query.wants_overrides else [],
        )
        properties, cohorts, found, overrides = rows[0]
        return StoredFacts(
            person_properties=msgspec.json.decode(properties) if properties else {},
            cohorts=frozenset(cohorts),
            groups=msgspec.json.decode(found) if found else {},
            overrides=msgspec.json.decode(overrides) if overrides else {},
        )

    async def save_overrides(
        self, project_id: int, distinct_ids: tuple[str, ...], hash_keys: Mapping[str, str]
    ) -> None:
        kept = [pair for pair in hash_keys.items() if all(map(_is_storable, pair))]
        keys, values = [key for key, _ in kept], [value for _, value in kept]
        await self._writer.fetch(SAVE_OVERRIDES, project_id, _storable(distinct_ids), keys, values)

    async def import_projects(self, projects: Sequence[WholeProject], progress: Progress) -> None:
        await self._whole().import_projects(projects, progress)

    async def export_projects(self) -> list[WholeProject]:
        return await self._whole().export_projects()

    async def migrate(self) -> list[str]:
        """Bring the schema up to date; the names of what was applied."""
        return await self._whole().migrate()

    def _whole(self) -> Transfer:
        if self._transfer is None:
            raise StoreError(
                "import, export and migrate need everything in one database: leave the pools without a url"
            )
        return self._transfer


def _patient(writer: WriterPool) -> WriterPool:
    """A pool for what no request for flags waits for, and may take its time."""
    return msgspec.structs.replace(writer, max_connections=PATIENT_CONNECTIONS, acquire_timeout_ms=PATIENT_TIMEOUT_MS,
                                   statement_timeout_ms=PATIENT_TIMEOUT_MS)  # fmt: skip


def _is_storable(text: str) -> bool:
    """Whether the database can hold this text; if not, nothing is stored under it, and asking would be an error."""
    return "\0" not in text


def _storable(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if _is_storable(text)]
