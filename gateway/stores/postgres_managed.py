"""All that managing asks of PostgreSQL, in one object, and personal keys.

What is edited is in postgres_editing.py, people in postgres_people.py. Invariant: only digests of keys get here.
"""

from datetime import datetime
from typing import Any, Final

from gateway.editing_ports import PersonalKey
from gateway.stores.items import is_storable
from gateway.stores.postgres_editing import PostgresEditing
from gateway.stores.postgres_people import PostgresPeople

_ADD: Final = """
INSERT INTO flagstone.keys (digest, hint, name, scopes, projects, created_at, created_by, revoked_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id
"""
_KEYS: Final = """
SELECT id, digest, hint, name, scopes, projects, created_at, created_by, revoked_at FROM flagstone.keys
"""
_FIND: Final = _KEYS + " WHERE digest = $1"
_LIST: Final = _KEYS + " ORDER BY id"
_REVOKE: Final = "UPDATE flagstone.keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id"


class PostgresManaged(PostgresEditing, PostgresPeople):
    """The managed store over two pools, which are the caller's."""

    def __repr__(self) -> str:
        return f"<PostgresManaged {self._writer}, {self._reader}>"

    async def add_key(self, key: PersonalKey) -> int:
        rows = await self._writer.fetch(
            _ADD, key.digest, key.hint, key.name, key.scopes, key.projects, key.created_at, key.created_by,
            key.revoked_at,
        )  # fmt: skip
        key_id: int = rows[0][0]
        return key_id

    async def find_key(self, digest: str) -> PersonalKey | None:
        rows = await self._reader.fetch(_FIND, digest) if is_storable(digest) else []
        return _key(rows[0]) if rows else None

    async def list_keys(self) -> list[PersonalKey]:
        return [_key(row) for row in await self._reader.fetch(_LIST)]

    async def revoke_key(self, key_id: int, at: datetime) -> bool:
        return bool(await self._writer.fetch(_REVOKE, key_id, at))


def _key(row: Any) -> PersonalKey:
    named = dict(row)
    projects = None if named["projects"] is None else tuple(named["projects"])
    return PersonalKey(**{**named, "scopes": tuple(named["scopes"]), "projects": projects})
