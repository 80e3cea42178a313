"""For operators and balancers: what this is, whether it lives, and whether it can answer.

Invariant: readiness is found out anew for each request; it neither latches nor repeats liveness.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.services.snapshots import SnapshotService
from gateway.telemetry import RequestRecord


async def root(_: Request) -> Response:
    return PlainTextResponse("feature flags")


async def liveness(_: Request) -> Response:
    return PlainTextResponse("ok")


async def readiness(request: Request) -> Response:
    """200 when a snapshot can be evaluated now, else 503 with the reason."""
    snapshots: SnapshotService = request.scope["state"]["snapshots"]
    record: RequestRecord = request.scope["state"]["record"]
    if await snapshots.is_ready(record.deadline):
        return _json(200, {"status": "ready"})
    return _json(503, {"status": "not_ready", "reason": "No snapshot is held and the store does not answer"})


def _json(status: int, content: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
