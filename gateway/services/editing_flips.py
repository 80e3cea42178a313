"""Who would see another value of a flag if it were changed: the flag as it is and as it would be, both evaluated for
people, or groups, from all over the project.

Everything stored of them is at hand, so no answer is uncertain for want of facts; what only a request can say is not
there. Invariant: nothing is written, and the event loop never waits for more than a slice of evaluating.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from evaluator.evaluate import evaluate
from evaluator.snapshot import build_snapshot
from evaluator.types import Context, Facts, Problem
from gateway.document import GroupDocument, PersonDocument
from gateway.editing_ports import PeopleStore
from gateway.edits import MAX_EXAMPLES, MAX_SAMPLE, FlippedValue, Flips
from gateway.errors import Invalid
from gateway.services.editing_fields import Document
from gateway.services.editing_references import World, read_around
from gateway.services.editing_works import Deciding, judge, propose, propose_change

SLICE: Final = 500
"""Subjects evaluated at once, which takes some tens of milliseconds."""

Subject = tuple[Context, Facts]
Value = bytes | None


class Comparison(msgspec.Struct, frozen=True):
    """Two definitions documents with the flag's key in each, None where there is no such flag to ask for."""

    before: tuple[bytes, str | None]
    after: tuple[bytes, str | None]
    group_type: str | None
    """What the flag is for, if not for persons."""


def refuse_sample(sample: int) -> None:
    """Raises Invalid for a sample that is too large, or none."""
    if not 0 < sample <= MAX_SAMPLE:
        raise Invalid([Problem("invalid", "sample", None, f"a sample has 1 to {MAX_SAMPLE} persons or groups")])


def comparing(project_id: int, ref: int | str | None, fields: Mapping[str, Any]) -> Deciding[Comparison]:
    """The flag as it is and as it would be, if that would work; no `ref` is a flag to be created."""
    put = yield from (propose("flag", fields) if ref is None else propose_change("flag", ref, fields))
    yield from judge(project_id, put)
    world = yield from read_around(project_id, "flag", *filter(None, (put.before, put.after)))
    world.flags.pop(put.id, None)
    return Comparison(_side(world, put.before), _side(world, put.after), _group_type(world, put.after)), ()


def _group_type(world: World, document: Document) -> str | None:
    """What the flag is for, if not for persons; it need not be sound, as broken ones may be switched off."""
    filters, names = document.get("filters"), dict(enumerate(world.project.get("group_types") or ()))
    index = filters.get("aggregation_group_type_index") if isinstance(filters, dict) else None
    return names.get(index) if isinstance(index, int) else None


def _side(world: World, document: Document) -> tuple[bytes, str | None]:
    is_there = bool(document) and not document.get("deleted")
    flags = [*([document] if is_there else ()), *world.flags.values()]
    encoded = msgspec.json.encode({**world.project, "flags": flags, "cohorts": list(world.cohorts.values())})
    return encoded, document["key"] if is_there else None


async def count_flips(project_id: int, comparison: Comparison, store: PeopleStore, sample: int, now: datetime) -> Flips:
    """How the two differ for a sample of those who are known."""
    subjects: Sequence[Subject]
    if comparison.group_type is None:
        subjects = [_person(it) for it in await store.sample_persons(project_id, sample) if it.distinct_ids]
    else:
        subjects = [_group(it) for it in await store.sample_groups(project_id, comparison.group_type, sample)]
    before, after = await asyncio.to_thread(lambda: (Side(*comparison.before), Side(*comparison.after)))
    failed = 0
    flipped: dict[tuple[bytes, bytes], list[str]] = {}
    for start in range(0, len(subjects), SLICE):
        part = subjects[start : start + SLICE]
        values = await asyncio.to_thread(_values, before, after, part, now)
        for (context, _), (was, shall) in zip(part, values, strict=True):
            if was is None or shall is None:
                failed += 1
            elif was != shall:
                flipped.setdefault((was, shall), []).append(context.distinct_id)
    return Flips(sampled=len(subjects), flipped=sum(map(len, flipped.values())), failed=failed, by_value=_told(flipped))


def _values(before: "Side", after: "Side", subjects: Sequence[Subject], now: datetime) -> list[tuple[Value, Value]]:
    return [(before.value(it, now), after.value(it, now)) for it in subjects]


def _told(flipped: Mapping[tuple[bytes, bytes], list[str]]) -> list[FlippedValue]:
    values = [
        FlippedValue(
            before=msgspec.json.decode(was),
            after=msgspec.json.decode(shall),
            count=len(who),
            examples=who[:MAX_EXAMPLES],
        )
        for (was, shall), who in flipped.items()
    ]
    return sorted(values, key=lambda it: -it.count)


class Side:
    """One of the two, compiled."""

    def __init__(self, document: bytes, key: str | None) -> None:
        self._snapshot = build_snapshot(document, 0, lambda _: ())
        self._key = key

    def value(self, subject: Subject, now: datetime) -> Value:
        """What the flag says, as JSON; None if it cannot be told. A flag that is off, or not there, says false."""
        outcomes = evaluate(self._snapshot, *subject, now).outcomes
        result = next((it.result for it in outcomes if it.result.key == self._key), None)
        if result is None:
            return b"false"
        return None if result.failed else msgspec.json.encode(result.rule.value if result.rule else result.value)


def _person(it: PersonDocument) -> Subject:
    """The id stands for the device's as well: which device somebody uses, only a request says."""
    context = Context(distinct_id=it.distinct_ids[0], device_id=it.distinct_ids[0])
    return context, Facts(it.properties, frozenset(it.cohorts), {}, {})


def _group(it: GroupDocument) -> Subject:
    context = Context(distinct_id=it.key, groups={it.type: it.key})
    return context, Facts({}, frozenset(), {it.type: it.properties}, {})
