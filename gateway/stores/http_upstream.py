"""Hands events and traces on to whoever takes them over HTTP.

What may wait, and what is given up, is decided by the services. Invariant: a request is made once, to the one
address in the settings: nothing in an answer, a cookie or the environment leads it anywhere else.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import httpcore

from config.address import Address
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable

MAX_ANSWER_BYTES: Final = 64 * 1024
"""More of an answer is not read; its connection is given up instead."""
KEEPALIVE_S: Final = 4.0
"""Shorter than servers keep an idle connection: one that closes just then would lose a request."""
_PORTS: Final = {"http": 80, "https": 443}


class HttpUpstream:
    """Use as an async context manager: closing ends its connections."""

    def __init__(self, address: Address, *, timeout_ms: int, max_connections: int) -> None:
        url = urlsplit(address.reveal())
        host = url.hostname or ""
        self._origin = (url.scheme.encode(), host.encode(), url.port or _PORTS[url.scheme])
        self._host = (b"host", url.netloc.encode())
        self._base = url.path.rstrip("/").encode()
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout_ms / 1000)
        self._pool = httpcore.AsyncConnectionPool(
            # Of a server without TLS nothing is to be checked, and loading the authorities takes a while.
            httpcore.default_ssl_context() if url.scheme == "https" else None,
            max_connections=max_connections,
            keepalive_expiry=KEEPALIVE_S,
        )

    def __repr__(self) -> str:
        return f"<HttpUpstream {self._pool!r}>"

    async def __aenter__(self) -> "HttpUpstream":
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def send(self, method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Whether the upstream took it; if not, it would not take it another time either. Raises StoreError."""
        scheme, host, port = self._origin
        try:
            async with self._pool.stream(
                method,
                httpcore.URL(scheme=scheme, host=host, port=port, target=self._base + target),
                headers=[self._host, *headers],
                content=body,
                extensions={"timeout": self._timeouts},
            ) as response:
                read = 0
                async for part in response.aiter_stream():
                    read += len(part)
                    if read > MAX_ANSWER_BYTES:
                        break
                status = response.status
        except httpcore.TimeoutException as error:
            raise StoreTimeout(f"upstream: {type(error).__name__}") from error
        except httpcore.NetworkError as error:
            raise StoreUnavailable(f"upstream: {error}") from error
        except httpcore.ProtocolError as error:
            raise StoreError(f"upstream: {error}") from error
        if status >= 500 or status == 429:
            raise StoreUnavailable(f"upstream: answered {status}")
        return 200 <= status < 300
