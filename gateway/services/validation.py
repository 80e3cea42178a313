"""Whether flags and cohorts would work, judged by compiling them as gateways will, and by rules that compiling lacks.

What compiling only warns of, for whatever is stored has to be served somehow, is refused here, where somebody writes
it by hand. Invariant: judging never raises; it gives every problem with its path in what was sent.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from evaluator.cohorts import CYCLIC, TOO_DEEP, UNKNOWN
from evaluator.compile import flag_id_of
from evaluator.definitions import ProjectDocument, decode
from evaluator.dependencies import build_graph
from evaluator.snapshot import build_snapshot
from evaluator.types import Problem
from gateway.services.editing_fields import Document, name_of
from gateway.services.editing_references import (
    ItemKind,
    World,
    around,
    cohort_references,
    filters_of,
    flag_references,
    ids,
)
from gateway.services.flag_rules import flag_problems

MAX_NAMED: Final = 20
"""Flags of a circle, or of a chain, that a message names."""

_PROBE: Final = {"id": -(1 << 62), "key": "", "active": True}
"""A flag that refers to the cohorts judged, as only those that some flag refers to are compiled."""
_PLACE: Final = re.compile(r"\$\.(?P<kind>flags|cohorts)\[(?P<index>\d+)\](?P<rest>.*)", re.DOTALL)
_COHORT: Final = re.compile(r"cohort (?P<id>\d+)")
_OF_COHORT: Final = {
    UNKNOWN.description: "there is no cohort {}",
    CYCLIC.description: "cohort {} refers to itself",
    TOO_DEEP.description: "cohorts refer to cohorts too deep, down to cohort {}",
}


def problems_of(world: World, flags: Mapping[int, str], cohorts: Mapping[int, str]) -> list[Problem]:
    """Everything wrong with these flags and cohorts of the world, given by their ids and paths in what was sent."""
    if not flags and not cohorts:
        return []
    keys = Counter(name_of("flag", it) for it in world.flags.values())
    world = around(world, flags, cohorts)
    problems: dict[str, Problem] = {}
    for it in (
        *(it for flag_id, path in flags.items() for it in _flag(world, flag_id, path, keys)),
        *(it for cohort_id, path in cohorts.items() for it in _cohort(world.cohorts[cohort_id], path)),
        *_dependencies(world, flags),
        *_compiled(world, flags, cohorts),
    ):
        problems.setdefault(it.path, it)
    return list(problems.values())


def _flag(world: World, flag_id: int, path: str, keys: Mapping[str, int]) -> Iterator[Problem]:
    document = world.flags[flag_id]
    key = name_of("flag", document)
    if keys[key] > 1 and not document.get("deleted"):
        yield Problem("duplicate", f"{path}.key", None, f"another flag has the key {key!r}")
    yield from flag_problems(document, world.project, path)


def _cohort(document: Document, path: str) -> Iterator[Problem]:
    if not document.get("name"):
        yield Problem("invalid", f"{path}.name", None, "a cohort needs a name")
    if not document.get("is_static") and not document.get("filters"):
        yield Problem("invalid", f"{path}.filters", None, "a cohort that is not static needs filters")


def _dependencies(world: World, flags: Mapping[int, str]) -> Iterator[Problem]:
    """What is wrong with how these flags depend on flags."""
    places = {flag_id: {to: at for at, to in flag_references("flag", it)} for flag_id, it in world.flags.items()}
    graph = build_graph({flag_id: frozenset(found) for flag_id, found in places.items()})

    absent = {to for found in places.values() for to in found} - places.keys()
    doomed = (
        (graph.cyclic, graph.cyclic, "these flags depend on each other"),
        (graph.missing, graph.missing | absent, "the last of these does not exist"),
    )
    for flag_id, path in flags.items():
        yield from _filters_on_flags(world, flag_id, path)
        for those, within, what in doomed:
            if flag_id in those:
                trail = _trail(flag_id, places, within)
                names = [name_of("flag", world.flags[it]) if it in world.flags else str(it) for it in trail]
                yield Problem("unresolved", path + places[flag_id][trail[1]][1:], None, f"{what}: {_told(names)}")
                break


def _trail(flag_id: int, places: Mapping[int, Mapping[int, str]], within: frozenset[int]) -> list[int]:
    """From a flag on to those within that it depends on, until there are no more or it comes around."""
    trail = [flag_id]
    while following := [it for it in places.get(trail[-1], ()) if it in within]:
        trail.append(following[0])
        if following[0] in trail[:-1]:
            break
    return trail


def _told(names: list[str]) -> str:
    """A trail in words, without the middle of a very long one."""
    if len(names) > MAX_NAMED:
        names = [*names[: MAX_NAMED // 2], "...", *names[-MAX_NAMED // 2 :]]
    return " -> ".join(names)


def _filters_on_flags(world: World, flag_id: int, path: str) -> Iterator[Problem]:
    for at, it in filters_of("flag", world.flags[flag_id]):
        key, value = it.get("key"), it.get("value")
        if it.get("type") != "flag" or not isinstance(key, str):
            continue
        other = world.flags.get(-1 if (to := flag_id_of(key)) is None else to)
        if other is None:
            yield Problem("unresolved", path + at[1:], None, f"there is no flag {key!r}")
        elif not isinstance(value, bool) and not _can_say(other, value):
            what = f"the flag {name_of('flag', other)!r} never says {value!r}"
            yield Problem("never_matches", f"{path}{at[1:]}.value", None, what)


def _can_say(document: Document, value: object) -> bool:
    """Whether a flag can have this text as its value; one of rules may well."""
    filters = document.get("filters")
    if not isinstance(value, str) or not isinstance(filters, dict):
        return False
    multivariate = filters.get("multivariate")
    variants = multivariate.get("variants") if isinstance(multivariate, dict) else None
    keys = [it.get("key") for it in variants if isinstance(it, dict)] if isinstance(variants, list) else []
    return filters.get("version") == 2 or value in keys or value.startswith("holdout-")


def _compiled(world: World, flags: Mapping[int, str], cohorts: Mapping[int, str]) -> Iterator[Problem]:
    """What compiling finds wrong with these."""
    flag_ids = [*flags, *(it for it in world.flags if it not in flags)]
    cohort_ids = [*world.cohorts]
    judged = {f"flags[{index + 1}]": flags[it] for index, it in enumerate(flag_ids) if it in flags}
    judged |= {f"cohorts[{index}]": cohorts[it] for index, it in enumerate(cohort_ids) if it in cohorts}
    document = {
        **world.project,
        "flags": [_probe(cohorts), *(_considered(world.flags[it], is_judged=it in flags) for it in flag_ids)],
        "cohorts": [world.cohorts[it] for it in cohort_ids],
    }
    project = decode(msgspec.json.encode(world.project), ProjectDocument, "project")
    if isinstance(project, tuple):
        yield from project
        return
    found = build_snapshot(msgspec.json.encode(document), 0, lambda _: ()).problems
    untold: dict[int, str] = {}
    for it in found:
        place, cohort = _PLACE.fullmatch(it.path), _COHORT.fullmatch(it.path)
        path = place and judged.get(f"{place['kind']}[{place['index']}]")
        if place and path and it.code != "unresolved":  # Those have been told of, and better.
            yield Problem(it.code, path + place["rest"], None, it.message)
        elif cohort:
            untold[int(cohort["id"])] = _OF_COHORT[it.message].format(cohort["id"])
    yield from _on_untold_cohorts(world, flags, cohorts, untold)


def _probe(cohorts: Mapping[int, str]) -> Document:
    filters = [{"key": "id", "type": "cohort", "value": cohort_id} for cohort_id in cohorts]
    return {**_PROBE, "filters": {"groups": [{"properties": filters}]}}


def _considered(document: Document, *, is_judged: bool) -> Document:
    """One that is off is judged as if it were on."""
    return {**document, "active": True, "deleted": False} if is_judged else document


def _on_untold_cohorts(
    world: World, flags: Mapping[int, str], cohorts: Mapping[int, str], untold: dict[int, str]
) -> Iterator[Problem]:
    """Each filter of what is judged that leads to a cohort of which it cannot be told who is in it."""
    users: defaultdict[int, set[int]] = defaultdict(set)
    for user, document in world.cohorts.items() if untold else ():
        for used in ids(cohort_references("cohort", document)):
            users[used].add(user)
    pending = deque(untold)
    while pending:
        used = pending.popleft()
        new = users[used] - untold.keys()
        untold |= dict.fromkeys(new, untold[used])
        pending += new
    judged: tuple[tuple[ItemKind, Mapping[int, str]], ...] = (("flag", flags), ("cohort", cohorts))
    for kind, paths in judged if untold else ():
        for item_id, path in paths.items():
            for at, used in cohort_references(kind, world.of(kind)[item_id]):
                if used in untold:
                    yield Problem("unresolved", path + at[1:], None, untold[used])
