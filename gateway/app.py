"""create_app(): the route table and the middleware list, nothing else.

Invariant: whatever is answered, by a route or by a middleware, passes CORS and the record on its way out.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.middleware import Middleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from config.reload import Live
from gateway import wiring
from gateway.api import routes
from gateway.api.app import ManagementApi
from gateway.endpoints import (
    bootstrap,
    capture,
    definitions,
    documents,
    flags,
    ofrep,
    ops,
    remote_config,
    status,
    streams,
)
from gateway.endpoints.methods import Methods
from gateway.errors import NotFound
from gateway.metrics import Metrics
from gateway.middleware.admission import Admission
from gateway.middleware.body_limit import LimitBody
from gateway.middleware.boundary import ErrorBoundary
from gateway.middleware.client_ip import FindClient
from gateway.middleware.cors import AllowOrigins
from gateway.middleware.paths import CAPTURES, QUIET, STATUS, STREAM, is_managed
from gateway.middleware.rate_limit import LimitRate
from gateway.middleware.record import RecordRequests
from gateway.middleware.trace import TraceRequests
from gateway.middleware.wire_guard import WireGuard
from gateway.ports import Clock, SystemClock
from gateway.traced_metrics import metrics_of

_FLAGS = Methods(GET=flags.minimal, HEAD=flags.head, POST=flags.evaluate)
_DEFINITIONS = Methods(GET=definitions.local_evaluation)
_REMOTE_CONFIG = Methods(GET=remote_config.remote_config)
_STREAM = Methods(GET=streams.listen, HEAD=streams.head)
_CAPTURE = Methods(GET=capture.capture, HEAD=capture.head, POST=capture.capture)
_NOTHING = Methods(GET=documents.nothing)
_BOOTSTRAP = Methods(GET=bootstrap.get, POST=bootstrap.post)

_ALL_FLAGS = Methods(POST=ofrep.bulk)
_ONE_FLAG = Methods(POST=ofrep.single)

ROUTES = [
    Route("/flags/", _FLAGS),
    Route("/flags", _FLAGS),
    Route("/decide/", _FLAGS),
    Route("/decide", _FLAGS),
    Route(ofrep.BULK + "/", _ALL_FLAGS),
    Route(ofrep.BULK, _ALL_FLAGS),
    Route(ofrep.SINGLE + "{key:path}", _ONE_FLAG),
    Route(STREAM + "/", _STREAM),
    Route(STREAM, _STREAM),
    Route("/bootstrap/", _BOOTSTRAP),
    Route("/bootstrap", _BOOTSTRAP),
    Route("/flags/definitions/", _DEFINITIONS),
    Route("/flags/definitions", _DEFINITIONS),
    Route("/api/feature_flag/local_evaluation/", _DEFINITIONS),
    Route("/api/feature_flag/local_evaluation", _DEFINITIONS),
    Route("/api/projects/{project}/feature_flags/{key}/remote_config/", _REMOTE_CONFIG),
    Route("/api/projects/{project}/feature_flags/{key}/remote_config", _REMOTE_CONFIG),
    Route("/array/{token}/config.js", Methods(GET=documents.script)),
    Route("/array/{token}/config", Methods(GET=documents.config)),
    *(Route(path + slash, _NOTHING) for path in QUIET for slash in ("/", "")),
    *(Route(path + slash, _CAPTURE) for path in CAPTURES for slash in ("/", "")),
    Route("/_readiness", Methods(GET=ops.readiness)),
    Route("/_liveness", Methods(GET=ops.liveness)),
    Route(STATUS, Methods(GET=status.status)),
    Route("/", Methods(GET=ops.root)),
]


def create_app(
    live: Live,
    clock: Clock | None = None,
    open_store: wiring.OpenStore = wiring.open_store,
    metrics: Metrics | None = None,
) -> Admission:
    """The service as one ASGI app. It opens the store in its lifespan, whose state the server must pass on."""
    clock = clock or SystemClock()
    metrics = metrics or metrics_of(live.settings, clock)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[_State]:
        async with wiring.open_services(live, clock, metrics, open_store) as services:
            yield _State(**services, api=ManagementApi(services["managed"], live, clock))

    middleware = [
        Middleware(RecordRequests, live, clock, metrics),
        Middleware(AllowOrigins),
        Middleware(ErrorBoundary),
        Middleware(WireGuard),
        Middleware(FindClient),
        *([Middleware(TraceRequests, route_of)] if live.settings.traces.url else []),
        Middleware(LimitRate),
        Middleware(LimitBody),
    ]
    # Not a Starlette application: it stands outside all middleware and would answer a crash without CORS. Redirects
    # for a missing slash are off because they would take their target from the Host header.
    app: ASGIApp = ByPath(Router(ROUTES, redirect_slashes=False, default=_not_found, lifespan=lifespan))
    for wrapper, args, kwargs in reversed(middleware):
        app = wrapper(app, *args, **kwargs)
    return Admission(app, live, clock, metrics)


def route_of(path: str) -> str | None:
    """The route of a path, for whoever must not tell what a client put in its place; None when there is none."""
    for route in ROUTES:
        if route.path_regex.match(path):
            return route.path_format.rstrip("/") or "/"
    operations, _ = routes.find(path)
    return next((operation.path for operation in operations.values()), None)


class _State(wiring.Services):
    """What is in the state of a request."""

    api: ManagementApi


class ByPath:
    """Finds the route of a path without trying one pattern after the other; what is below /api/ is the management
    API's, and all else the router's."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._apps = {route.path: route.app for route in ROUTES if not route.param_convertors}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._apps.get(scope["path"]) if scope["type"] == "http" else None
        if app is None and scope["type"] == "http":
            if scope["path"].startswith(ofrep.SINGLE):
                app = _ONE_FLAG
            elif is_managed(scope["path"]):
                app = scope["state"]["api"]
        await (app or self._router)(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocketClose()(scope, receive, send)
        return
    raise NotFound
