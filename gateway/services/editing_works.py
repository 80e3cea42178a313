"""The decisions of single edits, as Works: everything they must know they ask for, so that they are right however many
people edit at once.

Nothing is carried out here. Invariant: what changes nothing writes nothing, and what would not work is never written;
switching off always works.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from evaluator.compile import flag_id_of
from evaluator.definitions import MAX_PROBLEMS
from evaluator.types import Problem
from gateway.editing_ports import AuditRecord, Item, Kind, Read, ReadFreeId, ReadItems, ReadRecord, Write
from gateway.errors import Conflict, Invalid, NotFound
from gateway.services.editing_fields import DEFAULTS, Document, changes_of, name_of, read_fields, rename_contexts
from gateway.services.editing_references import (
    Documents,
    ItemKind,
    World,
    decoded,
    flag_names,
    read_around,
    read_everything,
    refer_by_id,
    used_by,
)
from gateway.services.project_rules import project_problems
from gateway.services.validation import problems_of

T = TypeVar("T")
Deciding = Generator[Read, Any, tuple[T, Sequence[Write]]]
"""Like a Work; returns what the edit comes to as well."""
Asking = Generator[Read, Any, T]

Outcome = tuple[Item, bool]
"""The item as it is then, and whether it is new."""

MAX_NAMED: Final = 10
"""Users of something that a refusal names."""
MAX_BYTES: Final = 1 << 20
"""Of one item."""
_HARMLESS: Final[Mapping[Kind, frozenset[str]]] = {
    "flag": frozenset({"name", "tags"}),
    "cohort": frozenset({"description"}),
    "project": frozenset(),
}


class Stamp(msgspec.Struct, frozen=True):
    """When, and by whom."""

    at: str
    by: str


class Put:
    """An item as it shall be, beside what is stored of it, if anything; and how the two differ in what they mean."""

    def __init__(self, kind: Kind, item_id: int, after: Document, stored: Item | None = None) -> None:
        self.kind: Kind = kind
        self.id = item_id
        self.after = after
        self.stored = stored
        self.before = {} if stored is None else document_of(stored.document)
        self.changes = tuple(changes_of(self.before, after))

    def __repr__(self) -> str:
        return f"<Put {self.kind} {self.id}, {self.action}>"

    @property
    def is_needed(self) -> bool:
        return self.stored is None or bool(self.changes)

    @property
    def action(self) -> str:
        was, shall = bool(self.before.get("deleted")), bool(self.after.get("deleted"))
        return "created" if self.stored is None else "changed" if was is shall else "deleted" if shall else "restored"

    @property
    def is_deletion(self) -> bool:
        return self.action == "deleted"

    @property
    def may_break(self) -> bool:
        """Whether it could stop working by this. What is broken already can still be renamed, or taken out of use."""
        changed = {it.path.split(".")[1].partition("[")[0] for it in self.changes}
        if not self.after.get("active"):
            changed -= {"active"}
        if self.after.get("deleted"):
            changed -= {"deleted"}
        return self.stored is None or not changed <= _HARMLESS[self.kind]

    def write(self, stamp: Stamp, action: str | None = None, request_key: str | None = None) -> Write:
        """What puts it in the place of what is stored, as a new version."""
        version = 1 if self.stored is None else self.stored.version + 1
        created = {"created_at": stamp.at, "created_by": stamp.by} if self.stored is None else self.before
        document = {
            **self.after,
            "id": self.id,
            "version": version,
            "created_at": created.get("created_at"),
            "created_by": created.get("created_by"),
            "updated_at": stamp.at,
            "last_modified_by": stamp.by,
        }
        before = None if self.stored is None else self.stored.document
        encoded = msgspec.json.encode(document)
        return Write(self.kind, self.id, version, encoded, before, action or self.action, request_key)


def document_of(stored: bytes) -> Document:
    """The document of an item, its members named as they are now."""
    document: Document = msgspec.json.decode(stored)
    rename_contexts(document)
    return document


def reading(kind: Kind, ref: int | str) -> ReadItems:
    """What asks for the item of an id, or flag of a key; digits are an id before they are a key."""
    number = flag_id_of(ref) if isinstance(ref, str) else ref
    ids = () if number is None else (number,)
    return ReadItems(kind, ids=ids, keys=(ref,) if isinstance(ref, str) and kind == "flag" else ())


def chosen(items: Sequence[Item], ref: int | str) -> Item:
    """The one that was asked for. Raises NotFound."""
    if not items:
        raise NotFound
    return next((it for it in items if str(it.id) == str(ref)), items[0])


def refuse(problems: Sequence[Problem]) -> None:
    """Raises Invalid if there are any."""
    if problems:
        raise Invalid(problems[:MAX_PROBLEMS])


def propose(kind: ItemKind, fields: Mapping[str, Any]) -> Asking[Put]:
    """A new item with these fields. Raises Invalid for fields that make no sense by themselves."""
    problems: list[Problem] = []
    given = read_fields(kind, fields, "$", problems)
    if given.pop("deleted", False):
        problems.append(Problem("invalid", "$.deleted", None, "what is new is not deleted"))
    refuse(problems)
    item_id = yield ReadFreeId(kind)
    after = {"id": item_id, **DEFAULTS[kind](), **given}
    yield from _refer_by_id(kind, item_id, after)
    return Put(kind, item_id, after)


def propose_change(kind: Kind, ref: int | str, fields: Mapping[str, Any]) -> Asking[Put]:
    """An item with these fields in the place of its own. Raises Invalid, NotFound, and Conflict about its version."""
    problems: list[Problem] = []
    given = read_fields(kind, fields, "$", problems)
    refuse(problems)
    items = yield reading(kind, ref)
    stored = chosen(items, ref)
    _lock(stored, given.pop("version", None))
    after = {**document_of(stored.document), **given, "id": stored.id}
    yield from _refer_by_id(kind, stored.id, after)
    return Put(kind, stored.id, after, stored)


def _lock(stored: Item, version: int | None) -> None:
    if version not in (None, stored.version):
        raise Conflict(f"This {stored.kind} was changed meanwhile; it is at version {stored.version}.", stored.version)


def _refer_by_id(kind: Kind, item_id: int, document: Document) -> Asking[None]:
    names = flag_names(document) if kind == "flag" else ()
    if names:
        ids = [flag_id for it in names if (flag_id := flag_id_of(it)) is not None]
        items = yield ReadItems("flag", ids=tuple(ids), keys=tuple(names))
        flags: Documents = {**decoded(items), item_id: document}
        keys = {name_of("flag", it): flag_id for flag_id, it in flags.items()}
        refer_by_id("flag", document, flags, keys, {})


def judge(project_id: int, put: Put) -> Asking[None]:
    """Raises Invalid if it would not work, or something else would not without it."""
    problems = always_wrong(put, "$")
    if put.kind == "project":
        problems += project_problems(put.before, put.after)
    else:
        if put.may_break:
            world = yield from read_around(project_id, put.kind, put.after)
            world.of(put.kind)[put.id] = put.after
            path = {put.id: "$"}
            is_flag = put.kind == "flag"
            problems += problems_of(world, path if is_flag else {}, {} if is_flag else path)
        if put.is_deletion:
            world = yield from read_everything(project_id)
            problems += in_use(world, [(put, "$.deleted")])
    refuse(problems)


def always_wrong(put: Put, path: str) -> list[Problem]:
    """What is wrong whatever else was: too many bytes, or a change of what cannot be changed."""
    problems: list[Problem] = []
    size = len(msgspec.json.encode(put.after))
    if size > MAX_BYTES:
        problems.append(Problem("invalid", path, None, f"this has {size} bytes, which is more than {MAX_BYTES}"))
    is_static = bool(put.after.get("is_static"))
    if put.kind == "cohort" and put.stored is not None and bool(put.before.get("is_static")) is not is_static:
        what = "a cohort stays static, or not, as it was created"
        problems.append(Problem("invalid", f"{path}.is_static", None, what))
    return problems


def in_use(world: World, deletions: Sequence[tuple[Put, str]]) -> list[Problem]:
    """A problem for each of those to be deleted, with its path, that others of the world refer to."""
    if not deletions:
        return []
    for put, _ in deletions:
        world.of(put.kind).pop(put.id, None)
    users = used_by(world)
    problems: list[Problem] = []
    for put, path in deletions:
        if names := users.get((put.kind, put.id)):
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            what = f"the {put.kind} {name_of(put.kind, put.before)} is used by {', '.join(names[:MAX_NAMED])}{more}"
            problems.append(Problem("in_use", path, None, what))
    return problems


def creating(
    project_id: int, kind: ItemKind, fields: Mapping[str, Any], request_key: str | None, stamp: Stamp
) -> Deciding[Outcome]:
    """A new item; or the one that came of the same request before."""
    put = yield from propose(kind, fields)
    if request_key is not None:
        record: AuditRecord | None = yield ReadRecord(kind, request_key=request_key)
        if record is not None:
            if next(changes_of(document_of(record.after or b"{}"), put.after), None) is not None:
                raise Conflict("This idempotency key was used for something else.")
            items = yield ReadItems(kind, ids=(record.item_id,))
            return (chosen(items, record.item_id), False), ()
    yield from judge(project_id, put)
    return _outcome(put, put.write(stamp, request_key=request_key))


def changing(project_id: int, kind: Kind, ref: int | str, fields: Mapping[str, Any], stamp: Stamp) -> Deciding[Outcome]:
    """An item changed."""
    put = yield from propose_change(kind, ref, fields)
    if put.stored is not None and not put.changes:
        return (put.stored, False), ()
    yield from judge(project_id, put)
    return _outcome(put, put.write(stamp))


def rolling_back(
    project_id: int, kind: Kind, ref: int | str, stamp: Stamp, *, to_version: int, if_version: int | None
) -> Deciding[Outcome]:
    """An item as an earlier version had it. Raises NotFound for one that is not recorded."""
    items = yield reading(kind, ref)
    stored = chosen(items, ref)
    _lock(stored, if_version)
    recorded = yield from _recorded(stored, to_version)
    put = Put(kind, stored.id, {**document_of(recorded), "id": stored.id}, stored)
    if not put.changes:
        return (stored, False), ()
    yield from judge(project_id, put)
    return _outcome(put, put.write(stamp, "rolled_back"))


def _recorded(stored: Item, version: int) -> Asking[bytes]:
    """The document of a version: as it was written, or as the next one found it, which an import may have left."""
    if version == stored.version:
        return stored.document
    record: AuditRecord | None = yield ReadRecord(stored.kind, item_id=stored.id, version=version)
    if record is not None and record.after:
        return record.after
    record = yield ReadRecord(stored.kind, item_id=stored.id, version=version + 1)
    if record is not None and record.before:
        return record.before
    what = f"Version {version} of this {stored.kind} is not recorded."
    raise NotFound(f"{what} What was imported has no record of before its first edit.")


def _outcome(put: Put, write: Write) -> tuple[Outcome, Sequence[Write]]:
    return (Item(put.kind, put.id, write.version, write.document), put.stored is None), [write]
