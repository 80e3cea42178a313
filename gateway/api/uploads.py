"""Stores a stream of lines batch by batch, each of them before more is read, and tells what became of it.

What a line means is the endpoint's. Invariant: what an answer counts as stored is stored, also when the stream, the
store or the time for it ended in the middle.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

import msgspec

from evaluator.definitions import UNDECODABLE
from gateway.api.calls import Answer, Call, answer, in_time
from gateway.api.reading import MAX_LINE_BYTES, Line, read_batches
from gateway.editing_ports import Upserted
from gateway.errors import GatewayError, Overloaded
from gateway.wire.bodies import MAX_DEPTH, is_too_deep
from gateway.wire.management import LineProblem, PeopleAnswer

MAX_PROBLEMS: Final = 100
"""That an answer tells of; further ones are only counted."""

T = TypeVar("T")


class RefusedLine(Exception):
    """A line that could be read and makes no sense."""


class _Outcome:
    """What became of the lines so far."""

    def __init__(self) -> None:
        self._created = self._updated = self._refused = 0
        self._problems: list[LineProblem] = []

    def refuse(self, line: int, code: str, message: str) -> None:
        self._refused += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(LineProblem(line, code, message))

    def add(self, stored: Upserted, numbers: Sequence[int]) -> None:
        """Take in what became of the lines with these numbers."""
        self._created += stored.created
        self._updated += stored.updated
        for position, why in stored.refused:
            self.refuse(numbers[position], "refused", why)

    def told(self) -> PeopleAnswer:
        stored = self._created + self._updated
        return PeopleAnswer(stored, self._created, self._updated, self._refused, self._problems)


async def upload(
    call: Call,
    read: Callable[[bytes], T],
    store: Callable[[Sequence[T]], Awaitable[Upserted]],
    begin: Callable[[], Awaitable[object]] | None = None,
) -> Answer:
    """What became of the lines; `begin` runs before the first of them. What is raised tells of those so far as well."""
    if call.uploads.taken >= call.api.max_uploads:
        raise Overloaded
    call.uploads.taken += 1
    outcome = _Outcome()
    try:
        if begin is not None:
            async with in_time(call.api):
                await begin()
        await _store_all(call, read, store, outcome)
    finally:
        call.uploads.taken -= 1
    return answer(outcome.told())


async def _store_all(
    call: Call,
    read: Callable[[bytes], T],
    store: Callable[[Sequence[T]], Awaitable[Upserted]],
    outcome: _Outcome,
) -> None:
    try:
        async with aclosing(read_batches(call.receive, call.headers, call.api.max_upload_bytes)) as batches:
            async for batch in batches:
                rows, numbers = _read(batch, read, outcome)
                if rows:
                    async with in_time(call.api):
                        outcome.add(await store(rows), numbers)
    except GatewayError as error:
        error.members = msgspec.to_builtins(outcome.told())
        raise


def _read(batch: Sequence[Line], read: Callable[[bytes], T], outcome: _Outcome) -> tuple[list[T], list[int]]:
    """What could be read, and the numbers of those lines."""
    rows: list[T] = []
    numbers: list[int] = []
    for number, line in batch:
        if line is None:
            outcome.refuse(number, "too_long", f"the line is longer than {MAX_LINE_BYTES} bytes")
        elif is_too_deep(line):
            outcome.refuse(number, "undecodable", f"the line is nested deeper than {MAX_DEPTH} levels")
        else:
            try:
                rows.append(read(line))
            except RefusedLine as error:
                outcome.refuse(number, "invalid", str(error))
            except UNDECODABLE as error:
                outcome.refuse(number, "undecodable", str(error))
            else:
                numbers.append(number)
    return rows, numbers
