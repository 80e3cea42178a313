"""Import into and export from PostgreSQL, whole projects at a time, and the migrations of its schema.

Each works on a connection of its own, without a limit on statements: nobody's request waits for it. Invariant: an
import is one transaction, and only one runs at a time, so that what was checked still holds when it is written.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final

import asyncpg
import msgspec

from config.address import Address
from config.backends import DefinitionsPool
from evaluator.definitions import ProjectDocument
from gateway.document import GroupDocument, PersonDocument, Progress, WholeProject, refuse_taken_tokens
from gateway.stores.postgres_connections import CLOSE_TIMEOUT_S
from gateway.stores.postgres_pool import connect_options, translated

BATCH: Final = 1000
"""Persons between two reports of progress."""
LOCK: Final = 0x666C6167  # "flag": the advisory lock that imports and migrations take.
SCHEMA: Final = files("gateway.stores") / "schema" / "postgres"


class Transfer:
    def __init__(self, url: Address, settings: DefinitionsPool) -> None:
        self._url = url
        self._settings = settings

    async def import_projects(self, projects: Sequence[WholeProject], progress: Progress) -> None:
        """Replace the stored projects of these ids. Raises InvalidDefinitions when a token is another project's."""
        total = sum(len(project.persons) for project in projects)
        done = 0
        async with transaction(self._url, self._settings) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            await _free_tokens(connection, projects)
            for project in projects:
                kept = await _kept_overrides(connection, project.id)
                await _replace_definitions(connection, project)
                await connection.execute("DELETE FROM flagstone.persons WHERE project_id = $1", project.id)
                for start in range(0, len(project.persons), BATCH):
                    batch = project.persons[start : start + BATCH]
                    await _insert_persons(connection, project.id, batch)
                    done += len(batch)
                    progress(done, total)
                await connection.execute(_RESTORE, project.id, *zip(*kept, strict=True) if kept else ([], [], []))

    async def export_projects(self) -> list[WholeProject]:
        """Every stored project, by id; flags and cohorts by id, persons as they were imported, groups by key."""
        async with transaction(self._url, self._settings, isolation="repeatable_read", readonly=True) as connection:
            rows = await connection.fetch("SELECT id, document::text FROM flagstone.projects ORDER BY id")
            return [await _export_project(connection, *row) for row in rows]

    async def migrate(self) -> list[str]:
        """Apply what is missing of schema/postgres/*.sql, in one transaction; the names of what was applied."""
        async with transaction(self._url, self._settings) as connection:
            # Several processes may start with the same new version at once; the second finds nothing left to do.
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            await connection.execute("CREATE SCHEMA IF NOT EXISTS flagstone")
            await connection.execute("CREATE TABLE IF NOT EXISTS flagstone.migrations (name text PRIMARY KEY)")
            done = {name for (name,) in await connection.fetch("SELECT name FROM flagstone.migrations")}
            scripts = {file.name: file for file in SCHEMA.iterdir() if file.name.endswith(".sql")}
            missing = sorted(scripts.keys() - done)
            for name in missing:
                await connection.execute(scripts[name].read_text())
                await connection.execute("INSERT INTO flagstone.migrations VALUES ($1)", name)
            return missing


@asynccontextmanager
async def transaction(url: Address, settings: DefinitionsPool, **options: Any) -> AsyncIterator[Any]:
    """A connection with a transaction, committed when all went well. Raises StoreError."""
    with translated("database"):
        connect = connect_options(url, settings)
        if "server_settings" in connect:
            connect["server_settings"]["statement_timeout"] = "0"
        connection = await asyncpg.connect(**connect)
        try:
            async with connection.transaction(**options):
                yield connection
        finally:
            try:
                await connection.close(timeout=CLOSE_TIMEOUT_S)
            finally:
                connection.terminate()


_RESTORE: Final = """
INSERT INTO flagstone.overrides (project_id, person_id, flag_key, hash_key)
SELECT $1, person_id, flag_key, hash_key
FROM unnest($2::text[], $3::text[], $4::text[]) AS kept (distinct_id, flag_key, hash_key)
JOIN flagstone.distinct_ids ON project_id = $1 AND distinct_ids.distinct_id = kept.distinct_id
ON CONFLICT DO NOTHING
"""


async def _free_tokens(connection: Any, projects: Sequence[WholeProject]) -> None:
    stored = dict(await connection.fetch("SELECT token, id FROM flagstone.projects"))
    refuse_taken_tokens(projects, stored)
    # Tokens may change hands among the projects replaced, in whatever order they are written.
    await connection.execute(
        "UPDATE flagstone.projects SET token = chr(1) || id WHERE id = ANY($1::bigint[])",
        [project.id for project in projects],
    )


async def _kept_overrides(connection: Any, project_id: int) -> list[Any]:
    rows: list[Any] = await connection.fetch(
        "SELECT distinct_id, flag_key, hash_key FROM flagstone.overrides JOIN flagstone.distinct_ids"
        " USING (project_id, person_id) WHERE project_id = $1",
        project_id,
    )
    return rows


async def _replace_definitions(connection: Any, project: WholeProject) -> None:
    fields = {name: getattr(project, name) for name in ProjectDocument.__struct_fields__}
    shell = msgspec.json.encode(ProjectDocument(**{**fields, "flags": [], "cohorts": []})).decode()
    await connection.execute(
        "INSERT INTO flagstone.projects (id, token, version, document) VALUES ($1, $2, flagstone.next_version(0), $3)"
        " ON CONFLICT (id) DO UPDATE SET"
        " token = excluded.token, version = flagstone.next_version(projects.version), document = excluded.document",
        project.id,
        project.token,
        shell,
    )
    for table, documents in (("flags", project.flags), ("cohorts", project.cohorts)):
        await connection.execute(f"DELETE FROM flagstone.{table} WHERE project_id = $1", project.id)
        await connection.executemany(
            f"INSERT INTO flagstone.{table} (project_id, id, document) VALUES ($1, $2, $3)",
            [(project.id, msgspec.json.decode(raw, type=_Numbered).id, bytes(raw).decode()) for raw in documents],
        )
    await connection.execute("DELETE FROM flagstone.groups WHERE project_id = $1", project.id)
    await connection.executemany(
        "INSERT INTO flagstone.groups (project_id, type, key, properties) VALUES ($1, $2, $3, $4)",
        [(project.id, group.type, group.key, _json(group.properties)) for group in project.groups],
    )


class _Numbered(msgspec.Struct):
    id: int


async def _insert_persons(connection: Any, project_id: int, persons: Sequence[PersonDocument]) -> None:
    """Insert a batch of persons with all that belongs to them, in an order that their ids keep."""
    rows = await connection.fetch(
        "INSERT INTO flagstone.persons (project_id, properties)"
        " SELECT $1, properties::jsonb FROM unnest($2::text[]) WITH ORDINALITY AS given (properties, position)"
        " ORDER BY position RETURNING id",
        project_id,
        [_json(person.properties) for person in persons],
    )
    ids = sorted(id_ for (id_,) in rows)
    await connection.copy_records_to_table(
        "distinct_ids",
        schema_name="flagstone",
        columns=("project_id", "distinct_id", "person_id"),
        records=[
            (project_id, distinct_id, id_)
            for id_, person in zip(ids, persons, strict=True)
            for distinct_id in dict.fromkeys(person.distinct_ids)
        ],
    )
    await connection.copy_records_to_table(
        "cohort_members",
        schema_name="flagstone",
        columns=("person_id", "cohort_id"),
        records=[
            (id_, cohort_id)
            for id_, person in zip(ids, persons, strict=True)
            for cohort_id in dict.fromkeys(person.cohorts)
        ],
    )


async def _export_project(connection: Any, project_id: int, shell: str) -> WholeProject:
    project = msgspec.structs.asdict(msgspec.json.decode(shell, type=ProjectDocument))
    for part in ("flags", "cohorts"):
        rows = await connection.fetch(
            f"SELECT document::text FROM flagstone.{part} WHERE project_id = $1 ORDER BY id",
            project_id,
        )
        project[part] = [msgspec.Raw(document.encode()) for (document,) in rows]
    persons = await connection.fetch(
        "SELECT"
        " ARRAY(SELECT distinct_id FROM flagstone.distinct_ids WHERE person_id = persons.id ORDER BY distinct_id),"
        " properties::text,"
        " ARRAY(SELECT cohort_id FROM flagstone.cohort_members WHERE person_id = persons.id ORDER BY cohort_id)"
        " FROM flagstone.persons WHERE project_id = $1 ORDER BY id",
        project_id,
    )
    groups = await connection.fetch(
        "SELECT type, key, properties::text FROM flagstone.groups WHERE project_id = $1 ORDER BY type, key", project_id
    )
    return WholeProject(
        **project,
        persons=[
            PersonDocument(distinct_ids=ids, properties=msgspec.json.decode(text), cohorts=cohorts)
            for ids, text, cohorts in persons
        ],
        groups=[GroupDocument(type=kind, key=key, properties=msgspec.json.decode(text)) for kind, key, text in groups],
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
