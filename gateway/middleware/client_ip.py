"""Finds out whom a request comes from, once, for everybody further in.

How that is told is in wire/forwarded.py. Invariant: this is the one owner of the client's address; nobody else reads
forwarding headers.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.telemetry import RequestRecord
from gateway.wire.forwarded import client_of


class FindClient:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope["client"][0] if scope.get("client") else None
            record: RequestRecord = scope["state"]["record"]
            proxies = record.settings.proxies
            client = scope["state"]["client"] = client_of(peer, scope["headers"], proxies.trusted, proxies.header)
            record.client = client.origin.text
        await self._app(scope, receive, send)
