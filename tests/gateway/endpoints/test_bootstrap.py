"""/bootstrap over the whole app: what a rendering server gets, how soon, and what it may keep.

How requests are read and pages kept safe is tested in tests/gateway/wire.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from config.clients import Bootstrap, Quota
from config.rates import Rates
from config.settings import Settings
from evaluator.snapshot import build_snapshot
from gateway.endpoints.bootstrap import PEOPLE_AT_ONCE
from gateway.errors import StoreUnavailable
from gateway.ports import Deadline, StoredFacts
from gateway.services.flags import Answer, FlagService
from gateway.services.held import Held
from gateway.wire.flags import encode_result
from tests.builders import condition, flag, person, project
from tests.gateway.serving import TOKEN, Client, MemoryStore, serving

SNAPSHOT = {"version": 1, "age_ms": 0, "source": "store"}
FLAGS = [
    flag("on", payloads={"true": '{"text": "Hello"}'}, id=1),
    flag("off", rollout=0, id=2),
    flag("colour", variants={"green": 100}, payloads={"green": "not JSON"}, id=3),
    flag("for-servers", id=4, evaluation_runtime="server"),
    flag("paid", condition(person("plan", "paid")), id=5),
]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore({TOKEN: project(*FLAGS)})


@pytest.fixture
async def client(store: MemoryStore) -> AsyncIterator[Client]:
    async with serving(store) as client:
        yield client


async def get(client: Client, headers: dict[str, str] | None = None, **parameters: str) -> httpx.Response:
    return await client.get("/bootstrap", params={"token": TOKEN, **parameters}, headers=headers)


async def post(client: Client, **members: Any) -> Any:
    return (await client.post("/bootstrap", json={"token": TOKEN, **members})).json()


@pytest.mark.parametrize("path", ["/bootstrap", "/bootstrap/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_bootstrap__one_person__is_what_posthog_init_takes(client: Client, path: str, method: str) -> None:
    """Flags that are off are there as well, payloads are values, and flags for servers only are not for the page."""
    members = {"token": TOKEN, "distinct_id": "u1"}
    given: dict[str, Any] = {"params": members} if method == "GET" else {"json": members}
    answer = await client.request(method, path, **given)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-flagstone-snapshot"] == "1; age_ms=0; source=store"
    assert "x-flagstone-degraded" not in answer.headers
    assert answer.json() == {
        "distinctID": "u1",
        "isIdentifiedID": True,
        "featureFlags": {"on": True, "off": False, "colour": "green"},
        "featureFlagPayloads": {"on": {"text": "Hello"}, "colour": "not JSON"},
        "snapshot": SNAPSHOT,
        "errors": False,
        "incomplete": ["paid"],
    }


async def test_bootstrap__facts_not_allowed__no_store_is_asked(client: Client, store: MemoryStore) -> None:
    """A page waits for no database unless it says so, and then the stored facts decide."""
    store.persons["u1"] = StoredFacts({"plan": "paid"})
    await get(client, distinct_id="u1")
    assert "load_facts" not in store.calls
    answer = (await get(client, distinct_id="u1", facts="allow")).json()
    assert (answer["featureFlags"]["paid"], answer["incomplete"]) == (True, [])
    told = await post(client, distinct_id="u2", person_properties={"plan": "paid"})
    assert (told["featureFlags"]["paid"], told["incomplete"]) == (True, [])


async def test_bootstrap__store_of_persons_is_down__leaves_out_what_needs_it(
    client: Client, store: MemoryStore
) -> None:
    """Allowed facts that cannot be had are an error, which is told; the other flags are exact."""
    await get(client)
    store.error = StoreUnavailable("x")
    answer = await get(client, distinct_id="u1", facts="allow")
    assert answer.headers["x-flagstone-degraded"] == "database_unavailable"
    assert (answer.json()["errors"], answer.json()["incomplete"]) == (True, ["paid"])
    assert answer.json()["featureFlags"] == {"on": True, "off": False, "colour": "green"}


async def test_bootstrap__everything_is_down_and_nothing_held__is_503(client: Client, store: MemoryStore) -> None:
    """Without definitions there is nothing to render with, and the page is told at once."""
    store.error = StoreUnavailable("x")
    answer = await get(client, distinct_id="u1")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("parameters", [{}, {"token": ""}, {"token": "phc_unknown"}])
async def test_bootstrap__bad_token__is_401(client: Client, parameters: dict[str, str]) -> None:
    """A page of nobody's project gets nothing."""
    assert (await client.get("/bootstrap", params=parameters)).status_code == 401
    assert (await client.post("/bootstrap", json=parameters)).status_code == 401


async def test_bootstrap__bad_parameter__is_named_in_json(client: Client) -> None:
    """What is wrong with a request is told with its place."""
    answer = await get(client, groups="{")
    assert (answer.status_code, answer.json()["code"], answer.json()["attr"]) == (400, "invalid_input", "groups")
    assert (await post(client, person_properties=1))["attr"] == "person_properties"


async def test_bootstrap__as_script__is_an_element_for_the_page(client: Client) -> None:
    """The script form is ready to stand in a page, under the page's policy on scripts."""
    answer = await get(client, distinct_id="</script>", format="script", nonce="abc")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    start, end = '<script nonce="abc">window.__FLAGSTONE_BOOTSTRAP__=JSON.parse(', ")</script>"
    assert answer.text.startswith(start)
    assert "<" not in answer.text[len(start) : -len(end)]
    assert json.loads(json.loads(answer.text[len(start) : -len(end)]))["distinctID"] == "</script>"


async def test_bootstrap__several_people__are_answered_in_order(client: Client) -> None:
    """A batch has each person's flags as a request of their own would."""
    answer = await post(client, distinct_ids=["a", "b"], flag_keys=["on"])
    assert [it["distinctID"] for it in answer["bootstraps"]] == ["a", "b"]
    assert answer["bootstraps"][1] == await post(client, distinct_id="b", flag_keys=["on"])


async def test_bootstrap__many_people__lets_others_have_their_turn(client: Client) -> None:
    """A batch that waits for nothing does not keep everybody else waiting."""
    await get(client)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await post(client, distinct_id="a")
    alone, turns = turns, 0
    await post(client, distinct_ids=["a"] * PEOPLE_AT_ONCE * 3)
    counting.cancel()
    assert turns == alone + 3


async def test_bootstrap__reloaded_in_the_middle__is_from_one_snapshot(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody in a batch is answered from the same definitions."""
    find, answer_from = FlagService.find, FlagService.answer_from
    newer = build_snapshot(msgspec.json.encode(project(flag("on", rollout=0))), 2, encode_result)
    found: list[Held] = []

    async def find_and_keep(self: FlagService, *args: Any) -> Held:
        found.append(await find(self, *args))
        return found[-1]

    async def answer_and_reload(self: FlagService, *args: Any, **options: Any) -> Answer:
        answer = await answer_from(self, *args, **options)
        found[-1].snapshot = newer
        return answer

    monkeypatch.setattr(FlagService, "find", find_and_keep)
    monkeypatch.setattr(FlagService, "answer_from", answer_and_reload)
    batch = await post(client, distinct_ids=["a", "b"])
    assert [it["snapshot"]["version"] for it in batch["bootstraps"]] == [1, 1]
    assert (await post(client))["snapshot"]["version"] == 2


async def test_bootstrap__quota_is_used_up__says_so_in_place_of_flags(store: MemoryStore) -> None:
    """Each person counts; those beyond the quota get no flags, and posthog-js keeps what it had."""
    async with serving(store, Settings(quota=Quota(project=Rates("2/day")))) as client:
        batch = (await post(client, distinct_ids=["a", "b", "c"]))["bootstraps"]
        assert [it.get("quotaLimited") for it in batch] == [None, None, ["feature_flags"]]
        assert (batch[2]["featureFlags"], batch[2]["errors"]) == ({}, False)
        answer = await get(client, distinct_id="a")
        assert answer.json()["quotaLimited"] == ["feature_flags"]
        assert "etag" not in answer.headers


async def test_bootstrap__asked_again__is_304_before_anything_is_evaluated(store: MemoryStore) -> None:
    """Who has the answer for these definitions and this visitor is told so, which uses no quota."""
    async with serving(store, Settings(quota=Quota(project=Rates("1/day")))) as client:
        first = await get(client, distinct_id="a")
        again = await get(client, {"if-none-match": first.headers["etag"]}, distinct_id="a")
    assert (first.headers["cache-control"], again.headers["cache-control"]) == ("private, no-cache",) * 2
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert again.headers["x-flagstone-snapshot"] == "1; age_ms=0; source=store"
    assert "Cookie" in again.headers["vary"]


async def test_bootstrap__anything_else_asked__has_another_tag(client: Client, store: MemoryStore) -> None:
    """A tag stands for the definitions and for everything that was said of the visitor."""
    asked: list[dict[str, str]] = [
        {},
        {"distinct_id": "b"},
        {"is_identified": "false"},
        {"person_properties": '{"plan": "paid"}'},
        {"groups": '{"company": "acme"}'},
        {"group_properties": '{"company": {"size": 1}}'},
        {"flag_keys": "on"},
        {"evaluation_contexts": "docs"},
        {"evaluation_runtime": "server"},
        {"device_id": "d"},
        {"format": "script"},
        {"format": "script", "nonce": "abc"},
    ]
    tags = [(await get(client, **{"distinct_id": "a", **parameters})).headers["etag"] for parameters in asked]
    store.put("phc_other", project(flag("on")))
    tags.append((await get(client, token="phc_other", distinct_id="a")).headers["etag"])
    assert len(set(tags)) == len(tags)
    same = await get(client, distinct_id="a", groups='{"b": "1", "a": "2"}')
    swapped = await get(client, distinct_id="a", groups='{"a": "2", "b": "1"}')
    assert same.headers["etag"] == swapped.headers["etag"]


async def test_bootstrap__stored_facts_decided__has_no_tag(client: Client) -> None:
    """What a store may say otherwise the next time is never taken for the same."""
    needing = await get(client, distinct_id="a", facts="allow")
    told = await get(client, distinct_id="a", facts="allow", person_properties='{"plan": "free"}')
    assert "etag" not in needing.headers
    assert "etag" in told.headers


async def test_bootstrap__flags_of_a_date__have_no_tag(client: Client, store: MemoryStore) -> None:
    """What time alone changes is never taken for the same."""
    store.put("phc_dates", project(flag("new", condition(person("since", "-7d", "is_date_after")))))
    assert "etag" not in (await get(client, token="phc_dates", distinct_id="a")).headers


async def test_bootstrap__new_visitor__is_kept_by_nobody(client: Client) -> None:
    """An id that was made up for one visitor is no cache's to give to another."""
    answer = await get(client)
    assert answer.json()["isIdentifiedID"] is False
    assert answer.json()["deviceID"] == answer.json()["distinctID"]
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


async def test_bootstrap__cookie_of_posthog_js__names_the_visitor(client: Client) -> None:
    """A page that passes its visitor's cookie on gets their flags."""
    identity = quote('{"distinct_id": "a", "$device_id": "d", "$user_state": "identified"}')
    answer = await get(client, {"cookie": f"ph_{TOKEN}_posthog={identity}"})
    members = {name: answer.json()[name] for name in ("distinctID", "isIdentifiedID", "deviceID")}
    assert members == {"distinctID": "a", "isIdentifiedID": True, "deviceID": "d"}


@pytest.mark.parametrize(("budget_ms", "header", "waited_s"), [(50, None, 0.05), (20, None, 0.02), (50, 10, 0.01)])
async def test_bootstrap_budget_ms__decides_how_long_a_page_waits(
    budget_ms: int, header: int | None, waited_s: float, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bootstrap.budget_ms: nobody waits longer for definitions or facts, and whoever asks for less gets less."""
    budgets: list[float] = []
    find = FlagService.find

    async def find_and_note(self: FlagService, token: str | None, deadline: Deadline) -> Held:
        budgets.append(deadline.remaining_s())
        return await find(self, token, deadline)

    monkeypatch.setattr(FlagService, "find", find_and_note)
    headers = {"x-request-timeout-ms": str(header)} if header else {}
    async with serving(store, Settings(bootstrap=Bootstrap(budget_ms=budget_ms))) as client:
        await get(client, headers)
        store.gate.clear()
        assert (await get(client, headers, token="phc_cold")).status_code == 503
        late = await get(client, headers, distinct_id="a", facts="allow")
    assert late.headers["x-flagstone-degraded"] == "timeout"
    assert budgets == pytest.approx([waited_s] * 3)


@pytest.mark.parametrize(("max_ids", "status"), [(2, 400), (3, 200)])
async def test_bootstrap_max_ids__bounds_a_batch(store: MemoryStore, max_ids: int, status: int) -> None:
    """bootstrap.max_ids: no request asks for more people at once."""
    async with serving(store, Settings(bootstrap=Bootstrap(max_ids=max_ids))) as client:
        answer = await client.post("/bootstrap", json={"token": TOKEN, "distinct_ids": ["a", "b", "c"]})
    assert answer.status_code == status
