"""Who may call: keys, scopes, projects, and what a failing store means for them."""

import pytest

from gateway.errors import StoreUnavailable
from gateway.services.keys import KeyService
from tests.gateway.api.managing import managing

ONE = "/api/projects/1"


def bearer(text: str) -> dict[str, str]:
    return {"authorization": text}


@pytest.mark.parametrize("header", ["", "Basic eDp5", "Bearer", "Bearer  ", "phx_abc"])
async def test_call__without_a_key__is_not_authenticated(header: str) -> None:
    """Whoever shows no key is told that one is missing."""
    async with managing() as api:
        answer = await api.get(ONE, headers=bearer(header))
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


@pytest.mark.parametrize("text", ["phx_" + "a" * 43, "phc_project_one", "x" * 10_000])
async def test_call__with_a_wrong_key__fails(text: str) -> None:
    """Whoever shows a key that is none is told so."""
    async with managing() as api:
        answer = await api.get(ONE, headers=bearer(f"Bearer {text}"))
        assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed")


async def test_call__with_a_revoked_key__fails_at_once() -> None:
    """A key is worthless from the moment it is revoked."""
    async with managing() as api:
        headers = await api.with_key("*")
        assert (await api.get(ONE, headers=headers)).status_code == 200
        await KeyService(api.store, api.clock).revoke((await api.store.list_keys())[-1].id)
        assert (await api.get(ONE, headers=headers)).status_code == 401


async def test_call__while_the_store_fails__is_503_and_never_401() -> None:
    """A backend that is down says nothing about anybody's key."""
    async with managing() as api:
        api.store.error = StoreUnavailable("down")
        answer = await api.get(ONE)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("feature_flag:read", "GET", f"{ONE}/feature_flags", 200),
        ("feature_flag:write", "GET", f"{ONE}/feature_flags", 200),
        ("feature_flag:read", "POST", f"{ONE}/feature_flags", 403),
        ("cohort:write", "GET", f"{ONE}/feature_flags", 403),
        ("cohort:read", "GET", f"{ONE}/cohorts", 200),
        ("project:read", "GET", f"{ONE}/publication", 200),
        ("project:read", "DELETE", ONE, 403),
        ("group:write", "POST", f"{ONE}/persons", 403),
        ("person:write", "POST", f"{ONE}/persons", 200),
        ("feature_flag:write", "POST", f"{ONE}/plan", 403),
        ("personal_api_key:read", "POST", "/api/personal_api_keys", 403),
        ("*", "GET", f"{ONE}/groups_types", 200),
    ],
)
async def test_call__with_a_scope__may_do_what_that_is_for(scope: str, method: str, path: str, status: int) -> None:
    """A key does what its scopes are for, and a refusal names the scope that is missing."""
    async with managing() as api:
        answer = await api.request(method, path, headers=await api.with_key(scope))
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "permission_denied"
        assert ":" in answer.json()["detail"]


@pytest.mark.parametrize("project", ["2", "99"])
async def test_call__for_another_project__is_denied_whether_it_exists_or_not(project: str) -> None:
    """A key cannot find out which other projects there are."""
    async with managing() as api:
        await api.post("/api/projects", json={"name": "Other"})
        answer = await api.get(f"/api/projects/{project}", headers=await api.with_key("*", projects=(1,)))
        assert answer.status_code == 403
        assert answer.json()["detail"] == f"The key is not for project {project}."


@pytest.mark.parametrize(("projects", "status"), [((1,), 200), ((1, 2), 404), (None, 404)])
async def test_current_project__is_the_only_one_of_the_key(projects: tuple[int, ...] | None, status: int) -> None:
    """@current means a project only where there is no choice."""
    async with managing() as api:
        await api.post("/api/projects", json={"name": "Other"})
        answer = await api.get("/api/projects/@current", headers=await api.with_key("*", projects=projects))
        assert answer.status_code == status


async def test_audit__names_the_key_and_the_request() -> None:
    """Who did what can be told, down to the line in the log."""
    async with managing() as api:
        headers = {"authorization": f"Bearer {await api.key('*', name='deploy')}"}
        answer = await api.post(f"{ONE}/feature_flags", json={"key": "beta"}, headers=headers)
        record = api.store.audit[-1]
    assert record.actor == "key 2 (deploy)"
    assert record.request_id == answer.headers["x-request-id"]


async def test_key__made_through_the_api__works_and_is_shown_once() -> None:
    """The answer to its making is the only one that has the key."""
    async with managing() as api:
        fields = {"label": "ci", "scopes": ["feature_flag:read"], "scoped_teams": [1]}
        made = await api.post("/api/personal_api_keys", json=fields)
        assert made.status_code == 201
        headers = bearer(f"Bearer {made.json()['value']}")
        assert (await api.get(f"{ONE}/feature_flags", headers=headers)).status_code == 200
        listed = (await api.get("/api/personal_api_keys/")).json()["results"][-1]
        assert "value" not in listed
        assert listed["hint"] == made.json()["value"][-4:]
        assert (await api.delete(f"/api/personal_api_keys/{made.json()['id']}")).status_code == 204
        assert (await api.get(f"{ONE}/feature_flags", headers=headers)).status_code == 401
        assert (await api.delete("/api/personal_api_keys/x")).status_code == 404


@pytest.mark.parametrize(
    "fields",
    [{"scopes": ["*"]}, {"scopes": ["personal_api_key:write"], "scoped_teams": None}, {"scopes": ["cohort:read"]}],
)
async def test_key__made_by_one_that_has_less__is_denied(fields: dict[str, object]) -> None:
    """Nobody makes themselves a greater key."""
    async with managing() as api:
        headers = await api.with_key("personal_api_key:write", projects=(1,))
        answer = await api.post("/api/personal_api_keys", json={"label": "x", **fields}, headers=headers)
        assert answer.status_code == 403


async def test_projects__listed_with_a_key_for_some__are_those() -> None:
    """A list has what the key is for, and counts nothing else."""
    async with managing() as api:
        for name in ("Second", "Third"):
            await api.post("/api/projects", json={"name": name})
        headers = await api.with_key("*", projects=(1, 3))
        listed = (await api.get("/api/projects?limit=1", headers=headers)).json()
        assert [it["id"] for it in listed["results"]] == [1]
        assert (listed["count"], listed["next"]) == (2, "/api/projects?limit=1&offset=1")
        assert (await api.post("/api/projects", json={"name": "Fourth"}, headers=headers)).status_code == 403
        found = (await api.get("/api/projects?search=thi", headers=headers)).json()["results"]
        assert [it["id"] for it in found] == [3]


async def test_actor__in_a_header__means_nothing() -> None:
    """Who works straight on the store needs no key, and nobody else can pass for them."""
    async with managing() as api:
        headers = {"authorization": "", "actor": "cli:root", "x-actor": "cli:root"}
        assert (await api.get(f"{ONE}?actor=root", headers=headers)).status_code == 401


async def test_description__needs_no_key() -> None:
    """Tools can read what there is before anybody gives them a key."""
    async with managing() as api:
        answer = await api.get("/api/openapi.json", headers=bearer(""))
        assert answer.status_code == 200
        assert answer.json()["openapi"].startswith("3.1")


async def test_body__of_somebody_without_a_key__is_not_read() -> None:
    """Nothing that a stranger sends is kept, or takes time."""
    async with managing() as api:
        answer = await api.post(f"{ONE}/feature_flags", content=b"{" * 1000, headers=bearer(""))
        assert answer.status_code == 401
