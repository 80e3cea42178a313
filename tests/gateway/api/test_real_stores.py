"""The management API over the stores that keep something, and from an edit to an answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.builder import Builder
from config.reload import Live
from config.settings import Settings
from gateway.app import create_app
from gateway.ports import SystemClock
from gateway.services.keys import KeyService
from gateway.stores.sqlite import SqliteStore
from tests.contracts.test_stores import open_postgres
from tests.gateway.api.managing import NO_LIMITS, hold_to_description
from tests.gateway.serving import running

SOON_S = 10.0
FLAGS = "/api/projects/1/feature_flags"


@pytest.fixture(params=["sqlite", "postgres", "pgbouncer"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """A store of this kind, open."""
    if request.param == "sqlite":
        store: Any = SqliteStore(str(tmp_path / "store.sqlite3"))
    else:
        store = open_postgres(request.getfixturevalue(request.param), request.getfixturevalue("database"))
        await store.migrate()
    async with store:
        yield store


@asynccontextmanager
async def serving(store: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The whole app over the store, with a builder, and a client with a key for everything and project 1."""

    @asynccontextmanager
    async def stay_open(_: object) -> AsyncIterator[Any]:
        yield store

    settings = Settings(limits=NO_LIMITS, builder=Builder(min_rest_ms=0, poll_ms=20))
    async with running(create_app(Live(settings), SystemClock(), stay_open)) as app:
        hooks = {"response": [hold_to_description]}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://flagstone", event_hooks=hooks) as client:
            text, _ = await KeyService(store.managed, SystemClock()).create("all", ("*",), None, "test")
            client.headers["authorization"] = f"Bearer {text}"
            made = await client.post("/api/projects", json={"name": "Shop", "token": "phc_shop"})
            assert made.json()["id"] == 1
            yield client


async def served(client: httpx.AsyncClient, distinct_id: str, key: str, value: object) -> None:
    """Returns once this person is answered with the value; None stands for no flag at all."""
    async with asyncio.timeout(SOON_S):
        while True:
            body = {"token": "phc_shop", "distinct_id": distinct_id}
            answer = await client.post("/flags?v=2", json=body)
            record = answer.json()["flags"].get(key) if answer.status_code == 200 else {}
            if (record if record is None else record.get("variant") or record.get("enabled")) == value:
                return
            await asyncio.sleep(0.02)


async def test_edit__of_a_flag__is_served_and_can_be_taken_back(opened: Any) -> None:
    """What is made, changed, rolled back, deleted and restored through the API is what people are answered."""
    async with serving(opened) as client:
        everybody = {"groups": [{"properties": [], "rollout_percentage": 100}]}
        made = await client.post(FLAGS, json={"key": "beta", "filters": everybody}, headers={"idempotency-key": "one"})
        again = await client.post(FLAGS, json={"key": "beta", "filters": everybody}, headers={"idempotency-key": "one"})
        assert (made.status_code, again.status_code) == (201, 200)
        assert made.json() == again.json()
        await served(client, "u", "beta", True)
        changed = await client.patch(f"{FLAGS}/beta", json={"active": False, "version": 1})
        assert (changed.status_code, changed.json()["version"]) == (200, 2)
        await served(client, "u", "beta", None)
        late = await client.patch(f"{FLAGS}/beta", json={"name": "late", "version": 1})
        assert (late.status_code, late.json()["version"]) == (409, 2)
        assert (await client.post(f"{FLAGS}/beta/rollback", json={"to_version": 1})).json()["version"] == 3
        await served(client, "u", "beta", True)
        assert (await client.delete(f"{FLAGS}/beta")).status_code == 204
        await served(client, "u", "beta", None)
        assert (await client.post(f"{FLAGS}/1/restore")).status_code == 200
        await served(client, "u", "beta", True)
        history = (await client.get(f"{FLAGS}/1/history")).json()["results"]
        actions = ["restored", "deleted", "rolled_back", "changed", "created"]
        assert [entry["action"] for entry in history] == actions
        assert [entry["after"]["version"] for entry in history] == [5, 4, 3, 2, 1]
        assert all(entry["actor"] == "key 1 (all)" for entry in history[:-1])


async def test_edit__by_many_at_once__loses_nothing(opened: Any) -> None:
    """Editors who read a version and change that one all get their turn, and each sees what the others did."""
    async with serving(opened) as client:
        await client.post(FLAGS, json={"key": "beta", "tags": []})

        async def add(tag: str) -> None:
            while True:
                flag = (await client.get(f"{FLAGS}/beta")).json()
                change = {"tags": [*flag["tags"], tag], "version": flag["version"]}
                if (await client.patch(f"{FLAGS}/beta", json=change)).status_code == 200:
                    return

        await asyncio.gather(*(add(f"t{number}") for number in range(8)))
        flag = (await client.get(f"{FLAGS}/beta")).json()
        assert (sorted(flag["tags"]), flag["version"]) == ([f"t{number}" for number in range(8)], 9)


async def test_people__uploaded__decide_flags_and_dry_runs(opened: Any) -> None:
    """Persons, cohorts and members that come as lines are what flags are evaluated and tried with."""
    async with serving(opened) as client:
        cohort = {"name": "friends", "is_static": True}
        cohort_id = (await client.post("/api/projects/1/cohorts", json=cohort)).json()["id"]
        people = "\n".join(f'{{"distinct_id": "u{n}", "properties": {{"n": {n}}}}}' for n in range(1500))
        told = (await client.post("/api/projects/1/persons", content=people)).json()
        assert (told["created"], told["refused"]) == (1500, 0)
        members = "\n".join(f'"u{n}"' for n in range(0, 1500, 3))
        told = (await client.post(f"/api/projects/1/cohorts/{cohort_id}/members", content=members)).json()
        assert told["stored"] == 500
        member = {"key": "id", "type": "cohort", "value": cohort_id, "operator": "in"}
        filters = {"groups": [{"properties": [member], "rollout_percentage": 100}]}
        await client.post(FLAGS, json={"key": "for-friends", "filters": filters})
        await served(client, "u3", "for-friends", True)
        await served(client, "u4", "for-friends", False)
        trial = await client.patch(f"{FLAGS}/for-friends?dry_run=true", json={"filters": {"groups": []}})
        flips = trial.json()
        assert flips["flipped"] > 0
        assert [(it["before"], it["after"]) for it in flips["by_value"]] == [(True, False)]
        await served(client, "u3", "for-friends", True)


async def test_apply__of_a_file__is_all_or_nothing(opened: Any) -> None:
    """A file is planned, applied at once, and planned again as nothing; one mistake in it changes nothing."""
    async with serving(opened) as client:
        on = {"groups": [{"rollout_percentage": 100}]}
        desired = {"flags": [{"key": f"flag-{n}", "filters": on} for n in range(50)]}
        broken = {"flags": [*desired["flags"], {"key": "bad", "filters": {"groups": [{"rollout_percentage": 200}]}}]}
        refused = await client.post("/api/projects/1/apply", json=broken)
        assert (refused.status_code, refused.json()["attr"]) == (
            400,
            "$.flags[50].filters.groups[0].rollout_percentage",
        )
        assert (await client.get(FLAGS)).json()["count"] == 0
        assert (await client.post("/api/projects/1/apply", json=desired)).status_code == 200
        plan = (await client.post("/api/projects/1/plan", json=desired)).json()
        assert (plan["changes"], plan["unchanged"]) == ([], 50)
        await served(client, "u", "flag-49", True)


async def test_project__deleted__answers_nobody_any_more(opened: Any) -> None:
    """With a project its token goes, and the record of what happened to it stays."""
    async with serving(opened) as client:
        await client.post(FLAGS, json={"key": "beta", "filters": {"groups": [{"rollout_percentage": 100}]}})
        await served(client, "u", "beta", True)
        assert (await client.delete("/api/projects/1")).status_code == 204
        async with asyncio.timeout(SOON_S):
            body = {"token": "phc_shop", "distinct_id": "u"}
            while (await client.post("/flags?v=2", json=body)).status_code != 401:
                await asyncio.sleep(0.02)
        assert (await client.get("/api/projects/1")).status_code == 404
