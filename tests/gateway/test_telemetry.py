"""What is written to the log, and what never is."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from config.operating import Log
from gateway.telemetry import MAX_VALUE_CHARACTERS, log_event, masked, set_up_logging


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Gives what was written to stderr; the logging set up meanwhile is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield lambda: capsys.readouterr().err
    root.handlers = handlers
    root.setLevel(level)


def test_log__json__is_one_object_per_line(stderr: Callable[[], str]) -> None:
    """Each event is one line of JSON with its time, its level and its fields."""
    set_up_logging(Log(format="json"))
    log_event("snapshot_built", flags=3, problems=None, reason='a "quoted"\nline')
    written = stderr()
    line = json.loads(written)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "snapshot_built",
        "flags": 3,
        "problems": None,
        "reason": 'a "quoted"\nline',
    }
    assert written.count("\n") == 1


def test_log__text__is_one_readable_line(stderr: Callable[[], str]) -> None:
    """Text names the event first, then the fields that have a value, with nothing that could break the line."""
    set_up_logging(Log(format="text"))
    log_event("request", status=200, error=None, path='/x"\n2026 INFO request', user_agent="\x1b[31m")
    time, rest = stderr().split(" ", 1)
    assert time.startswith("20")
    assert rest == 'INFO request status=200 path="/x\\"\\n2026 INFO request" user_agent="\\u001b[31m"\n'


@pytest.mark.parametrize("style", ["json", "text"])
def test_log__record_from_elsewhere__is_the_event_log(stderr: Callable[[], str], style: str) -> None:
    """What a library logs comes in the same form, as the event "log" with its logger's name."""
    set_up_logging(Log(format=style))  # type: ignore[arg-type]
    logging.getLogger("somewhere.else").warning("%d of %d", 1, 2)
    written = stderr()
    if style == "json":
        line = json.loads(written)
        assert (line["event"], line["logger"], line["message"]) == ("log", "somewhere.else", "1 of 2")
    else:
        assert written.endswith('WARNING log logger="somewhere.else" message="1 of 2"\n')


@pytest.mark.parametrize("style", ["json", "text"])
def test_log__exception__cannot_forge_a_line(stderr: Callable[[], str], style: str) -> None:
    """A line break in an exception's text does not begin what looks like another record."""
    set_up_logging(Log(format=style))  # type: ignore[arg-type]
    log_event("request_crashed", logging.ERROR, exception=RuntimeError("x\n2026 INFO forged"))
    written = stderr()
    assert "RuntimeError: x" in written
    assert not any(line.startswith("2026 INFO forged") for line in written.splitlines())


@pytest.mark.parametrize("style", ["json", "text"])
def test_log__long_or_unwritable_value__is_capped_and_escaped(stderr: Callable[[], str], style: str) -> None:
    """No value grows a line without bound, and none that UTF-8 cannot say stops it from being written."""
    set_up_logging(Log(format=style))  # type: ignore[arg-type]
    log_event("request", path="\ud800" + "x" * 10_000)
    written = stderr()
    assert "x" * (MAX_VALUE_CHARACTERS - 1) in written
    assert "x" * MAX_VALUE_CHARACTERS not in written
    assert "ud800" in written


@pytest.mark.parametrize(
    ("token", "shown"), [("phc_abcdefghijkl", "...ijkl"), ("phc_a", "..."), ("12345678", "..."), ("", "...")]
)
def test_masked__token__shows_at_most_its_end(token: str, shown: str) -> None:
    """Of a token only the last four characters are told, and of a short one nothing."""
    assert masked(token) == shown
