"""What the service says of itself: one wide line per request, events, and the setup of the log.

Metrics are in metrics.py. Invariant: every value written is escaped and capped, and of a token only the last four
characters.
"""

import json
import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache, partial
from random import random
from typing import Final

import msgspec

from config.operating import Log
from config.settings import Settings
from gateway.log_writer import LineWriter
from gateway.ports import Clock, Deadline
from gateway.traces import Trace

logger = logging.getLogger("flagstone")

MAX_VALUE_CHARACTERS: Final = 256
MAX_TRACEBACK_CHARACTERS: Final = 8192
MASKED_CHARACTERS: Final = 4
_KEPT_BYTES: Final = 2048
"""What a record keeps alive until its line is made, besides what its client has sent."""

request_id_here: ContextVar[str | None] = ContextVar("request_id_here", default=None)
"""The request that is being answered where this is asked, or for which something was begun: calls of stores too."""


def log_event(
    event: str, level: int = logging.INFO, *, exception: BaseException | None = None, **fields: object
) -> None:
    """Write an event, named in snake_case, with its fields; `exception` adds a traceback. Within a request, its id is
    one of the fields."""
    if (request_id := request_id_here.get()) is not None:
        fields = {"request_id": request_id, **fields}
    logger.log(level, event, exc_info=exception, extra={"fields": fields})


def masked(token: str) -> str:
    """The end of a token: enough to recognise it by, too little to use it."""
    return f"...{token[-MASKED_CHARACTERS:]}" if len(token) > 2 * MASKED_CHARACTERS else "..."


class Outage:
    """Tells of something that keeps failing twice: when that begins, and when it is over."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.failures = 0

    def failed(self, error: BaseException) -> None:
        self.failures += 1
        if self.failures == 1:
            log_event(f"{self._name}_failed", logging.WARNING, reason=f"{type(error).__name__}: {error}")

    def succeeded(self) -> None:
        if self.failures:
            log_event(f"{self._name}_recovered", failures=self.failures)
            self.failures = 0

    def __repr__(self) -> str:
        return f"<Outage {self._name}, {self.failures} failures>"


class RequestRecord:
    """What is known of one request while it runs. The middleware makes it, everybody may add, and it is logged once."""

    __slots__ = (
        "_arrived_at",
        "_clock",
        "client",
        "deadline",
        "error",
        "flags",
        "is_cancelled",
        "is_near_limit",
        "is_stream",
        "method",
        "missing",
        "path",
        "project_id",
        "request_id",
        "settings",
        "shape",
        "snapshot_age_ms",
        "snapshot_source",
        "snapshot_version",
        "status",
        "token",
        "trace",
        "user_agent",
        "waited_s",
    )

    def __init__(
        self,
        clock: Clock,
        settings: Settings,
        budget_s: float,
        *,
        request_id: str,
        method: str,
        path: str,
        user_agent: str,
        arrived_at: float | None = None,
    ) -> None:
        now = clock.monotonic()
        self._clock = clock
        self.settings = settings
        self._arrived_at = now if arrived_at is None else arrived_at
        self.deadline = Deadline(clock, self._arrived_at + budget_s - now)
        self.request_id = request_id
        self.method = method
        self.path = path
        self.user_agent = user_agent
        self.client: str | None = None
        self.status: int | None = None
        self.error: str | None = None
        self.is_cancelled = False
        self.is_near_limit = False
        self.is_stream = False
        """Whether the answer goes on for as long as its client stays; then it has been given once it begins."""
        self.waited_s = 0.0
        """For the client's body and for stores; the rest was spent in this process."""
        self.token: str | None = None
        self.project_id: int | None = None
        self.snapshot_version: int | None = None
        self.snapshot_source: str | None = None
        self.snapshot_age_ms: int | None = None
        self.shape: str | None = None
        self.flags: int | None = None
        self.missing: str | None = None
        self.trace: Trace | None = None

    def duration_s(self) -> float:
        """Seconds since the request arrived."""
        return self._clock.monotonic() - self._arrived_at

    def emit(self) -> None:
        """Write the line of this request, unless `log.sample_ratio` leaves it out. Its fields are always the same."""
        if not logger.isEnabledFor(logging.INFO):
            return
        duration_ms = self.duration_s() * 1000
        sampled_at = self.settings.log.sample_ratio
        if sampled_at < 1:
            if not self._is_usual(duration_ms):
                sampled_at = 1.0
            elif random() >= sampled_at:  # noqa: S311 - guards nothing
                return
        created = time.time()
        if _lines is not None:
            # Made by the writer, many at a time: here, amid everything else, each would take twice as long.
            size = _KEPT_BYTES + len(self.path) + len(self.user_agent)
            _lines.add(partial(self._encoded, created, duration_ms, sampled_at), size)
            return
        fields = msgspec.structs.asdict(self._line(created, duration_ms, sampled_at))
        del fields["time"], fields["level"]
        # Made here, for the logger would look for its caller first.
        record = logging.LogRecord(logger.name, logging.INFO, "", 0, fields.pop("event"), None, None)
        vars(record)["fields"] = fields
        logger.handle(record)

    def _encoded(self, created: float, duration_ms: float, sampled_at: float) -> bytes:
        return _encoded(self._line(created, duration_ms, sampled_at))

    def _line(self, created: float, duration_ms: float, sampled_at: float) -> "_RequestLine":
        # By position: names would take four times as long.
        return _RequestLine(
            _time(created),
            "info",
            "request",
            self.request_id,
            None if self.trace is None else self.trace.trace_id,
            self.method,
            self.path[:MAX_VALUE_CHARACTERS],
            self.client,
            self.status,
            round(duration_ms, 3),
            self.is_cancelled,
            self.error,
            None if self.token is None else masked(self.token),
            self.project_id,
            self.snapshot_version,
            self.snapshot_source,
            self.snapshot_age_ms,
            self.shape,
            self.flags,
            self.missing,
            self.user_agent[:MAX_VALUE_CHARACTERS],
            sampled_at,
        )

    def _is_usual(self, duration_ms: float) -> bool:
        """Whether nobody would look for this request's line: it was answered whole, in time, to somebody who waited."""
        status = self.status
        return (
            status is not None
            and (status == 404 or (status < 400 and self.error is None))
            and self.missing is None
            and not self.is_cancelled
            and (self.is_stream or duration_ms < self.settings.log.slow_ms)
        )

    def __repr__(self) -> str:
        return f"<RequestRecord {self.request_id} {self.method} {self.path!r} -> {self.status}>"


class _RequestLine(msgspec.Struct, gc=False):
    """The line of a request, with its fields in the order in which they are written."""

    time: str
    level: str
    event: str
    request_id: str
    trace_id: str | None
    method: str
    path: str
    client: str | None
    status: int | None
    duration_ms: float
    is_cancelled: bool
    error: str | None
    token: str | None
    project_id: int | None
    snapshot_version: int | None
    snapshot_source: str | None
    snapshot_age_ms: int | None
    shape: str | None
    flags: int | None
    missing: str | None
    user_agent: str
    sampled_at: float


_lines: LineWriter | None = None
"""Where lines of requests go when there is nothing else to be done with them."""


def set_up_logging(log: Log, *, is_batched: bool = False) -> None:
    """Send every record of this process to stderr in the format chosen. Replaces what was set up before.

    Batched, lines are written from a thread, so that nobody waits for whoever reads them.
    """
    global _lines  # noqa: PLW0603 - like the library's, the setup of a process
    # What no line says need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    vars(logging)["logAsyncioTasks"] = False
    handler = LineWriter(sys.stderr) if is_batched else logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log.format == "json" else TextFormatter())
    logging.basicConfig(level=log.level.upper(), handlers=[handler], force=True)
    _lines = handler if isinstance(handler, LineWriter) and log.format == "json" else None


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record.created), "level": record.levelname.lower(), **_fields(record)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-MAX_TRACEBACK_CHARACTERS:]
        return _encoded(line).decode()


class TextFormatter(logging.Formatter):
    """Text for a person: the event, then its fields that have a value."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        event = fields.pop("event")
        told = [f"{name}={_encoded(value).decode()}" for name, value in fields.items() if value is not None]
        line = " ".join([_time(record.created), record.levelname, str(event), *told])
        if record.exc_info:
            # The bar keeps a line break in an exception's text from passing for the start of a new record.
            traceback = self.formatException(record.exc_info)[-MAX_TRACEBACK_CHARACTERS:]
            line = "\n  | ".join([line, *traceback.splitlines()])
        return line


def _time(created: float) -> str:
    return _millisecond(int(created * 1000))


@lru_cache(4)
def _millisecond(number: int) -> str:
    return f"{_second(number // 1000)}.{number % 1000:03}+00:00"


@lru_cache(4)
def _second(number: int) -> str:
    return datetime.fromtimestamp(number, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The event and its fields; a record from elsewhere is the event "log"."""
    fields: dict[str, object] | None = vars(record).get("fields")
    if fields is None:
        fields = {"event": "log", "logger": record.name, "message": record.getMessage()}
    else:
        fields = {"event": record.msg, **fields}
    for name, value in fields.items():
        kind = type(value)
        if kind is str:
            if len(value) > MAX_VALUE_CHARACTERS:  # type: ignore[arg-type]
                fields[name] = value[:MAX_VALUE_CHARACTERS]  # type: ignore[index]
        elif not (value is None or isinstance(value, int | float)):
            fields[name] = str(value)[:MAX_VALUE_CHARACTERS]
    return fields


def _encoded(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        # What cannot be written as UTF-8 is escaped, so that no value can break the line it stands in.
        plain = msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else value
        return json.dumps(plain).encode("utf-8", "backslashreplace")
