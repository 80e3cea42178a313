"""The SQLite store's own promises: opening, locks, queues, cancellation, and what errors become."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.document import WholeProject
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import UNPUBLISHED, FactsQuery
from gateway.stores.sqlite import SqliteStore
from gateway.stores.sqlite_lane import MAX_WAITING


def demo(**changes: object) -> WholeProject:
    """A project as an import brings it."""
    whole = {"id": 1, "name": "Demo", "token": "phc_demo", "persons": [person("u1")], **changes}
    return msgspec.convert(whole, WholeProject)


def person(distinct_id: str) -> dict[str, object]:
    return {"distinct_ids": [distinct_id], "properties": {"is": "stored"}}


async def is_stored(store: SqliteStore, distinct_id: str) -> bool:
    """Whether the store knows this person."""
    return bool((await store.load_facts(FactsQuery(1, (distinct_id,), properties=None))).person_properties)


async def overrides_of(store: SqliteStore, distinct_id: str) -> object:
    return (await store.load_facts(FactsQuery(1, (distinct_id,), wants_overrides=True))).overrides


async def version_of(store: SqliteStore) -> int | None:
    return (await store.definitions_versions(["phc_demo"])).get("phc_demo")


def ignore(persons_stored: int, persons: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.sqlite3")


@pytest.fixture
async def store(path: str) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(path) as store:
        await store.import_projects([demo()], ignore)
        yield store


@contextlib.contextmanager
def write_lock(path: str) -> Iterator[None]:
    """Another process in the middle of a write."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Fails when a store's thread outlives the test."""
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("sqlite")] == []


@pytest.mark.usefixtures("no_thread_left")
async def test_store__closed_and_opened_again__has_what_was_stored(path: str) -> None:
    """The schema is made once, and no thread stays behind."""
    for _ in range(2):
        async with SqliteStore(path) as store:
            if await version_of(store) is None:
                await store.import_projects([demo()], ignore)
    async with SqliteStore(path) as store:
        assert await is_stored(store, "u1")
        assert await version_of(store) == UNPUBLISHED


async def test_open__by_several_at_once__makes_the_schema_once(path: str) -> None:
    """Whoever comes second to a new file finds the work done."""
    async with contextlib.AsyncExitStack() as opened:
        stores = await asyncio.gather(*(opened.enter_async_context(SqliteStore(path)) for _ in range(4)))
        await stores[0].import_projects([demo()], ignore)
        assert [await version_of(store) for store in stores] == [UNPUBLISHED] * 4


@pytest.mark.usefixtures("store")
async def test_open__while_another_process_writes__does_not_wait(path: str) -> None:
    """A service can start during an import."""
    with write_lock(path):
        async with SqliteStore(path, busy_timeout_s=0.0) as store:
            assert await is_stored(store, "u1")


@pytest.mark.usefixtures("no_thread_left")
async def test_open__no_directory__names_it(tmp_path: Path) -> None:
    """A wrong path is easily seen, and nothing is made in its place."""
    with pytest.raises(StoreUnavailable, match=r"there is no directory .*nowhere$"):
        await SqliteStore(str(tmp_path / "nowhere" / "store.sqlite3")).__aenter__()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("no_thread_left")
async def test_open__file_that_is_no_database__is_refused(tmp_path: Path) -> None:
    """Somebody else's file is not touched."""
    notes = tmp_path / "notes.txt"
    notes.write_text("# Shopping list\n" * 100)
    with pytest.raises(StoreError, match="not a database"):
        await SqliteStore(str(notes)).__aenter__()
    assert notes.read_text() == "# Shopping list\n" * 100


async def test_reads__while_a_write_waits__go_on(store: SqliteStore, path: str) -> None:
    """A write that waits for another process holds up no read, and is done in the end."""
    with write_lock(path):
        saving = asyncio.create_task(store.save_overrides(1, ("u1",), {"beta": "anon"}))
        await asyncio.sleep(0)
        assert await is_stored(store, "u1")
        assert not saving.done()
    await saving
    assert await overrides_of(store, "u1") == {"beta": "anon"}


async def test_reads__during_an_import__see_the_state_before_it(store: SqliteStore) -> None:
    """What an import brings appears at once and whole."""
    is_midway, may_go_on = threading.Event(), threading.Event()

    def pause(persons_stored: int, persons: int) -> None:
        is_midway.set()
        may_go_on.wait()

    persons = [person("u2")]
    importing = asyncio.create_task(store.import_projects([demo(name="Renamed", persons=persons)], pause))
    await asyncio.to_thread(is_midway.wait)
    try:
        assert await is_stored(store, "u1")
        assert not await is_stored(store, "u2")
    finally:
        may_go_on.set()
    await importing
    assert not await is_stored(store, "u1")
    assert await is_stored(store, "u2")


async def test_import__cancelled_midway__changes_nothing(store: SqliteStore) -> None:
    """An import that is given up is rolled back, and the next one works."""
    reports: list[int] = []
    is_midway, may_go_on = threading.Event(), threading.Event()

    def pause(persons_stored: int, persons: int) -> None:
        reports.append(persons_stored)
        is_midway.set()
        may_go_on.wait()

    many = [person(f"p{number}") for number in range(2500)]
    importing = asyncio.create_task(store.import_projects([demo(persons=many)], pause))
    await asyncio.to_thread(is_midway.wait)
    importing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await importing
    may_go_on.set()
    await store.save_overrides(1, ("u1",), {"beta": "anon"})  # Comes after the import in the queue.
    assert len(reports) == 1
    assert not await is_stored(store, "p0")
    assert await overrides_of(store, "u1") == {"beta": "anon"}


async def test_import__failing_midway__changes_nothing(store: SqliteStore) -> None:
    """An id that SQLite cannot hold is told, and what came before it is rolled back."""
    with pytest.raises(StoreError, match="too large"):
        await store.import_projects([demo(name="Renamed"), demo(id=2**63, token="phc_other")], ignore)
    assert [project.name for project in await store.export_projects()] == [demo().name]


async def test_write__that_waits_too_long__is_a_timeout(store: SqliteStore, path: str) -> None:
    """A lock that is not let go of costs the write, not the store."""
    async with SqliteStore(path, busy_timeout_s=0.0) as impatient:
        with write_lock(path), pytest.raises(StoreTimeout, match="locked"):
            await impatient.save_overrides(1, ("u1",), {"beta": "anon"})
        await impatient.save_overrides(1, ("u1",), {"beta": "anon"})
    assert await overrides_of(store, "u1") == {"beta": "anon"}


async def test_calls__too_many_waiting__are_refused_at_once(store: SqliteStore, path: str) -> None:
    """The queue is bounded, also against callers that give up: their calls count until they have had their turn."""
    with write_lock(path):
        saves = [asyncio.create_task(store.save_overrides(1, ("u1",), {"beta": "anon"})) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        for save in saves[1:-1]:
            save.cancel()
        await asyncio.wait(saves[1:-1])
        with pytest.raises(StoreUnavailable, match="waiting already"):
            await store.save_overrides(1, ("u1",), {"beta": "anon"})
        assert await is_stored(store, "u1")
    await saves[-1]
    await store.save_overrides(1, ("u1",), {"beta": "anon"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DROP TABLE cohort_members", "no such table"),
        ("UPDATE persons SET properties = '{'", "Input data was truncated"),
    ],
)
async def test_read__from_a_damaged_store__is_a_store_error(
    store: SqliteStore, path: str, damage: str, told: str
) -> None:
    """Whatever the driver or the decoder raises, callers see one kind of error, with the file in it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(damage)
    with pytest.raises(StoreError, match=told) as caught:
        await is_stored(store, "u1")
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize(("project_id", "distinct_id"), [(2**63, "u1"), (1, "\ud800")])
async def test_read__of_what_sqlite_cannot_hold__is_a_store_error(
    store: SqliteStore, project_id: int, distinct_id: str
) -> None:
    """Values beyond SQLite's types are refused like any other failure."""
    with pytest.raises(StoreError):
        await store.load_facts(FactsQuery(project_id, (distinct_id,)))
