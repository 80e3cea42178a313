"""Who refers to whom: filters on flags and cohorts, found in documents however they came to be stored.

Everything here walks plain JSON and never raises, for what is stored need not be sound. Invariant: stored references
are by id, whatever they were written as.
"""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from evaluator.cohorts import cohort_id_of
from evaluator.compile import flag_id_of
from gateway.editing_ports import Item, Kind, Read, ReadItems
from gateway.services.editing_fields import Document, name_of

ItemKind = Literal["flag", "cohort"]
ITEM_KINDS: Final[tuple[ItemKind, ItemKind]] = ("flag", "cohort")
Documents = Mapping[int, Document]
References = Callable[[ItemKind, Document], Iterator[tuple[str, int]]]

MAX_ROUNDS: Final = 8
"""Reads for following references; a longer chain is cut short by reading everything."""


class World(msgspec.Struct, frozen=True):
    """A project, and flags and cohorts in it by id, as they are or shall be. Deleted ones are not in it."""

    project: Document
    flags: dict[int, Document]
    cohorts: dict[int, Document]

    def of(self, kind: Kind) -> dict[int, Document]:
        return self.flags if kind == "flag" else self.cohorts


def filters_of(kind: ItemKind, document: Document) -> Iterator[tuple[str, Document]]:
    """Each filter of a flag or cohort with its path below "$". They can be changed in place."""
    filters = document.get("filters")
    if not isinstance(filters, dict):
        return
    if kind == "cohort":
        yield from _leaves(filters.get("properties"))
    elif filters.get("version") == 2:
        for at, rule in _numbered(filters.get("rules"), "$.filters.rules"):
            targeting = rule.get("targeting")
            if isinstance(targeting, dict):
                yield from _numbered(targeting.get("properties"), f"{at}.targeting.properties")
    else:
        for at, condition in _numbered(filters.get("groups"), "$.filters.groups"):
            yield from _numbered(condition.get("properties"), f"{at}.properties")


def _numbered(values: object, path: str) -> Iterator[tuple[str, Document]]:
    for index, value in enumerate(values if isinstance(values, list) else ()):
        if isinstance(value, dict):
            yield f"{path}[{index}]", value


def _leaves(tree: object) -> Iterator[tuple[str, Document]]:
    pending = [("$.filters.properties", tree)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict) and "values" in value:
            pending += reversed(list(_numbered(value["values"], f"{path}.values")))
        elif isinstance(value, dict):
            yield path, value


def flag_references(kind: ItemKind, document: Document) -> Iterator[tuple[str, int]]:
    """The ids of flags that it refers to, with the paths of the filters that do. Cohorts refer to none."""
    if kind == "flag":
        for path, it in filters_of(kind, document):
            key = it.get("key")
            if it.get("type") == "flag" and isinstance(key, str) and (flag_id := flag_id_of(key)) is not None:
                yield path, flag_id


def cohort_references(kind: ItemKind, document: Document) -> Iterator[tuple[str, int]]:
    """Likewise of cohorts."""
    for path, it in filters_of(kind, document):
        if it.get("type") == "cohort" and (cohort_id := cohort_id_of(it.get("value"))) is not None:
            yield path, cohort_id


def ids(references: Iterable[tuple[str, int]]) -> frozenset[int]:
    return frozenset(item_id for _, item_id in references)


def flag_names(document: Document) -> frozenset[str]:
    """The texts by which a flag names others, ids among them."""
    keys = (it.get("key") for _, it in filters_of("flag", document) if it.get("type") == "flag")
    return frozenset(key for key in keys if isinstance(key, str))


def refer_by_id(
    kind: ItemKind, document: Document, flags: Documents, keys: Mapping[str, int], cohorts: Mapping[str, int]
) -> None:
    """Turn keys of flags and names of cohorts into their ids. An id of a flag is taken for one before it is taken for
    a key; what is unknown stays as it is."""
    for _, it in filters_of(kind, document):
        if it.get("type") == "flag" and isinstance(key := it.get("key"), str):
            if flag_id_of(key) not in flags and key in keys:
                it["key"] = str(keys[key])
        elif it.get("type") == "cohort" and isinstance(name := it.get("value"), str) and cohort_id_of(name) is None:
            it["value"] = cohorts.get(name, name)


def used_by(world: World) -> Mapping[tuple[Kind, int], list[str]]:
    """What each flag and cohort is used by, in words."""
    users: defaultdict[tuple[Kind, int], list[str]] = defaultdict(list)
    for kind in ITEM_KINDS:
        for document in world.of(kind).values():
            name = f"{kind} {name_of(kind, document)}"
            for flag_id in ids(flag_references(kind, document)):
                users["flag", flag_id].append(name)
            for cohort_id in ids(cohort_references(kind, document)):
                users["cohort", cohort_id].append(name)
    return users


def decoded(items: Iterable[Item]) -> dict[int, Document]:
    """The documents of those that are not deleted, by id."""
    documents = {it.id: msgspec.json.decode(it.document) for it in items}
    return {item_id: it for item_id, it in documents.items() if not it.get("deleted")}


def read_project(project_id: int) -> Generator[Read, Any, Document]:
    items = yield ReadItems("project", ids=(project_id,))
    document: Document = msgspec.json.decode(items[0].document)
    return document


def read_everything(project_id: int) -> Generator[Read, Any, World]:
    """The whole project as it is."""
    project = yield from read_project(project_id)
    flags = yield ReadItems("flag", is_all=True)
    cohorts = yield ReadItems("cohort", is_all=True)
    return World(project, decoded(flags), decoded(cohorts))


def around(world: World, flags: Iterable[int], cohorts: Iterable[int]) -> World:
    """As much of the world as these flags and cohorts depend on."""
    found = _reached("flag", flag_references, flags, world.flags)
    used = {it for document in found.values() for it in ids(cohort_references("flag", document))}
    return World(world.project, found, _reached("cohort", cohort_references, {*cohorts, *used}, world.cohorts))


def _reached(kind: ItemKind, references: References, wanted: Iterable[int], there: Documents) -> dict[int, Document]:
    found: dict[int, Document] = {}
    pending = list(wanted)
    while pending:
        item_id = pending.pop()
        if item_id in there and item_id not in found:
            found[item_id] = there[item_id]
            pending += ids(references(kind, there[item_id]))
    return found


def read_around(project_id: int, kind: ItemKind, *documents: Document) -> Generator[Read, Any, World]:
    """As much of the project as these documents of flags, or of cohorts, depend on; and flags with the same keys."""
    project = yield from read_project(project_id)
    flags: dict[int, Document] = {}
    if kind == "flag":
        items = yield ReadItems("flag", keys=tuple({str(it.get("key")) for it in documents}))
        flags |= decoded(items)
        wanted = {it for document in documents for it in ids(flag_references("flag", document))}
        yield from _follow("flag", flag_references, wanted, flags)
    of_documents = {it for document in documents for it in ids(cohort_references(kind, document))}
    of_flags = {it for document in flags.values() for it in ids(cohort_references("flag", document))}
    cohorts: dict[int, Document] = {}
    yield from _follow("cohort", cohort_references, of_documents | of_flags, cohorts)
    return World(project, flags, cohorts)


def _follow(
    kind: ItemKind, references: References, wanted: set[int], found: dict[int, Document]
) -> Generator[Read, Any, None]:
    """Read those with the ids wanted into `found`, and all that they refer to."""
    asked: set[int] = set()
    rounds = 0
    while wanted:
        rounds += 1
        is_all = rounds > MAX_ROUNDS
        items = yield ReadItems(kind, ids=() if is_all else tuple(sorted(wanted)), is_all=is_all)
        documents = decoded(items)
        found |= documents
        if is_all:
            return
        asked |= wanted
        wanted = {it for document in documents.values() for it in ids(references(kind, document))} - asked
