"""The graph of flags that depend on flags: what is missing, what is cyclic, and an order to evaluate in.

Works on ids alone, without recursion, so that no chain of flags is too long for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec


class Graph(msgspec.Struct, frozen=True):
    """`order` has every flag that can be evaluated, dependencies first, otherwise as they came.

    `missing` has flags with a dependency that does not exist, however far down; `cyclic` those on a cycle or above
    one. `depended_on` has flags that others need the outcome of.
    """

    order: tuple[int, ...]
    missing: frozenset[int]
    cyclic: frozenset[int]
    depended_on: frozenset[int]


def build_graph(dependencies: Mapping[int, frozenset[int]]) -> Graph:
    """The graph of flag id -> ids it depends on. Ids that are not keys do not exist."""
    dependents: defaultdict[int, list[int]] = defaultdict(list)
    waiting: dict[int, int] = {}
    missing: set[int] = set()
    for flag_id, wanted in dependencies.items():
        existing = [other for other in wanted if other in dependencies]
        if len(existing) < len(wanted):
            missing.add(flag_id)
        waiting[flag_id] = len(existing)
        for other in existing:
            dependents[other].append(flag_id)
    stage = [flag_id for flag_id, count in waiting.items() if not count]
    order: list[int] = []
    while stage:
        order += stage
        following: list[int] = []
        for done in stage:
            for dependent in dependents.get(done, ()):
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    following.append(dependent)
                if done in missing:
                    missing.add(dependent)
        stage = following
    return Graph(tuple(order), frozenset(missing), frozenset(waiting.keys() - set(order)), frozenset(dependents))


def with_dependencies(ids: Iterable[int], dependencies: Mapping[int, frozenset[int]]) -> set[int]:
    """These flags and all that they depend on, however far down."""
    found: set[int] = set()
    pending = list(ids)
    while pending:
        flag_id = pending.pop()
        if flag_id not in found:
            found.add(flag_id)
            pending += dependencies.get(flag_id, ())
    return found
