"""For operators and balancers: what this is, whether it lives, and whether it can answer.

Invariant: readiness is found out anew for each request; it neither latches nor repeats liveness.
"""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from config.reload import Live
from gateway.services.limits import LimitService
from gateway.services.snapshots import SnapshotService
from gateway.telemetry import RequestRecord


async def root(_: Request) -> Response:
    return PlainTextResponse("feature flags")


async def liveness(_: Request) -> Response:
    return PlainTextResponse("ok")


async def readiness(request: Request) -> Response:
    """200 when a snapshot can be evaluated now, else 503 with the reason."""
    live: Live = request.scope["state"]["live"]
    if live.is_leaving:
        return _json(503, {"status": "not_ready", "reason": "The service is about to stop"})
    snapshots: SnapshotService = request.scope["state"]["snapshots"]
    record: RequestRecord = request.scope["state"]["record"]
    if await snapshots.is_ready(record.deadline):
        limits: LimitService = request.scope["state"]["limits"]
        warnings = [suspicion.text for suspicion in limits.suspicions()]
        return _json(200, {"status": "ready", **({"warnings": warnings} if warnings else {})})
    return _json(503, {"status": "not_ready", "reason": "No snapshot is held and the store does not answer"})


def _json(status: int, content: Mapping[str, object]) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
