"""How every adapter of the managed store is opened for its contract suites, and the edits that they make."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.backends import DefinitionsPool
from drills.servers import PgBouncer
from gateway.editing_ports import Actor, Kind, ManagedStore, ReadFreeId, ReadItems, Work, Write
from gateway.stores.postgres_managed import PostgresManaged
from gateway.stores.postgres_pool import PostgresPool
from gateway.stores.postgres_transfer import Transfer
from gateway.stores.sqlite_lane import Lane
from gateway.stores.sqlite_managed import SqliteManaged
from tests.fake_editing import FakeManagedStore

ADAPTERS = ("fake", "sqlite", "postgres", "pgbouncer")
STORED = ADAPTERS[1:]
ANN = Actor("ann", "request-1")


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ManagedStore]:
    """The adapter that the parameter names, with nothing in it."""
    async with AsyncExitStack() as stack:
        if request.param == "fake":
            yield FakeManagedStore()
        elif request.param == "sqlite":
            lanes = [await stack.enter_async_context(Lane(str(tmp_path / "store.sqlite3"), 5.0)) for _ in range(2)]
            yield SqliteManaged(*lanes)
        else:
            server = request.getfixturevalue(request.param)
            url = Address(server.url(request.getfixturevalue("database")))
            settings = DefinitionsPool(transaction_pooling=isinstance(server, PgBouncer))
            await Transfer(url, settings).migrate()
            pools = [await stack.enter_async_context(PostgresPool(it, url, settings)) for it in ("writer", "reader")]
            yield PostgresManaged(*pools)


async def execute(store: ManagedStore, statement: str) -> list[Any]:
    """The rows of a statement run past the adapter, in which `flagstone.` stands before relations."""
    if isinstance(store, SqliteManaged):
        plain = statement.replace("flagstone.", "")
        return await store._writes.run(lambda connection: connection.execute(plain).fetchall())
    assert isinstance(store, PostgresManaged)
    return [tuple(row) for row in await store._writer.fetch(statement)]


async def new_project(store: ManagedStore, token: str = "phc_one", **members: Any) -> int:
    """The id of a project that was not there before."""
    project_id = await store.create_project(msgspec.json.encode({"token": token, **members}), token, ANN)
    assert project_id is not None
    return project_id


def put(kind: Kind, document: dict[str, Any], **write: Any) -> Callable[[], Work]:
    """Work that writes a document: in the place of the one with its id, or as a new one with an id of its own."""

    def work() -> Work:
        item_id = document.get("id") or (yield ReadFreeId(kind))
        before = yield ReadItems(kind, ids=(item_id,))
        version = before[0].version + 1 if before else 1
        written = msgspec.json.encode({**document, "id": item_id, "version": version})
        replaced = before[0].document if before else None
        return [Write(kind, item_id, version, written, replaced, "updated" if before else "created", **write)]

    return work


async def put_flag(store: ManagedStore, project_id: int, key: str, **members: Any) -> int | None:
    """The project's version after a flag was written."""
    return await store.edit(project_id, ANN, put("flag", {"key": key, **members}))


async def version_of(store: ManagedStore, project_id: int) -> int:
    publication = await store.publication(project_id)
    assert publication is not None
    return publication.stored_version


def members_of(document: bytes | None) -> dict[str, Any]:
    """What stands in a document."""
    assert document is not None
    decoded: dict[str, Any] = msgspec.json.decode(document)
    return decoded
