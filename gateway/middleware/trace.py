"""Finds out whether a request is traced, and as part of whose trace. Stands only where traces can be sent somewhere.

The request's record ends its trace. Invariant: nobody who is not believed has a request traced, or anything of theirs
told to others.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from config.operating import Traces
from gateway.middleware.rate_limit import ALWAYS_ADMITTED
from gateway.resilience.gate import Ticket
from gateway.services.tracing import TracingService
from gateway.telemetry import RequestRecord
from gateway.traces import Part, trace_here
from gateway.wire.forwarded import is_trusted
from gateway.wire.trace_context import TRACEPARENT, parent_of

QUEUE = "queue"
"""The part of a request that waited for its turn."""


class TraceRequests:
    def __init__(self, app: ASGIApp, route_of: Callable[[str], str | None]) -> None:
        self._app = app
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_ADMITTED:
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        record: RequestRecord = state["record"]
        service: TracingService = state["tracing"]
        settings = record.settings.traces
        is_part = TRACEPARENT in state["headers"] and _is_believed(settings, scope, record)
        trace = service.begin(parent_of(scope["headers"]) if is_part else None, settings.sample_ratio)
        record.trace = trace
        if trace is None or not trace.is_sampled:
            await self._app(scope, receive, send)
            return
        trace.route = self._route_of(scope["path"])
        trace.scheme, trace.http_version = scope["scheme"], scope["http_version"]
        before = trace_here.set(trace)
        try:
            await self._app(scope, receive, send)
        finally:
            trace_here.reset(before)
            ticket: Ticket | None = state.get("ticket")
            if ticket is not None and ticket.since is not None and ticket.since > ticket.placed_at:
                trace.note(Part(QUEUE, ticket.since, ticket.since - ticket.placed_at))


def _is_believed(settings: Traces, scope: Scope, record: RequestRecord) -> bool:
    """Whether it is the client's to say, or its proxy's, which trace the request is part of."""
    match settings.parents:
        case "nobody":
            return False
        case "inside":
            return bool(scope["state"]["client"].is_trusted)
        case "proxies":
            return is_trusted(scope["client"][0] if scope.get("client") else None, record.settings.proxies.trusted)
        case "everybody":
            return True
