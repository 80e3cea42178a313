"""Flags and cohorts over HTTP: methods, versions, dry runs, lists, histories and whole files of them."""

from typing import Any

import pytest

from tests.gateway.api.managing import Manager, managing

FLAGS = "/api/projects/1/feature_flags"
HALF = {"groups": [{"properties": [], "rollout_percentage": 50}]}


async def persons(api: Manager, number: int) -> None:
    await api.send_lines("persons", *(f'{{"distinct_id": "u{n}"}}' for n in range(number)))


async def test_flag__made__is_answered_with_its_version_as_etag() -> None:
    """Whoever makes a flag can change it without asking for it first."""
    async with managing() as api:
        answer = await api.post(f"{FLAGS}/", json={"key": "beta", "filters": HALF})
        assert answer.status_code == 201
        assert answer.headers["etag"] == '"1"'
        assert answer.headers["cache-control"] == "no-store"
        flag = answer.json()
        assert (flag["id"], flag["key"], flag["version"], flag["filters"]) == (1, "beta", 1, HALF)
        assert (await api.get(f"{FLAGS}/beta")).json() == flag
        assert (await api.get(f"{FLAGS}/1/")).json() == flag


async def test_flag__made_twice_under_one_idempotency_key__is_one_flag() -> None:
    """A creation whose answer was lost can be repeated."""
    async with managing() as api:
        headers = {"idempotency-key": "deploy-17"}
        first = await api.post(FLAGS, json={"key": "beta"}, headers=headers)
        again = await api.post(FLAGS, json={"key": "beta"}, headers=headers)
        other = await api.post(FLAGS, json={"key": "gamma"}, headers=headers)
        assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
        assert first.json() == again.json()


@pytest.mark.parametrize("key", ["", "a" * 201, "a\tb"])
async def test_idempotency_key__that_is_none__is_refused(key: str) -> None:
    """What cannot be kept as a key is not taken for one."""
    async with managing() as api:
        answer = await api.post(FLAGS, json={"key": "beta"}, headers={"idempotency-key": key})
        assert (answer.status_code, answer.json()["attr"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize(
    ("fields", "headers", "status"),
    [
        ({"version": 1}, {}, 200),
        ({"version": 7}, {}, 409),
        ({}, {"if-match": '"1"'}, 200),
        ({}, {"if-match": '"7"'}, 409),
        ({}, {"if-match": "*"}, 200),
        ({}, {"if-match": '"1", "2"'}, 400),
        ({}, {"if-match": "W/x"}, 400),
    ],
)
async def test_flag__changed_by_version__is_so_only_if_nobody_was_faster(
    fields: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    """A change is for the version that its author has seen, in the body or in If-Match."""
    async with managing() as api:
        await api.make_flag()
        answer = await api.patch(f"{FLAGS}/beta", json={"active": False, **fields}, headers=headers)
        assert answer.status_code == status
        if status == 409:
            assert answer.json()["version"] == 1


async def test_flag__wrong_in_several_ways__is_refused_with_every_path() -> None:
    """Whoever is refused learns of all that is wrong at once."""
    async with managing() as api:
        fields = {"key": "a b", "filters": {"groups": [{"properties": [], "rollout_percentage": 200}]}}
        answer = await api.post(FLAGS, json=fields)
        assert answer.status_code == 400
        paths = {problem["path"] for problem in answer.json()["problems"]}
        assert {"$.key", "$.filters.groups[0].rollout_percentage"} <= paths


@pytest.mark.parametrize("content", [b"{", b"[]", b'"text"', b"\xff", b'{"key": ' + b"[" * 100 + b"]" * 100 + b"}"])
async def test_flag__of_no_json_object__is_refused(content: bytes) -> None:
    """What cannot be read is a refusal with a path, never a crash."""
    async with managing() as api:
        answer = await api.post(FLAGS, content=content)
        assert (answer.status_code, answer.json()["attr"]) == (400, "$")


async def test_flag__deleted_and_restored__is_there_again() -> None:
    """Deleting can be undone, by the id that the flag keeps."""
    async with managing() as api:
        flag = await api.make_flag(filters=HALF)
        assert (await api.delete(f"{FLAGS}/beta")).status_code == 204
        assert (await api.get(f"{FLAGS}/beta")).status_code == 404
        assert (await api.get(f"{FLAGS}/{flag['id']}")).json()["deleted"] is True
        assert (await api.delete(f"{FLAGS}/{flag['id']}")).status_code == 204
        restored = await api.post(f"{FLAGS}/{flag['id']}/restore")
        assert restored.json()["deleted"] is False
        assert restored.json()["filters"] == HALF


async def test_flag__rolled_back__has_the_earlier_content_as_a_new_version() -> None:
    """What was in force can be put in force again, and history only grows."""
    async with managing() as api:
        await api.make_flag(filters=HALF)
        await api.patch(f"{FLAGS}/beta", json={"filters": {"groups": []}})
        stale = await api.post(f"{FLAGS}/beta/rollback", json={"to_version": 1, "version": 1})
        assert stale.status_code == 409
        stale = await api.post(f"{FLAGS}/beta/rollback", json={"to_version": 1}, headers={"if-match": '"1"'})
        assert stale.status_code == 409
        answer = await api.post(f"{FLAGS}/beta/rollback", json={"to_version": 1, "version": 2})
        assert (answer.json()["filters"], answer.json()["version"]) == (HALF, 3)
        assert (await api.post(f"{FLAGS}/beta/rollback", json={"to_version": 9})).status_code == 404
        assert (await api.post(f"{FLAGS}/beta/rollback", json={})).json()["attr"] == "$"


@pytest.mark.parametrize("name", ["history", "activity"])
async def test_history__in_parts__is_complete_and_newest_first(name: str) -> None:
    """Every change stands in the history once, however it is read."""
    async with managing() as api:
        await api.make_flag()
        for number in range(4):
            await api.patch(f"{FLAGS}/beta", json={"name": f"name {number}"})
        seen, following = [], f"{FLAGS}/beta/{name}?limit=2"
        while following:
            part = (await api.get(following)).json()
            seen += part["results"]
            following = part["next"]
        assert [entry["version"] for entry in seen] == [5, 4, 3, 2, 1]
        assert seen[0]["before"]["name"] == "name 2"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", f"{FLAGS}/beta?dry_run=true", {"filters": {"groups": []}}),
        ("DELETE", f"{FLAGS}/beta?dry_run=1", None),
        ("POST", f"{FLAGS}?dry_run=True", {"key": "new", "filters": {"groups": [{"properties": []}]}}),
    ],
)
async def test_dry_run__of_a_change__tells_whose_value_would_change_and_writes_nothing(
    method: str, path: str, body: object
) -> None:
    """Who would be hit by a change can be known before it is made."""
    async with managing() as api:
        await api.make_flag(filters={"groups": [{"properties": []}]})
        await persons(api, 20)
        before = len(api.store.audit)
        answer = await api.request(method, path, json=body)
        assert (answer.status_code, answer.json()["sampled"], answer.json()["flipped"]) == (200, 20, 20)
        assert len(api.store.audit) == before


async def test_list__in_parts__has_links_to_the_others_that_keep_the_filters() -> None:
    """Following the links gives everything that was asked for, once."""
    async with managing() as api:
        for number in range(5):
            await api.make_flag(f"beta-{number}", active=number != 2)
        await api.make_flag("other")
        keys, following = [], f"{FLAGS}/?search=BETA&active=true&order=-id&limit=3"
        while following:
            assert following.startswith(f"{FLAGS}/?")
            part = (await api.get(following, headers={"host": "evil.example"})).json()
            assert part["count"] == 4
            keys += [it["key"] for it in part["results"]]
            following = part["next"]
        assert keys == ["beta-4", "beta-3", "beta-1", "beta-0"]


async def test_list__of_deleted_flags__is_asked_for_by_itself() -> None:
    """Deleted flags do not clutter the list, and can be found."""
    async with managing() as api:
        await api.make_flag("kept")
        await api.make_flag("gone")
        await api.delete(f"{FLAGS}/gone")
        assert [it["key"] for it in (await api.get(FLAGS)).json()["results"]] == ["kept"]
        assert [it["key"] for it in (await api.get(f"{FLAGS}?deleted=true")).json()["results"]] == ["gone"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("active=perhaps", "active"),
        ("order=name", "order"),
        ("actve=true", "actve"),
        ("limit=1&limit=2", "limit"),
        ("&".join(f"a{n}=1" for n in range(21)), "?"),
        ("search=%s" % ("x" * 401), "search"),
    ],
)
async def test_list__filter_that_makes_no_sense__is_refused_by_name(query: str, name: str) -> None:
    """A filter that was mistyped is not left out, which would answer something else."""
    async with managing() as api:
        answer = await api.get(f"{FLAGS}?{query}")
        assert (answer.status_code, answer.json()["attr"]) == (400, name)


@pytest.mark.parametrize(
    "path",
    [
        f"{FLAGS}/nobody",
        f"{FLAGS}/99",
        f"{FLAGS}/{'a' * 500}",
        f"{FLAGS}/99999999999999999999999",
        f"{FLAGS}//history",
        "/api/projects/1/cohorts/name",
        "/api/projects/9/feature_flags",
        "/api/projects/one/feature_flags",
        "/api/projects//feature_flags",
        "/api/projects/1/feature_flags/beta/nothing",
        "/api/feature_flags",
        "/api/",
        "/api/projects/1/feature_flags/1/history/2/more",
    ],
)
async def test_path__of_nothing__is_404(path: str) -> None:
    """What is not there is not found, whatever it looks like."""
    async with managing() as api:
        assert (await api.get(path)).status_code == 404


async def test_methods__of_a_path__are_told() -> None:
    """OPTIONS and a wrong method tell which there are; HEAD is GET without the body."""
    async with managing() as api:
        await api.make_flag()
        options = await api.options(f"{FLAGS}/beta")
        assert (options.status_code, options.headers["allow"]) == (204, "GET, PATCH, DELETE, HEAD, OPTIONS")
        wrong = await api.put(f"{FLAGS}/beta", json={})
        assert (wrong.status_code, wrong.headers["allow"]) == (405, options.headers["allow"])
        assert (await api.head(f"{FLAGS}/beta")).status_code == 200


async def test_cohort__made_and_changed__is_versioned_like_a_flag() -> None:
    """One set of rules holds for both."""
    async with managing() as api:
        cohort_id = await api.make_cohort()
        path = f"/api/projects/1/cohorts/{cohort_id}"
        changed = await api.patch(path, json={"description": "people"}, headers={"if-match": '"1"'})
        assert (changed.json()["version"], changed.headers["etag"]) == (2, '"2"')
        assert (await api.delete(path)).status_code == 204
        assert (await api.post(f"{path}/restore")).json()["deleted"] is False
        assert [it["action"] for it in (await api.get(f"{path}/history")).json()["results"]][-1] == "created"
        assert (await api.patch(f"{path}?dry_run=true", json={})).json()["attr"] == "dry_run"


async def test_apply__of_a_file__does_what_the_plan_said_at_that_version() -> None:
    """What was looked at is what is done, or nothing."""
    async with managing() as api:
        await api.make_flag("old")
        desired = {"flags": [{"key": "new", "filters": HALF}]}
        path = "/api/projects/1"
        plan = (await api.post(f"{path}/plan?delete=true", json=desired)).json()
        assert {(it["action"], it["name"]) for it in plan["changes"]} == {("create", "new"), ("delete", "old")}
        await api.make_flag("meanwhile")
        late = await api.post(f"{path}/apply?delete=true&if_version={plan['version']}", json=desired)
        assert late.status_code == 409
        done = await api.post(f"{path}/apply", json=desired)
        assert [it["action"] for it in done.json()["changes"]] == ["create"]
        assert done.json()["unmanaged"] == 2
        again = await api.post(f"{path}/plan", json=desired)
        assert again.json()["changes"] == []


async def test_apply__of_a_file_that_is_wrong__names_the_places_in_it() -> None:
    """A file is refused as a whole, with the paths in it."""
    async with managing() as api:
        desired = {"flags": [{"key": "good"}, {"key": "bad key"}]}
        answer = await api.post("/api/projects/1/apply", json=desired)
        assert (answer.status_code, answer.json()["attr"]) == (400, "$.flags[1].key")
        assert (await api.get(FLAGS)).json()["count"] == 0
        typo = await api.post("/api/projects/1/apply", json={"flags": [], "cohort": []})
        assert typo.status_code == 400
