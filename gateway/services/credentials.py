"""Who may read a project's definitions: whoever has one of its secret tokens, or a personal API key with that scope.

Personal keys themselves are in keys.py. Invariant: a credential is refused as wrong only when that is known; a store
that fails never makes a 401.
"""

import hmac
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from config.reload import Live
from evaluator.snapshot import Snapshot
from gateway.editing_ports import EditStore, PersonalKey
from gateway.errors import AuthenticationFailed, NotAuthenticated, PermissionDenied
from gateway.ports import Clock, Deadline, TransferStore
from gateway.resilience.guard import Guard
from gateway.services.keys import PREFIX, KeyService, can_be_key, digest_of, has_project, has_scope
from gateway.services.remembered import Remembered

SCOPE: Final = "feature_flag:read"
FindToken = Callable[[int], Coroutine[Any, Any, str | None]]
"""Asks the store for the public token of the project with this id."""


class CredentialService:
    """`keys` None: the store has none."""

    def __init__(self, keys: KeyService | None, find_token: FindToken, guard: Guard, live: Live, clock: Clock) -> None:
        self._keys = None if keys is None else Remembered("key", keys.find, guard, live, clock)
        self._tokens = Remembered("project", find_token, guard, live, clock)

    def __repr__(self) -> str:
        return f"<CredentialService {self._keys!r}, {self._tokens!r}>"

    async def admit(self, authorization: bytes | None, snapshot: Snapshot, deadline: Deadline) -> PersonalKey | None:
        """The personal key that opens the project to the sender of this header; None: a secret token of it does.

        Raises NotAuthenticated, AuthenticationFailed, PermissionDenied, and Unavailable when it cannot be told.
        """
        scheme, _, sent = (authorization or b"").strip().partition(b" ")
        sent = sent.strip()
        if scheme.lower() != b"bearer" or not sent:
            raise NotAuthenticated("Authentication credentials were not provided.")
        # Each is compared, and in full: the time it takes says nothing.
        if sum(hmac.compare_digest(sent, token.encode()) for token in snapshot.secret_tokens):
            return None
        text = sent.decode("latin-1")
        if not text.startswith(PREFIX):
            raise AuthenticationFailed("Secret API token is invalid.")
        key = await self._find(text, deadline)
        if not has_scope(key, SCOPE):
            raise PermissionDenied("Personal API key lacks required scopes (feature_flag:read or feature_flag:write).")
        if not has_project(key, snapshot.project_id):
            raise PermissionDenied(f"The key is not for project {snapshot.project_id}.")
        return key

    async def token_of(self, project_id: int, deadline: Deadline) -> str | None:
        """The public token of a project; None when there is no such project. Raises Unavailable."""
        return await self._tokens.get(project_id, deadline)

    async def _find(self, text: str, deadline: Deadline) -> PersonalKey:
        if self._keys is None:
            raise AuthenticationFailed(
                "The store is a file, which has no personal API keys. Please use a secret token of the project."
            )
        key = await self._keys.get(digest_of(text), deadline) if can_be_key(text) else None
        if key is None:
            raise AuthenticationFailed
        return key


def token_finder(store: TransferStore, managed: EditStore | None) -> FindToken:
    """Asks the store, or its managed side where it has one."""

    async def find_token(project_id: int) -> str | None:
        if managed is None:
            whole = await store.export_projects()
            return next((project.token for project in whole if project.id == project_id), None)
        items = await managed.read_items(project_id, "project", (project_id,))
        return msgspec.json.decode(items[0].document, type=_Token).token if items else None

    return find_token


class _Token(msgspec.Struct, frozen=True):
    token: str
