"""Refuses requests that two machines may read differently, and headers beyond all reason.

Bodies are the business of body_limit.py. Invariant: what is refused here has not been looked at by anything further in,
and its connection is closed, for what follows on it may not be what it seems.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import AmbiguousLength, CleartextHttp2, GatewayError, HeadersTooLarge
from gateway.refusing import reject, with_headers
from gateway.telemetry import RequestRecord

MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 32 * 1024
"""All headers together, more than browsers and proxies send. The engine's own bound holds only between two reads."""


class WireGuard:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = _problem(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        record: RequestRecord = scope["state"]["record"]
        record.error = error.code
        is_http2 = scope["http_version"] == "2"  # Which has no word for it.
        await reject(send if is_http2 else with_headers(send, (b"connection", b"close")), error)


def _problem(scope: Scope) -> GatewayError | None:
    headers = scope["headers"]
    # hypercorn speaks HTTP/2 without TLS to whoever asks. A proxy that forwards the upgrade is then a tunnel, through
    # which requests pass that it never sees and would deny.
    if scope["http_version"] == "2" and scope["scheme"] == "http":
        return CleartextHttp2()
    if len(headers) > MAX_HEADERS or sum([len(name) + len(value) for name, value in headers]) > MAX_HEADER_BYTES:
        return HeadersTooLarge()
    # The record has read them into this already, by name.
    by_name = scope["state"]["headers"]
    if b"transfer-encoding" in by_name and b"content-length" in by_name:
        return AmbiguousLength()
    if b"upgrade" in by_name and b"h2c" in by_name[b"upgrade"].lower():
        return CleartextHttp2()
    return None
