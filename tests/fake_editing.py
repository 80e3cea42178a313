"""The store of the management API in memory. A fake, not a mock: it keeps what it is given and can be told to fail.

Invariant: it passes the same contract suites as the adapters, tests/contracts/test_{editing,listing,people,keys}.py.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.document import GroupDocument, PersonDocument
from gateway.editing_ports import (
    Actor,
    AuditRecord,
    Item,
    ItemQuery,
    Kind,
    Members,
    Page,
    PersonalKey,
    Publication,
    Read,
    ReadFreeId,
    ReadItems,
    ReadVersion,
    Upserted,
    Work,
    Write,
)
from gateway.errors import Conflict, StoreError
from gateway.stores.batches import all_refused, plan_groups, plan_persons
from gateway.stores.items import (
    KEY_TAKEN,
    MAX_PAGE,
    REQUEST_TAKEN,
    TOKEN_TAKEN,
    Refused,
    asked,
    creation,
    deletion,
    item,
)
from tests.fakes import FakeClock


@dataclass
class Person:
    properties: dict[str, Any]
    distinct_ids: list[str]
    cohorts: set[int]


@dataclass
class Project:
    """All of a project. `items` are by kind and id, the project itself among them; `groups` by type and key."""

    version: int
    dirty_since: datetime
    items: dict[tuple[Kind, int], bytes]
    persons: dict[int, Person] = field(default_factory=dict)
    groups: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def of_kind(self, kind: Kind) -> list[Item]:
        return [item(kind, id_, self.items[kind, id_]) for of, id_ in sorted(self.items) if of == kind]

    def members(self, kind: Kind, item_id: int) -> dict[str, Any]:
        return msgspec.json.decode(self.items.get((kind, item_id), b"{}"), type=dict[str, Any])

    def flag_keys(self) -> list[str]:
        documents = [msgspec.json.decode(it.document) for it in self.of_kind("flag")]
        return [document["key"] for document in documents if not document.get("deleted")]

    def owners(self) -> dict[str, int]:
        return {name: id_ for id_, person in self.persons.items() for name in person.distinct_ids}


class FakeManagedStore:
    """`error` is raised by each call, `hang` makes each call wait until it is set. A fake never publishes."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.error: StoreError | None = None
        self.hang: asyncio.Event | None = None
        self.calls: list[str] = []
        self.audit: list[AuditRecord] = []
        self._clock = clock or FakeClock()
        self._projects: dict[int, Project] = {}
        self._versions = count(1)
        self._person_ids = count(1)
        self._keys: list[PersonalKey] = []

    async def __aenter__(self) -> "FakeManagedStore":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def edit(self, project_id: int, by: Actor, decide: Callable[[], Work]) -> int | None:
        await self._called("edit")
        project = self._projects.get(project_id)
        if project is None:
            return None
        work = decide()
        try:
            step = asked(work)
            while isinstance(step, Read):
                step = asked(work, self._answer(project_id, project, step))
        except Refused as refused:
            raise refused.why from refused.why.__cause__
        finally:
            work.close()
        if step:
            self._write(project_id, project, by, step)
        return project.version

    def _answer(self, project_id: int, project: Project, read: Read) -> Any:
        if isinstance(read, ReadItems):
            return self._read(project_id, project, read)
        if isinstance(read, ReadVersion):
            return project.version
        records = [it for it in self.audit if it.project_id == project_id and it.kind == read.kind]
        if isinstance(read, ReadFreeId):
            return max([0, *(it.item_id for it in records), *(it.id for it in project.of_kind(read.kind))]) + 1
        if read.request_key is not None:
            return next((it for it in records if it.request_key == read.request_key), None)
        return next((it for it in records[::-1] if (it.item_id, it.version) == (read.item_id, read.version)), None)

    def _read(self, project_id: int, project: Project, read: ReadItems) -> list[Item]:
        if read.kind == "project":
            return project.of_kind("project")

        def is_wanted(it: Item) -> bool:
            document = msgspec.json.decode(it.document)
            is_named = document.get("key") in read.keys and not document.get("deleted")
            return read.is_all or it.id in read.ids or is_named

        return list(filter(is_wanted, project.of_kind(read.kind)))

    def _write(self, project_id: int, project: Project, by: Actor, writes: Sequence[Write]) -> None:
        before = dict(project.items)
        project.items |= {(write.kind, write.id): write.document for write in writes}
        try:
            self._refuse_taken(project_id, project, writes)
        except Conflict:
            project.items = before
            raise
        project.version = next(self._versions)
        project.dirty_since = self._clock.now()
        for write in writes:
            self._record(project_id, by, write)

    def _refuse_taken(self, project_id: int, project: Project, writes: Sequence[Write]) -> None:
        if self._has_token(project.members("project", project_id)["token"], besides=project_id):
            raise Conflict(TOKEN_TAKEN)
        if len(set(project.flag_keys())) != len(project.flag_keys()):
            raise Conflict(KEY_TAKEN)
        used = {(it.kind, it.request_key) for it in self.audit if it.project_id == project_id}
        if any((it.kind, it.request_key) in used for it in writes if it.request_key is not None):
            raise Conflict(REQUEST_TAKEN)

    def _record(self, project_id: int, by: Actor, write: Write) -> None:
        self.audit.append(
            AuditRecord(
                len(self.audit) + 1, project_id, self._clock.now(), by.name, by.request_id, write.kind, write.id,
                write.action, write.version, write.before, write.document or None, write.request_key,
            )
        )  # fmt: skip

    async def create_project(self, document: bytes, token: str, by: Actor, project_id: int | None = None) -> int | None:
        await self._called("create_project")
        if project_id in self._projects or self._has_token(token):
            return None
        if project_id is None:
            project_id = max([0, *self._projects, *(it.project_id for it in self.audit)]) + 1
        write = creation(document, project_id)
        items: dict[tuple[Kind, int], bytes] = {("project", project_id): write.document}
        self._projects[project_id] = Project(next(self._versions), self._clock.now(), items)
        self._record(project_id, by, write)
        return project_id

    async def delete_project(self, project_id: int, by: Actor) -> bool:
        await self._called("delete_project")
        project = self._projects.pop(project_id, None)
        if project is not None:
            self._record(project_id, by, deletion(*project.of_kind("project")))
        return project is not None

    async def list_projects(self, search: str = "", limit: int = 100, offset: int = 0) -> Page:
        await self._called("list_projects")
        items = [it for project in self._projects.values() for it in project.of_kind("project")]
        return page(searched(sorted(items, key=lambda it: it.id), search), limit, offset)

    async def read_items(
        self, project_id: int, kind: Kind, ids: Sequence[int] = (), keys: Sequence[str] = ()
    ) -> list[Item]:
        await self._called("read_items")
        project = self._projects.get(project_id)
        return [] if project is None else self._read(project_id, project, ReadItems(kind, tuple(ids), tuple(keys)))

    async def list_items(self, project_id: int, query: ItemQuery) -> Page:
        await self._called("list_items")
        project = self._projects.get(project_id)
        items = searched(project.of_kind(query.kind) if project else [], query.search)

        def is_wanted(it: Item) -> bool:
            document = msgspec.json.decode(it.document)
            is_active = query.is_active in (None, document.get("active", False)) or query.kind == "cohort"
            return is_active and bool(document.get("deleted")) == query.is_deleted

        items = list(filter(is_wanted, items))
        return page(items[::-1] if query.is_newest_first else items, query.limit, query.offset)

    async def history(
        self, project_id: int, kind: Kind, item_id: int, limit: int = 100, before_id: int | None = None
    ) -> list[AuditRecord]:
        await self._called("history")
        of_item = [it for it in self.audit if (it.project_id, it.kind, it.item_id) == (project_id, kind, item_id)]
        return [it for it in of_item[::-1] if before_id is None or it.id < before_id][: min(limit, MAX_PAGE)]

    async def publication(self, project_id: int) -> Publication | None:
        await self._called("publication")
        it = self._projects.get(project_id)
        if it is None:
            return None
        return Publication(project_id=project_id, stored_version=it.version, dirty_since=it.dirty_since)

    async def upsert_persons(self, project_id: int, persons: Sequence[PersonDocument], once: Any = ()) -> Upserted:
        await self._called("upsert_persons")
        project = self._projects.get(project_id)
        if project is None:
            return all_refused(persons)
        cohorts = [(it.id, msgspec.json.decode(it.document)) for it in project.of_kind("cohort")]
        static = {id_ for id_, it in cohorts if it.get("is_static") and not it.get("deleted")}
        plan = plan_persons(persons, project.owners(), static, once)
        for change in plan.changes:
            person_id = next(self._person_ids) if change.id is None else change.id
            person = project.persons.setdefault(person_id, Person({}, [], set()))
            person.properties = {**change.once, **person.properties, **change.properties}
            person.distinct_ids = sorted({*person.distinct_ids, *change.distinct_ids})
            person.cohorts = person.cohorts | change.cohorts
        return plan.outcome

    async def upsert_groups(self, project_id: int, groups: Sequence[GroupDocument]) -> Upserted:
        await self._called("upsert_groups")
        project = self._projects.get(project_id)
        if project is None:
            return all_refused(groups)
        changes, refused = plan_groups(groups, project.members("project", project_id).get("group_types", []))
        created = len(changes.keys() - project.groups.keys())
        for of, properties in changes.items():
            project.groups[of] = {**project.groups.get(of, {}), **properties}
        return Upserted(created, len(groups) - len(refused) - created, refused)

    async def change_members(
        self, project_id: int, cohort_id: int, distinct_ids: Sequence[str], *, are_members: bool
    ) -> Members:
        await self._called("change_members")
        project = self._projects.get(project_id)
        owners = project.owners() if project else {}
        people = (
            [project.persons[id_] for id_ in {owners[it] for it in distinct_ids if it in owners}] if project else []
        )
        changed = [person for person in people if (cohort_id in person.cohorts) != are_members]
        for person in changed:
            person.cohorts = person.cohorts ^ {cohort_id}
        return Members(len(changed), [it for it in dict.fromkeys(distinct_ids) if it not in owners])

    async def clear_members(self, project_id: int, cohort_id: int) -> int:
        await self._called("clear_members")
        members = self._members(project_id, cohort_id)
        for person in members:
            person.cohorts = person.cohorts - {cohort_id}
        return len(members)

    async def count_members(self, project_id: int, cohort_id: int) -> int:
        await self._called("count_members")
        return len(self._members(project_id, cohort_id))

    def _members(self, project_id: int, cohort_id: int) -> list[Person]:
        people = self._projects[project_id].persons.values() if project_id in self._projects else ()
        return [person for person in people if cohort_id in person.cohorts]

    async def sample_persons(self, project_id: int, limit: int) -> list[PersonDocument]:
        await self._called("sample_persons")
        project = self._projects.get(project_id)
        return [
            PersonDocument(distinct_ids=it.distinct_ids, properties=it.properties, cohorts=sorted(it.cohorts))
            for it in spread(list(project.persons.values()) if project else [], limit)
        ]

    async def sample_groups(self, project_id: int, group_type: str, limit: int) -> list[GroupDocument]:
        await self._called("sample_groups")
        project = self._projects.get(project_id)
        found = [(key, it) for (kind, key), it in (project.groups if project else {}).items() if kind == group_type]
        groups = [GroupDocument(type=group_type, key=key, properties=it) for key, it in sorted(found)]
        return spread(groups, limit)

    async def add_key(self, key: PersonalKey) -> int:
        await self._called("add_key")
        self._keys.append(replace(key, id=len(self._keys) + 1))
        return len(self._keys)

    async def find_key(self, digest: str) -> PersonalKey | None:
        await self._called("find_key")
        return next((key for key in self._keys if key.digest == digest), None)

    async def list_keys(self) -> list[PersonalKey]:
        await self._called("list_keys")
        return list(self._keys)

    async def revoke_key(self, key_id: int, at: datetime) -> bool:
        await self._called("revoke_key")
        for position, it in enumerate(self._keys):
            if it.id == key_id and it.revoked_at is None:
                self._keys[position] = replace(it, revoked_at=at)
                return True
        return False

    def _has_token(self, token: str, besides: int | None = None) -> bool:
        others = self._projects.keys() - {besides}
        return any(self._projects[id_].members("project", id_)["token"] == token for id_ in others)

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.hang is not None:
            await self.hang.wait()
        if self.error is not None:
            raise self.error


def searched(items: Iterable[Item], search: str) -> list[Item]:
    """Those with this in their key or name."""

    def is_found(it: Item) -> bool:
        document = msgspec.json.decode(it.document)
        return any(search.lower() in (document.get(name) or "").lower() for name in ("key", "name"))

    return [it for it in items if is_found(it)]


def page(items: Sequence[Item], limit: int, offset: int) -> Page:
    return Page(items[offset : offset + min(limit, MAX_PAGE)], len(items))


def spread(things: list[Any], limit: int) -> list[Any]:
    """At most this many of them, from all over."""
    return things[:: max(1, -(-len(things) // limit))]
