"""Projects over HTTP: made, changed, deleted; their group types, and how they are published."""

import pytest

from gateway.editing_ports import Item
from tests.fake_editing import FakeManagedStore
from tests.gateway.api.managing import managing

ONE = "/api/projects/1"


async def test_project__made_and_changed__is_versioned() -> None:
    """A project is an item like any other."""
    async with managing() as api:
        made = await api.post("/api/projects/", json={"name": "Other", "timezone": "Europe/Zurich"})
        assert (made.status_code, made.headers["etag"]) == (201, '"1"')
        assert made.json()["token"].startswith("phc_")
        path = f"/api/projects/{made.json()['id']}"
        changed = await api.patch(path, json={"name": "Another"}, headers={"if-match": '"1"'})
        assert (changed.status_code, changed.json()["name"]) == (200, "Another")
        assert (await api.patch(path, json={"name": "x", "version": 1})).status_code == 409
        history = (await api.get(f"{path}/history")).json()["results"]
        assert [it["version"] for it in history] == [2, 1]


async def test_project__read_without_writing__shows_no_secret_tokens() -> None:
    """Who may only look at a project learns nothing that opens it to others, from its history neither."""
    async with managing() as api:
        await api.patch(ONE, json={"secret_tokens": ["phs_hidden"]})
        await api.patch(ONE, json={"name": "Renamed"})
        paths = (ONE, f"{ONE}/history", "/api/projects")
        for scopes, is_shown in ((("project:read",), False), (("project:write",), True)):
            headers = await api.with_key(*scopes)
            for path in paths:
                assert ("phs_hidden" in (await api.get(path, headers=headers)).text) is is_shown


async def test_project__deleted__is_gone() -> None:
    """A project is deleted with all that is in it."""
    async with managing() as api:
        await api.make_flag()
        assert (await api.delete(ONE)).status_code == 204
        for path in (ONE, f"{ONE}/feature_flags", f"{ONE}/publication", f"{ONE}/groups_types"):
            assert (await api.get(path)).status_code == 404
        assert (await api.delete(ONE)).status_code == 404


async def test_publication__of_a_project__tells_how_far_it_has_got() -> None:
    """Whoever edits can see whether gateways have it yet."""
    async with managing() as api:
        answer = (await api.get(f"{ONE}/publication/")).json()
        assert (answer["stored_version"], answer["published_version"], answer["is_refused"]) == (1, None, False)


async def test_group_type__added__gets_the_next_index() -> None:
    """Group types are added one by one, and adding one again changes nothing."""
    async with managing() as api:
        path = f"{ONE}/groups_types"
        added = await api.post(path, json={"group_type": "team"})
        assert (added.status_code, added.json()) == (201, {"group_type": "team", "group_type_index": 1})
        again = await api.post(path, json={"group_type": "company"})
        assert (again.status_code, again.json()["group_type_index"]) == (200, 0)
        assert [it["group_type"] for it in (await api.get(path)).json()] == ["company", "team"]
        assert (await api.post(path, json={})).status_code == 400


@pytest.mark.parametrize(("races", "status"), [(2, 201), (3, 409)])
async def test_group_type__added_while_others_edit__is_tried_again_a_few_times(
    races: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's edit of the project does not lose a group type, and nobody tries for ever."""
    stale: list[Item] = []

    async def read_items(self: FakeManagedStore, project_id: int, *args: object) -> list[Item]:
        found = await original(self, project_id, *args)  # type: ignore[arg-type]
        if len(stale) < races:
            stale.append(found[0])
            return [Item("project", 1, 77, found[0].document)]
        return found

    async with managing() as api:
        original = FakeManagedStore.read_items
        monkeypatch.setattr(FakeManagedStore, "read_items", read_items)
        answer = await api.post(f"{ONE}/groups_types", json={"group_type": "team"})
        assert answer.status_code == status
