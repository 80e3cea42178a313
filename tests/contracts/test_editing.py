"""What every managed store promises of projects, flags and cohorts, held against the fake and each adapter."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.editing_ports import ItemQuery, ManagedStore, ReadFreeId, ReadItems, ReadRecord, ReadVersion, Work, Write
from gateway.errors import Conflict, Invalid, StoreError
from tests.contracts.managed import (
    ADAPTERS,
    ANN,
    STORED,
    execute,
    members_of,
    new_project,
    opened,
    put,
    put_flag,
    version_of,
)


@pytest.fixture(params=ADAPTERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ManagedStore]:
    async with opened(request, tmp_path) as store:
        yield store


stored = pytest.mark.parametrize("store", STORED, indirect=True)


class Refusal(Exception):
    """What a Work raises in these tests; a TimeoutError too, which drivers raise as well."""


async def keys_of(store: ManagedStore, project_id: int, **query: Any) -> list[str]:
    page = await store.list_items(project_id, ItemQuery(kind="flag", **query))
    return [members_of(it.document)["key"] for it in page.items]


async def test_edit__of_a_flag__is_kept_as_it_was_written(store: ManagedStore) -> None:
    """Members that nobody here knows survive, the version is the document's, and the project's version grows."""
    project_id = await new_project(store)
    before = await version_of(store, project_id)
    after = await put_flag(store, project_id, "beta", tags=["a"], created_by={"id": 3})
    (flag,) = await store.read_items(project_id, "flag", keys=["beta"])
    assert members_of(flag.document) == {
        "id": flag.id, "key": "beta", "version": 1, "tags": ["a"], "created_by": {"id": 3},
    }  # fmt: skip
    assert (flag.kind, flag.version) == ("flag", 1)
    assert after == await version_of(store, project_id) > before


async def test_edit__of_an_unknown_project__is_none(store: ManagedStore) -> None:
    """Nothing is begun for a project that does not exist."""

    def work() -> Work:
        raise AssertionError("begun")

    assert await store.edit(404, ANN, work) is None


async def test_edit__that_writes_nothing__leaves_the_version(store: ManagedStore) -> None:
    """Only a change is a change."""
    project_id = await new_project(store)
    before = await version_of(store, project_id)

    def work() -> Work:
        yield ReadItems("flag", is_all=True)
        return []

    assert await store.edit(project_id, ANN, work) == before == await version_of(store, project_id)


@pytest.mark.parametrize("error", [Refusal("no"), TimeoutError("no"), ValueError("no"), msgspec.DecodeError("no")])
async def test_edit__whose_work_raises__changes_nothing(store: ManagedStore, error: Exception) -> None:
    """The caller gets what was raised, whatever it is; the next edit finds all as it was."""
    project_id = await new_project(store)
    before = await version_of(store, project_id)
    is_closed = []

    def work() -> Work:
        try:
            yield ReadFreeId("flag")
            raise error
        finally:
            is_closed.append(True)

    with pytest.raises(type(error)) as raised:
        await store.edit(project_id, ANN, work)
    assert raised.value is error
    assert is_closed
    assert await version_of(store, project_id) == before
    assert await put_flag(store, project_id, "beta") is not None


async def test_edit__by_many_at_once__loses_nothing(store: ManagedStore) -> None:
    """Each editor decides on what the one before has written, and versions grow strictly."""
    project_id = await new_project(store)
    await put_flag(store, project_id, "beta", id=1, count=0)

    def work() -> Work:
        (flag,) = yield ReadItems("flag", ids=(1,))
        members = members_of(flag.document)
        written = {**members, "count": members["count"] + 1, "version": flag.version + 1}
        return [Write("flag", 1, flag.version + 1, msgspec.json.encode(written), flag.document, "updated")]

    versions = await asyncio.gather(*(store.edit(project_id, ANN, work) for _ in range(20)))
    (flag,) = await store.read_items(project_id, "flag", ids=[1])
    assert (members_of(flag.document)["count"], flag.version) == (20, 21)
    assert len(set(versions)) == 20
    history = await store.history(project_id, "flag", 1)
    assert [it.version for it in history] == list(range(21, 0, -1))
    assert all(newer.before == older.after for newer, older in pairwise(history))


async def test_edit__cancelled_midway__leaves_the_store_working(store: ManagedStore) -> None:
    """However many callers go away, nothing stays locked or taken."""
    project_id = await new_project(store)
    edits = [asyncio.create_task(put_flag(store, project_id, f"flag-{number}")) for number in range(12)]
    for edit in edits:
        await asyncio.sleep(0)
        edit.cancel()
    await asyncio.gather(*edits, return_exceptions=True)
    assert await put_flag(store, project_id, "beta") is not None
    assert "beta" in await keys_of(store, project_id)


async def test_edit__of_several_things__is_one_version(store: ManagedStore) -> None:
    """A project, a flag and a cohort change together, each with a record of its own."""
    project_id = await new_project(store)
    documents = {
        "project": {"id": project_id, "token": "phc_new", "version": 2, "name": "New"},
        "flag": {"id": 5, "key": "beta", "version": 1},
        "cohort": {"id": 6, "name": "Friends", "version": 1},
    }

    def work() -> Work:
        yield from ()
        return [
            Write(kind, it["id"], it["version"], msgspec.json.encode(it), None, "written")  # type: ignore[arg-type]
            for kind, it in documents.items()
        ]

    await store.edit(project_id, ANN, work)
    for kind, expected in documents.items():
        (item,) = await store.read_items(project_id, kind, ids=[expected["id"]])  # type: ignore[arg-type, list-item]
        assert members_of(item.document) == expected
        (newest, *_) = await store.history(project_id, item.kind, item.id)
        assert (newest.action, newest.actor, newest.request_id) == ("written", "ann", "request-1")
    assert await store.create_project(b'{"token":"phc_one"}', "phc_one", ANN) is not None


async def test_edit__that_takes_a_token_or_key__is_a_conflict(store: ManagedStore) -> None:
    """What must be unique is another's, and nothing is written."""
    project_id = await new_project(store)
    await new_project(store, "phc_two")
    await put_flag(store, project_id, "beta")
    before = await version_of(store, project_id)
    with pytest.raises(Conflict, match="token"):
        await store.edit(project_id, ANN, put("project", {"id": project_id, "token": "phc_two"}))
    with pytest.raises(Conflict, match="key"):
        await put_flag(store, project_id, "beta")
    assert await version_of(store, project_id) == before


async def test_edit__of_a_key_that_only_deleted_flags_have__is_fine(store: ManagedStore) -> None:
    """A key is free again once its flag is deleted, and names the flag that is not."""
    project_id = await new_project(store)
    await put_flag(store, project_id, "beta", id=1, deleted=True)
    await put_flag(store, project_id, "beta", id=2)
    assert [it.id for it in await store.read_items(project_id, "flag", keys=["beta"])] == [2]
    assert [it.id for it in await store.read_items(project_id, "flag", ids=[2, 1, 7])] == [1, 2]


async def test_edit__with_a_request_key__finds_its_record_again(store: ManagedStore) -> None:
    """A repeated request is known by its key, in this project and for this kind alone."""
    project_id, other_id = await new_project(store), await new_project(store, "phc_two")
    await store.edit(project_id, ANN, put("flag", {"key": "beta", "id": 4}, request_key="again"))
    found: list[Any] = []

    def work() -> Work:
        for read in (
            ReadRecord("flag", request_key="again"),
            ReadRecord("flag", item_id=4, version=1),
            ReadRecord("cohort", request_key="again"),
            ReadRecord("flag", request_key="never"),
            ReadRecord("flag", request_key="\0"),
            ReadRecord("flag", item_id=4, version=2),
        ):
            answer = yield read
            found.append(answer)
        return []

    await store.edit(project_id, ANN, work)
    assert found[0] == found[1]
    assert (found[0].item_id, found[0].request_key, found[0].kind) == (4, "again", "flag")
    assert members_of(found[0].after)["key"] == "beta"
    assert found[2:] == [None] * 4
    found.clear()
    await store.edit(other_id, ANN, work)
    assert found == [None] * 6
    with pytest.raises(Conflict, match="request"):
        await store.edit(project_id, ANN, put("flag", {"key": "new"}, request_key="again"))


async def test_free_id__after_ids_were_used__is_above_them_all(store: ManagedStore) -> None:
    """An id that a flag ever had is never another's, not even when the project is deleted and made anew."""
    project_id = await new_project(store)
    await put_flag(store, project_id, "alpha", id=40)
    await put_flag(store, project_id, "beta")
    assert [it.id for it in await store.read_items(project_id, "flag", keys=["beta"])] == [41]
    assert await store.delete_project(project_id, ANN)
    assert await store.create_project(b'{"token":"phc_one"}', "phc_one", ANN, project_id) == project_id
    await put_flag(store, project_id, "gamma")
    assert [it.id for it in await store.read_items(project_id, "flag", keys=["gamma"])] == [42]


@pytest.mark.parametrize("text", ["\0", "a\0b", "\\\0"])
async def test_edit__of_text_that_cannot_be_stored__is_refused(store: ManagedStore, text: str) -> None:
    """That a database cannot hold a text is no failure of the database."""
    project_id = await new_project(store)
    with pytest.raises(Invalid):
        await put_flag(store, project_id, text)
    with pytest.raises(Invalid):
        await store.edit(project_id, ANN, put("cohort", {"name": text}))
    with pytest.raises(Invalid):
        await store.create_project(msgspec.json.encode({"token": text}), text, ANN)
    assert await store.read_items(project_id, "flag", keys=[text, "\ud800"]) == []
    assert (await store.list_items(project_id, ItemQuery(kind="flag", search=text))).total == 0
    assert (await store.list_projects(text)).total == 0
    assert await put_flag(store, project_id, "a\\u0000b") is not None


async def test_read_items__of_ids_that_no_database_has__finds_nothing(store: ManagedStore) -> None:
    """An id may come from a filter that anybody wrote."""
    project_id = await new_project(store)
    assert await store.read_items(project_id, "cohort", ids=[2**70, -(2**70), 0]) == []


@stored
async def test_audit__once_written__is_never_changed(store: ManagedStore) -> None:
    """The database itself refuses to change or remove a record."""
    project_id = await new_project(store)
    for statement in ("UPDATE flagstone.audit SET actor = 'nobody'", "DELETE FROM flagstone.audit"):
        with pytest.raises(StoreError, match="never changed"):
            await execute(store, statement)
    assert [it.actor for it in await store.history(project_id, "project", project_id)] == ["ann"]


@stored
async def test_edit__that_is_committed__marks_the_project_dirty(store: ManagedStore) -> None:
    """The mark is part of the edit: there when it is, and not when it is not."""
    project_id = await new_project(store)
    await execute(store, "UPDATE flagstone.builds SET dirty_since = NULL")

    def work() -> Work:
        yield ReadFreeId("flag")
        raise Refusal

    with pytest.raises(Refusal):
        await store.edit(project_id, ANN, work)
    publication = await store.publication(project_id)
    assert publication is not None
    assert publication.dirty_since is None
    await put_flag(store, project_id, "beta")
    publication = await store.publication(project_id)
    assert publication is not None
    assert publication.dirty_since is not None
    assert (publication.published_version, publication.failures, publication.is_refused) == (None, 0, False)


async def test_edit__asking_for_the_version__learns_what_everybody_sees(store: ManagedStore) -> None:
    """An edit can tell whether the project is still as whoever asks for it has seen it."""
    project_id = await new_project(store)
    await put_flag(store, project_id, "beta")
    seen: list[int] = []

    def work() -> Work:
        seen.append((yield ReadVersion()))
        return []

    assert await store.edit(project_id, ANN, work) == seen[0] == await version_of(store, project_id)
