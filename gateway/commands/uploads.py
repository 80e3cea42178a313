"""Sends a file line by line, tells how far it is, and says what became of it.

What the lines mean is known behind the API. Invariant: only whole lines are sent, also when Ctrl-C ends the file early,
so that half a name never becomes somebody.
"""

import os
import signal
import stat
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from gateway.commands import CommandFailed
from gateway.commands.managing import Management, note, tell
from gateway.ports import Clock, SystemClock

PART_BYTES: Final = 64 * 1024
LONGEST_KEPT_BYTES: Final = 2 * 1024 * 1024
"""How much of a line is waited for. A longer one is refused behind the API, and need not be whole for that."""

PROGRESS_INTERVAL_S: Final = 2.0
MOST_SHOWN: Final = 10


class Lines:
    """The lines of a file in parts of many, counted."""

    def __init__(self, file: BinaryIO, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._began_at = self._told_at = clock.monotonic()
        mode = os.fstat(file.fileno())
        self._size = mode.st_size if stat.S_ISREG(mode.st_mode) else None
        self._bytes = 0
        self._is_waiting = False
        self.rows = 0
        self.is_interrupted = False

    def __repr__(self) -> str:
        return f"<Lines {self.rows} rows, {self._bytes} bytes>"

    def interrupt(self, *_: object) -> None:
        """End early; what is being sent is sent. As a handler of SIGINT it also ends a wait for the file."""
        if self.is_interrupted or self._is_waiting:
            self.is_interrupted = True
            raise KeyboardInterrupt
        self.is_interrupted = True

    def __iter__(self) -> Iterator[bytes]:
        kept = b""
        while part := self._next_part():
            kept += part
            whole = len(kept) if len(kept) > LONGEST_KEPT_BYTES else kept.rfind(b"\n") + 1
            if whole:
                yield self._counted(kept[:whole])
                kept = kept[whole:]
        if kept and not self.is_interrupted:
            yield self._counted(kept + b"\n")

    def _next_part(self) -> bytes:
        """What can be read now; nothing at the end, or once interrupted."""
        if self.is_interrupted:
            return b""
        try:
            self._is_waiting = True
            return os.read(self._file.fileno(), PART_BYTES)
        except KeyboardInterrupt:
            return b""
        finally:
            self._is_waiting = False

    def _counted(self, part: bytes) -> bytes:
        self.rows += part.count(b"\n")
        self._bytes += len(part)
        now = self._clock.monotonic()
        if now - self._told_at >= PROGRESS_INTERVAL_S:
            self._told_at = now
            share = f", {100 * self._bytes / self._size:.0f} %" if self._size else ""
            note(f"{self.rows} rows, {self.rows / (now - self._began_at):.0f} rows/s{share}")
        return part


class Upload(NamedTuple):
    """Where a file goes, and in what words its outcome is told."""

    method: str
    path: str
    media_type: str
    created: str = "new"
    updated: str = "known before"


def upload(api: Management, args: Namespace, to: Upload) -> int:
    """Send the file of the arguments; the exit code, which is 1 when not all of it is stored."""
    with _opened(args.file) as file:
        lines = Lines(file, SystemClock())
        with _interrupting(lines):
            try:
                answer = api.send(to.method, to.path, iter(lines), to.media_type)
            except CommandFailed as error:
                so_far = f"{lines.rows} lines were sent; repeating all of it is safe"
                raise CommandFailed(*error.args, so_far) from None
    outcome = answer.value()
    refused, problems = outcome["refused"], outcome["problems"][:MOST_SHOWN]
    told = f"{outcome['created']} {to.created}, {outcome['updated']} {to.updated}, {refused} refused"
    tell(args, answer, [told])
    for problem in problems:
        note(f"line {problem['line']}: {problem['message']}")
    if refused > len(problems):
        note(f"and {refused - len(problems)} lines more")
    if lines.is_interrupted:
        note("Interrupted: the rest of the file was not sent; repeating all of it is safe")
    return 1 if refused or lines.is_interrupted else 0


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise CommandFailed(f"Cannot read {file}: {error.strerror}") from None
    with opened:
        yield opened


@contextmanager
def _interrupting(lines: Lines) -> Iterator[None]:
    """Ctrl-C ends the lines meanwhile, so that the answer still says what was stored."""
    before = signal.signal(signal.SIGINT, lines.interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
