"""What operators read on a listener of its own: GET /metrics.

slowapi holds these routes to their rates, set up so that it can be trusted: by decorator, keyed by endpoint, without
its middleware, its headers and its reading of .env files. Invariant: its refusals look like everybody else's.
"""

import os
import time
import warnings
from collections.abc import Awaitable, Callable
from math import ceil

from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from config.reload import Live
from gateway.errors import GatewayError, NotFound, RateLimited, reject
from gateway.wire.forwarded import origin_of

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Management:
    """The app on that listener. `render` gives the metrics of all processes."""

    def __init__(self, live: Live, render: Callable[[], Awaitable[bytes]]) -> None:
        limiter = self._limiter = _make_limiter()

        @limiter.limit(
            lambda: str(live.settings.limits.management),
            exempt_when=lambda: live.settings.limits.mode != "enforce" or not live.settings.limits.management,
        )
        async def metrics(request: Request) -> Response:  # noqa: ARG001 - slowapi looks for it by its name
            return Response(await render(), media_type=EXPOSITION)

        self._router = Router([Route("/metrics", metrics)], redirect_slashes=False, default=_not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router(scope, receive, send)
        except RateLimitExceeded:
            await reject(send, self._refusal(Request(scope)))
        except GatewayError as error:
            await reject(send, error)

    def _refusal(self, request: Request) -> RateLimited:
        item, key = request.state.view_rate_limit
        stats = self._limiter.limiter.get_window_stats(item, *key)
        reset_s = max(1, ceil(stats.reset_time - time.time()))
        return RateLimited(item.amount, stats.remaining, reset_s, reset_s)


def _make_limiter() -> Limiter:
    """A limiter that its environment cannot switch off."""
    with warnings.catch_warnings():
        # Given no file, slowapi would read .env in the working directory; given one, it misses it.
        warnings.simplefilter("ignore")
        limiter = Limiter(_peer, key_style="endpoint", storage_uri="memory://", config_filename=os.devnull)
    limiter.enabled = True
    return limiter


def _peer(request: Request) -> str:
    """Who connects: no proxy stands before this listener."""
    origin = origin_of(request.client.host) if request.client else None
    return origin.bucket if origin else "unknown"


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        raise NotFound
    await WebSocketClose()(scope, receive, send)
