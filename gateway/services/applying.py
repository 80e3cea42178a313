"""Bringing a project to a wanted state, all of it in one edit: who is who, what differs, and whether it would work.

Flags go by key and cohorts by id or else by name; only what the file says of them is compared with what is stored.
Invariant: everything is judged as it would stand together in the end, so no order of changes can make it fail.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from evaluator.dependencies import build_graph
from evaluator.types import Problem
from gateway.editing_ports import Item, ReadFreeId, ReadItems, ReadVersion
from gateway.edits import MAX_CHANGES, MAX_MEMBER_CHANGES, Desired, Plan, PlannedChange
from gateway.errors import Conflict
from gateway.services.editing_fields import DEFAULTS, Document, name_of, read_fields
from gateway.services.editing_references import (
    ITEM_KINDS,
    ItemKind,
    World,
    flag_references,
    ids,
    read_project,
    refer_by_id,
)
from gateway.services.editing_works import (
    Asking,
    Deciding,
    Put,
    Stamp,
    always_wrong,
    document_of,
    in_use,
    refuse,
)
from gateway.services.validation import problems_of

_ACTIONS: Final[Mapping[str, Literal["create", "change", "delete"]]] = {
    "created": "create",
    "changed": "change",
    "deleted": "delete",
}

Placed = tuple[Put, str]
"""What is to become of an item, and where in the file that stands."""


class Stored(msgspec.Struct, frozen=True):
    """Items of a kind that are not deleted, by id, and an id from which on all are free."""

    items: Mapping[int, Item]
    documents: Mapping[int, Document]
    free_id: int


class Draft(msgspec.Struct, frozen=True):
    """An item as the file has it, or lacks it, with what is stored of it, if anything."""

    kind: ItemKind
    id: int
    path: str
    after: Document
    stored: Item | None

    def placed(self) -> Placed:
        return Put(self.kind, self.id, self.after, self.stored), self.path


def planning(
    project_id: int, desired: Desired, stamp: Stamp, *, may_delete: bool, if_version: int | None
) -> Deciding[Plan]:
    """The plan for this state of the project, and the writes that carry it out."""
    version: int = yield ReadVersion()
    if if_version not in {None, version}:
        raise Conflict(f"The project was changed meanwhile; it is at version {version}.", version)
    project = yield from read_project(project_id)
    flags = yield from _stored("flag")
    cohorts = yield from _stored("cohort")
    problems: list[Problem] = []
    drafts = [
        *_matched("cohort", desired.cohorts or (), cohorts, problems),
        *_matched("flag", desired.flags, flags, problems),
    ]
    refuse(problems)
    lacking = _lacking("flag", flags, drafts)
    if desired.cohorts is not None:
        lacking += _lacking("cohort", cohorts, drafts)
    deletions = [it.placed() for it in lacking] if may_delete else []
    world = World(project, dict(flags.documents), dict(cohorts.documents))
    for put, _ in deletions:
        del world.of(put.kind)[put.id]
    for draft in drafts:
        world.of(draft.kind)[draft.id] = draft.after
    _refer_by_id(world, drafts)
    puts = [it.placed() for it in drafts]
    changed = [(put, path) for put, path in puts if put.is_needed]
    _judge(world, changed, deletions)
    steps = [put for put, _ in (*_in_order(changed), *deletions)]
    plan = Plan(
        version=version,
        changes=[_planned(put) for put in steps],
        unchanged=len(puts) - len(changed),
        unmanaged=len(lacking) - len(deletions),
    )
    return plan, [put.write(stamp) for put in steps]


def _stored(kind: ItemKind) -> Asking[Stored]:
    items: Sequence[Item] = yield ReadItems(kind, is_all=True)
    free_id: int = yield ReadFreeId(kind)
    every = {it.id: document_of(it.document) for it in items}
    documents = {item_id: it for item_id, it in every.items() if not it.get("deleted")}
    return Stored({it.id: it for it in items if it.id in documents}, documents, free_id)


def _matched(
    kind: ItemKind, entries: Sequence[Mapping[str, Any]], stored: Stored, problems: list[Problem]
) -> list[Draft]:
    """The entries with what is stored of each. New ones get ids from the free one on."""
    named = Counter(name_of(kind, it) for it in stored.documents.values())
    by_name = {name_of(kind, it): item_id for item_id, it in stored.documents.items()}
    drafts: dict[int | str, Draft] = {}
    free_id = stored.free_id
    for index, entry in enumerate(entries):
        path = f"$.{kind}s[{index}]"
        given = read_fields(kind, entry, path, problems)
        name = name_of(kind, given)
        asked = entry.get("id") if kind == "cohort" else None
        if asked is not None and (type(asked) is not int or asked not in stored.items):
            what = f"there is no cohort {asked!r}; without an id it is found by its name, or created"
            problems.append(Problem("unresolved", f"{path}.id", None, what))
            continue
        if asked is None and named[name] > 1:
            problems.append(Problem("duplicate", f"{path}.name", None, f"several are called {name!r}; give the id"))
        if given.get("deleted"):
            what = "what shall not be there is left out of the file"
            problems.append(Problem("invalid", f"{path}.deleted", None, what))
        found = by_name.get(name) if asked is None else asked
        identity = name if found is None else found
        if identity in drafts:
            problems.append(Problem("duplicate", path, None, f"{drafts[identity].path} is about the same {kind}"))
            continue
        item_id = free_id if found is None else found
        free_id += found is None
        before = DEFAULTS[kind]() if found is None else stored.documents[found]
        after = {**before, **given, "id": item_id}
        drafts[identity] = Draft(kind, item_id, path, after, stored.items.get(item_id))
    return list(drafts.values())


def _lacking(kind: ItemKind, stored: Stored, drafts: Sequence[Draft]) -> list[Draft]:
    """What is stored and not in the file, as it would be deleted."""
    kept = {it.id for it in drafts if it.kind == kind}
    return [
        Draft(kind, item_id, f"$.{kind}s", {**document, "deleted": True}, stored.items[item_id])
        for item_id, document in stored.documents.items()
        if item_id not in kept
    ]


def _refer_by_id(world: World, drafts: Sequence[Draft]) -> None:
    """Turn the references of drafts into ids. A name that several cohorts have stands for none of them."""
    keys = {name_of("flag", it): flag_id for flag_id, it in world.flags.items()}
    named = Counter(name_of("cohort", it) for it in world.cohorts.values())
    names = {name_of("cohort", it): cohort_id for cohort_id, it in world.cohorts.items()}
    cohorts = {name: cohort_id for name, cohort_id in names.items() if named[name] == 1}
    for it in drafts:
        refer_by_id(it.kind, it.after, world.flags, keys, cohorts)


def _judge(world: World, changed: Sequence[Placed], deletions: Sequence[Placed]) -> None:
    """Raises Invalid if the world would not work like this, or this is too much at once."""
    count = len(changed) + len(deletions)
    if count > MAX_CHANGES:
        what = f"this takes {count} changes, and at most {MAX_CHANGES} are made at once; do it in parts"
        refuse([Problem("invalid", "$", None, what)])
    problems = [it for put, path in changed for it in always_wrong(put, path)]
    breakable = {
        kind: {put.id: path for put, path in changed if put.kind == kind and put.may_break} for kind in ITEM_KINDS
    }
    problems += problems_of(world, breakable["flag"], breakable["cohort"])
    refuse([*problems, *in_use(world, deletions)])


def _in_order(changed: Sequence[Placed]) -> list[Placed]:
    """Cohorts first, and flags after those that they depend on."""
    flags = [put for put, _ in changed if put.kind == "flag"]
    graph = build_graph({it.id: ids(flag_references("flag", it.after)) for it in flags})
    order = {flag_id: position for position, flag_id in enumerate(graph.order)}
    return sorted(changed, key=lambda placed: order.get(placed[0].id, 0) if placed[0].kind == "flag" else -1)


def _planned(put: Put) -> PlannedChange:
    action = _ACTIONS[put.action]
    return PlannedChange(
        action=action,
        kind=put.kind,
        name=name_of(put.kind, put.after),
        id=put.id,
        changes=put.changes[:MAX_MEMBER_CHANGES] if action == "change" else (),
    )
