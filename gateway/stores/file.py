"""The read-only store: a JSON document on disk, read whole and read again when it changes.

Invariant: a new version of the file that cannot be used changes nothing; what was read before goes on being served,
and the log says why.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from evaluator.definitions import InvalidDefinitions
from gateway.document import Progress, WholeProject, read_document
from gateway.errors import StoreError, StoreUnavailable
from gateway.ports import Clock, Definitions, FactsQuery, StoredFacts, SystemClock
from gateway.telemetry import Outage, log_event

NANOSECONDS_PER_MS: Final = 1_000_000
"""A version is the moment of the last change in ms, as in other stores; in ns, JavaScript could not tell it exactly."""


class _Project:
    """A project and what is looked up in it."""

    __slots__ = ("definitions", "groups", "people", "whole")

    def __init__(self, whole: WholeProject, version: int) -> None:
        self.whole = whole
        self.definitions = Definitions(whole.id, version, whole.definitions())
        self.people = {
            distinct_id: StoredFacts(person.properties, frozenset(person.cohorts))
            for person in whole.persons
            for distinct_id in person.distinct_ids
        }
        self.groups = {(group.type, group.key): group.properties for group in whole.groups}


class _Content(msgspec.Struct, frozen=True):
    by_token: dict[str, _Project]
    by_id: dict[int, _Project]


Mark = tuple[int, int, int]
"""What tells one state of the file from another without reading it."""


class FileStore:
    """Every store port over one document. Overrides are not kept, as nothing is written."""

    builds: Final = None
    managed: Final = None
    """What is in the file is what is served."""

    def __init__(self, path: str, *, poll_s: float = 1.0, clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._poll_s = poll_s
        self._clock = clock or SystemClock()
        self._look_at = 0.0
        self._catching_up = threading.Lock()
        self._outage = Outage("store_file")
        self._mark: Mark
        self._version = 0
        self._content: _Content

    def __repr__(self) -> str:
        return f"<FileStore {self._path} v{self._version}>"

    async def __aenter__(self) -> "FileStore":
        self._mark = self._look()  # Before reading: a change while reading is then seen next time.
        self._content = await asyncio.to_thread(self._read, self._mark)
        self._look_at = self._clock.monotonic() + self._poll_s
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def load_definitions(self, token: str) -> Definitions | None:
        await self._keep_up()
        project = self._content.by_token.get(token)
        return None if project is None else project.definitions

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        await self._keep_up()
        projects = self._content.by_token
        return {token: projects[token].definitions.version for token in tokens if token in projects}

    async def load_facts(self, query: FactsQuery) -> StoredFacts:
        await self._keep_up()
        project = self._content.by_id.get(query.project_id)
        if project is None:
            return StoredFacts()
        person = project.people.get(query.distinct_ids[0], StoredFacts())
        groups = {kind: project.groups[kind, key] for kind, key in query.groups if (kind, key) in project.groups}
        return msgspec.structs.replace(person, groups=groups)

    async def save_overrides(
        self, project_id: int, distinct_ids: tuple[str, ...], hash_keys: Mapping[str, str]
    ) -> None:
        """Nothing is kept: who asks again gets the same answer only for as long as they send the same ids."""

    async def import_projects(self, projects: Sequence[WholeProject], progress: Progress) -> None:  # noqa: ARG002
        raise StoreError(f"{self._path} is read-only: edit the file, or import into a store such as sqlite:")

    async def export_projects(self) -> list[WholeProject]:
        await self._keep_up()
        return [project.whole for project in self._content.by_id.values()]

    async def _keep_up(self) -> None:
        """Look at the file again, at most every poll_s; one caller looks, the others go on with what is there."""
        if self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + self._poll_s
            await asyncio.to_thread(self._catch_up)

    def _catch_up(self) -> None:
        """Runs to its end in a thread, also when the request that asked for it has gone."""
        if self._catching_up.acquire(blocking=False):  # Else the file takes longer to read than poll_s.
            try:
                self._read_if_changed()
                self._outage.succeeded()
            except StoreUnavailable as error:
                self._outage.failed(error)
            finally:
                self._catching_up.release()

    def _read_if_changed(self) -> None:
        mark = self._look()
        if mark == self._mark:
            return
        try:
            self._content = self._read(mark)
            log_event("store_file_read", path=str(self._path), version=self._version)
        except InvalidDefinitions as error:
            log_event(
                "store_file_refused", logging.ERROR, path=str(self._path), problems=len(error.problems), error=error
            )
        self._mark = mark  # Also of a refused version, which is then not read again and again.

    def _look(self) -> Mark:
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self, mark: Mark) -> _Content:
        try:
            projects = read_document(self._path.read_bytes())
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        self._version = max(self._version + 1, mark[0] // NANOSECONDS_PER_MS)
        read = [_Project(project, self._version) for project in projects]
        return _Content({it.whole.token: it for it in read}, {it.whole.id: it for it in read})
