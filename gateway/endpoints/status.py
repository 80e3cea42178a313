"""For callers: how the service stands, as far as they notice.

Invariant: what is told is known already, so that it is told at once, whatever is down.
"""

from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import NotFound
from gateway.services.status import StatusService
from gateway.telemetry import RequestRecord
from gateway.wire.status import HEADERS, encode, is_for_people, public_status

_HEADERS = {**HEADERS, "cache-control": "public, max-age=5"}


async def status(request: Request) -> Response:
    """200 whatever the status is: whoever balances asks /_readiness."""
    record: RequestRecord = request.scope["state"]["record"]
    if not record.settings.status.is_public:
        raise NotFound
    service: StatusService = request.scope["state"]["status"]
    as_page = is_for_people(request.query_params.get("format"), request.headers.get("accept", ""))
    body, media_type = encode(public_status(service.felt()), as_page=as_page)
    return Response(body, headers=_HEADERS, media_type=media_type)
