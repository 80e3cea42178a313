"""The shapes of the management API, named as PostHog names them, and the bytes of its answers.

The Structs describe; what fields may hold is decided in services. Stored documents are answered as they are, so a list
is mostly joining JSON. Plans and flips are answered as gateway/edits.py has them. Invariant: no answer depends on how
the request reached us, so links are relative.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.editing_ports import AuditRecord, Item, Page, PersonalKey, Publication

Version = Annotated[
    int | UnsetType | None,
    Meta(
        description="The version you have seen; the change is refused when another one is stored. Left out: no check."
    ),
]
Id = Annotated[int, Meta(ge=1)]
Key = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]+$", max_length=400)]
Name = Annotated[str, Meta(min_length=1, max_length=400)]


class FlagFields(Struct, kw_only=True):
    """What may be said of a flag. A change names only what it changes; `filters` is replaced whole.

    Members that only the service sets, and those of PostHog that mean nothing here, are ignored; others are refused.
    """

    key: Annotated[
        Key | UnsetType,
        Meta(description="What code asks for. Needed when creating."),
    ] = UNSET
    name: Annotated[str | UnsetType | None, Meta(description="What it is for, in words.")] = UNSET
    filters: Annotated[
        dict[str, Any] | UnsetType,
        Meta(
            description="Conditions (`groups`), variants (`multivariate`), `payloads` and so on, as PostHog has them."
        ),
    ] = UNSET
    active: Annotated[bool | UnsetType, Meta(description="Whether it is on at all. A new flag is.")] = UNSET
    deleted: Annotated[bool | UnsetType, Meta(description="Deleted flags are kept and can be restored.")] = UNSET
    version: Version = UNSET
    ensure_experience_continuity: bool | UnsetType | None = UNSET
    bucketing_identifier: Literal["distinct_id", "device_id"] | UnsetType | None = UNSET
    evaluation_runtime: Literal["all", "client", "server"] | UnsetType | None = UNSET
    evaluation_contexts: list[str] | UnsetType | None = UNSET
    has_encrypted_payloads: bool | UnsetType | None = UNSET
    is_remote_configuration: bool | UnsetType | None = UNSET
    has_experiment: bool | UnsetType | None = UNSET
    tags: list[str] | UnsetType | None = UNSET


class Flag(FlagFields, kw_only=True):
    """A flag as stored. Imported ones may lack members until they are first edited."""

    id: Id
    created_at: datetime | UnsetType | None = UNSET
    created_by: str | UnsetType | None = UNSET
    updated_at: datetime | UnsetType | None = UNSET
    last_modified_by: str | UnsetType | None = UNSET


class CohortFields(Struct, kw_only=True):
    """What may be said of a cohort. Who is in a static one is said at its `members`."""

    name: Annotated[Name | UnsetType, Meta(description="Needed when creating.")] = UNSET
    description: str | UnsetType | None = UNSET
    is_static: Annotated[bool | UnsetType, Meta(description="Whether it has listed members. Stays as created.")] = UNSET
    filters: Annotated[
        dict[str, Any] | UnsetType | None,
        Meta(description='Of a cohort that is not static: {"properties": {"type": "OR", "values": [...]}}.'),
    ] = UNSET
    deleted: bool | UnsetType = UNSET
    version: Version = UNSET


class Cohort(CohortFields, kw_only=True):
    """A cohort as stored."""

    id: Id
    created_at: datetime | UnsetType | None = UNSET
    created_by: str | UnsetType | None = UNSET
    updated_at: datetime | UnsetType | None = UNSET
    last_modified_by: str | UnsetType | None = UNSET


class ProjectFields(Struct, kw_only=True):
    """What may be said of a project."""

    id: Annotated[Id | UnsetType, Meta(description="Only when creating; otherwise one is chosen.")] = UNSET
    name: Name | UnsetType = UNSET
    token: Annotated[
        str | UnsetType, Meta(description="The public key of SDKs; left out when creating, one is made.")
    ] = UNSET
    secret_tokens: Annotated[list[str] | UnsetType, Meta(description="Open the definitions to servers.")] = UNSET
    timezone: Annotated[str | UnsetType, Meta(description="IANA name; dates in filters are read in it.")] = UNSET
    property_matching_version: Literal[1, 2] | UnsetType = UNSET
    bucketing: Literal["sha1", "murmur3"] | UnsetType = UNSET
    group_types: Annotated[
        list[str] | UnsetType, Meta(description="Names in the order of their indexes; can only be added to.")
    ] = UNSET
    version: Version = UNSET


class Project(ProjectFields, kw_only=True):
    """A project as stored, without its flags and cohorts."""

    created_at: datetime | UnsetType | None = UNSET
    created_by: str | UnsetType | None = UNSET
    updated_at: datetime | UnsetType | None = UNSET
    last_modified_by: str | UnsetType | None = UNSET


class GroupType(Struct, kw_only=True):
    """A group type and its index, by which flags refer to it."""

    group_type: str
    group_type_index: int | UnsetType = UNSET


class Paged(Struct):
    """A part of a list. `next` and `previous` are paths to the parts beside it."""

    count: Annotated[int, Meta(description="How many there are in all.")]
    next: str | None
    previous: str | None
    results: list[msgspec.Raw]


class HistoryEntry(Struct):
    """One change: who, when, and the whole item before and after. `action` is a verb, such as "rolled_back"."""

    id: int
    at: datetime
    actor: str
    request_id: str
    action: str
    version: int
    before: msgspec.Raw | None
    after: msgspec.Raw | None


class History(Struct):
    """What happened to an item, newest first."""

    next: str | None
    results: list[HistoryEntry]


class RollBackRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    to_version: Annotated[int, Meta(description="The version whose content is to be put in force, as a new version.")]
    version: Version = UNSET


class MembersAnswer(Struct):
    """How many persons are in a static cohort."""

    count: int


class LineProblem(Struct):
    """Why a line of an upload was not stored. Lines are counted from 1."""

    line: int
    code: str
    message: str


class PeopleAnswer(Struct):
    """What became of an upload."""

    stored: int
    created: int
    updated: int
    refused: int
    problems: Annotated[list[LineProblem], Meta(description="Of the first 100 lines refused.")]


class PublicationAnswer(Struct, kw_only=True):
    """How far a project has got towards those who evaluate. What was never published is null."""

    project_id: int
    stored_version: int
    published_version: int | None
    etag: str | None
    bytes: int | None
    flags: int | None
    cohorts: int | None
    members: int | None
    published_at: datetime | None
    dirty_since: Annotated[datetime | None, Meta(description="Since when there are edits yet to be published.")]
    failures: Annotated[int, Meta(description="How often building it has failed in a row.")]
    is_refused: Annotated[bool, Meta(description="Whether only another edit can help.")]
    problem: str | None


class KeyFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a personal key is for. It gets no scope and no project that its maker does not have."""

    label: Annotated[str, Meta(description="What people call it.", min_length=1, max_length=200)]
    scopes: Annotated[list[str], Meta(description='Such as "feature_flag:read"; "*" is all of them.')]
    scoped_teams: Annotated[list[int] | None, Meta(description="Ids of projects; null is all of them.")] = None


class KeyAnswer(Struct, kw_only=True):
    """A personal key. `value` is the key itself, told only in the answer to its making."""

    id: int
    label: str
    hint: Annotated[str, Meta(description="The last characters of the key.")]
    scopes: Sequence[str]
    scoped_teams: Sequence[int] | None
    created_at: datetime
    created_by: str
    revoked_at: datetime | None
    value: str | UnsetType = UNSET


class ProblemAnswer(Struct):
    """One thing that is wrong with what was sent, and where."""

    code: Literal["undecodable", "invalid", "duplicate", "never_matches", "unresolved", "in_use"]
    path: str
    message: str


class ErrorAnswer(Struct, kw_only=True):
    """A refusal. `problems` has everything wrong with what was sent; `version`, with a conflict, what is stored."""

    type: str
    code: Annotated[str, Meta(description="Stable, for programs.")]
    detail: Annotated[str, Meta(description="For people.")]
    attr: Annotated[str | None, Meta(description="The path of the first problem.")]
    problems: list[ProblemAnswer] | UnsetType = UNSET
    version: int | UnsetType | None = UNSET


def item_answer(item: Item) -> bytes:
    """The item as JSON; an imported one with the version that counts for it."""
    if item.version:
        return item.document
    members = msgspec.json.decode(item.document, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**members, "version": item.version})


def page_answer(page: Page, path: str, query: Mapping[str, str], limit: int, offset: int) -> bytes:
    """A part of a list as JSON. `query` has the other parameters that the list was asked for with."""

    def link(start: int) -> str:
        return f"{path}?{urlencode({**query, 'limit': limit, 'offset': start})}"

    end = offset + len(page.items)
    answer = Paged(
        count=page.total,
        next=link(end) if page.items and end < page.total else None,
        previous=link(max(0, offset - limit)) if offset else None,
        results=[msgspec.Raw(item_answer(item)) for item in page.items],
    )
    return msgspec.json.encode(answer)


def history_answer(records: Sequence[AuditRecord], path: str, limit: int) -> bytes:
    """Audit records as JSON; the next part, if there can be one, is asked for with `before`."""
    entries = [
        HistoryEntry(it.id, it.at, it.actor, it.request_id, it.action, it.version, _raw(it.before), _raw(it.after))
        for it in records
    ]
    is_last = len(entries) < limit
    following = None if is_last else f"{path}?{urlencode({'limit': limit, 'before': entries[-1].id})}"
    return msgspec.json.encode(History(following, entries))


def _raw(document: bytes | None) -> msgspec.Raw | None:
    return None if document is None else msgspec.Raw(document)


def publication_answer(publication: Publication) -> bytes:
    """How a project stands, as JSON of a PublicationAnswer."""
    return msgspec.json.encode(publication)


def key_answer(key: PersonalKey, value: str | UnsetType = UNSET) -> KeyAnswer:
    """What is told of a key; `value` only to who has just made it."""
    return KeyAnswer(
        id=key.id,
        label=key.name,
        hint=key.hint,
        scopes=key.scopes,
        scoped_teams=key.projects,
        created_at=key.created_at,
        created_by=key.created_by,
        revoked_at=key.revoked_at,
        value=value,
    )
