"""What SDKs send events to. They are answered at once, whatever becomes of the events.

Invariant: nothing that happens to an event behind this is ever a client's to wait for, or to try again.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway.endpoints.flags import MEDIA_TYPE
from gateway.endpoints.methods import JsonBytes
from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.services.forwarding import ForwardingService
from gateway.services.learning import LearningService
from gateway.telemetry import RequestRecord
from gateway.wire.capture import ANSWER, MARK, read_updates, upstream_headers, upstream_target
from gateway.wire.query import read_parameters
from gateway.wire.trace_context import headers_of

RECORDINGS = "/s"
"""Much, and nothing in it identifies anybody."""


async def capture(request: Request) -> ASGIApp:
    """POST, or GET with the events in the query: taken, and not heard of again."""
    scope = request.scope
    state, query_string, headers = scope["state"], scope["query_string"], scope["state"]["headers"]
    metrics: Metrics = state["metrics"]
    record: RequestRecord = state["record"]
    forwarding: ForwardingService | None = state["forwarding"]
    learning: LearningService | None = state["learning"]
    body = (await request.receive())["body"]  # Whole, from the limit on bodies.
    metrics.event_bytes.inc(len(body))
    if forwarding is None:
        metrics.event_request("discarded")
    elif MARK in headers:
        metrics.event_request("looped")
    else:
        target = upstream_target(scope["path"], query_string)
        sent_on = upstream_headers(headers, state["client"].origin.text, record.request_id)
        if record.trace is not None:
            sent_on += headers_of(record.trace)
        forwarding.forward(scope["method"], target, sent_on, body)
    if learning is not None and scope["path"].rstrip("/") != RECORDINGS:
        try:
            updates = read_updates(
                body,
                query_string,
                headers,
                compression=read_parameters(query_string).compression,
                max_decoded_bytes=record.settings.requests.max_decoded_bytes,
            )
        except GatewayError:
            metrics.learned("undecodable")
        else:
            await learning.learn(updates)
    return JsonBytes(ANSWER)


async def head(_: Request) -> Response:
    return Response(media_type=MEDIA_TYPE)
