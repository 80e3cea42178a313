"""What the system says of a process."""

import subprocess
import sys
from typing import Final

import pytest

from gateway import process

LARGE: Final = 256 << 20
ASKS: Final = "from gateway.process import peak_resident_bytes; print(peak_resident_bytes())"


def test_peak__started_by_a_large_process__is_its_own() -> None:
    """A builder is not thought to be short of memory because what started it was large."""
    ballast = b"x" * LARGE
    assert process.peak_resident_bytes() >= LARGE
    told = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, timeout=60, check=True).stdout
    assert 1_000_000 < int(told) < LARGE // 2
    assert len(ballast) == LARGE


def test_peak__system_does_not_say__is_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc there is a number all the same."""

    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(process.Path, "read_text", refuse)
    assert process.peak_resident_bytes() > 1_000_000
    assert process.resident_bytes() > 1_000_000
