"""All that managing asks of SQLite, in one object, and personal keys.

What is edited is in sqlite_editing.py, people in sqlite_people.py. Invariant: only digests of keys get here.
"""

import sqlite3
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway.editing_ports import PersonalKey
from gateway.stores.items import is_storable
from gateway.stores.sqlite_editing import SqliteEditing
from gateway.stores.sqlite_items import json, milliseconds, moment
from gateway.stores.sqlite_people import SqlitePeople

_ADD: Final = """
INSERT INTO keys (digest, hint, name, scopes, projects, created_at, created_by, revoked_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_KEYS: Final = """
SELECT id, digest, hint, name, scopes, projects, created_at, created_by, revoked_at FROM keys
"""
_FIND: Final = _KEYS + " WHERE digest = ?"
_LIST: Final = _KEYS + " ORDER BY id"
_REVOKE: Final = "UPDATE keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL"


class SqliteManaged(SqliteEditing, SqlitePeople):
    """The managed store over two lanes, which are the caller's."""

    def __repr__(self) -> str:
        return f"<SqliteManaged {self._writes}, {self._reads}>"

    async def add_key(self, key: PersonalKey) -> int:
        return await self._writes.run(_add_key, key)

    async def find_key(self, digest: str) -> PersonalKey | None:
        if not is_storable(digest):
            return None
        found = await self._reads.run(_read_keys, _FIND, digest)
        return found[0] if found else None

    async def list_keys(self) -> list[PersonalKey]:
        return await self._reads.run(_read_keys, _LIST)

    async def revoke_key(self, key_id: int, at: datetime) -> bool:
        return await self._writes.run(_revoke_key, key_id, at)


def _add_key(connection: sqlite3.Connection, key: PersonalKey) -> int:
    projects = None if key.projects is None else json(key.projects)
    revoked_at = key.revoked_at and milliseconds(key.revoked_at)
    columns = (key.digest, key.hint, key.name, json(key.scopes), projects, milliseconds(key.created_at), key.created_by)
    key_id: int = connection.execute(_ADD, (*columns, revoked_at)).lastrowid or 0
    return key_id


def _read_keys(connection: sqlite3.Connection, statement: str, *args: str) -> list[PersonalKey]:
    return [_key(row) for row in connection.execute(statement, args)]


def _revoke_key(connection: sqlite3.Connection, key_id: int, at: datetime) -> bool:
    return connection.execute(_REVOKE, (key_id, milliseconds(at))).rowcount > 0


def _key(row: Any) -> PersonalKey:
    id_, digest, hint, name, scopes, projects, created_at, created_by, revoked_at = row
    return PersonalKey(
        id=id_,
        digest=digest,
        hint=hint,
        name=name,
        scopes=msgspec.json.decode(scopes, type=tuple[str, ...]),
        projects=None if projects is None else msgspec.json.decode(projects, type=tuple[int, ...]),
        created_at=moment(created_at),
        created_by=created_by,
        revoked_at=None if revoked_at is None else moment(revoked_at),
    )
