"""Persons, groups and members of static cohorts, as streams of lines of any length.

How a stream is read and stored is in uploads.py. Invariant: a line that makes no sense is refused by itself, and the
others are stored.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from evaluator.types import MAX_DISTINCT_ID_CHARACTERS, Problem
from gateway.api.calls import Answer, Call, answer
from gateway.api.uploads import RefusedLine, upload
from gateway.document import GroupDocument, PersonDocument
from gateway.editing_ports import Upserted
from gateway.errors import Invalid
from gateway.wire.management import MembersAnswer

UNKNOWN: Final = "nobody has this distinct id"
TEXT: Final = b"text/plain"


class PersonLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person under one or several distinct ids. Properties are put over stored ones; cohorts are static ones."""

    distinct_id: str | int | None = None
    distinct_ids: list[str | int] = []
    properties: dict[str, Any] = {}
    cohorts: list[int] = []


class GroupLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of a type that the project has. Properties are put over stored ones."""

    type: str
    key: str | int
    properties: dict[str, Any] = {}


class _Cohort(msgspec.Struct):
    is_static: bool = False
    deleted: bool = False


async def add_persons(call: Call) -> Answer:
    """Store persons, one JSON object a line."""
    return await upload(
        call,
        _person,
        lambda rows: call.store.upsert_persons(call.project_id, rows),
        begin=lambda: call.editing.get_project(call.project_id),
    )


async def add_groups(call: Call) -> Answer:
    """Store groups, one JSON object a line."""
    return await upload(
        call,
        _group,
        lambda rows: call.store.upsert_groups(call.project_id, rows),
        begin=lambda: call.editing.get_project(call.project_id),
    )


async def count_members(call: Call) -> Answer:
    """How many persons are in a static cohort."""
    return answer(MembersAnswer(await call.store.count_members(call.project_id, await _static_cohort(call))))


async def add_members(call: Call) -> Answer:
    """Put persons into a static cohort: one distinct id a line, as a JSON string, or as it is in text/plain."""
    return await _change_members(call, are_members=True)


async def remove_members(call: Call) -> Answer:
    """Take persons out of a static cohort, given likewise."""
    return await _change_members(call, are_members=False)


async def _change_members(call: Call, *, are_members: bool) -> Answer:
    cohort_id = 0

    async def begin() -> None:
        nonlocal cohort_id
        cohort_id = await _static_cohort(call)
        if are_members and call.query.replace:
            await call.store.clear_members(call.project_id, cohort_id)

    async def store(ids: Sequence[str]) -> Upserted:
        members = await call.store.change_members(call.project_id, cohort_id, ids, are_members=are_members)
        unknown = set(members.unknown)
        refused = [(position, UNKNOWN) for position, distinct_id in enumerate(ids) if distinct_id in unknown]
        known = len(ids) - len(refused)
        return Upserted(members.changed, max(0, known - members.changed), refused)

    is_text = call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == TEXT
    return await upload(call, _text if is_text else _json_text, store, begin)


async def _static_cohort(call: Call) -> int:
    """The id of the cohort. Raises NotFound, and Invalid when nobody can be put in it."""
    item = await call.editing.get(call.project_id, "cohort", call.ref)
    cohort = msgspec.json.decode(item.document, type=_Cohort)
    if not cohort.is_static or cohort.deleted:
        why = "is deleted" if cohort.deleted else "is not static: its members follow from its filters"
        raise Invalid([Problem("invalid", "cohort_id", None, f"cohort {item.id} {why}")])
    return item.id


def _person(line: bytes) -> PersonDocument:
    person = msgspec.json.decode(line, type=PersonLine)
    given = [*([] if person.distinct_id is None else [person.distinct_id]), *person.distinct_ids]
    ids = list(dict.fromkeys(_distinct_id(str(it)) for it in given))
    if not ids:
        raise RefusedLine("a person needs a distinct id")
    return PersonDocument(distinct_ids=ids, properties=person.properties, cohorts=person.cohorts)


def _group(line: bytes) -> GroupDocument:
    group = msgspec.json.decode(line, type=GroupLine)
    if group.key == "":
        raise RefusedLine("a group needs a key")
    return GroupDocument(type=group.type, key=str(group.key), properties=group.properties)


def _text(line: bytes) -> str:
    return _distinct_id(line.decode())


def _json_text(line: bytes) -> str:
    return _distinct_id(msgspec.json.decode(line, type=str))


def _distinct_id(text: str) -> str:
    if not 1 <= len(text) <= MAX_DISTINCT_ID_CHARACTERS:
        raise RefusedLine(f"a distinct id has 1 to {MAX_DISTINCT_ID_CHARACTERS} characters")
    return text
