"""Finds out whom a request comes from, once, for everybody further in.

How that is told is in wire/forwarded.py. Invariant: this is the one owner of the client's address; nobody else reads
forwarding headers.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from config.edge import Proxies
from gateway.telemetry import RequestRecord
from gateway.wire.forwarded import client_of


class FindClient:
    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app = app
        self._trusted = proxies.trusted
        self._header = proxies.header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope["client"][0] if scope.get("client") else None
            client = scope["state"]["client"] = client_of(peer, scope["headers"], self._trusted, self._header)
            record: RequestRecord = scope["state"]["record"]
            record.client = str(client.address)
        await self._app(scope, receive, send)
