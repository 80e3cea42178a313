"""The requests in flight of one process: they can be told to close their connections, and be cut off.

Wraps the app; what happens inside a request does not live here. Invariant: no request outlives its bound, and one that
is cut off before its answer began gets a 503.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Stopping
from gateway.refusing import reject, with_cors
from gateway.telemetry import log_event

CLOSE: Final = (b"connection", b"close")


class InFlight:
    def __init__(self, app: ASGIApp, now: Callable[[], float]) -> None:
        self._app = app
        self._now = now
        self._requests: dict[asyncio.Task[object], tuple[float, Scope]] = {}
        self._is_closing = False
        self._is_over = False
        self.served = 0

    def __repr__(self) -> str:
        state = "over" if self._is_over else "closing" if self._is_closing else "serving"
        return f"<InFlight {state}, {len(self._requests)} requests>"

    def __len__(self) -> int:
        return len(self._requests)

    def close_connections(self) -> None:
        """From now on answers ask their client to use another connection."""
        self._is_closing = True

    def cut_off(self) -> None:
        """Cancel, once, what is still in flight; a request that has not begun its answer gets a 503."""
        if self._is_over:
            return
        self._is_over = True
        if self._requests:
            log_event("requests_cut_off", logging.WARNING, requests=len(self._requests))
        for request in self._requests:
            request.cancel()

    def sweep(self, max_s: float) -> None:
        """End requests older than this: their clients take no answer, or something in here is broken. An upload may
        take hours, and is bounded where it is read."""
        oldest = self._now() - max_s
        for request, (began, scope) in tuple(self._requests.items()):
            if began < oldest and not scope["state"].get("has_own_bounds"):
                record = scope["state"].get("record")  # There is none while it waits for its place.
                log_event("request_overdue", logging.WARNING, duration_s=round(self._now() - began, 1),
                          request_id=record and record.request_id)  # fmt: skip
                request.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = asyncio.current_task()
        if scope["type"] != "http" or request is None:
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_onwards(message: Message) -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                if (self._is_closing or scope["state"].get("is_last")) and scope["http_version"] == "1.1":
                    message["headers"] = [*message["headers"], CLOSE]
            await send(message)

        self.served += 1
        self._requests[request] = self._now(), scope
        try:
            await self._app(scope, receive, send_onwards)
        except asyncio.CancelledError:
            if has_begun or not self._is_over:
                raise
            request.uncancel()
            await reject(with_cors(scope, send_onwards), Stopping())
        finally:
            del self._requests[request]
