"""Personal API keys: made, checked, listed and revoked; and what a key may do.

Invariant: a key is shown once and kept by its digest alone, each check asks the store, and no key gives another more
than it has itself.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Final, Literal, get_args

from msgspec.structs import replace

from evaluator.types import Problem
from gateway.editing_ports import KeyStore, PersonalKey
from gateway.errors import AuthenticationFailed, Invalid, NotFound, PermissionDenied
from gateway.ports import Clock

Scope = Literal[
    "feature_flag:read", "feature_flag:write", "cohort:read", "cohort:write", "person:write", "group:read",
    "group:write", "project:read", "project:write", "personal_api_key:read", "personal_api_key:write",
]  # fmt: skip
EVERYTHING: Final = "*"
SCOPES: Final[tuple[str, ...]] = (*get_args(Scope), EVERYTHING)

PREFIX: Final = "phx_"
MAX_NAME_CHARACTERS: Final = 200
MAX_PROJECTS: Final = 100
"""Of a key that is not for all of them."""
MAX_KEYS: Final = 1000
"""That are not revoked: they are listed in one answer."""
_RANDOM_BYTES: Final = 32
_HINT_CHARACTERS: Final = 4
_SHAPE: Final = re.compile(r"phx_[A-Za-z0-9_-]{20,96}")


class KeyService:
    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(
        self,
        name: str,
        scopes: Sequence[str],
        projects: Sequence[int] | None,
        by: str,
        maker: PersonalKey | None = None,
    ) -> tuple[str, PersonalKey]:
        """A new key, to be shown once, and what is kept of it. Raises Invalid, and PermissionDenied when the key that
        asks for it has less itself."""
        text = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        key = PersonalKey(
            digest=digest_of(text),
            hint=text[-_HINT_CHARACTERS:],
            name=name.strip(),
            scopes=tuple(dict.fromkeys(scopes)),
            projects=None if projects is None else tuple(dict.fromkeys(projects)),
            created_at=self._clock.now(),
            created_by=by,
        )
        if problems := _problems(key):
            raise Invalid(problems)
        if maker is not None and not covers(maker, key):
            raise PermissionDenied("A key can only make keys with scopes and projects that it has itself.")
        if sum(it.revoked_at is None for it in await self._store.list_keys()) >= MAX_KEYS:
            raise Invalid([Problem("invalid", "$", None, f"there are {MAX_KEYS} keys; revoke one first")])
        return text, replace(key, id=await self._store.add_key(key))

    async def verify(self, text: str) -> PersonalKey:
        """The key with this text. Raises AuthenticationFailed when there is none, or it was revoked."""
        if not can_be_key(text):
            raise AuthenticationFailed
        key = await self.find(digest_of(text))
        if key is None:
            raise AuthenticationFailed
        return key

    async def find(self, digest: str) -> PersonalKey | None:
        """The key with this digest; None when there is none, or it was revoked."""
        key = await self._store.find_key(digest)
        is_good = key is not None and hmac.compare_digest(key.digest, digest) and key.revoked_at is None
        return key if is_good else None

    async def list_keys(self, reader: PersonalKey | None = None) -> list[PersonalKey]:
        """Keys that are not revoked; of those, the ones that the key which asks for them could have made."""
        keys = [key for key in await self._store.list_keys() if key.revoked_at is None]
        return keys if reader is None else [key for key in keys if covers(reader, key)]

    async def revoke(self, key_id: int, by: PersonalKey | None = None) -> None:
        """Make a key worthless from now on. Raises NotFound unless it is among those listed."""
        if key_id not in {key.id for key in await self.list_keys(by)}:
            raise NotFound
        await self._store.revoke_key(key_id, self._clock.now())


def can_be_key(text: str) -> bool:
    """Whether this looks like a key, so that it is worth asking the store."""
    return _SHAPE.fullmatch(text) is not None


def digest_of(text: str) -> str:
    """What is kept of a key. It is random throughout, so that nothing slower than this is needed."""
    return hashlib.sha256(text.encode()).hexdigest()


def has_scope(key: PersonalKey, scope: str) -> bool:
    """Whether the key has this scope; who may write may read."""
    kind, _, action = scope.partition(":")
    return not {EVERYTHING, scope, f"{kind}:write" if action == "read" else scope}.isdisjoint(key.scopes)


def has_project(key: PersonalKey, project_id: int) -> bool:
    return key.projects is None or project_id in key.projects


def covers(key: PersonalKey, other: PersonalKey) -> bool:
    """Whether the key may do whatever the other may."""
    if key.projects is not None and (other.projects is None or not set(other.projects) <= set(key.projects)):
        return False
    return all(has_scope(key, scope) for scope in other.scopes)


def _problems(key: PersonalKey) -> list[Problem]:
    found: list[tuple[str, str]] = []
    if not key.name or len(key.name) > MAX_NAME_CHARACTERS or not key.name.isprintable():
        found.append(("$.label", f"a key needs a name, of up to {MAX_NAME_CHARACTERS} printable characters"))
    if not key.scopes:
        found.append(("$.scopes", f"a key needs a scope, of {', '.join(SCOPES)}"))
    found += [
        (f"$.scopes[{index}]", f"there is no scope {scope[:40]!r}, only {', '.join(SCOPES)}")
        for index, scope in enumerate(key.scopes)
        if scope not in SCOPES
    ]
    if key.projects is not None and not 1 <= len(key.projects) <= MAX_PROJECTS:
        found.append(("$.scoped_teams", f"a key is for all projects (null), or for 1 to {MAX_PROJECTS} of them"))
    if not all(0 < project_id < 2**63 for project_id in key.projects or ()):
        found.append(("$.scoped_teams", "there is a number among them that no project has"))
    return [Problem("invalid", path, None, message) for path, message in found]
