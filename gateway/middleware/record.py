"""Gives each request its record and its id, and writes its one line to the log when it is over.

Invariant: exactly one line per request, also when it crashed or was cancelled.
"""

import asyncio
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.ports import Clock
from gateway.telemetry import RequestRecord


class RecordRequests:
    def __init__(self, app: ASGIApp, clock: Clock, budget_s: float) -> None:
        self._app = app
        self._clock = clock
        self._budget_s = budget_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        record = RequestRecord(
            self._clock,
            self._budget_s,
            request_id=_request_id(headers.get(b"x-request-id")),
            method=scope["method"],
            path=scope["path"],
            user_agent=headers.get(b"user-agent", b"").decode("latin-1"),
        )
        scope.setdefault("state", {})["record"] = record
        id_header = (b"x-request-id", record.request_id.encode())

        async def send_onwards(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], id_header]
            await send(message)

        try:
            await self._app(scope, receive, send_onwards)
        except asyncio.CancelledError:
            record.is_cancelled = True
            raise
        finally:
            record.emit()


def _request_id(given: bytes | None) -> str:
    """The id that the client or a proxy gave, if it is a UUID, else a new one."""
    if given is not None:
        try:
            return str(uuid.UUID(given.decode("latin-1")))
        except ValueError:
            pass
    return str(uuid.uuid4())
