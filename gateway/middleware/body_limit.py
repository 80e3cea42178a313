"""Reads the whole body before anything is parsed, within a size and a total time; the app then gets it in one piece.

Invariant: the app runs only with a complete body, and what a refused client sends on is read and thrown away until it
is gone, because an engine may wait for ever to hand over a body that nobody takes.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.settings import Requests
from gateway.errors import BodyTimeout, BodyTooLarge, GatewayError, UnreadableBody, reject
from gateway.telemetry import RequestRecord


class LimitBody:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record: RequestRecord = scope["state"]["record"]
        bounds = record.settings.requests
        try:
            if scope["state"].get("has_body"):  # The engine has it all, so that nothing need be bounded in time.
                body = await self._read(receive, bounds)
            else:
                body = await self._wait_for(receive, bounds, record)
            if (admission := scope["state"].get("admission")) is not None:
                await admission.enter(scope)
        except GatewayError as error:
            record.error = error.code
            await reject(send, error)
            if isinstance(error, BodyTimeout):
                await self._drain(receive, bounds)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_body() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, receive_body, send)

    async def _wait_for(self, receive: Receive, bounds: Requests, record: RequestRecord) -> bytes:
        """The whole body, if it comes in time."""
        began_s = record.duration_s()
        try:
            async with asyncio.timeout(bounds.body_timeout_s):
                return await self._read(receive, bounds)
        except TimeoutError:
            raise BodyTimeout from None
        finally:
            record.waited_s += record.duration_s() - began_s

    async def _read(self, receive: Receive, bounds: Requests) -> bytes:
        """The whole body. One that is too large is read to its end as well, for a sender reads no answer before."""
        parts: list[bytes] = []
        size = 0
        has_more = True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise UnreadableBody
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > bounds.max_body_bytes:
                parts.clear()
            has_more = message.get("more_body", False)
        if size > bounds.max_body_bytes:
            raise BodyTooLarge(bounds.max_body_bytes)
        return b"".join(parts)

    async def _drain(self, receive: Receive, bounds: Requests) -> None:
        try:
            async with asyncio.timeout(bounds.body_timeout_s):
                while (await receive())["type"] == "http.request":
                    pass
        except TimeoutError:
            return
