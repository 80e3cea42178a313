"""/flags/definitions: a project's definitions, for SDKs that evaluate by themselves.

Invariant: they are refused in PostHog's order - project, credential, rate, quota - before anything is compared or sent;
and whoever has them already costs no more than the comparison of a tag.
"""

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp

from gateway.endpoints.methods import JsonBytes, NotModified
from gateway.endpoints.provenance import Header, note_snapshot
from gateway.errors import LocalEvaluationUnsupported, MissingToken, OverQuota
from gateway.services.credentials import CredentialService
from gateway.services.flags import FlagService
from gateway.services.limits import LimitService
from gateway.services.local_definitions import LocalDefinitionService
from gateway.services.quota import QuotaService
from gateway.services.snapshots import SnapshotService
from gateway.telemetry import RequestRecord
from gateway.wire.definitions import accepts_gzip
from gateway.wire.etags import is_known
from gateway.wire.query import read_parameters

_REVALIDATED: Final = (b"cache-control", b"private, must-revalidate")
_VARY: Final = (b"vary", b"Accept-Encoding")
_GZIPPED: Final = (b"content-encoding", b"gzip")


async def local_evaluation(request: Request) -> ASGIApp:
    """The definitions of the project, unless the client says that it has these."""
    scope = request.scope
    state, sent = scope["state"], scope["state"]["headers"]
    record: RequestRecord = state["record"]
    service: FlagService = state["flags"]
    credentials: CredentialService = state["credentials"]
    limits: LimitService = state["limits"]
    quota: QuotaService = state["quota"]
    local: LocalDefinitionService = state["local_definitions"]
    snapshots: SnapshotService = state["snapshots"]

    token = record.token = read_parameters(scope["query_string"]).token
    if token is None:
        raise MissingToken
    began_s = record.duration_s()
    held = await service.find(token, record.deadline)
    await credentials.admit(sent.get(b"authorization"), held.snapshot, record.deadline)
    record.waited_s += record.duration_s() - began_s
    if refusal := held.snapshot.local_evaluation_refusal:
        raise LocalEvaluationUnsupported(refusal)
    known = sent.get(b"if-none-match")
    if known is not None:
        await limits.check_conditional_definitions(token, record)
    else:
        await limits.check_definitions(token, record)
    if not quota.spend(token, record.settings.quota.definitions_cost):
        raise OverQuota

    etag = local.etag(held)
    if etag is not None and is_known(known, etag):
        return NotModified(*_described(etag), note_snapshot(record, held.snapshot, held.source, snapshots.age_s(held)))
    prepared = await local.get(held, record.deadline)
    provenance = note_snapshot(record, held.snapshot, held.source, snapshots.age_s(held), prepared.version)
    headers = [*_described(prepared.etag), provenance]
    if is_known(known, prepared.etag):
        return NotModified(*headers)
    if known is not None:
        await limits.check_definitions(token, record)
    if prepared.gzipped is not None and accepts_gzip(sent.get(b"accept-encoding", b"")):
        return JsonBytes(prepared.gzipped, *headers, _GZIPPED)
    return JsonBytes(prepared.body, *headers)


def _described(etag: bytes) -> list[Header]:
    return [(b"etag", etag), _REVALIDATED, _VARY]
