"""Import into and export from SQLite: whole projects, each in one piece.

Works on a connection that is its caller's; knows nothing of threads. Invariant: an import is one transaction, and its
first statement takes the write lock, so that what was checked still holds when it is written.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from evaluator.definitions import ProjectDocument
from gateway.document import GroupDocument, PersonDocument, Progress, WholeProject, refuse_taken_tokens

BATCH: Final = 1000
"""Persons between two reports of progress."""


def import_projects(connection: sqlite3.Connection, projects: Sequence[WholeProject], progress: Progress) -> None:
    """Replace the stored projects of these ids. Raises InvalidDefinitions when a token is another project's."""
    total = sum(len(project.persons) for project in projects)
    done = 0
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        _free_tokens(connection, projects)
        for project in projects:
            _replace_definitions(connection, project)
            connection.execute(
                "CREATE TEMP TABLE kept AS SELECT distinct_id, flag_key, hash_key"
                " FROM overrides JOIN distinct_ids USING (person_id) WHERE project_id = ?",
                (project.id,),
            )
            connection.execute("DELETE FROM persons WHERE project_id = ?", (project.id,))
            for start in range(0, len(project.persons), BATCH):
                batch = project.persons[start : start + BATCH]
                for person in batch:
                    _insert_person(connection, project.id, person)
                done += len(batch)
                progress(done, total)
            connection.execute(
                "INSERT OR IGNORE INTO overrides SELECT person_id, flag_key, hash_key"
                " FROM kept JOIN distinct_ids USING (distinct_id) WHERE project_id = ?",
                (project.id,),
            )
            connection.execute("DROP TABLE kept")


def _free_tokens(connection: sqlite3.Connection, projects: Sequence[WholeProject]) -> None:
    stored = dict(connection.execute("SELECT token, id FROM projects"))
    refuse_taken_tokens(projects, stored)
    # Tokens may change hands among the projects replaced, in whatever order they are written.
    connection.executemany(
        "UPDATE projects SET token = char(0) || id WHERE id = ?", [(project.id,) for project in projects]
    )


def _replace_definitions(connection: sqlite3.Connection, project: WholeProject) -> None:
    fields = {name: getattr(project, name) for name in ProjectDocument.__struct_fields__}
    shell = msgspec.json.encode(ProjectDocument(**{**fields, "flags": [], "cohorts": []})).decode()
    connection.execute(
        "INSERT INTO projects (id, token, version, document) SELECT ?, ?, ms, ? FROM moment WHERE true"
        " ON CONFLICT (id) DO UPDATE SET token = excluded.token, version = max(version + 1, excluded.version),"
        " document = excluded.document",
        (project.id, project.token, shell),
    )
    for table, documents in (("flags", project.flags), ("cohorts", project.cohorts)):
        connection.execute(f"DELETE FROM {table} WHERE project_id = ?", (project.id,))
        connection.executemany(
            f"INSERT INTO {table} (project_id, id, document) VALUES (?, ?, ?)",
            ((project.id, msgspec.json.decode(raw, type=_Numbered).id, bytes(raw).decode()) for raw in documents),
        )
    connection.execute("DELETE FROM groups WHERE project_id = ?", (project.id,))
    connection.executemany(
        "INSERT INTO groups (project_id, type, key, properties) VALUES (?, ?, ?, ?)",
        ((project.id, group.type, group.key, _json(group.properties)) for group in project.groups),
    )


class _Numbered(msgspec.Struct):
    id: int


def _insert_person(connection: sqlite3.Connection, project_id: int, person: PersonDocument) -> None:
    person_id = connection.execute(
        "INSERT INTO persons (project_id, properties) VALUES (?, ?)", (project_id, _json(person.properties))
    ).lastrowid
    connection.executemany(
        "INSERT INTO distinct_ids (project_id, distinct_id, person_id) VALUES (?, ?, ?)",
        [(project_id, distinct_id, person_id) for distinct_id in dict.fromkeys(person.distinct_ids)],
    )
    connection.executemany(
        "INSERT INTO cohort_members (person_id, cohort_id) VALUES (?, ?)",
        [(person_id, cohort_id) for cohort_id in dict.fromkeys(person.cohorts)],
    )


def export_projects(connection: sqlite3.Connection) -> list[WholeProject]:
    """Every stored project, by id; flags and cohorts by id, persons as they were imported, groups by key."""
    with connection:
        connection.execute("BEGIN")
        rows = connection.execute("SELECT id FROM projects ORDER BY id").fetchall()
        return [_export_project(connection, project_id) for (project_id,) in rows]


def _read_definitions(connection: sqlite3.Connection, project_id: int) -> ProjectDocument:
    """The project with its flags and cohorts, neither of them parsed. The project must exist."""
    (shell,) = connection.execute("SELECT document FROM projects WHERE id = ?", (project_id,)).fetchone()
    project = msgspec.json.decode(shell, type=ProjectDocument)
    return msgspec.structs.replace(
        project, flags=_raws(connection, "flags", project_id), cohorts=_raws(connection, "cohorts", project_id)
    )


def _export_project(connection: sqlite3.Connection, project_id: int) -> WholeProject:
    definitions = _read_definitions(connection, project_id)
    groups = connection.execute(
        "SELECT type, key, properties FROM groups WHERE project_id = ? ORDER BY type, key", (project_id,)
    )
    return WholeProject(
        **msgspec.structs.asdict(definitions),
        persons=list(_persons(connection, project_id)),
        groups=[GroupDocument(type=kind, key=key, properties=msgspec.json.decode(text)) for kind, key, text in groups],
    )


def _raws(connection: sqlite3.Connection, table: str, project_id: int) -> list[msgspec.Raw]:
    rows = connection.execute(
        f"SELECT document FROM {table} WHERE project_id = ? ORDER BY id",
        (project_id,),
    )
    return [msgspec.Raw(document.encode()) for (document,) in rows]


def _persons(connection: sqlite3.Connection, project_id: int) -> Iterator[PersonDocument]:
    rows = connection.execute(
        "SELECT properties, (SELECT json_group_array(distinct_id) FROM distinct_ids WHERE person_id = persons.id),"
        " (SELECT json_group_array(cohort_id) FROM cohort_members WHERE person_id = persons.id)"
        " FROM persons WHERE project_id = ? ORDER BY id",
        (project_id,),
    )
    for properties, distinct_ids, cohorts in rows:
        yield PersonDocument(
            distinct_ids=msgspec.json.decode(distinct_ids),
            properties=msgspec.json.decode(properties),
            cohorts=msgspec.json.decode(cohorts),
        )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
