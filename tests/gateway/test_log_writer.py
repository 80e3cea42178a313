"""Lines on their way to whoever reads them."""

import contextlib
import io
import logging
import os
import threading
import time

from gateway import log_writer
from gateway.log_writer import LineWriter


class Stalled(io.StringIO):
    """A stream whose reader does nothing until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def write(self, text: str) -> int:
        self.gate.wait(10)
        return super().write(text)


def record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("x", level, "", 0, message, None, None)


def wait_for(stream: io.StringIO, text: str) -> None:
    ends_at = time.monotonic() + 5
    while text not in stream.getvalue():
        assert time.monotonic() < ends_at
        time.sleep(0.005)


def test_lines__are_written_in_their_order() -> None:
    """Requests and events stand in the log as they happened, all of them."""
    stream = io.StringIO()
    writer = LineWriter(stream)
    for n in range(1000):
        writer.add(b"line %d" % n, 8) if n % 2 else writer.emit(record(logging.INFO, f"line {n}"))
    writer.close()
    assert stream.getvalue().splitlines() == [f"line {n}" for n in range(1000)]


def test_lines__made_later__stand_where_they_were_added() -> None:
    """What is made by the writer is in order with the rest; a line that cannot be made is counted, and ends nothing."""
    stream = io.StringIO()
    writer = LineWriter(stream)
    writer.add(lambda: b"first", 5)
    writer.add(b"second", 8)
    writer.add(lambda: bytes(1 // 0), 5)
    writer.add(lambda: b"third", 5)
    wait_for(stream, "third\n")
    wait_for(stream, '"lines":1}\n')
    assert stream.getvalue().splitlines()[:3] == ["first", "second", "third"]
    writer.add(lambda: b"fourth", 5)
    writer.close()
    assert stream.getvalue().endswith("fourth\n")
    assert repr(writer) == "<LineWriter 0 bytes waiting, 0 dropped>"


def test_lines__made_later__take_room_by_what_they_keep() -> None:
    """A stalled reader keeps no more alive than the bound, however short the lines would be."""
    stream = Stalled()
    writer = LineWriter(stream)
    for _ in range(3 * log_writer.MAX_WAITING_BYTES >> 20):
        writer.add(lambda: b"short", 1 << 20)
    assert writer._waiting_bytes <= log_writer.MAX_WAITING_BYTES + (2 << 20)
    stream.gate.set()
    wait_for(stream, "log_lines_dropped")
    writer.close()


def test_lines__are_there_soon() -> None:
    """Nobody has to end the service to see its log."""
    stream = io.StringIO()
    writer = LineWriter(stream)
    writer.add(b"now", 8)
    wait_for(stream, "now\n")
    writer.close()


def test_lines__reader_stalls__costs_the_writer_nothing() -> None:
    """A log collector that hangs stops no flags: memory stays bounded, and what was lost is counted."""
    stream = Stalled()
    writer = LineWriter(stream)
    line = b"x" * 1024
    began = time.monotonic()
    for _ in range(3 * log_writer.MAX_WAITING_BYTES // len(line)):
        writer.add(line, len(line))
    assert time.monotonic() - began < 5
    assert writer._waiting_bytes <= log_writer.MAX_WAITING_BYTES + 2 * len(line)
    stream.gate.set()
    wait_for(stream, "log_lines_dropped")
    writer.close()


def test_close__reader_stalls__does_not_wait_for_it() -> None:
    """A service that stops is not held up by whoever does not read its last words."""
    stream = Stalled()
    writer = LineWriter(stream)
    writer.add(b"last", 8)
    began = time.monotonic()
    writer.close()
    assert time.monotonic() - began < 5
    stream.gate.set()


def test_lines__reader_is_gone__are_let_go() -> None:
    """A broken pipe is nobody's failure, and nothing piles up."""
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    os.close(reading)
    writer = LineWriter(stream)
    writer.add(b"to nobody", 8)
    writer.close()
    assert repr(writer) == "<LineWriter 0 bytes waiting, 0 dropped>"
    with contextlib.suppress(OSError):
        stream.close()


def test_emit__what_is_not_text__is_escaped() -> None:
    """No value breaks the line it stands in."""
    stream = io.StringIO()
    writer = LineWriter(stream)
    writer.emit(record(logging.ERROR, "\ud800"))
    writer.close()
    assert stream.getvalue() == "\\ud800\n"
