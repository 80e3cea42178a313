"""How a refusal is sent, and what makes any answer readable in a browser. No error is defined here.

Invariant: wherever something is refused, the answer is whole: a status, its headers, and a body of the length they say.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
VARY: Final = (b"vary", b"Origin")
"""On every answer, as its CORS headers repeat the origin."""


async def reject(send: Send, error: GatewayError) -> None:
    """Send `error` as a whole ASGI response."""
    if error.json_body or error.members:
        media_type = b"application/json"
        named = {"type": error.type, "code": error.code, "detail": error.detail, "attr": None}
        body = msgspec.json.encode({**named, **error.members})
    else:
        media_type = b"text/plain; charset=utf-8"
        body = error.detail.encode()
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *error.headers]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.allow is not None:
        headers.append((b"allow", error.allow.encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def with_headers(send: Send, *headers: tuple[bytes, bytes]) -> Send:
    """The same, with these headers in the answer as well."""

    async def send_onwards(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return send_onwards


def with_cors(scope: Mapping[str, Any], send: Send) -> Send:
    """Lets a browser read what is sent from beyond the middleware that does so for every other answer."""
    return with_headers(send, *cors_headers(scope["headers"]), VARY)


def cors_headers(headers: Headers) -> Headers:
    """What makes an answer to a request with these headers readable in a browser."""
    origin = next((value for name, value in headers if name == b"origin"), None)
    if origin is None:
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
    ]
