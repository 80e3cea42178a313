"""/flags and /decide: one set of handlers, which tell the two apart by the path.

Invariant: a GET never evaluates, so that a link that is merely opened costs nothing.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway.endpoints.methods import JsonBytes
from gateway.endpoints.provenance import degraded, note_snapshot
from gateway.metrics import Metrics, Phase
from gateway.services.flags import FlagService
from gateway.services.limits import LimitService
from gateway.telemetry import RequestRecord
from gateway.wire.flags import MINIMAL_LEGACY, MINIMAL_RECORDS, encode_response
from gateway.wire.query import read_parameters, read_query

MEDIA_TYPE = "application/json"


async def evaluate(request: Request) -> ASGIApp:
    """POST: the flags of a project for whoever the body describes."""
    scope = request.scope
    service: FlagService = scope["state"]["flags"]
    record: RequestRecord = scope["state"]["record"]
    metrics: Metrics = scope["state"]["metrics"]
    metrics.phase(Phase.BODY, record.duration_s())
    query = read_query(
        (await request.receive())["body"],  # Whole, from the limit on bodies.
        read_parameters(scope["query_string"]),
        scope["state"]["headers"],
        is_decide=scope["path"].startswith("/decide"),
        max_decoded_bytes=record.settings.requests.max_decoded_bytes,
    )
    record.token, record.shape = query.token, query.shape.value
    limits: LimitService = scope["state"]["limits"]
    if query.token:
        await limits.check_token(query.token, record)
    answer = await service.answer(query.token, query.context, record.deadline, disable_flags=query.disable_flags)
    snapshot, missing = answer.snapshot, answer.missing
    provenance = note_snapshot(record, snapshot, answer.source, answer.age_s)
    record.flags, record.missing = len(answer.outcomes), missing
    record.waited_s += answer.waited_s
    answered_s = record.duration_s()
    body = encode_response(
        query.shape,
        answer.outcomes,
        errors=answer.errors,
        request_id=record.request_id,
        evaluated_at_ms=int(answer.evaluated_at.timestamp() * 1000),
        config_for_flags=bool(snapshot.flags) if query.with_config else None,
        is_over_quota=answer.is_over_quota,
    )
    metrics.phase(Phase.ENCODE, record.duration_s() - answered_s)
    return JsonBytes(body, provenance, *degraded(missing))


async def minimal(request: Request) -> Response:
    """GET: an answer without flags, in the layout of the version asked for."""
    version = read_parameters(request.scope["query_string"]).version
    return Response(MINIMAL_RECORDS if (version or 1) >= 2 else MINIMAL_LEGACY, media_type=MEDIA_TYPE)


async def head(_: Request) -> Response:
    return Response(media_type=MEDIA_TYPE)
