"""Holds each client address to its rates, before anything of its request is read.

Which rates, and what is done about a denial, is the limit service's; a project's token is checked where it is known.
Invariant: health is never limited, or a balancer would take the service out for asking how it is.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from config.edge import ROUTES
from gateway.errors import RateLimited
from gateway.middleware.paths import STATUS, Kind, kind_of
from gateway.refusing import reject
from gateway.services.limits import LimitService
from gateway.telemetry import RequestRecord

EXEMPT: Final = frozenset({"/_readiness", "/_liveness"})
ALWAYS_ADMITTED: Final = EXEMPT | {STATUS}
"""What takes no place from anybody. How the service stands is asked for most when there is no place left."""
_ROUTES: Final = dict.fromkeys(Kind, "other") | {
    **{kind: kind.value for kind in Kind if kind in ROUTES},
    Kind.REMOTE_CONFIG: "definitions",
}
"""Under which name a kind of route may have rates of its own."""


class LimitRate:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in EXEMPT:
            state = scope["state"]
            service: LimitService = state["limits"]
            record: RequestRecord = state["record"]
            try:
                await service.check_address(state["client"], _ROUTES[kind_of(scope["path"])], record)
            except RateLimited as error:
                record.error = error.code
                await reject(send, error)
                return
        await self._app(scope, receive, send)
