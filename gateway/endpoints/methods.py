"""An ASGI app that picks the handler of a route by method, so that the route table shows both.

Nothing of any endpoint lives here. Invariant: OPTIONS and a method without a handler tell which methods there are.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import MethodNotAllowed

_JSON = (b"content-type", b"application/json")

Handler = Callable[[Request], Awaitable[ASGIApp]]


class JsonBytes:
    """An answer that is encoded already, with further headers. The library's would look at each of them again."""

    __slots__ = ("_body", "_headers")

    def __init__(self, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        self._body = body
        self._headers = headers

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [_JSON, (b"content-length", b"%d" % len(self._body)), *self._headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


class NotModified:
    """An answer to somebody who has the present one already."""

    __slots__ = ("_headers",)

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self._headers = headers

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 304, "headers": list(self._headers)})
        await send({"type": "http.response.body"})


class Methods:
    """HEAD is answered by the handler for GET unless it has its own; the engine leaves out the body."""

    def __init__(self, **handlers: Handler) -> None:
        of_get = {"HEAD": handlers["GET"]} if "GET" in handlers else {}
        self._handlers = {**of_get, "OPTIONS": self._options, **handlers}
        self.methods = tuple(name for name in ("GET", "POST", "OPTIONS", "HEAD") if name in self._handlers)
        self._allow = ", ".join(self.methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["method"])
        if handler is None:
            raise MethodNotAllowed(self._allow)
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)

    async def _options(self, _: Request) -> Response:
        return Response(status_code=204, headers={"allow": self._allow})

    def __repr__(self) -> str:
        return f"<Methods {self._allow}>"
