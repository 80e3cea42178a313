"""The document that carries whole projects: read strictly with every problem at once, and written back.

`{"projects": [{..., "flags": [...], "cohorts": [...], "persons": [...], "groups": [...]}]}`. Invariant: what reading
lets through can be stored and served; a flag that would not decode never gets that far.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from evaluator.definitions import (
    MAX_PROBLEMS,
    CohortDocument,
    FlagDocument,
    InvalidDefinitions,
    ProjectDocument,
    decode,
)
from evaluator.types import Problem


class PersonDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A person under all of their distinct ids, and the static cohorts they belong to."""

    distinct_ids: list[str]
    properties: dict[str, Any] = {}
    cohorts: list[int] = []


class GroupDocument(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    key: str
    properties: dict[str, Any] = {}


class WholeProject(ProjectDocument, frozen=True, kw_only=True):
    """A project with everything that belongs to it. Flags and cohorts stay as they were written."""

    persons: list[PersonDocument] = []
    groups: list[GroupDocument] = []

    def definitions(self) -> bytes:
        """The project's definitions document, which is the project without persons and groups."""
        fields = {name: getattr(self, name) for name in ProjectDocument.__struct_fields__}
        return msgspec.json.encode(ProjectDocument(**fields))


class _RawProjects(msgspec.Struct):
    projects: list[msgspec.Raw]


T = TypeVar("T")


def read_document(data: bytes) -> list[WholeProject]:
    """The projects of a document. Raises InvalidDefinitions with every problem, or MAX_PROBLEMS and how many more."""
    document = decode(data, _RawProjects)
    if isinstance(document, tuple):
        raise InvalidDefinitions(document)
    problems: list[Problem] = []
    projects: dict[str, WholeProject] = {}
    for index, raw in enumerate(document.projects):
        at = f"$.projects[{index}]"
        project = decode(raw, WholeProject, at)
        if isinstance(project, tuple):
            problems += project
        else:
            projects[at] = project
            problems += _project_problems(project, at)
    problems += _twice("project id", ((project.id, f"{at}.id") for at, project in projects.items()))
    problems += _twice("token", ((project.token, f"{at}.token") for at, project in projects.items()))
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [_wrong("$", f"and {len(problems) - MAX_PROBLEMS} more problems")]
    if problems:
        raise InvalidDefinitions(problems)
    return list(projects.values())


def write_document(projects: Sequence[WholeProject]) -> bytes:
    """The same document, laid out for people."""
    return msgspec.json.format(msgspec.json.encode({"projects": projects}), indent=2) + b"\n"


def refuse_taken_tokens(projects: Sequence[WholeProject], stored: Mapping[str, int]) -> None:
    """Raises InvalidDefinitions when a token is another project's, given the ids of stored projects by their tokens."""
    replaced = {project.id for project in projects}
    problems = [
        Problem("duplicate", f"$.projects[{index}].token", None, "the token belongs to another stored project")
        for index, project in enumerate(projects)
        if stored.get(project.token, project.id) not in replaced
    ]
    if problems:
        raise InvalidDefinitions(problems)


def _project_problems(project: WholeProject, path: str) -> Iterator[Problem]:
    if not project.token:
        yield _wrong(f"{path}.token", "a project needs a token")
    try:
        ZoneInfo(project.timezone)
    except (KeyError, ValueError, OSError):
        yield _wrong(f"{path}.timezone", f"there is no time zone {project.timezone!r}")
    flags = yield from _decoded(project.flags, FlagDocument, f"{path}.flags")
    cohorts = yield from _decoded(project.cohorts, CohortDocument, f"{path}.cohorts")
    yield from _twice("flag id", ((flag.id, f"{at}.id") for at, flag in flags))
    yield from _twice("flag key", ((flag.key, f"{at}.key") for at, flag in flags if not flag.deleted))
    yield from _twice("cohort id", ((cohort.id, f"{at}.id") for at, cohort in cohorts))
    yield from _twice("group type", ((name, f"{path}.group_types[{i}]") for i, name in enumerate(project.group_types)))
    yield from _people_problems(project, path, {cohort.id: cohort.is_static for _, cohort in cohorts})


def _people_problems(project: WholeProject, path: str, cohorts: dict[int, bool]) -> Iterator[Problem]:
    for position, person in enumerate(project.persons):
        at = f"{path}.persons[{position}]"
        if not person.distinct_ids:
            yield _wrong(f"{at}.distinct_ids", "a person needs a distinct id")
        for cohort_id in person.cohorts:
            if not cohorts.get(cohort_id):
                what = "not static" if cohort_id in cohorts else "unknown"
                yield _wrong(f"{at}.cohorts", f"cohort {cohort_id} is {what}, so that nobody can be put in it")
    ids = (
        (distinct_id, f"{path}.persons[{position}].distinct_ids")
        for position, person in enumerate(project.persons)
        for distinct_id in dict.fromkeys(person.distinct_ids)
    )
    yield from _twice("distinct id", ids)
    for position, group in enumerate(project.groups):
        if group.type not in project.group_types:
            yield _wrong(f"{path}.groups[{position}].type", f"there is no group type {group.type!r}")
    keys = (((group.type, group.key), f"{path}.groups[{i}].key") for i, group in enumerate(project.groups))
    yield from _twice("group", keys)


def _decoded(raws: Iterable[msgspec.Raw], shape: type[T], path: str) -> Generator[Problem, None, list[tuple[str, T]]]:
    """Yields the problems; returns what could be decoded, each with its path."""
    decoded: list[tuple[str, T]] = []
    for index, raw in enumerate(raws):
        at = f"{path}[{index}]"
        item = decode(raw, shape, at)
        if isinstance(item, tuple):
            yield from item
        else:
            decoded.append((at, item))
    return decoded


def _twice(what: str, places: Iterable[tuple[object, str]]) -> Iterator[Problem]:
    seen: Counter[object] = Counter()
    for value, path in places:
        seen[value] += 1
        if seen[value] > 1:
            yield Problem("duplicate", path, None, f"the {what} {value!r} was used before")


def _wrong(path: str, message: str) -> Problem:
    return Problem("undecodable", path, None, message)


Progress = Callable[[int, int], None]
"""(persons stored so far, persons in all)."""
