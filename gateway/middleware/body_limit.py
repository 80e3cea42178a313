"""Reads the whole body before anything is parsed, within a size and a total time; the app then gets it in one piece.

Only the management API reads for itself, as it comes, once it knows whose body it is. Invariant: any other app runs
only with a complete body, and what a refused client sends on is read and thrown away until it is gone, because an
engine may wait for ever to hand over a body that nobody takes.
"""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.settings import Requests
from gateway.errors import BodyTimeout, BodyTooLarge, GatewayError, Overloaded, UnreadableBody
from gateway.middleware.paths import is_managed
from gateway.refusing import reject
from gateway.telemetry import RequestRecord

MIN_BYTES_PER_S: Final = 8 * 1024
"""On average, of a body that is read as it comes: less than any line carries, and too much to trickle for hours."""


class LimitBody:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if is_managed(scope["path"]):
            await self._hand_on(scope, receive, send)
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

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app read the body, within bounds that hold however much it is."""
        state = scope["state"]
        admission = state.get("admission")
        if admission is not None:
            try:
                await admission.enter(scope)
            except Overloaded as error:
                state["record"].error = error.code
                await reject(send, error)
                return
        state["has_own_bounds"] = True
        body = ComingBody(receive, state["record"])

        async def drain() -> None:
            if not body.has_ended:
                if admission is not None:
                    admission.step_back(scope)
                await body.drain()

        async def send_at_the_end(message: Message) -> None:
            if not body.is_late:  # A sender that goes on reads no answer before it has sent everything.
                await drain()
            await send(message)

        await self._app(scope, body.receive, send_at_the_end)
        await drain()

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


class ComingBody:
    """A body as it comes. Raises what it is refused with once it is too large, or silent or slow for too long."""

    def __init__(self, receive: Receive, record: RequestRecord) -> None:
        self._receive = receive
        self._record = record
        self._bounds = record.settings.requests
        self._max_bytes = record.settings.api.max_upload_bytes
        self._received = 0
        self._waited_s = 0.0
        self.has_ended = False
        self.is_late = False

    def __repr__(self) -> str:
        return f"<ComingBody {self._received} bytes in {self._waited_s:.1f} s{', ended' if self.has_ended else ''}>"

    async def receive(self) -> Message:
        """The next piece. Time spent between two of them is not the sender's and does not count."""
        began_s = self._record.duration_s()
        try:
            async with asyncio.timeout(self._bounds.body_timeout_s):
                message = await self._receive()
        except TimeoutError:
            self.is_late = True
            raise BodyTimeout from None
        finally:
            waited_s = self._record.duration_s() - began_s
            self._waited_s += waited_s
            self._record.waited_s += waited_s
        self.has_ended = not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            raise UnreadableBody
        self._received += len(message.get("body", b""))
        if self._received > self._max_bytes:
            raise BodyTooLarge(self._max_bytes)
        self.is_late = self._waited_s > self._bounds.body_timeout_s + self._received / MIN_BYTES_PER_S
        if self.is_late:
            raise BodyTimeout
        return message

    async def drain(self) -> None:
        """Read and drop what still comes, for as long as a whole body may take."""
        try:
            async with asyncio.timeout(self._bounds.body_timeout_s):
                while not self.has_ended:
                    self.has_ended = not (await self._receive()).get("more_body", False)
        except TimeoutError:
            self.has_ended = True
