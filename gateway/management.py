"""What operators read on a listener of its own: GET /metrics, and GET /_status.

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
from gateway.middleware.paths import STATUS
from gateway.refusing import reject
from gateway.slow_limits import SlowLimits
from gateway.wire.forwarded import origin_of
from gateway.wire.status import HEADERS, Status, encode, is_for_people

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Management:
    """The app on that listener. `render` gives the metrics of all processes, `tell` how they stand."""

    def __init__(
        self, live: Live, render: Callable[[], Awaitable[bytes]], tell: Callable[[], Awaitable[Status]] | None = None
    ) -> None:
        limits = SlowLimits(live, lambda settings: settings.limits.management)

        async def metrics(request: Request) -> Response:
            await limits.check(request, _peer(request))
            return Response(await render(), media_type=EXPOSITION)

        async def status(request: Request) -> Response:
            if tell is None:
                raise NotFound
            await limits.check(request, _peer(request))
            as_page = is_for_people(request.query_params.get("format"), request.headers.get("accept", ""))
            body, media_type = encode(await tell(), as_page=as_page)
            return Response(body, headers={**HEADERS, "cache-control": "no-store"}, media_type=media_type)

        routes = [Route("/metrics", metrics), Route(STATUS, status)]
        self._router = Router(routes, redirect_slashes=False, default=_not_found)

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
