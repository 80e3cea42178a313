"""Changes of a SQLite file are told without anybody announcing them."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import msgspec

from gateway.document import read_document
from gateway.stores.sqlite import SqliteStore
from gateway.stores.sqlite_feed import SqliteFeed
from tests.publishing import publish

PATIENCE_S = 10.0


def projects(*ids: int) -> bytes:
    return msgspec.json.encode({"projects": [{"id": n, "token": f"phc_{n}"} for n in ids]})


async def test_feed__projects_published__tells_each_once(tmp_path: Path) -> None:
    """Listening begins with "anything may have changed"; then whatever is published is told, and nothing else is."""
    path = str(tmp_path / "store.sqlite3")

    async def put(*ids: int) -> None:
        await store.import_projects(read_document(projects(*ids)), lambda done, total: None)
        await publish(store)

    async with SqliteStore(path) as store, aclosing(SqliteFeed(path, look_s=0.005).changes()) as changes:
        await put(1, 2)
        async with asyncio.timeout(PATIENCE_S):
            assert await anext(changes) is None
            waiting = asyncio.ensure_future(anext(changes))
            await put(2)
            assert await waiting == 2
            waiting = asyncio.ensure_future(anext(changes))
            await store.save_overrides(1, ("u",), {"flag": "hash"})
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await put(1, 3)
            assert {await waiting, await anext(changes)} == {1, 3}
