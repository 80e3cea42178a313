"""Remote config: the payload of one flag, for servers.

Invariant: it is answered from the same snapshot as flags, whatever is down, and an encrypted payload is never shown.
"""

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp

from gateway.endpoints.methods import JsonBytes
from gateway.endpoints.provenance import note_snapshot
from gateway.errors import NotFound, PermissionDenied, UndecryptablePayload
from gateway.services.credentials import CredentialService
from gateway.services.flags import FlagService
from gateway.services.limits import LimitService
from gateway.services.local_definitions import LocalDefinitionService
from gateway.services.snapshots import SnapshotService
from gateway.telemetry import RequestRecord
from gateway.wire.definitions import REDACTED
from gateway.wire.query import read_parameters

CURRENT: Final = "@current"
_MAX_DIGITS: Final = 18


async def remote_config(request: Request) -> ASGIApp:
    """The payload of the flag with this key or id."""
    scope = request.scope
    state = scope["state"]
    record: RequestRecord = state["record"]
    service: FlagService = state["flags"]
    credentials: CredentialService = state["credentials"]
    limits: LimitService = state["limits"]
    local: LocalDefinitionService = state["local_definitions"]
    snapshots: SnapshotService = state["snapshots"]

    project_id = _project_id(request.path_params["project"])
    began_s = record.duration_s()
    token = read_parameters(scope["query_string"]).token
    if token is None and project_id is not None:
        token = await credentials.token_of(project_id, record.deadline)
    if token is None:
        raise NotFound("There is no such project.")
    record.token = token
    held = await service.find(token, record.deadline)
    key = await credentials.admit(state["headers"].get(b"authorization"), held.snapshot, record.deadline)
    record.waited_s += record.duration_s() - began_s
    if project_id not in (None, held.snapshot.project_id):
        raise PermissionDenied("The token is not that of the project in the path.")
    if key is not None:
        await limits.check_remote_config(key.digest, record)
    prepared = await local.get(held, record.deadline)
    provenance = note_snapshot(record, held.snapshot, held.source, snapshots.age_s(held), prepared.version)
    config = prepared.configs.get(request.path_params["key"])
    if config is None:
        raise NotFound("There is no such flag, or it is none for remote config.")
    if config.is_encrypted and key is not None:
        raise UndecryptablePayload
    return JsonBytes(REDACTED if config.is_encrypted else config.payload, provenance)


def _project_id(named: str) -> int | None:
    """The project that the path names; None for the one that the token is of. Raises NotFound."""
    if named == CURRENT:
        return None
    if named.isascii() and named.isdigit() and len(named) <= _MAX_DIGITS:
        return int(named)
    raise NotFound("A project is named by its number, or as @current.")
