"""What building and publishing definitions documents asks of a store and of the shared cache. No implementation here.

Invariant: what is published of a project only ever grows in version, whoever publishes and however late.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Literal, Protocol

import msgspec

PART_BYTES = 256 * 1024
"""About how large the parts are that a document is written and read in."""
ANOMALOUS_FACTOR = 50
ANOMALOUS_FROM_BYTES = 1 << 20
"""A project is far larger than is usual when it is this many times as large as the median, and not small."""
MAX_ANOMALOUS = 20


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A project that its holder alone may publish, until the lease expires and passes to another. The lease names the
    build as well.

    `dirty_since` None: it is only to be verified. `leased_at` and `version` are the moment it was claimed, by the clock
    of the store, and the project's version then. `pace_ms` is how long it rested after its last build, and `is_hot`
    says that it was edited within that time.
    """

    project_id: int
    lease: str
    leased_at: datetime
    version: int
    dirty_since: datetime | None
    pace_ms: int
    is_hot: bool
    failures: int


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A published document without its parts. `etag` is the beginning of the SHA-256 of its bytes, in hexadecimal, and
    `build` says which parts are its."""

    project_id: int
    token: str
    build: str
    version: int
    etag: str
    bytes: int
    flags: int = 0
    cohorts: int = 0


class Source(Protocol):
    """One state of a project as stored, read bit by bit. `shell` is its document without flags and cohorts.

    Parts are written here too, as a worker that held one connection while it waits for another might wait for ever.
    """

    version: int
    token: str
    shell: bytes

    def items(self, kind: Literal["flag", "cohort"]) -> AsyncIterator[Sequence[bytes]]:
        """The documents of flags or cohorts that are not deleted, in the order of ids, in batches of bounded size."""
        ...

    async def put_part(self, number: int, part: bytes) -> None:
        """Write a part of the document being built, which nobody reads yet."""
        ...


class LeaseLost(Exception):
    """Another worker has the project now, and will do all of it again."""


class Backlog(msgspec.Struct, frozen=True):
    """How the queue stands. `anomalous` has ids and bytes of projects far larger than is usual here, largest first."""

    dirty: int
    oldest_s: float
    refused: int
    failing: int
    projects: int
    typical_bytes: int
    anomalous: Sequence[tuple[int, int]]


class BuildStore(Protocol):
    """What is given a Job is done only while its lease is the holder's; otherwise nothing happens, and LeaseLost."""

    async def claim(self, limit: int, lease_s: float) -> list[Job]:
        """Dirty projects whose rest is over and that nobody has, longest waiting first, now leased to the caller."""
        ...

    async def claim_unverified(self, limit: int, lease_s: float, older_than_s: float) -> list[Job]:
        """Projects that are not dirty and were last verified longer ago than this, longest first, now leased."""
        ...

    def read_project(self, project_id: int, build: str) -> AbstractAsyncContextManager[Source | None]:
        """The project as it is now; None when it is gone. Parts that are put belong to this build, and are all there
        once the context is left without an error."""
        ...

    async def published(self, project_id: int) -> Published | None:
        """What is published of a project now."""
        ...

    async def read_part(self, published: Published, number: int) -> bytes | None:
        """A part of what is published; None beyond the last one, and once it is replaced."""
        ...

    async def put_in_force(self, job: Job, published: Published, parts: int) -> bool:
        """Have gateways read this build from now on; False, and nothing happens, when as new a version is published, or
        not all the parts are there."""
        ...

    async def finish(self, job: Job, version: int, *, pace_ms: int, is_announced: bool, is_verified: bool) -> bool:
        """Give the job back, done: the project rests for `pace_ms`, and parts that nobody reads are dropped. Its mark
        is cleared, unless it has a version beyond this one by now: then it counts as dirty since the claim at the
        earliest. Whether it was cleared. `is_announced` tells gateways of a change. One that is not verified is the
        first to be."""
        ...

    async def fail(self, job: Job, problem: str, *, rest_s: float, pace_ms: int, is_refused: bool) -> None:
        """Give the job back, not done: it is dirty, rests, and says why; parts that nobody reads are dropped. An edit
        since the claim, or the next one, shortens the rest to `pace_ms`, as it may be the cure."""
        ...

    async def count_members(self, project_id: int) -> None:
        """Count the memberships of static cohorts, for who looks at the publication."""
        ...

    async def mark_dirty(self, project_id: int) -> None:
        """Have a project built again under a version newer than the one published, as if it had been edited."""
        ...

    async def backlog(self) -> Backlog:
        """How the queue stands."""
        ...


class Shelf(Protocol):
    """The shared cache as the builder fills it: a document in parts, invisible until it is whole."""

    async def holds(self, published: Published) -> bool:
        """Whether the shared cache has exactly this for the token, whole and sound, or something newer."""
        ...

    async def keep(self, published: Published, parts: AsyncIterator[bytes]) -> bool:
        """Put it in the place of an older version, once it arrived as it was published, and announce it. False when a
        newer one is there already."""
        ...
