"""One project's definitions document: written bit by bit from what is stored now, put in force, verified, and shared.

When which project is built is builder.py's. Invariant: no more than a batch and a part of any project is in memory at a
time; and a document counts as published only once what was written has been read back and is the same.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Final, Literal

import msgspec

from config.builder import Builder as Settings
from evaluator.definitions import UNDECODABLE, CohortDocument, FlagDocument, ProjectDocument
from gateway.builder_metrics import BuilderMetrics
from gateway.building_ports import PART_BYTES, BuildStore, Job, Published, Shelf, Source
from gateway.errors import StoreError
from gateway.ports import ETAG_CHARACTERS, Clock
from gateway.telemetry import Outage

SHELF_REST_S: Final = 2.0
"""How long a shared cache that failed is left alone."""
SHELF_PART: Final = 0.25
"""Part of the lease that one call of it may take: a slow one must not keep what is published from being announced."""

_FIELDS: Final = {"flag": FlagDocument.__struct_fields__, "cohort": CohortDocument.__struct_fields__}
"""What is published of a flag or cohort: what evaluation and SDKs know. Who edited it last is nobody's business."""
_TAIL: Final = b'[],"cohorts":[]}'


class Refused(Exception):
    """The project is larger than the settings allow; its text says how much."""


class Unsound(Exception):
    """What was read back of a published document is not what was written."""


class Publisher:
    """`shelf` is the shared cache, if there is one; nothing waits for it, and what it missed it gets later."""

    def __init__(
        self, store: BuildStore, shelf: Shelf | None, settings: Settings, clock: Clock, metrics: BuilderMetrics
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._shelf_outage = Outage("shelf")
        self._shelf_rests_until = 0.0

    def __repr__(self) -> str:
        return f"<Publisher of {self._store!r} and {self._shelf!r}>"

    def adopt(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def can_share(self) -> bool:
        """Whether the shared cache, if there is one, is worth asking now."""
        return self._clock.monotonic() >= self._shelf_rests_until

    async def publish(self, job: Job) -> tuple[Published, bool] | None:
        """What is published of the project now, and whether that is new; None when the project is gone.

        Raises Refused, Unsound, LeaseLost, StoreError, and whatever a document that makes no sense makes it raise.
        """
        began_at = time.perf_counter()
        before = await self._store.published(job.project_id)
        async with self._store.read_project(job.project_id, job.lease) as source:
            if source is None:
                return None
            if before is not None and before.version >= source.version:
                return before, False
            document = _Parts(source, self._settings.max_document_bytes)
            counts: Counter[str] = Counter()
            async for piece in pieces(source, counts):
                await document.add(piece)
            await document.end()
        written = Published(
            project_id=job.project_id,
            token=source.token,
            build=job.lease,
            version=source.version,
            etag=document.digest.hexdigest()[:ETAG_CHARACTERS],
            bytes=document.bytes,
            flags=counts["flag"],
            cohorts=counts["cohort"],
        )
        if not await self._store.put_in_force(job, written, document.number):
            raise Unsound(f"version {written.version} could not be put in force")
        self._metrics.stage("write", time.perf_counter() - began_at)
        return written, True

    async def verify(self, published: Published) -> None:
        """Read it back. Raises Unsound."""
        began_at = time.perf_counter()
        digest, size = hashlib.sha256(), 0
        async for part in self._parts(published):
            digest.update(part)
            size += len(part)
        if (digest.hexdigest()[:ETAG_CHARACTERS], size) != (published.etag, published.bytes):
            raise Unsound(f"version {published.version} was read back as something else, {size} bytes long")
        self._metrics.stage("verify", time.perf_counter() - began_at)

    async def share(self, published: Published) -> bool:
        """Put it into the shared cache; False when that could not be done now. Raises nothing."""
        if self._shelf is None:
            return True
        if not self.can_share:
            return False
        began_at = time.perf_counter()
        is_kept = await self._asked(self._shelf.keep(published, self._parts(published)))
        if is_kept is None:
            self._metrics.shared("failed")
            return False
        self._metrics.shared("kept" if is_kept else "newer")
        self._metrics.stage("share", time.perf_counter() - began_at)
        return True

    async def is_shared(self, published: Published) -> bool | None:
        """Whether the shared cache has this, or something newer; None when it cannot tell."""
        return True if self._shelf is None else await self._asked(self._shelf.holds(published))

    async def is_as_stored(self, published: Published) -> bool:
        """Whether what is stored now makes the same document. True of a project that is gone, or edited since."""
        digest = hashlib.sha256()
        async with self._store.read_project(published.project_id, "") as source:
            if source is None or source.version > published.version:
                return True
            try:
                async for piece in pieces(source, Counter()):
                    digest.update(piece)
            except UNDECODABLE:
                return False
        return digest.hexdigest()[:ETAG_CHARACTERS] == published.etag

    async def _asked(self, call: Awaitable[bool]) -> bool | None:
        """What the shared cache says; None when it fails, or takes more than its part of the lease."""
        try:
            async with asyncio.timeout(self._settings.lease_s * SHELF_PART):
                answer = await call
        except (StoreError, TimeoutError) as error:
            self._shelf_outage.failed(error)
            self._shelf_rests_until = self._clock.monotonic() + SHELF_REST_S
            return None
        self._shelf_outage.succeeded()
        return answer

    async def _parts(self, published: Published) -> AsyncIterator[bytes]:
        number = 0
        while (part := await self._store.read_part(published, number)) is not None:
            yield part
            number += 1


async def pieces(source: Source, counts: Counter[str]) -> AsyncIterator[bytes]:
    """The document of a project, piece by piece: what msgspec would encode of a ProjectDocument. Counts its items."""
    shell = msgspec.json.decode(source.shell, type=ProjectDocument)
    head = msgspec.json.encode(msgspec.structs.replace(shell, flags=[], cohorts=[]))
    yield head.removesuffix(_TAIL)
    async for piece in _array(source, "flag", counts):
        yield piece
    yield b',"cohorts":'
    async for piece in _array(source, "cohort", counts):
        yield piece
    yield b"}"


async def _array(source: Source, kind: Literal["flag", "cohort"], counts: Counter[str]) -> AsyncIterator[bytes]:
    opening = b"["
    async for batch in source.items(kind):
        counts[kind] += len(batch)
        yield opening + b",".join(_lean(batch, _FIELDS[kind]))
        opening = b","
    yield b"[]" if opening == b"[" else b"]"


def _lean(batch: Iterable[bytes], fields: tuple[str, ...]) -> Iterable[bytes]:
    """The items with only these members, each as it was written."""
    for item in batch:
        members = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
        yield msgspec.json.encode({name: members[name] for name in fields if name in members})


class _Parts:
    """Cuts a document into parts and writes them; knows no more of it than the part under way."""

    def __init__(self, source: Source, max_bytes: int) -> None:
        self.number = 0
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._source = source
        self._max_bytes = max_bytes
        self._part = bytearray()

    async def add(self, piece: bytes) -> None:
        """Raises Refused once it is too much."""
        self.digest.update(piece)
        self.bytes += len(piece)
        if self.bytes > self._max_bytes:
            raise Refused(f"the document is larger than {self._max_bytes} bytes (builder.max_document_bytes)")
        self._part += piece
        while len(self._part) >= PART_BYTES:
            await self._put(PART_BYTES)

    async def end(self) -> None:
        if self._part:
            await self._put(len(self._part))

    async def _put(self, size: int) -> None:
        await self._source.put_part(self.number, bytes(self._part[:size]))
        self.number += 1
        del self._part[:size]
