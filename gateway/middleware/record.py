"""Gives each request its record, its id, its deadline and its settings, and tells of it once when it is over: a line,
and metrics.

Invariant: exactly one line per request, also when it crashed or was cancelled; and no client gets more time than it is
due.
"""

import asyncio
import os
import uuid
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.reload import Live
from gateway.errors import Overloaded, RateLimited
from gateway.metrics import Metrics
from gateway.middleware.paths import kind_of
from gateway.ports import Clock
from gateway.refusing import VARY
from gateway.resilience.gate import Ticket
from gateway.standing import stale_after_s
from gateway.telemetry import RequestRecord, request_id_here

MAX_DIGITS: Final = 9
_VERSION_4: Final = (4 << 76) | (2 << 62)
_RANDOM_BITS: Final = ~((15 << 76) | (3 << 62))
NEAR_LIMIT: Final = ((b"x-posthog-rate-limit-warning", b"true"),)


class RecordRequests:
    def __init__(self, app: ASGIApp, live: Live, clock: Clock, metrics: Metrics) -> None:
        self._app = app
        self._live = live
        self._clock = clock
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        settings = self._live.settings  # Once, so that a reload cannot split a request.
        state = scope.setdefault("state", {})
        ticket: Ticket | None = state.get("ticket")
        record = RequestRecord(
            self._clock,
            settings,
            _budget_s(headers.get(b"x-request-timeout-ms"), settings.requests.budget_ms / 1000),
            request_id=_request_id(headers.get(b"x-request-id")),
            method=scope["method"],
            path=scope["path"],
            user_agent=headers.get(b"user-agent", b"").decode("latin-1"),
            arrived_at=None if ticket is None else ticket.placed_at,
        )
        state["record"], state["headers"] = record, headers
        id_header = (b"x-request-id", record.request_id.encode())

        async def send_onwards(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    id_header,
                    VARY,
                    *(NEAR_LIMIT if record.is_near_limit else ()),
                ]
                if record.is_stream:
                    self._answered(record, state)
            await send(message)

        self._metrics.requests_in_flight += 1
        before = request_id_here.set(record.request_id)
        try:
            await self._app(scope, receive, send_onwards)
        except asyncio.CancelledError:
            record.is_cancelled = True
            raise
        finally:
            if not record.is_stream or record.status is None:
                self._answered(record, state)
            record.emit()
            request_id_here.reset(before)

    def _answered(self, record: RequestRecord, state: dict[str, Any]) -> None:
        self._metrics.requests_in_flight -= 1
        outcome = outcome_of(record, 1000 * stale_after_s(record.settings.snapshots.refresh_s))
        self._metrics.request_ended(kind_of(record.path), record.status, outcome, record.duration_s())
        if record.trace is not None:
            state["tracing"].ended(record, outcome)


def outcome_of(record: RequestRecord, stale_ms: float) -> str:
    """What the request got in the end, in one word; `stale_ms` is the age from which a snapshot is stale."""
    status = record.status
    if status is None:
        return "gone"
    if record.error is None and status < 400:
        if record.missing is not None:
            return "partial"
        age_ms = record.snapshot_age_ms
        return "stale" if age_ms is not None and age_ms > stale_ms else "whole"
    if record.error == Overloaded.code:
        return "shed"
    if status == RateLimited.status:
        return "limited"
    return "refused" if 400 <= status < 500 else "failed"


def _budget_s(given: bytes | None, most_s: float) -> float:
    """The time a client is willing to wait, if it said so in whole milliseconds, but never more than it is due."""
    if given is not None and given.isdigit():
        return min(int(given[:MAX_DIGITS]) / 1000, most_s)
    return most_s


def _request_id(given: bytes | None) -> str:
    """The id that the client or a proxy gave, if it is a UUID, else a new one."""
    if given is not None:
        try:
            return str(uuid.UUID(given.decode("latin-1")))
        except ValueError:
            pass
    # As uuid.uuid4() makes them, without the object in between.
    bits = (int.from_bytes(os.urandom(16), "big") & _RANDOM_BITS) | _VERSION_4
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
