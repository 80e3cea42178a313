"""Lets browsers read every answer, and ask from anywhere: flags are public to whoever has a project's token.

Preflights are the library's. Invariant: whatever is answered further in, refusals and crashes included, can be read.
"""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.refusing import cors_headers, with_headers

EXPOSED = (
    "x-posthog-rate-limit-warning", "x-request-id", "x-flagstone-snapshot", "x-flagstone-degraded", "retry-after",
    "etag", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset",
)  # fmt: skip
_EXPOSE = (b"access-control-expose-headers", ", ".join(EXPOSED).encode())


class AllowOrigins:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._preflight = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=["GET", "POST", "OPTIONS", "HEAD"],
            allow_headers=["*"],
            allow_credentials=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = scope["state"]["headers"]
        if b"origin" not in asked:  # No browser reads the answer; that it varies is said for every one (see record.py).
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in asked:
            await self._preflight(scope, receive, send)
            return
        # The library's way of adding headers costs several times as much, for each request.
        await self._app(scope, receive, with_headers(send, *cors_headers(scope["headers"]), _EXPOSE))
