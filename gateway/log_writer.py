"""Writes lines to a stream that may stall: in batches, from a thread, within a bounded memory.

What a line says is telemetry.py's. Invariant: whoever logs never waits for whoever reads the log; what there is no room
for is dropped and counted.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

BATCH_S: Final = 0.02
"""How late a line may be. Lines that are made and written together cost a fraction of what each alone would."""
MAX_WAITING_BYTES: Final = 4 << 20
CLOSE_TIMEOUT_S: Final = 1.0


class LineWriter(logging.Handler):
    """Warnings and worse are written at once. Must be closed, or the last lines may be lost."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: deque[tuple[bytes | Callable[[], bytes], int]] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._urgent = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LineWriter {self._waiting_bytes} bytes waiting, {self._dropped} dropped>"

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record).encode("utf-8", "backslashreplace")
        self.add(line, len(line))
        if record.levelno >= logging.WARNING:
            self._urgent.set()

    def add(self, line: bytes | Callable[[], bytes], size: int) -> None:
        """Write this line, without its end, soon; or what makes it, and changes no more. `size`: bytes kept alive."""
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._dropped += 1
            return
        self._waiting_bytes += size
        self._waiting.append((line, size))

    def close(self) -> None:
        """Write what waits, unless that takes too long."""
        self._is_closing = True
        self._urgent.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        super().close()

    def _write_on(self) -> None:
        while not self._is_closing:
            self._urgent.wait(BATCH_S)
            self._urgent.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        lines = [made for line, _ in waiting if (made := self._made(line)) is not None]
        size = sum(size for _, size in waiting)
        if self._dropped:
            lines.append(b'{"level":"error","event":"log_lines_dropped","lines":%d}' % self._dropped)
            self._dropped = 0
        if not lines:
            return
        try:
            self._stream.write(b"\n".join([*lines, b""]).decode())
            self._stream.flush()
        except (OSError, ValueError):
            pass  # Nobody reads any more, and there is nobody else to tell.
        self._waiting_bytes -= size  # Without a call in between, during which another thread might add to it.

    def _made(self, line: bytes | Callable[[], bytes]) -> bytes | None:
        try:
            return line if isinstance(line, bytes) else line()
        except Exception:  # One line that cannot be made must not end the log.
            self._dropped += 1
            return None
