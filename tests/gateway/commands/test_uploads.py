"""How a file is read for an upload: in whole lines, within bounds, with progress, and until Ctrl-C.

Interrupts are real signals to this process, sent while the lines are being read.
"""

import os
import signal
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.commands import CommandFailed
from gateway.commands.managing import Management
from gateway.commands.transports import Answer, Content
from gateway.commands.uploads import LONGEST_KEPT_BYTES, PART_BYTES, PROGRESS_INTERVAL_S, Lines, Upload, upload
from tests.fakes import FakeClock

STORED = {"stored": 1, "created": 1, "updated": 0, "refused": 0, "problems": []}


class Api:
    """A transport that takes everything, does `then` after each part, and answers this."""

    def __init__(self, answer: object = STORED, then: Any = lambda: None) -> None:
        self.answer = answer
        self.then = then
        self.body = b""

    def call(self, method: str, path: str, content: Content = b"", media_type: str = "") -> Answer:
        for part in content if isinstance(content, Iterator) else [content]:
            self.body += part
            self.then()
        if self.answer is None:
            raise CommandFailed("broke off")
        return Answer(200, {}, msgspec.json.encode(self.answer))


def send(api: Api, file: Path) -> int:
    args = Namespace(file=file, json=False)
    return upload(Management(api, 1), args, Upload("POST", "/api/projects/1/persons", "application/x-ndjson"))


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_lines__last_one_without_an_end__is_sent_whole(tmp_path: Path) -> None:
    """A file that does not end in a newline loses nothing."""
    file = tmp_path / "people"
    file.write_bytes(b"a\nb")
    with file.open("rb") as opened:
        lines = Lines(opened, FakeClock())
        assert b"".join(lines) == b"a\nb\n"
    assert lines.rows == 2
    assert repr(lines) == "<Lines 2 rows, 4 bytes>"


def test_lines__large_file__comes_in_parts_of_whole_lines(tmp_path: Path) -> None:
    """However large a file is, only a part of it is in memory, and no part ends within a line."""
    file = tmp_path / "people"
    file.write_bytes(b"somebody\n" * 50_000)
    with file.open("rb") as opened:
        parts = list(Lines(opened, FakeClock()))
    assert b"".join(parts) == file.read_bytes()
    assert all(part.endswith(b"\n") and len(part) <= 2 * PART_BYTES for part in parts)


def test_lines__line_without_end__is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """A file that is one long line is sent on in pieces instead of being kept; it is refused elsewhere."""
    file = tmp_path / "people"
    file.write_bytes(b"x" * (3 * LONGEST_KEPT_BYTES))
    with file.open("rb") as opened:
        parts = list(Lines(opened, FakeClock()))
    assert max(map(len, parts)) <= LONGEST_KEPT_BYTES + PART_BYTES
    assert sum(map(len, parts)) == 3 * LONGEST_KEPT_BYTES + 1


def test_lines__time_passing__is_told_with_rate_and_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever waits for a long import sees rows, rows a second, and how much of the file that is."""
    file = tmp_path / "people"
    file.write_bytes(b"0123456\n" * (PART_BYTES // 2))
    clock = FakeClock()
    with file.open("rb") as opened:
        for _ in Lines(opened, clock):
            clock.advance(PROGRESS_INTERVAL_S / 2)
    assert capsys.readouterr().err == "24576 rows, 12288 rows/s, 75 %\n"


def test_upload__ctrl_c__sends_whole_lines_only_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends the file at a line, the answer says what was stored, and the exit code that it is not all."""
    file = tmp_path / "people"
    file.write_bytes(b"0123456789\n" * PART_BYTES)
    api, before = Api(then=interrupt), signal.getsignal(signal.SIGINT)
    assert send(api, file) == 1
    told = capsys.readouterr()
    assert 0 < len(api.body) < PART_BYTES
    assert api.body.endswith(b"\n")
    assert told.out == "1 new, 0 known before, 0 refused\n"
    assert told.err == "Interrupted: the rest of the file was not sent; repeating all of it is safe\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_upload__ctrl_c_while_waiting_for_a_pipe__ends_the_wait(tmp_path: Path) -> None:
    """Somebody whose pipe stays silent is not held; half a line that came is not sent."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    holder = os.open(pipe, os.O_RDWR)
    os.write(holder, b"alice\nbo")
    signal.signal(signal.SIGALRM, lambda *_: interrupt())
    api = Api(then=lambda: signal.setitimer(signal.ITIMER_REAL, 0.05))
    try:
        assert send(api, pipe) == 1
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.close(holder)
    assert api.body == b"alice\n"


def test_upload__second_ctrl_c__gives_up(tmp_path: Path) -> None:
    """Who presses twice does not want to wait for the answer either."""
    file = tmp_path / "people"
    file.write_bytes(b"alice\n")

    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        send(Api(then=twice), file)


def test_upload__refused_lines__are_shown_up_to_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that were refused stand there with their numbers, not more than fit on a screen, and the exit code is 1."""
    file = tmp_path / "people"
    file.write_bytes(b"x\n" * 30)
    problems = [{"line": n, "code": "undecodable", "message": "not JSON"} for n in range(1, 31)]
    assert send(Api({**STORED, "refused": 30, "problems": problems}), file) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "line 1: not JSON"
    assert told[9] == "line 10: not JSON"
    assert told[10:] == ["and 20 lines more"]


def test_upload__connection_that_breaks__says_how_far_it_was(tmp_path: Path) -> None:
    """A failure half way tells how many rows had been sent, and that nothing is spoilt by starting again."""
    file = tmp_path / "people"
    file.write_bytes(b"alice\nbob\n")
    with pytest.raises(CommandFailed, match="broke off") as failed:
        send(Api(None), file)
    assert failed.value.args[1:] == ("2 lines were sent; repeating all of it is safe",)


def test_upload__file_that_is_not_there__is_told(tmp_path: Path) -> None:
    """A wrong file name is one sentence."""
    with pytest.raises(CommandFailed, match=r"Cannot read .*: No such file or directory"):
        send(Api(), tmp_path / "nope")
