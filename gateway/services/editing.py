"""Managing projects, flags and cohorts: what callers ask for, carried out on the store.

The decisions are in editing_works, editing_flips and applying, as Works that the store runs in one transaction each.
Invariant: nothing that decides an edit is read outside of it.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from evaluator.types import Problem
from gateway.editing_ports import Actor, AuditRecord, Item, ItemQuery, Kind, ManagedStore, Page, Work
from gateway.edits import Desired, Flips, Plan, Saved
from gateway.errors import Invalid, NotFound
from gateway.ports import Clock
from gateway.services.applying import planning
from gateway.services.editing_fields import DEFAULTS, read_fields
from gateway.services.editing_flips import comparing, count_flips, refuse_sample
from gateway.services.editing_references import ItemKind
from gateway.services.editing_works import (
    Deciding,
    Outcome,
    Stamp,
    changing,
    chosen,
    creating,
    reading,
    refuse,
    rolling_back,
)
from gateway.services.project_rules import project_problems

T = TypeVar("T")
TOKEN_PREFIX: Final = "phc_"  # noqa: S105 - how PostHog's public tokens begin
NOBODY: Final = Actor("")
"""Who makes edits that write nothing."""


class EditingService:
    def __init__(self, store: ManagedStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    # Projects.

    async def list_projects(self, search: str = "", limit: int = 100, offset: int = 0) -> Page:
        """Projects whose name contains this."""
        return await self._store.list_projects(search, limit, offset)

    async def get_project(self, project_id: int) -> Item:
        """The project. Raises NotFound."""
        return chosen(await self._store.read_items(project_id, "project", (project_id,)), project_id)

    async def create_project(self, fields: Mapping[str, Any], by: Actor) -> Saved:
        """A new project, with a token of its own if none is given."""
        problems: list[Problem] = []
        given = read_fields("project", fields, "$", problems)
        refuse(problems)
        project_id = given.pop("id", None)
        stamp = self._stamp(by)
        document = {
            **DEFAULTS["project"](),
            **given,
            "token": given.get("token") or TOKEN_PREFIX + secrets.token_urlsafe(32),
            "created_at": stamp.at,
            "created_by": stamp.by,
            "updated_at": stamp.at,
            "last_modified_by": stamp.by,
        }
        refuse(list(project_problems({}, document)))
        encoded = msgspec.json.encode(document)
        created = await self._store.create_project(encoded, document["token"], by, project_id)
        if created is None:
            where = "id" if project_id is not None and not given.get("token") else "token"
            raise Invalid([Problem("duplicate", f"$.{where}", None, "another project has this token, or this id")])
        return Saved(await self.get_project(created), is_new=True, project_version=1)

    async def delete_project(self, project_id: int, by: Actor) -> None:
        """Remove a project with everything in it, for good. Raises NotFound."""
        if not await self._store.delete_project(project_id, by):
            raise NotFound

    # Items.

    async def list_items(self, project_id: int, query: ItemQuery) -> Page:
        """Those that match. Raises NotFound without such a project."""
        page = await self._store.list_items(project_id, query)
        if not page.total:
            await self.get_project(project_id)
        return page

    async def get(self, project_id: int, kind: Kind, ref: int | str) -> Item:
        """The item of an id, deleted or not, or the flag of a key. Raises NotFound."""
        read = reading(kind, ref)
        return chosen(await self._store.read_items(project_id, kind, read.ids, read.keys), ref)

    async def create(
        self, project_id: int, kind: ItemKind, fields: Mapping[str, Any], by: Actor, request_key: str | None = None
    ) -> Saved:
        """A new item. The same `request_key` again gives what came of it, if the same is asked for."""
        stamp = self._stamp(by)
        return await self._save(project_id, by, lambda: creating(project_id, kind, fields, request_key, stamp))

    async def change(self, project_id: int, kind: Kind, ref: int | str, fields: Mapping[str, Any], by: Actor) -> Saved:
        """An item with these members in the place of its own. A `version` among them that is not the stored one is
        refused with Conflict. Raises NotFound."""
        stamp = self._stamp(by)
        return await self._save(project_id, by, lambda: changing(project_id, kind, ref, fields, stamp))

    async def history(
        self, project_id: int, kind: Kind, ref: int | str, limit: int = 100, before_id: int | None = None
    ) -> list[AuditRecord]:
        """What happened to an item, newest first; nothing of one as it was imported. Raises NotFound."""
        item = await self.get(project_id, kind, ref)
        return await self._store.history(project_id, kind, item.id, limit, before_id)

    async def roll_back(
        self, project_id: int, kind: Kind, ref: int | str, to_version: int, by: Actor, *, if_version: int | None = None
    ) -> Saved:
        """The item as an earlier version had it, as a new version. Raises NotFound for one that is not recorded."""
        stamp = self._stamp(by)
        return await self._save(
            project_id,
            by,
            lambda: rolling_back(project_id, kind, ref, stamp, to_version=to_version, if_version=if_version),
        )

    async def flips(
        self, project_id: int, ref: int | str | None, fields: Mapping[str, Any], sample: int = 1000
    ) -> Flips:
        """Who, of a sample, would see another value if the flag were changed like this, or created. Writes nothing."""
        refuse_sample(sample)
        comparison, _ = await self._edit(project_id, NOBODY, lambda: comparing(project_id, ref, fields))
        return await count_flips(project_id, comparison, self._store, sample, self._clock.now())

    # Whole states.

    async def plan(self, project_id: int, desired: Desired, *, may_delete: bool) -> Plan:
        """What it would take to bring the project to this state. Writes nothing."""
        stamp = self._stamp(NOBODY)

        def decide() -> Deciding[Plan]:
            plan, _ = yield from planning(project_id, desired, stamp, may_delete=may_delete, if_version=None)
            return plan, ()

        plan, _ = await self._edit(project_id, NOBODY, decide)
        return plan

    async def apply(
        self, project_id: int, desired: Desired, *, may_delete: bool, if_version: int | None, by: Actor
    ) -> Plan:
        """Bring the project to this state, in one edit; what that took. Raises Conflict when `if_version` is given and
        the project is at another by now."""
        stamp = self._stamp(by)
        plan, version = await self._edit(
            project_id,
            by,
            lambda: planning(project_id, desired, stamp, may_delete=may_delete, if_version=if_version),
        )
        return msgspec.structs.replace(plan, version=version)

    def _stamp(self, by: Actor) -> Stamp:
        return Stamp(str(msgspec.to_builtins(self._clock.now())), by.name)

    async def _save(self, project_id: int, by: Actor, work: Callable[[], Deciding[Outcome]]) -> Saved:
        (item, is_new), version = await self._edit(project_id, by, work)
        return Saved(item, is_new, version)

    async def _edit(self, project_id: int, by: Actor, work: Callable[[], Deciding[T]]) -> tuple[T, int]:
        """What a Work came to, and the project's version then. Raises NotFound without such a project."""
        outcomes: list[T] = []

        def decide() -> Work:
            outcome, writes = yield from work()
            outcomes[:] = [outcome]  # A store may decide again when it has to repeat itself.
            return writes

        version = await self._store.edit(project_id, by, decide)
        if version is None:
            raise NotFound
        return outcomes[0], version
