"""Who calls: the key in `Authorization: Bearer phx_...`, and whether it is enough for what is asked.

Keys themselves are the service's. Invariant: each call asks the store, so that a revoked key is worthless at once; and
a store that fails is never a 401.
"""

from collections.abc import Mapping
from typing import Any

from gateway.editing_ports import Actor, PersonalKey
from gateway.errors import NotAuthenticated, PermissionDenied
from gateway.services.keys import KeyService, has_project, has_scope


async def find_key(keys: KeyService, headers: Mapping[bytes, bytes]) -> PersonalKey:
    """The key that the call was made with. Raises NotAuthenticated and AuthenticationFailed."""
    scheme, _, text = headers.get(b"authorization", b"").decode("latin-1").strip().partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise NotAuthenticated
    return await keys.verify(text.strip())


def actor_of(key: PersonalKey, state: Mapping[str, Any]) -> Actor:
    """Who the audit records name."""
    record = state.get("record")
    return Actor(f"key {key.id} ({key.name})", "" if record is None else record.request_id)


def require_scopes(key: PersonalKey | None, scopes: tuple[str, ...]) -> None:
    """Raises PermissionDenied, naming what the key lacks."""
    lacking = [scope for scope in scopes if key is not None and not has_scope(key, scope)]
    if lacking:
        raise PermissionDenied(f"This needs a key with the scope {' and '.join(lacking)}.")


def require_project(key: PersonalKey | None, project_id: int) -> None:
    """Raises PermissionDenied whether there is such a project or not: the key is not to find out."""
    if key is not None and not has_project(key, project_id):
        raise PermissionDenied(f"The key is not for project {project_id}.")
