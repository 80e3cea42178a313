"""What managing projects, flags, cohorts, persons and keys asks of a store. No implementation lives here.

As in ports.py, every method raises StoreError (or a subclass) and nothing else of its own. Invariant: an edit is one
transaction that also bumps the project's version, which marks it dirty, and appends to the audit record.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

from gateway.document import GroupDocument, PersonDocument

Kind = Literal["project", "flag", "cohort"]
"""What has a document, a version of its own, and a history."""


class Item(msgspec.Struct, frozen=True):
    """A stored project, flag or cohort: JSON text of an object, in which `id` and `version` stand as well.

    The document of a project has neither flags nor cohorts. What came by import may lack a version, which is then 0.
    """

    kind: Kind
    id: int
    version: int
    document: bytes


class ReadItems(msgspec.Struct, frozen=True):
    """Asks for items of the project, deleted ones included: those with these ids, or these keys (flags, not deleted),
    or all of them. Answered by a list of Item in the order of ids. A project is asked for by its id."""

    kind: Kind
    ids: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    is_all: bool = False


class ReadFreeId(msgspec.Struct, frozen=True):
    """Asks for an id, an int, that no flag or cohort of the project has or ever had; nor any larger one."""

    kind: Kind


class ReadVersion(msgspec.Struct, frozen=True):
    """Asks for the version of the project, an int, which every edit raises."""


class ReadRecord(msgspec.Struct, frozen=True):
    """Asks for one audit record of the project, or None: of a request key, or of an item's version."""

    kind: Kind
    request_key: str | None = None
    item_id: int | None = None
    version: int | None = None


Read = ReadItems | ReadFreeId | ReadRecord | ReadVersion


class Write(msgspec.Struct, frozen=True):
    """An item to be put in the place of `before` (None: a new one), and what the audit record says of it.

    `version` is the item's new one and stands in the document too. Items are never removed; deleted ones say so.
    """

    kind: Kind
    id: int
    version: int
    document: bytes
    before: bytes | None
    action: str
    request_key: str | None = None


Work = Generator[Read, Any, Sequence[Write]]
"""Decides on an edit: yields what it has to know, is sent the answers, and returns what is to be written.

It may raise whatever it likes; then nothing is written, and the caller gets that."""


class Actor(msgspec.Struct, frozen=True):
    """Who edits, as the audit record names them, and the id of the request."""

    name: str
    request_id: str = ""


class AuditRecord(msgspec.Struct, frozen=True):
    """One change of one item: `before` and `after` are JSON text, None where there was or is nothing."""

    id: int
    project_id: int
    at: datetime
    actor: str
    request_id: str
    kind: Kind
    item_id: int
    action: str
    version: int
    before: bytes | None
    after: bytes | None
    request_key: str | None = None


class ItemQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which items of a project to list, in the order of ids, newest first if `is_newest_first`."""

    kind: Literal["flag", "cohort"]
    search: str = ""
    """Part of the key or name, in any case of letters."""
    is_active: bool | None = None
    is_deleted: bool = False
    limit: int = 100
    offset: int = 0
    is_newest_first: bool = False


class Page(msgspec.Struct, frozen=True):
    """Items asked for, and how many there are in all."""

    items: Sequence[Item]
    total: int


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """How a project stands between store and gateways. Nothing was published yet where the versions are None."""

    project_id: int
    stored_version: int
    published_version: int | None = None
    etag: str | None = None
    bytes: int | None = None
    flags: int | None = None
    cohorts: int | None = None
    members: int | None = None
    published_at: datetime | None = None
    dirty_since: datetime | None = None
    failures: int = 0
    is_refused: bool = False
    problem: str | None = None


class EditStore(Protocol):
    """Projects, flags and cohorts."""

    async def edit(self, project_id: int, by: Actor, decide: Callable[[], Work]) -> int | None:
        """Carry out what a Work of `decide` decides, in one transaction that only one editor of a project is in at a
        time; the project's version afterwards, or None when there is no such project (nothing was begun then).

        Nothing is written, and the version stays, when nothing is to be. `decide` is called again if the transaction
        has to be repeated. Each Write makes an audit record. Raises what the Work raises, with nothing changed.
        """
        ...

    async def create_project(self, document: bytes, token: str, by: Actor, project_id: int | None = None) -> int | None:
        """The id of a new project, written into its document together with version 1; None when the token, or the id
        asked for, is another project's."""
        ...

    async def delete_project(self, project_id: int, by: Actor) -> bool:
        """Remove a project with everything in it but its audit records; whether there was one."""
        ...

    async def list_projects(self, search: str = "", limit: int = 100, offset: int = 0) -> Page:
        """Projects whose name contains this, in the order of ids."""
        ...

    async def read_items(
        self, project_id: int, kind: Kind, ids: Sequence[int] = (), keys: Sequence[str] = ()
    ) -> list[Item]:
        """As ReadItems, outside an edit."""
        ...

    async def list_items(self, project_id: int, query: ItemQuery) -> Page:
        """Those that match."""
        ...

    async def history(
        self, project_id: int, kind: Kind, item_id: int, limit: int = 100, before_id: int | None = None
    ) -> list[AuditRecord]:
        """What happened to an item, newest first; of records with a smaller id than `before_id`, if given."""
        ...

    async def publication(self, project_id: int) -> Publication | None:
        """How the project stands; None when there is no such project."""
        ...


Properties = Mapping[str, Any]


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What an event says of a person, or of a group if there is a type. The values of properties are JSON text.

    `joined` is another id of the same person; `put` goes over the stored properties, and `once` under them.
    """

    token: str
    group_type: str = ""
    key: str
    joined: str = ""
    put: Mapping[str, bytes] = {}
    once: Mapping[str, bytes] = {}


class Upserted(msgspec.Struct, frozen=True):
    """What became of a batch: how many were new, how many were there, and for the others their position and why not."""

    created: int
    updated: int
    refused: Sequence[tuple[int, str]] = ()


class Members(msgspec.Struct, frozen=True):
    """How many memberships changed, and the distinct ids that belong to nobody."""

    changed: int
    unknown: Sequence[str] = ()


class PeopleStore(Protocol):
    """Persons, groups, and who is in which static cohort. Nothing of this is part of a definitions document."""

    async def upsert_persons(
        self, project_id: int, persons: Sequence[PersonDocument], once: Sequence[Properties] = ()
    ) -> Upserted:
        """Store a batch in one transaction. A person is found by any of the distinct ids, gets the others as well, has
        given properties put over the stored ones, and joins the cohorts named. `once` has further properties of each
        person, or nothing at all: those are put under the stored ones.

        Refused one by one: ids of several different stored persons; a cohort that is not a static one of the project;
        text that the store cannot hold. Persons of one batch may refer to the same stored person, in their order.
        """
        ...

    async def upsert_groups(self, project_id: int, groups: Sequence[GroupDocument]) -> Upserted:
        """Store a batch in one transaction, with given properties put over the stored ones. Refused one by one: a type
        that the project does not have."""
        ...

    async def change_members(
        self, project_id: int, cohort_id: int, distinct_ids: Sequence[str], *, are_members: bool
    ) -> Members:
        """Put the persons of these ids into a static cohort, or take them out of it."""
        ...

    async def clear_members(self, project_id: int, cohort_id: int) -> int:
        """Take everybody out of a cohort; how many that were."""
        ...

    async def count_members(self, project_id: int, cohort_id: int) -> int:
        """How many persons are in a static cohort."""
        ...

    async def sample_persons(self, project_id: int, limit: int) -> list[PersonDocument]:
        """At most this many persons from all over the project, with everything known of each; the same ones each time
        as long as nobody is added. Costs no more in a large project than in a small one."""
        ...

    async def sample_groups(self, project_id: int, group_type: str, limit: int) -> list[GroupDocument]:
        """Likewise groups of a type."""
        ...


class PersonalKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as stored: its digest, never itself. `hint` is its last characters; `projects` None means all."""

    id: int = 0
    digest: str
    hint: str
    name: str
    scopes: tuple[str, ...]
    projects: tuple[int, ...] | None = None
    created_at: datetime
    created_by: str
    revoked_at: datetime | None = None


class KeyStore(Protocol):
    async def add_key(self, key: PersonalKey) -> int:
        """Keep a key; the id it got."""
        ...

    async def find_key(self, digest: str) -> PersonalKey | None:
        """The key with this digest, revoked or not."""
        ...

    async def list_keys(self) -> list[PersonalKey]:
        """All of them, in the order of ids."""
        ...

    async def revoke_key(self, key_id: int, at: datetime) -> bool:
        """Make a key worthless from now on; whether there was one that was not already."""
        ...


class ManagedStore(EditStore, PeopleStore, KeyStore, Protocol):
    """All that managing asks for."""
