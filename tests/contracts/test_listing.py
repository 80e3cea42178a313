"""What every managed store promises of projects as a whole, and of finding things in them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.editing_ports import ItemQuery, ManagedStore
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


async def keys_of(store: ManagedStore, project_id: int, **query: Any) -> list[str]:
    page = await store.list_items(project_id, ItemQuery(kind="flag", **query))
    return [members_of(it.document)["key"] for it in page.items]


async def test_project__that_is_created__has_its_id_and_version(store: ManagedStore) -> None:
    """The id is the store's unless one is asked for; flags and cohorts have places of their own."""
    first = await new_project(store, name="One", id=77, version=9, flags=[], cohorts=[])
    (project,) = await store.read_items(first, "project", ids=[first])
    assert members_of(project.document) == {"id": first, "token": "phc_one", "name": "One", "version": 1}
    assert (project.id, project.version, first != 77) == (first, 1, True)
    assert await store.create_project(b'{"token":"phc_two"}', "phc_two", ANN, 500) == 500
    assert await new_project(store, "phc_three") > 500


async def test_project__whose_token_or_id_is_taken__is_not_created(store: ManagedStore) -> None:
    """Nothing is written for it, and its record neither."""
    first = await new_project(store)
    assert await store.create_project(b'{"token":"phc_one"}', "phc_one", ANN) is None
    assert await store.create_project(b'{"token":"phc_two"}', "phc_two", ANN, first) is None
    assert (await store.list_projects()).total == 1
    assert len(await store.history(first, "project", first)) == 1


async def test_project__that_is_deleted__leaves_only_its_records(store: ManagedStore) -> None:
    """Its token is free, its id is not given again, and what it was can be read in its history."""
    project_id = await new_project(store, name="One")
    await put_flag(store, project_id, "beta")
    before = await version_of(store, project_id)
    assert await store.delete_project(project_id, ANN)
    assert not await store.delete_project(project_id, ANN)
    assert await store.publication(project_id) is None
    assert await store.read_items(project_id, "project", ids=[project_id]) == []
    assert await keys_of(store, project_id) == []
    deleted, created = await store.history(project_id, "project", project_id)
    assert (deleted.action, deleted.version, deleted.after, deleted.before) == ("deleted", 2, None, created.after)
    assert await new_project(store) > project_id
    assert await store.create_project(b'{"token":"phc_back"}', "phc_back", ANN, project_id) == project_id
    assert await version_of(store, project_id) > before


async def test_projects__searched__are_pages_in_the_order_of_ids(store: ManagedStore) -> None:
    """The total counts them all, also on a page that is empty."""
    ids = [await new_project(store, f"phc_{name}", name=name) for name in ("Shop", "Workshop", "Blog")]
    page = await store.list_projects("SHOP", limit=1)
    assert ([it.id for it in page.items], page.total) == (ids[:1], 2)
    page = await store.list_projects("shop", limit=5, offset=1)
    assert ([it.id for it in page.items], page.total) == (ids[1:2], 2)
    page = await store.list_projects(offset=10)
    assert (page.items, page.total) == ([], 3)


async def test_flags__listed__are_those_that_match(store: ManagedStore) -> None:
    """Deleted ones are listed alone, and the active by themselves; those of other projects never."""
    project_id, other_id = await new_project(store), await new_project(store, "phc_two")
    for number, key in enumerate(("alpha", "beta", "gamma", "delta"), 1):
        await put_flag(store, project_id, key, id=number, active=number < 3, deleted=number == 4)
    await put_flag(store, other_id, "alien", id=1)
    assert await keys_of(store, project_id) == ["alpha", "beta", "gamma"]
    assert await keys_of(store, project_id, is_newest_first=True, limit=2) == ["gamma", "beta"]
    assert await keys_of(store, project_id, is_newest_first=True, limit=2, offset=2) == ["alpha"]
    assert await keys_of(store, project_id, is_active=True) == ["alpha", "beta"]
    assert await keys_of(store, project_id, is_active=False) == ["gamma"]
    assert await keys_of(store, project_id, is_deleted=True) == ["delta"]
    assert (await store.list_items(project_id, ItemQuery(kind="flag", limit=1, offset=9))).total == 3
    assert (await store.list_items(404, ItemQuery(kind="flag"))).total == 0


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("NEW", ["new_nav", "old"]),
        ("w_n", ["new_nav"]),
        ("_", ["new_nav"]),
        ("%", ["50%off"]),
        ("\\", ["back\\slash"]),
        ("'", []),
    ],
)
async def test_search__for_any_text__finds_exactly_that(store: ManagedStore, search: str, found: list[str]) -> None:
    """Part of a key or name in any case of letters; no sign means anything else than itself."""
    project_id = await new_project(store)
    for key, name in (("new_nav", None), ("old", "New one"), ("50%off", ""), ("back\\slash", "x")):
        await put_flag(store, project_id, key, name=name)
    assert await keys_of(store, project_id, search=search) == found


async def test_cohorts__listed__are_found_by_name(store: ManagedStore) -> None:
    """A cohort has no key, and may lack a name."""
    project_id = await new_project(store)
    for number, members in enumerate(({"name": "Friends"}, {}, {"name": "Foes"}, {"name": "Gone", "deleted": True}), 1):
        await store.edit(project_id, ANN, put("cohort", {"id": number, **members}))
    page = await store.list_items(project_id, ItemQuery(kind="cohort"))
    assert ([it.id for it in page.items], page.total) == ([1, 2, 3], 3)
    page = await store.list_items(project_id, ItemQuery(kind="cohort", search="FRI", is_active=True))
    assert ([it.kind for it in page.items], [it.id for it in page.items], page.total) == (["cohort"], [1], 1)


async def test_history__of_an_item__is_read_backwards(store: ManagedStore) -> None:
    """Newest first, in pages that begin where the last one ended."""
    project_id = await new_project(store)
    for number in range(5):
        await put_flag(store, project_id, "beta", id=1, step=number)
    newest = await store.history(project_id, "flag", 1, limit=2)
    assert [it.version for it in newest] == [5, 4]
    assert [it.action for it in newest] == ["updated", "updated"]
    older = await store.history(project_id, "flag", 1, before_id=newest[-1].id)
    assert [it.version for it in older] == [3, 2, 1]
    assert (older[-1].before, older[-1].action) == (None, "created")
    assert all(it.at.tzinfo is not None for it in older)
    assert await store.history(project_id, "flag", 2) == []


@pytest.mark.parametrize("store", STORED, indirect=True)
async def test_items__that_came_by_import__have_version_0(store: ManagedStore) -> None:
    """What was stored before there were versions is read all the same, and a project without places for flags."""
    project_id = await new_project(store)
    await execute(store, """UPDATE flagstone.projects SET document = '{"id": 1, "token": "phc_one", "flags": []}'""")
    await execute(store, """INSERT INTO flagstone.flags VALUES (1, 3, '{"id": 3, "key": "old"}')""")
    (project,) = await store.read_items(project_id, "project", ids=[project_id])
    (flag,) = await store.read_items(project_id, "flag", keys=["old"])
    assert (project.version, members_of(project.document)) == (0, {"id": 1, "token": "phc_one"})
    assert (flag.id, flag.version) == (3, 0)
