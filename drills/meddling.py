"""Others who use the same database: jobs that keep its connections, and people who edit flags.

Runs in a thread with a loop of its own. Invariant: `close` leaves no connection, no thread, and no edit under way.
"""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from itertools import count, cycle
from types import TracebackType
from typing import Any, Final

import asyncpg

EDIT: Final = """
WITH edited AS (
  UPDATE flagstone.projects SET version = flagstone.next_version(version) WHERE id = $1 RETURNING id
)
UPDATE flagstone.flags SET document = (document::jsonb || jsonb_build_object('name', $2::text))::json
FROM edited WHERE project_id = edited.id
  AND flags.id = (SELECT min(id) FROM flagstone.flags WHERE project_id = edited.id)
"""
"""Another name for the first flag of a project: a new version, with the same answers."""
PATIENCE_S: Final = 10.0


class Meddling:
    """`with Meddling() as others:`"""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="meddling", daemon=True)
        self._held: list[Any] = []
        self._editing: asyncio.Task[None] | None = None
        self.edits = 0

    def __enter__(self) -> "Meddling":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.still()
        self.release()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def hold(self, url: str, number: int) -> int:
        """Take so many connections and keep each in a transaction, or as many as can be had; returns how many."""
        return int(self._run(self._hold(url, number)))

    def release(self) -> None:
        """Give all of them back."""
        self._run(self._release())

    def edit(self, url: str, per_s: float) -> None:
        """Begin to edit one project after the other, so many a second; faster or slower if it does so already."""
        self.still()
        self._run(self._begin(url, per_s))

    def still(self) -> None:
        """Edit no more."""
        self._run(self._end())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(3 * PATIENCE_S)

    async def _hold(self, url: str, number: int) -> int:
        async def one() -> None:
            connection = await asyncpg.connect(url, timeout=PATIENCE_S, statement_cache_size=0)
            self._held.append(connection)
            await connection.execute("BEGIN; SELECT 1", timeout=PATIENCE_S)

        done = await asyncio.gather(*(one() for _ in range(number)), return_exceptions=True)
        return sum(it is None for it in done)

    async def _release(self) -> None:
        held, self._held = self._held, []
        for connection in held:
            with suppress(Exception):
                await connection.close(timeout=1)

    async def _begin(self, url: str, per_s: float) -> None:
        self._editing = asyncio.get_running_loop().create_task(self._edit(url, per_s))

    async def _end(self) -> None:
        if self._editing is not None:
            self._editing.cancel()
            await asyncio.wait([self._editing])
            self._editing = None

    async def _edit(self, url: str, per_s: float) -> None:
        """An edit that fails, or that comes too late because the one before took long, is not made up for."""
        number = count(1)
        while True:
            with suppress(OSError, asyncpg.PostgresError, TimeoutError):
                connection = await asyncpg.connect(url, timeout=PATIENCE_S)
                try:
                    rows = await connection.fetch("SELECT id FROM flagstone.projects ORDER BY id")
                    for project in cycle([row["id"] for row in rows]):
                        await asyncio.gather(
                            connection.execute(EDIT, project, f"edit {next(number)}", timeout=PATIENCE_S),
                            asyncio.sleep(1 / per_s),
                        )
                        self.edits += 1
                finally:
                    with suppress(Exception):
                        await connection.close(timeout=1)
            await asyncio.sleep(1 / per_s)
