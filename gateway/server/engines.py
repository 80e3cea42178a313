"""Which engine speaks HTTP, and what one is: something that makes a protocol for each connection.

The engines themselves are in hypercorn.py and uvicorn.py, imported when chosen. Invariant: an engine neither listens,
nor handles signals, nor limits anything; all that is done around it, and the same for both.
"""

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

import msgspec
from starlette.types import ASGIApp

from config.server import Server
from gateway.server.connections import Connections

FAST_MODULES = ("uvicorn", "httptools")


class Serving(msgspec.Struct, frozen=True):
    """What an engine needs to know. `app` finds copies of `state` in its requests."""

    app: ASGIApp
    state: Mapping[str, Any]
    connections: Connections
    server: Callable[[], Server]
    refuse: "Callable[[Any], bytes | None]" = lambda _: None
    """Asked with the scope of a request that is there as a whole: an answer to give instead of asking the app."""
    release: "Callable[[Any], None]" = lambda _: None
    """Told of a scope that was asked about and let in, of which no request came after all."""


class Engine(Protocol):
    """One of the two."""

    name: str

    def make_protocol(self) -> asyncio.BaseProtocol:
        """What speaks on one new connection."""
        ...

    def tick(self) -> None:
        """Called about once per second."""
        ...

    def close_connections(self) -> None:
        """From now on each connection is closed after its answer."""
        ...


def name_of_engine(server: Server) -> str:
    """The engine that these settings mean on this machine. Raises ModuleNotFoundError when it is not installed."""
    is_fast_here = all(find_spec(name) for name in FAST_MODULES)
    if server.engine == "uvicorn" and not is_fast_here:
        raise ModuleNotFoundError("server.engine is uvicorn, which the extra brings: pip install 'flagstone[fast]'")
    if server.engine == "auto":
        return "uvicorn" if is_fast_here and not server.tls_certificate else "hypercorn"
    return server.engine


def make_engine(name: str, serving: Serving) -> Engine:
    if name == "uvicorn":
        from gateway.server.uvicorn import UvicornEngine

        return UvicornEngine(serving)
    from gateway.server.hypercorn import HypercornEngine

    return HypercornEngine(serving)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop that is installed."""
    if find_spec("uvloop"):
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()
