"""Reads the whole body before anything is parsed, within a size and a total time; the app then gets it in one piece.

Invariant: the app runs only with a complete body, and after a refusal what the client still sends is read and thrown
away for a while, because an engine may wait for ever to hand over a body that nobody takes.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import BodyTimeout, BodyTooLarge, GatewayError, UnreadableBody, reject
from gateway.telemetry import RequestRecord


class LimitBody:
    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except GatewayError as error:
            record: RequestRecord = scope["state"]["record"]
            record.error = error.code
            await reject(send, error)
            await self._drain(receive)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_body() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, receive_body, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > self._max_bytes:
            raise BodyTooLarge(self._max_bytes)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise UnreadableBody
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._max_bytes:
                        raise BodyTooLarge(self._max_bytes)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise BodyTimeout from None

    async def _drain(self, receive: Receive) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
        except TimeoutError:
            return
