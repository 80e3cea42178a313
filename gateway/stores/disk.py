"""The last definitions known to be good, one file per token, for a process that starts while everything else is down.

All work on files is done by one thread. Invariant: nothing here ever fails a caller - what cannot be written is told of
and left, what cannot be read is told of and passed over - and the folder never holds more than its bound for long.
"""

import asyncio
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from cachetools import LRUCache

from config.backends import Disk
from gateway.ports import Clock, Definitions, LastGood
from gateway.stores.envelope import Corrupt, pack, unpack
from gateway.telemetry import log_event

T = TypeVar("T")

SUFFIX: Final = ".snapshot"
CORRUPT_SUFFIX: Final = ".corrupt"
TEMPORARY_PREFIX: Final = ".writing-"
COMPRESS_ABOVE_BYTES: Final = 4096
MAX_PENDING: Final = 1000
MAX_KNOWN: Final = 10_000
"""Files whose version is remembered; what is kept of others is written again once."""
RENEW_S: Final = 60.0
"""How often the age of a file that is still current is set back."""
RETRY_S: Final = 60.0
"""How often writing is tried again once it failed."""
CLOSE_TIMEOUT_S: Final = 5.0
LEFTOVER_S: Final = 600.0
"""The age of a half-written file that nobody is writing any more."""


class _Token(msgspec.Struct):
    token: str


class _Kept:
    """What is known of a token's file: the version in it, and when it was written or renewed last."""

    __slots__ = ("renewed_at", "version")

    def __init__(self, version: int, renewed_at: float) -> None:
        self.version = version
        self.renewed_at = renewed_at


class DiskStore:
    """Use as an async context manager: it owns the thread, and writes what is pending before it ends."""

    def __init__(self, settings: Disk, clock: Clock) -> None:
        self._folder = Path(settings.path)
        self._max_bytes = settings.max_bytes
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._pending: dict[str, Definitions | None] = {}
        """What is to be written by token; None: the file is to go."""
        self._kept: LRUCache[str, _Kept] = LRUCache(MAX_KNOWN)
        self._draining: asyncio.Future[None] | None = None
        self._retry_at = 0.0
        self.is_writable = True

    def __repr__(self) -> str:
        state = "writable" if self.is_writable else "read-only"
        return f"<DiskStore {self._folder} {state}, {len(self._pending)}/{MAX_PENDING} pending>"

    async def __aenter__(self) -> "DiskStore":
        await self._run(self._prepare)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._draining is not None:
            await asyncio.wait({self._draining}, timeout=CLOSE_TIMEOUT_S)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def load_definitions(self, token: str) -> LastGood | None:
        return await self._run(lambda: self._read(token))

    def keep_definitions(self, token: str, definitions: Definitions) -> None:
        now = self._clock.monotonic()
        kept = self._kept.get(token)
        is_same = kept is not None and kept.version == definitions.version
        if kept is not None and is_same and now < kept.renewed_at + RENEW_S:
            return
        if not self.is_writable and now < self._retry_at:
            return
        self._put(token, definitions)

    def forget_definitions(self, token: str) -> None:
        self._put(token, None)

    async def has_any(self) -> bool:
        return await self._run(lambda: any(True for _ in self._files()))

    def _put(self, token: str, content: Definitions | None) -> None:
        if token not in self._pending and len(self._pending) >= MAX_PENDING:
            log_event("disk_snapshot_dropped", logging.WARNING, pending=MAX_PENDING)
            return
        self._pending[token] = content
        if self._draining is None or self._draining.done():
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        """Write what is pending, one after the other; what comes in meanwhile too."""
        while self._pending:
            token = next(iter(self._pending))
            content = self._pending.pop(token)
            now = self._clock.monotonic()
            kept = self._kept.get(token)
            is_renewal = content is not None and kept is not None and kept.version == content.version
            try:
                await self._run(partial(self._apply, token, content, is_renewal=is_renewal))
            except OSError as error:
                self._off(error)
                continue
            self._on()
            if content is None:
                self._kept.pop(token, None)
            else:
                self._kept[token] = _Kept(content.version, now)

    def _off(self, error: OSError) -> None:
        self._retry_at = self._clock.monotonic() + RETRY_S
        if self.is_writable:
            log_event("disk_snapshots_read_only", logging.WARNING, path=self._folder, reason=error.strerror)
        self.is_writable = False

    def _on(self) -> None:
        if not self.is_writable:
            log_event("disk_snapshots_writable", path=self._folder)
        self.is_writable = True

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    # What follows runs in the thread.

    def _prepare(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, probe = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=self._folder)
            os.close(handle)
            os.unlink(probe)
        except OSError as error:
            self._off(error)
            return
        for path in self._folder.glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(FileNotFoundError):  # Another process may share the folder.
                if self._clock.now().timestamp() - path.stat().st_mtime > LEFTOVER_S:
                    path.unlink()

    def _path(self, token: str) -> Path:
        return self._folder / (hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:32] + SUFFIX)

    def _files(self) -> Iterator[Path]:
        with suppress(OSError):
            yield from self._folder.glob(f"*{SUFFIX}")

    def _read(self, token: str) -> LastGood | None:
        path = self._path(token)
        try:
            kept_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            definitions = unpack(path.read_bytes())
            if msgspec.json.decode(definitions.document, type=_Token).token != token:
                raise Corrupt("it is another project's")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log_event("disk_snapshot_unreadable", logging.WARNING, file=path.name, reason=error.strerror)
            return None
        except (Corrupt, msgspec.MsgspecError) as error:
            log_event("disk_snapshot_corrupt", logging.WARNING, file=path.name, reason=error)
            with suppress(OSError):
                path.replace(path.with_suffix(CORRUPT_SUFFIX))  # Kept for whoever wants to know why.
            return None
        return LastGood(definitions, kept_at)

    def _apply(self, token: str, content: Definitions | None, *, is_renewal: bool) -> None:
        if content is None:
            self._path(token).unlink(missing_ok=True)
        elif not (is_renewal and self._renew(token)):
            self._write(token, content)

    def _renew(self, token: str) -> bool:
        """Whether the file is there, and now counts as new."""
        try:
            os.utime(self._path(token))
        except FileNotFoundError:
            return False
        return True

    def _write(self, token: str, definitions: Definitions) -> None:
        envelope = pack(definitions, compress_above_bytes=COMPRESS_ABOVE_BYTES)
        if len(envelope) > self._max_bytes:
            log_event("disk_snapshot_too_large", logging.WARNING, project_id=definitions.project_id, size=len(envelope))
            return
        path = self._path(token)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=self._folder)
        try:
            with open(handle, "wb") as file:
                file.write(envelope)
                file.flush()
                os.fsync(handle)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self._make_room(path)

    def _make_room(self, newest: Path) -> None:
        """Remove the files renewed longest ago until what is left keeps within the bound."""
        found = []
        for path in (*self._files(), *self._folder.glob(f"*{CORRUPT_SUFFIX}")):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((path == newest, status.st_mtime, status.st_size, path))
        size = sum(it[2] for it in found)
        for _, _, freed, path in sorted(found):
            if size <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            size -= freed
