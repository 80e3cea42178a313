"""What operators read on a listener of its own: GET /metrics.

Invariant: whatever is asked there, nothing of a client's traffic is served or touched.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from config.reload import Live
from gateway.errors import GatewayError, NotFound
from gateway.refusing import reject
from gateway.slow_limits import SlowLimits
from gateway.wire.forwarded import origin_of

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Management:
    """The app on that listener. `render` gives the metrics of all processes."""

    def __init__(self, live: Live, render: Callable[[], Awaitable[bytes]]) -> None:
        limits = SlowLimits(live, lambda settings: settings.limits.management)

        async def metrics(request: Request) -> Response:
            await limits.check(request, _peer(request))
            return Response(await render(), media_type=EXPOSITION)

        self._router = Router([Route("/metrics", metrics)], redirect_slashes=False, default=_not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router(scope, receive, send)
        except GatewayError as error:
            await reject(send, error)


def _peer(request: Request) -> str:
    """Who connects: no proxy stands before this listener."""
    origin = origin_of(request.client.host) if request.client else None
    return origin.bucket if origin else "unknown"


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        raise NotFound
    await WebSocketClose()(scope, receive, send)
