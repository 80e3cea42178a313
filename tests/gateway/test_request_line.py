"""The line of a request as the writer makes it, whatever a client has put into it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from config.settings import Settings
from gateway import telemetry
from gateway.telemetry import MAX_VALUE_CHARACTERS, RequestRecord
from tests.fakes import FakeClock

FIELDS = (
    "time", "level", "event", "request_id", "trace_id", "method", "path", "client", "status", "duration_ms",
    "is_cancelled", "error", "token", "project_id", "snapshot_version", "snapshot_source", "snapshot_age_ms", "shape",
    "flags", "missing", "user_agent", "sampled_at",
)  # fmt: skip


class Lines:
    """In place of the writer."""

    def __init__(self) -> None:
        self.added: list[bytes] = []

    def add(self, make: Callable[[], bytes], size: int) -> None:
        self.added.append(make())
        assert size > len(self.added[-1])


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is written from now on."""
    taken = Lines()
    monkeypatch.setattr(telemetry, "_lines", taken)
    monkeypatch.setattr(telemetry.logger, "isEnabledFor", lambda _: True)
    return taken.added


def emitted(lines: list[bytes], path: str = "/flags", **known: Any) -> dict[str, Any]:
    record = RequestRecord(FakeClock(), Settings(), 1.0, request_id="r", method="GET", path=path, user_agent="agent")
    for name, value in known.items():
        setattr(record, name, value)
    record.emit()
    (line,) = lines
    assert b"\n" not in line
    told: dict[str, Any] = json.loads(line)
    return told


def test_request_line__each_field__has_its_own_value(lines: list[bytes]) -> None:
    """Whoever searches the log by a field finds what belongs to it: none stands in the place of another."""
    known = {
        "client": "203.0.113.9", "status": 200, "error": "an_error", "project_id": 1, "snapshot_version": 2,
        "snapshot_source": "redis", "snapshot_age_ms": 3, "shape": "records", "flags": 4, "missing": "timeout",
    }  # fmt: skip
    told = emitted(lines, token="phc_0123456789", **known)
    assert tuple(told) == FIELDS
    assert told.pop("time").endswith("+00:00")
    assert told == known | {
        "level": "info", "event": "request", "request_id": "r", "trace_id": None, "method": "GET", "path": "/flags",
        "duration_ms": 0.0, "is_cancelled": False, "token": "...6789", "user_agent": "agent", "sampled_at": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "written"), [("/\ud800", "/\ud800"), ('/"\n', '/"\n'), ("x" * 999, "x" * MAX_VALUE_CHARACTERS)]
)
def test_request_line__whatever_the_path__is_one_line_of_json(lines: list[bytes], path: str, written: str) -> None:
    """No client can break the log with what it asks for, not even with what no text can hold."""
    assert emitted(lines, path)["path"] == written
