"""Cohorts: trees of person properties and other cohorts, compiled; static membership is a fact.

A cohort is evaluated once per request, however many flags use it. A cohort that is missing, refers to itself, or nests
too deep cannot be told, whatever the facts: flags whose outcome it could change fail with that reason. One whose
filters are absent or make no sense has no members.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeGuard

import msgspec

from evaluator.definitions import CohortDocument, FilterDocument
from evaluator.filters import Filter, Test, Want
from evaluator.frame import Frame, Wanted
from evaluator.types import NOT_FETCHED, Missing, Problem

MAX_NESTING: Final = 32
"""How deep cohorts may refer to cohorts, and trees may nest; beyond that no honest cohort goes."""

UNKNOWN: Final = Missing("dependency_not_found_cohort", "A cohort that the flag depends on does not exist")
CYCLIC: Final = Missing("dependency_cycle_cohort", "A cohort that the flag depends on refers to itself")
TOO_DEEP: Final = Missing("cohort_filters_parsing_error", "A cohort that the flag depends on nests too deep")


class Node:
    """A part of a cohort's tree: its test, and what it wants when the test cannot tell."""

    __slots__ = ("children", "label", "test", "want")

    def __init__(self, label: str, test: Test, want: Want, children: "tuple[Node | Filter, ...]" = ()) -> None:
        self.label = label
        self.test = test
        self.want = want
        self.children = children


CompileLeaf = Callable[[FilterDocument, str], Filter]


class Cohorts:
    """The cohorts of a project, compiled when first referred to."""

    def __init__(
        self, documents: Mapping[int, tuple[str, CohortDocument]], compile_leaf: CompileLeaf, problems: list[Problem]
    ) -> None:
        """`documents` has each cohort with its path; `compile_leaf` makes filters of their person properties."""
        self._documents = documents
        self._compile_leaf = compile_leaf
        self._problems = problems
        self._compiled: dict[int, Node] = {}
        self._compiling: list[int] = []
        self._reach: list[int] = []
        self._depths: dict[int, int] = {}

    def filter(self, document: FilterDocument, path: str, *, is_negated: bool = False) -> Filter | None:
        """The filter on membership; None when it names no cohort, or in a way that is not known."""
        cohort_id = cohort_id_of(document.value)
        operator = document.operator or "in"
        if cohort_id is None or operator not in {"in", "exact", "not_in"}:
            return None
        node = self._node(cohort_id)
        if self._reach:
            self._reach[-1] = max(self._reach[-1], self._depths.get(cohort_id, 0) + 1)
        wants_member = (operator == "not_in") is is_negated

        def test(frame: Frame) -> bool | None:
            member = node.test(frame)
            return None if member is None else member is wants_member

        def seen(frame: Frame) -> object:
            member = node.test(frame)
            return NOT_FETCHED if member is None else member

        return Filter(document, path, test, node.want, seen, parts=(node,))

    def _node(self, cohort_id: int) -> Node:
        known = self._compiled.get(cohort_id)
        if known is not None:
            return known
        if cohort_id in self._compiling:
            return self._untold(cohort_id, CYCLIC)
        if cohort_id not in self._documents:
            return self._untold(cohort_id, UNKNOWN)
        if len(self._compiling) >= MAX_NESTING:
            return self._untold(cohort_id, TOO_DEEP)
        self._compiling.append(cohort_id)
        self._reach.append(0)
        node = self._compile(cohort_id)
        self._compiling.pop()
        depth = self._depths[cohort_id] = self._reach.pop()
        if depth >= MAX_NESTING:  # Reached over cohorts that were compiled before.
            node = self._untold(cohort_id, TOO_DEEP)
        self._compiled[cohort_id] = node
        return node

    def _untold(self, cohort_id: int, why: Missing) -> Node:
        self._problems.append(Problem("unresolved", f"cohort {cohort_id}", None, why.description))

        def test(frame: Frame) -> bool | None:
            frame.in_doubt = True
            return None

        return Node(f"cohort {cohort_id}", test, lambda _, wanted: wanted.lacks(why))

    def _compile(self, cohort_id: int) -> Node:
        path, document = self._documents[cohort_id]
        label = f"cohort {cohort_id}" + (f" ({document.name})" if document.name else "")
        if document.is_static:
            return _static(cohort_id, label)
        tree = (document.filters or {}).get("properties")
        root = self._tree(tree, f"{path}.filters.properties", 0) if tree is not None else _nobody(label)

        def test(frame: Frame) -> bool | None:
            memory = frame.cohorts
            if cohort_id in memory:
                return memory[cohort_id]
            member = memory[cohort_id] = root.test(frame)
            return member

        return Node(label, test, root.want, (root,))

    def _tree(self, tree: Any, path: str, depth: int) -> Node:
        if not _is_tree(tree) or depth > MAX_NESTING:
            self._problems.append(Problem("undecodable", path, None, "these filters make no sense, so nobody matches"))
            return _nobody(path)
        children: list[Node | Filter] = []
        for index, item in enumerate(tree["values"]):
            at = f"{path}.values[{index}]"
            if isinstance(item, dict) and "values" in item:
                children.append(self._tree(item, at, depth + 1))
            else:
                children.append(self._leaf(item, at))
        return (any_of if tree["type"] == "OR" else all_of)(children)

    def _leaf(self, item: Any, path: str) -> Node | Filter:
        try:
            document = msgspec.convert(item, FilterDocument)
        except msgspec.ValidationError as error:
            self._problems.append(Problem("undecodable", path, None, f"{error}; nobody matches"))
            return _nobody(path)
        if document.type == "cohort":
            found = self.filter(document, path, is_negated=bool(document.negation))
        elif document.type in {"person", "person_metadata"}:
            leaf = self._compile_leaf(document, path)
            found = negated(leaf) if document.negation else leaf
        else:
            found = None
        if found is None:
            self._problems.append(Problem("undecodable", path, None, "cohorts cannot have this filter; nobody matches"))
            return _nobody(path)
        return found


def negated(leaf: Filter) -> Filter:
    """The opposite of a filter; what cannot be told stays untold."""

    def test(frame: Frame) -> bool | None:
        found = leaf.test(frame)
        return None if found is None else not found

    return Filter(leaf.document, leaf.path, test, leaf.want, leaf.seen)


def all_of(children: Iterable[Node | Filter]) -> Node:
    """True when all children are; false as soon as one is, whatever cannot be told of the others."""
    return _combined("all of", tuple(children), settles=False)


def any_of(children: Iterable[Node | Filter]) -> Node:
    """True as soon as one child is, whatever cannot be told of the others."""
    return _combined("any of", tuple(children), settles=True)


def _combined(label: Literal["all of", "any of"], children: tuple[Node | Filter, ...], *, settles: bool) -> Node:
    def test(frame: Frame) -> bool | None:
        verdict: bool | None = not settles
        for child in children:
            found = child.test(frame)
            if found is settles:
                return settles
            if found is None:
                verdict = None
        return verdict

    def want(frame: Frame, wanted: Wanted) -> None:
        for child in children:
            if child.test(frame) is None:
                child.want(frame, wanted)

    return Node(label, test, want, children)


def _static(cohort_id: int, label: str) -> Node:
    def test(frame: Frame) -> bool | None:
        members_of = frame.facts.cohorts
        if isinstance(members_of, Missing):
            frame.in_doubt = True
            return None
        return cohort_id in members_of

    return Node(label, test, lambda frame, wanted: wanted.cohort(cohort_id, frame.facts))


def _nobody(label: str) -> Node:
    return Node(label, lambda _: False, lambda _, __: None)


def _is_tree(tree: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(tree, dict)
        and tree.get("type") in {"AND", "OR", "property"}
        and isinstance(tree.get("values"), list)
    )


def cohort_id_of(value: object) -> int | None:
    """The id in the value of a filter on a cohort, a number that some tools write as text; None when it is not one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else None
