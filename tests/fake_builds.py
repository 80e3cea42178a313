"""In-memory stand-ins for what the builder works with: the store of builds, and the shared cache as it fills it.

They keep the promises of the ports by the clock they are given. Invariant: what a test tells them - `errors`, `hangs`,
`at` - takes effect at the next call of that name, before anything is done.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from gateway.building_ports import (
    ANOMALOUS_FACTOR,
    ANOMALOUS_FROM_BYTES,
    MAX_ANOMALOUS,
    Backlog,
    Job,
    LeaseLost,
    Published,
    Source,
)
from gateway.errors import StoreError
from gateway.ports import ETAG_CHARACTERS, Clock

BATCH = 3
"""Items of a batch, so few that small projects have several."""
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Commanded:
    """Calls that raise what `errors` has for their name, wait for what `hangs` has, and first run what `at` has."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.hangs: dict[str, asyncio.Event] = {}
        self.at: dict[str, Callable[[], None]] = {}

    async def called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.at:
            self.at.pop(name)()
        if name in self.hangs:
            await self.hangs[name].wait()
        if name in self.errors:
            raise self.errors[name]
        await asyncio.sleep(0)


@dataclass
class Stored:
    """A project as stored: items by id, as they were written."""

    token: str
    version: int
    shell: bytes
    items: dict[str, dict[int, bytes]] = field(default_factory=lambda: {"flag": {}, "cohort": {}})


@dataclass
class Row:
    """How a project stands with the builder."""

    dirty_since: datetime | None
    verified_at: datetime
    rest_until: datetime = LONG_AGO
    leased_until: datetime = LONG_AGO
    pace_ms: int = 0
    lease: str | None = None
    failures: int = 0
    problem: str | None = None
    is_refused: bool = False


class FakeBuilds(Commanded):
    """A BuildStore. `edit` is what editors do."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.projects: dict[int, Stored] = {}
        self.rows: dict[int, Row] = {}
        self.in_force: dict[int, Published] = {}
        self.parts: dict[tuple[int, str], list[bytes]] = {}
        self.announced: list[int] = []
        self.counted: list[int] = []
        self.open = 0
        self._clock = clock
        self._leases = 0

    def edit(self, project_id: int, *flags: dict[str, Any], shell: bytes | None = None, **members: Any) -> int:
        """The version of a project, new or not, after these flags were put into it, or another shell."""
        token = f"phc_{project_id}"
        stored = self.projects.setdefault(project_id, Stored(token, 0, b""))
        document = {"id": project_id, "token": token, **members}
        stored.shell = shell or (msgspec.json.encode(document) if members or not stored.shell else stored.shell)
        stored.items["flag"].update((flag["id"], msgspec.json.encode(flag)) for flag in flags)
        return self._bump(project_id)

    def edit_unseen(self, project_id: int, shell: bytes) -> None:
        """Change what is stored as somebody does who goes around everything."""
        self.projects[project_id].shell = shell

    def document(self, project_id: int) -> bytes:
        """What is published."""
        return b"".join(self.parts[project_id, self.in_force[project_id].build])

    def _bump(self, project_id: int) -> int:
        stored, now = self.projects[project_id], self._clock.now()
        stored.version = max(stored.version + 1, int(now.timestamp() * 1000))
        row = self.rows.setdefault(project_id, Row(now, now))
        row.dirty_since = row.dirty_since or now
        if row.failures:
            row.rest_until = min(row.rest_until, now + timedelta(milliseconds=row.pace_ms))
        return stored.version

    async def claim(self, limit: int, lease_s: float) -> list[Job]:
        await self.called("claim")
        now = self._clock.now()
        due = {id_: max(row.dirty_since, row.rest_until) for id_, row in self.rows.items() if row.dirty_since}
        return self._lease([id_ for id_ in sorted(due, key=due.__getitem__) if due[id_] <= now], limit, lease_s)

    async def claim_unverified(self, limit: int, lease_s: float, older_than_s: float) -> list[Job]:
        await self.called("claim_unverified")
        before = self._clock.now() - timedelta(seconds=older_than_s)
        due = [id_ for id_, row in self.rows.items() if row.dirty_since is None and row.verified_at <= before]
        return self._lease(sorted(due, key=lambda id_: self.rows[id_].verified_at), limit, lease_s)

    def _lease(self, due: Sequence[int], limit: int, lease_s: float) -> list[Job]:
        now = self._clock.now()
        return [self._job(id_, lease_s) for id_ in [id_ for id_ in due if self.rows[id_].leased_until <= now][:limit]]

    def _job(self, project_id: int, lease_s: float) -> Job:
        row, now = self.rows[project_id], self._clock.now()
        self._leases += 1
        row.lease, row.leased_until = f"lease-{self._leases}", now + timedelta(seconds=lease_s)
        return Job(
            project_id=project_id,
            lease=row.lease,
            leased_at=now,
            version=self.projects[project_id].version,
            dirty_since=row.dirty_since,
            pace_ms=row.pace_ms,
            is_hot=row.dirty_since is not None and row.dirty_since < row.rest_until,
            failures=row.failures,
        )

    @asynccontextmanager
    async def read_project(self, project_id: int, build: str) -> AsyncIterator[Source | None]:
        await self.called("read_project")
        stored = self.projects.get(project_id)
        self.open += 1
        try:
            yield None if stored is None else FakeSource(self, stored, (project_id, build))
        finally:
            self.open -= 1

    async def published(self, project_id: int) -> Published | None:
        await self.called("published")
        return self.in_force.get(project_id)

    async def read_part(self, published: Published, number: int) -> bytes | None:
        await self.called("read_part")
        parts = self.parts.get((published.project_id, published.build), [])
        return parts[number] if number < len(parts) else None

    async def put_in_force(self, job: Job, published: Published, parts: int) -> bool:
        await self.called("put_in_force")
        self._fenced(job)
        written = self.parts.get((job.project_id, published.build), [])
        before = self.in_force.get(job.project_id)
        is_older = before is not None and before.version >= published.version
        if is_older or (len(written), sum(map(len, written))) != (parts, published.bytes):
            return False
        self.in_force[job.project_id] = published
        return True

    async def finish(self, job: Job, version: int, *, pace_ms: int, is_announced: bool, is_verified: bool) -> bool:
        await self.called("finish")
        row, now = self._fenced(job), self._clock.now()
        is_current = self.projects[job.project_id].version <= version
        since = None if is_current else max(row.dirty_since or LONG_AGO, job.leased_at)
        self.rows[job.project_id] = Row(
            since, now if is_verified else LONG_AGO, now + timedelta(milliseconds=pace_ms), pace_ms=pace_ms
        )
        self._sweep(job.project_id)
        if is_announced:
            self.announced.append(job.project_id)
        return is_current

    async def fail(self, job: Job, problem: str, *, rest_s: float, pace_ms: int, is_refused: bool) -> None:
        await self.called("fail")
        row, now = self._fenced(job), self._clock.now()
        if self.projects[job.project_id].version > job.version:
            rest_s = min(rest_s, pace_ms / 1000)
        since, until = row.dirty_since or now, now + timedelta(seconds=rest_s)
        rest: dict[str, Any] = {"pace_ms": pace_ms, "problem": problem, "is_refused": is_refused}
        self.rows[job.project_id] = Row(since, row.verified_at, until, failures=row.failures + 1, **rest)
        self._sweep(job.project_id)

    def _fenced(self, job: Job) -> Row:
        row = self.rows.get(job.project_id)
        if row is None or row.lease != job.lease:
            raise LeaseLost
        return row

    def _sweep(self, project_id: int) -> None:
        kept = self.in_force.get(project_id)
        for key in [key for key in self.parts if key[0] == project_id and (kept is None or key[1] != kept.build)]:
            del self.parts[key]

    async def count_members(self, project_id: int) -> None:
        await self.called("count_members")
        self.counted.append(project_id)

    async def mark_dirty(self, project_id: int) -> None:
        await self.called("mark_dirty")
        if project_id in self.projects:
            published = self.in_force.get(project_id)
            stored = self.projects[project_id]
            stored.version = max(stored.version, published.version if published else 0)
            self._bump(project_id)

    async def backlog(self) -> Backlog:
        await self.called("backlog")
        dirty = [row.dirty_since for row in self.rows.values() if row.dirty_since is not None]
        problems = [row.is_refused for row in self.rows.values() if row.problem is not None]
        sizes = sorted(it.bytes for it in self.in_force.values())
        typical = sizes[len(sizes) // 2] if sizes else 0
        limit = max(ANOMALOUS_FROM_BYTES, ANOMALOUS_FACTOR * typical)
        large = sorted(((it.bytes, id_) for id_, it in self.in_force.items() if it.bytes > limit), reverse=True)
        return Backlog(
            dirty=len(dirty),
            oldest_s=(self._clock.now() - min(dirty)).total_seconds() if dirty else 0.0,
            refused=problems.count(True),
            failing=problems.count(False),
            projects=len(sizes),
            typical_bytes=typical,
            anomalous=[(id_, size) for size, id_ in large[:MAX_ANOMALOUS]],
        )


class FakeSource:
    def __init__(self, builds: FakeBuilds, stored: Stored, build: tuple[int, str]) -> None:
        self.version, self.token, self.shell = stored.version, stored.token, stored.shell
        self._builds = builds
        self._build = build
        self._items = {kind: list(_living(items)) for kind, items in stored.items.items()}

    async def items(self, kind: Literal["flag", "cohort"]) -> AsyncIterator[Sequence[bytes]]:
        items = self._items[kind]
        for start in range(0, len(items), BATCH):
            await self._builds.called("items")
            yield items[start : start + BATCH]

    async def put_part(self, number: int, part: bytes) -> None:
        await self._builds.called("put_part")
        parts = self._builds.parts.setdefault(self._build, [])
        assert number == len(parts)
        parts.append(part)


def _living(items: dict[int, bytes]) -> Iterator[bytes]:
    for id_ in sorted(items):
        if not msgspec.json.decode(items[id_]).get("deleted"):
            yield items[id_]


class FakeShelf(Commanded):
    """A Shelf. `entries` has what is kept, by token."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, tuple[int, int, bytes]] = {}

    async def holds(self, published: Published) -> bool:
        await self.called("holds")
        project_id, version, document = self.entries.get(published.token, (0, 0, b""))
        if (project_id, version) != (published.project_id, published.version):
            return project_id == published.project_id and version > published.version
        return hashlib.sha256(document).hexdigest()[:ETAG_CHARACTERS] == published.etag

    async def keep(self, published: Published, parts: AsyncIterator[bytes]) -> bool:
        await self.called("keep")
        project_id, version, _ = self.entries.get(published.token, (0, 0, b""))
        if project_id == published.project_id and version > published.version:
            return False
        document = b"".join([part async for part in parts])
        if hashlib.sha256(document).hexdigest()[:ETAG_CHARACTERS] != published.etag:
            raise StoreError("it is another document")
        self.entries[published.token] = (published.project_id, published.version, document)
        return True
