"""Learns persons and groups from events: gathers what they say, and has it stored behind everybody's back.

Reading events is wire/capture.py's. Invariant: what waits is bounded in number and in bytes, no request waits for a
store, and only what events say expressly of somebody is ever stored.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from config.clients import Capture
from gateway.document import GroupDocument, PersonDocument
from gateway.editing_ports import PeopleStore, Update, Upserted
from gateway.errors import AuthenticationFailed, StoreError, Unavailable
from gateway.metrics import Metrics
from gateway.ports import Clock, Deadline
from gateway.services.held import Held
from gateway.telemetry import Outage, log_event

MAX_PROPERTIES: Final = 1000
"""Of one person or group that wait to be stored."""
MAX_PROPERTY_BYTES: Final = 64 * 1024
MAX_TOKENS: Final = 10
"""Projects that one request may speak of. SDKs speak of one."""
AT_ONCE: Final = 500
AT_ONCE_BYTES: Final = 1 << 20
"""What one transaction stores at most."""
REST_S: Final = 1.0
"""For how long what is said of the same person is gathered."""
WRITE_TIMEOUT_S: Final = 10.0
TRIES: Final = 20
RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 30.0
CLOSE_TIMEOUT_S: Final = 1.0

Find = Callable[[str, Deadline], Awaitable[Held]]
"""The snapshot of a token. Raises AuthenticationFailed when there is none, Unavailable when that cannot be told."""


class _Known(Struct):
    """What is to be stored of one person or group."""

    joined: dict[str, None] = {}
    put: dict[str, bytes] = {}
    once: dict[str, bytes] = {}


class _Project(Struct):
    """By type, which is empty for persons, and key. The numbers are what it all takes of the room there is."""

    known: dict[tuple[str, str], _Known] = {}
    number: int = 0
    bytes: int = 0


class _Row(Struct, frozen=True):
    """A place of a batch."""

    ids: list[str]
    known: _Known


class LearningService:
    """Use as an async context manager: it owns the task that writes."""

    def __init__(
        self,
        store: PeopleStore,
        find: Find,
        clock: Clock,
        metrics: Metrics,
        settings: Capture,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._people = store
        self._find = find
        self._clock = clock
        self._metrics = metrics
        self._settings = settings
        self._jitter = jitter
        self._projects: dict[str, _Project] = {}
        self._bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._is_closing = asyncio.Event()
        self._outage = Outage("learning_store")
        self.waiting = 0
        """Persons and groups, and ids to be joined, that wait or are being stored."""

    def __repr__(self) -> str:
        return f"<LearningService {self.waiting} waiting, {self._bytes} bytes>"

    async def __aenter__(self) -> "LearningService":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closing.set()
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=CLOSE_TIMEOUT_S)
            self._metrics.learned("stopped", self.waiting)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def learn(self, updates: Iterable[Update]) -> None:
        """Have these stored soon. Waits for nothing: a project not held here is looked for meanwhile."""
        are_known: dict[str, bool] = {}
        for update in updates:
            if update.token not in are_known and len(are_known) < MAX_TOKENS:
                are_known[update.token] = await self._may_be_known(update.token)
            if are_known.get(update.token):
                self._add(update)
            else:
                self._metrics.learned("unknown")

    async def _may_be_known(self, token: str) -> bool:
        try:
            await self._find(token, Deadline(self._clock, 0.0))
        except AuthenticationFailed:
            return False
        except Unavailable:
            pass
        return True

    def _add(self, update: Update) -> None:
        project = self._projects.get(update.token) or _Project()
        of = (update.group_type, update.key)
        known = project.known.get(of) or _Known()
        number = (of not in project.known) + (update.joined != "" and update.joined not in known.joined)
        size = sum(len(name) + len(it) for values in (update.put, update.once) for name, it in values.items())
        settings = self._settings
        if self.waiting + number > settings.max_persons or self._bytes + size > settings.max_buffered_bytes:
            self._metrics.learned("full")
            return
        project.known[of] = known
        project.number += number
        project.bytes += size
        self.waiting += number
        self._bytes += size
        if update.joined:
            known.joined[update.joined] = None
        self._put(known.put, update.put)
        self._put(known.once, {name: it for name, it in update.once.items() if name not in known.once})
        self._projects[update.token] = project
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    def _put(self, properties: dict[str, bytes], given: Mapping[str, bytes]) -> None:
        """Put these over the others, but for what is too large, or too many."""
        for name, value in given.items():
            is_one_more = name not in properties
            if len(value) > MAX_PROPERTY_BYTES or (is_one_more and len(properties) >= MAX_PROPERTIES):
                self._metrics.learned("oversized")
            else:
                properties[name] = value

    async def _write(self) -> None:
        while self._projects:
            await self._rest(REST_S)
            for token in list(self._projects):
                project = self._projects.pop(token)
                try:
                    await self._store_project(token, project.known)
                finally:
                    self.waiting -= project.number
                    self._bytes -= project.bytes

    async def _store_project(self, token: str, known: Mapping[tuple[str, str], _Known]) -> None:
        persons = [row for (kind, key), it in known.items() if not kind for row in _rows(key, it)]
        for batch in _batches(persons):
            await self._store(token, len(batch), partial(self._upsert_persons, batch))
        groups = [_Row([kind, key], it) for (kind, key), it in known.items() if kind]
        for batch in _batches(groups):
            await self._store(token, len(batch), partial(self._upsert_groups, batch))

    async def _store(self, token: str, number: int, upsert: Callable[[int], Awaitable[Upserted]]) -> None:
        """Store one batch, again and again while that may yet help."""
        for tries in range(TRIES):
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    held = await self._find(token, Deadline(self._clock, WRITE_TIMEOUT_S))
                    outcome = await upsert(held.snapshot.project_id)
            except AuthenticationFailed:
                self._metrics.learned("unknown", number)
                return
            except (StoreError, Unavailable, TimeoutError) as error:
                self._outage.failed(error)
                if self._is_closing.is_set():
                    break
                await self._rest(min(RETRY_S * 2**tries, MAX_RETRY_S) * (1 - self._jitter() / 2))
            except Exception as error:  # A bug in an adapter must not pass unseen because nobody waits.
                log_event("learning_crashed", logging.ERROR, exception=error)
                break
            else:
                self._outage.succeeded()
                self._metrics.learned("stored", number - len(outcome.refused))
                self._metrics.learned("refused", len(outcome.refused))
                return
        self._metrics.learned("failed", number)

    async def _upsert_persons(self, rows: Sequence[_Row], project_id: int) -> Upserted:
        persons = [PersonDocument(distinct_ids=row.ids, properties=_decoded(row.known.put)) for row in rows]
        return await self._people.upsert_persons(project_id, persons, [_decoded(row.known.once) for row in rows])

    async def _upsert_groups(self, rows: Sequence[_Row], project_id: int) -> Upserted:
        groups = [
            GroupDocument(type=kind, key=key, properties=_decoded(row.known.put))
            for row in rows
            for kind, key in [row.ids]
        ]
        return await self._people.upsert_groups(project_id, groups)

    async def _rest(self, for_s: float) -> None:
        """Wait, but not while somebody waits for the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._is_closing.wait()


def _rows(distinct_id: str, known: _Known) -> Iterator[_Row]:
    """What a person comes to: first the joining, each id by itself as it may be refused, so that the properties find
    the person who has one of them already."""
    for other in known.joined:
        yield _Row([distinct_id, other], _Known())
    if known.put or known.once or not known.joined:
        yield _Row([distinct_id], known)


def _batches(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(it) for values in (row.known.put, row.known.once) for it in values.values())
        if len(batch) >= AT_ONCE or size >= AT_ONCE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _decoded(values: Mapping[str, bytes]) -> dict[str, Any]:
    return {name: msgspec.json.decode(value) for name, value in values.items()}
