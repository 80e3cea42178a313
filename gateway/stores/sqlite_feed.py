"""Announcements of changes by a SQLite file, which makes none: whether it was written to is looked at often.

Invariant: what was published between two looks is told at the second, also by other processes.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from typing import Final

from gateway.stores.sqlite_lane import Lane

LOOK_S: Final = 0.1
OVERLAP_MS: Final = 5000
"""How far back a look goes from the newest: longer than between two looks, even of a process that was held up."""
BUSY_TIMEOUT_S: Final = 5.0


class SqliteFeed:
    def __init__(self, path: str, *, look_s: float = LOOK_S) -> None:
        self._path = path
        self._look_s = look_s

    def __repr__(self) -> str:
        return f"<SqliteFeed {self._path}>"

    async def changes(self) -> AsyncIterator[int | None]:
        async with Lane(self._path, BUSY_TIMEOUT_S) as lane:
            mark = await lane.run(_mark)
            versions = await lane.run(_lately_published)
            yield None
            while True:
                await asyncio.sleep(self._look_s)
                before, mark = mark, await lane.run(_mark)
                if mark == before:
                    continue
                found = await lane.run(_lately_published)
                for project_id, version in found.items():
                    if versions.get(project_id) != version:
                        yield project_id
                versions = found


def _mark(connection: sqlite3.Connection) -> int:
    """What changes whenever another connection commits."""
    (mark,) = connection.execute("PRAGMA data_version").fetchone()
    return int(mark)


def _lately_published(connection: sqlite3.Connection) -> dict[int, int]:
    """The versions of projects published not long before the last one that was."""
    rows = connection.execute(
        "SELECT project_id, version FROM published WHERE published_at >= (SELECT max(published_at) FROM published) - ?",
        (OVERLAP_MS,),
    )
    return dict(rows.fetchall())
