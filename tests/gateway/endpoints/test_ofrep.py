"""OFREP over the whole app: one flag, all of them, refusals and entity tags, as OpenFeature's clients see them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from config.clients import Quota, Streams
from config.edge import Limits, Proxies
from config.networks import Networks
from config.rates import Rates
from config.settings import Settings
from gateway.endpoints.ofrep import BULK
from gateway.errors import StoreTimeout, StoreUnavailable
from gateway.ports import StoredFacts
from tests.builders import condition, flag, person, project
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, Client, MemoryStore, serving, settle

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}
U1 = {"targetingKey": "u1"}


def definitions(*flags: dict[str, Any]) -> dict[str, Any]:
    return project(
        flag("on", id=1),
        flag("paid", condition(person("plan", "paid")), id=2),
        flag("of/servers", id=3, evaluation_runtime="server"),
        flag("inactive", id=4, active=False),
        *flags,
    )


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore({TOKEN: definitions()})


@pytest.fixture
async def client(store: MemoryStore) -> AsyncIterator[Client]:
    async with serving(store) as client:
        yield client


async def ask(
    client: Client, key: str | None = None, context: Any = U1, query: str = "", **headers: str
) -> httpx.Response:
    path = BULK if key is None else f"{BULK}/{key}"
    sent = {**AUTHORIZED, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await client.post(path + query, json={"context": context}, headers=sent)


def items(answer: httpx.Response) -> dict[str, dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return {item["key"]: item for item in answer.json()["flags"]}


async def test_single__flag__is_one_item_with_where_it_is_from(client: Client) -> None:
    """The answer about one flag has its value, the reason, and the snapshot in its metadata."""
    answer = await ask(client, "on")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["x-flagstone-snapshot"] == "1; age_ms=0; source=store"
    told = answer.json()
    assert (told["key"], told["value"], told["variant"], told["reason"]) == ("on", True, None, "TARGETING_MATCH")
    assert told["metadata"].items() >= {"reasonCode": "condition_match", "snapshotVersion": 1}.items()


async def test_single__key_with_a_slash__is_found_either_way(client: Client) -> None:
    """Released clients send keys as they are, newer ones escape them."""
    for key in ("of/servers", "of%2Fservers"):
        assert (await ask(client, key)).json()["value"] is True


@pytest.mark.parametrize("key", ["nope", "on/", "{key:path}", "of/servers"])
async def test_single__flag_that_is_not_there_for_the_caller__is_404(client: Client, key: str) -> None:
    """A flag of another runtime is as unknown as one that does not exist."""
    answer = await ask(client, key, {**U1, "evaluationRuntime": "client"})
    assert answer.status_code == 404
    told = answer.json()
    assert (told["key"], told["errorCode"]) == (key, "FLAG_NOT_FOUND")
    assert key in told["errorDetails"]


@pytest.mark.parametrize("context", [U1, {}])
async def test_single__inactive_flag__is_disabled_and_without_a_value(client: Client, context: Any) -> None:
    """A flag that is switched off leaves the code's default, which is no error."""
    answer = await ask(client, "inactive", context)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["reason"], told["variant"], "value" in told) == ("DISABLED", None, False)
    assert told["metadata"].items() >= {"enabled": False, "snapshotVersion": 1}.items()


async def test_single__store_of_persons_is_down__fails_only_flags_that_need_it(
    client: Client, store: MemoryStore
) -> None:
    """What cannot be told is an error that every client reads: the code's default holds, and the cause is named."""
    await ask(client)
    store.error = StoreUnavailable("x")
    assert (await ask(client, "on")).json()["value"] is True
    answer = await ask(client, "paid")
    assert (answer.status_code, answer.headers["x-flagstone-degraded"]) == (400, "database_unavailable")
    told = answer.json()
    assert (told["key"], told["errorCode"]) == ("paid", "GENERAL")
    assert told["errorDetails"] == "The store of properties cannot be reached"
    assert told["metadata"]["degraded"] == told["metadata"]["reasonCode"] == "database_unavailable"


async def test_single__without_a_targeting_key__says_so(client: Client) -> None:
    """Nobody is named, so there is nothing to tell of a flag that may differ from one to the other."""
    answer = await ask(client, "on", {"plan": "paid"})
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "TARGETING_KEY_MISSING")
    assert "targetingKey" in answer.json()["errorDetails"]


@pytest.mark.parametrize("path", [BULK, BULK + "/"])
async def test_bulk__flags__are_all_that_the_caller_gets_from_flags(client: Client, path: str) -> None:
    """Inactive flags are left out, as in /flags, and what holds for all flags stands once."""
    answer = await client.post(path, json={"context": U1}, headers={"x-api-key": TOKEN})
    assert {key: item["value"] for key, item in items(answer).items()} == {
        "on": True,
        "paid": False,
        "of/servers": True,
    }
    assert answer.json()["metadata"] == {"snapshotVersion": 1, "snapshotAgeMs": 0, "snapshotSource": "store"}


async def test_bulk__store_of_persons_is_down__is_200_with_errors_per_flag(client: Client, store: MemoryStore) -> None:
    """A page loses the flags that cannot be told, and no others."""
    await ask(client)
    store.error = StoreUnavailable("x")
    answer = await ask(client)
    assert {key: item.get("value") for key, item in items(answer).items()} == {
        "on": True, "paid": None, "of/servers": True,
    }  # fmt: skip
    assert items(answer)["paid"]["errorCode"] == "GENERAL"
    assert answer.json()["metadata"]["degraded"] == answer.headers["x-flagstone-degraded"] == "database_unavailable"


async def test_bulk__without_a_targeting_key__is_200_with_errors_per_flag(client: Client) -> None:
    """A page that is set up before its visitor is known becomes ready, and gets its flags when it is."""
    for body in (b"", b'{"context":{"targetingKey":""}}'):
        answer = await client.post(BULK, content=body, headers=AUTHORIZED)
        assert [(key, it["errorCode"]) for key, it in items(answer).items()] == [
            (key, "TARGETING_KEY_MISSING") for key in ("on", "paid", "of/servers")
        ]
        assert "eventStreams" in answer.json()


@pytest.mark.parametrize("key", [None, "on"])
@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "details"),
    [
        (b"{}", {}, 401, "GENERAL", "No API token provided"),
        (b"{}", {"authorization": "Bearer phc_wrong"}, 401, "GENERAL", "invalid"),
        (b"{", AUTHORIZED, 400, "PARSE_ERROR", "invalid JSON"),
        (b'{"context":{"groups":5}}', AUTHORIZED, 400, "INVALID_CONTEXT", "`context.groups`"),
    ],
)
async def test_ofrep__refused__has_the_members_of_ofrep(
    client: Client, key: str | None, body: bytes, headers: dict[str, str], status: int, code: str, details: str
) -> None:
    """What is wrong comes with a code that OpenFeature knows and a sentence, and with the key where it is about one."""
    answer = await client.post(BULK if key is None else f"{BULK}/{key}", content=body, headers=headers)
    told = answer.json()
    assert (answer.status_code, told["errorCode"], told.get("key")) == (status, code, key)
    assert details in told["errorDetails"]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("key", [None, "on"])
async def test_ofrep__nothing_to_answer_from__is_503_to_be_tried_again(
    client: Client, store: MemoryStore, key: str | None
) -> None:
    """An outage is never a credential that is wrong: browsers would give up for good."""
    store.error = StoreUnavailable("x")
    answer = await ask(client, key)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["errorCode"] == "GENERAL"


async def test_ofrep__project_asks_too_often__is_told_when_to_come_back_in_whole_seconds(store: MemoryStore) -> None:
    """A date or a fraction would make clients wait for half an hour, or not at all."""
    async with serving(store, Settings(limits=Limits(token=Rates("1/minute")))) as client:
        await ask(client)
        for key in (None, "on"):
            answer = await ask(client, key)
            assert (answer.status_code, answer.json()["errorCode"]) == (429, "GENERAL")
            assert int(answer.headers["retry-after"]) >= 1


async def test_ofrep__quota_is_used_up__is_an_error_of_each_flag(store: MemoryStore) -> None:
    """Clients fall back to the code's defaults, not to the flags of whoever was asked for before."""
    async with serving(store, Settings(quota=Quota(project=Rates("1/day")))) as client:
        first = await ask(client)
        bulk, single = await ask(client), await ask(client, "on")
        told = (await ask(client, if_none_match=first.headers["etag"])).status_code
    assert {item["errorCode"] for item in items(bulk).values()} == {"GENERAL"}
    assert bulk.json()["metadata"]["quotaLimited"] is True
    assert (single.status_code, single.json()["errorCode"], single.json()["key"]) == (400, "GENERAL", "on")
    assert single.json()["metadata"]["quotaLimited"] is True
    assert first.headers["etag"] != bulk.headers["etag"]
    assert told == 200


async def test_ofrep__other_methods__are_refused(client: Client) -> None:
    """There is nothing to get without a context."""
    for path in (BULK, f"{BULK}/on"):
        for method in ("GET", "HEAD"):
            answer = await client.request(method, path, headers=AUTHORIZED)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")


async def test_bulk__streams__are_named_as_settings_have_them(store: MemoryStore) -> None:
    """streams.is_enabled: whether bulk answers name a stream. streams.inactivity_delay_s: what they say of it."""
    for streams, named in (
        (Streams(is_enabled=False), None),
        (Streams(inactivity_delay_s=7), [{
            "type": "sse",
            "endpoint": {"requestUri": f"/ofrep/v1/stream?token={TOKEN}"},
            "inactivityDelaySec": 7,
        }]),
    ):  # fmt: skip
        async with serving(store, Settings(streams=streams)) as client:
            assert (await ask(client)).json().get("eventStreams") == named


RICH = {**U1, "plan": "paid", "groups": {"team": "t1"}}


async def test_etag__of_an_answer_without_stored_facts__is_known_before_evaluating(store: MemoryStore) -> None:
    """Asking again costs nothing: no flag is evaluated and no quota used. The order of attributes does not matter."""
    async with serving(store, Settings(quota=Quota(project=Rates("1/day")))) as client:
        first = await ask(client, context=RICH)
        tag = first.headers["etag"]
        for query in ("", "?flagConfigEtag=x&flagConfigLastModified=5"):
            again = await ask(client, context=dict(reversed(RICH.items())), query=query, if_none_match=tag)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
            assert again.headers["x-flagstone-snapshot"] == "1; age_ms=0; source=store"
    assert "load_facts" not in store.calls


@pytest.mark.parametrize(
    "context",
    [
        {**RICH, "plan": "free"},
        {**RICH, "targetingKey": "u2"},
        {**RICH, "more": 1},
        {**RICH, "groups": {"team": "t2"}},
        {**RICH, "evaluationRuntime": "client"},
        {},
    ],
)
async def test_etag__of_another_context__is_another(client: Client, context: dict[str, Any]) -> None:
    """Whoever upgrades keeps nothing of the answer before, even where the client sends its tag along."""
    tag = (await ask(client, context=RICH)).headers["etag"]
    answer = await ask(client, context=context, if_none_match=tag)
    assert answer.status_code == 200
    assert answer.headers["etag"] != tag


async def test_etag__of_other_definitions__is_another(store: MemoryStore) -> None:
    """A flag that changed is fetched."""
    tags = set()
    for document in (definitions(), definitions(flag("new", id=9))):
        async with serving(MemoryStore({TOKEN: document})) as client:
            tags.add((await ask(client, context=RICH)).headers["etag"])
    assert len(tags) == 2


async def test_etag__where_stored_facts_decide__is_of_the_flags(client: Client, store: MemoryStore) -> None:
    """What the store says is looked up each time, and sent again only if it makes a difference."""
    tag = (await ask(client)).headers["etag"]
    store.persons["u1"] = StoredFacts({"plan": "free"})
    assert (await ask(client, if_none_match=tag)).status_code == 304
    store.persons["u1"] = StoredFacts({"plan": "paid"})
    paid = await ask(client, if_none_match=tag)
    assert items(paid)["paid"]["value"] is True
    store.error = StoreUnavailable("x")
    failed = await ask(client, if_none_match=paid.headers["etag"])
    assert items(failed)["paid"]["errorCode"] == "GENERAL"
    store.error = StoreTimeout("x")
    assert (await ask(client, if_none_match=failed.headers["etag"])).status_code == 304
    assert len({tag, paid.headers["etag"], failed.headers["etag"]}) == 3


async def test_etag__where_time_decides__is_of_the_flags() -> None:
    """An answer that changes by itself is not taken for the same."""
    recent = flag("recent", condition(person("joined", "-1d", "is_date_after")), id=9)
    clock = FakeClock()
    context = {**RICH, "joined": clock.now().isoformat()}
    async with serving(MemoryStore({TOKEN: definitions(recent)}), clock=clock) as client:
        first = await ask(client, context=context)
        tag = first.headers["etag"]
        assert (await ask(client, context=context, if_none_match=tag)).status_code == 304
        clock.advance(2 * 86_400)
        await settle()
        later = await ask(client, context=context, if_none_match=tag)
    assert [items(answer)["recent"]["value"] for answer in (first, later)] == [True, False]


async def test_bulk__from_a_browser__lets_it_read_the_tag(client: Client) -> None:
    """Without that, a page on another origin would fetch everything each time."""
    answer = await ask(client, origin="https://example.com")
    assert "etag" in answer.headers["access-control-expose-headers"].split(", ")
    preflight = await client.options(BULK, headers={
        "origin": "https://example.com", "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,if-none-match",
    })  # fmt: skip
    assert "if-none-match" in preflight.headers["access-control-allow-headers"]


async def test_bulk__huge_numbers_and_deep_values__are_taken_or_refused(client: Client) -> None:
    """Whatever JSON a context holds, the answer is one."""
    body = b'{"context":{"targetingKey":"u1","big":%s,"deep":%s}}'
    deep = b"[" * 60 + b"]" * 60
    answer = await client.post(BULK, content=body % (b"9" * 60, deep), headers=AUTHORIZED)
    assert msgspec.json.decode(answer.content)["flags"]
    answer = await client.post(BULK, content=body % (b"1e999", deep * 2), headers=AUTHORIZED)
    assert answer.status_code == 400


async def test_ofrep__refused_before_it_is_looked_at__is_told_when_to_come_back_as_well(store: MemoryStore) -> None:
    """A limit on addresses knows nothing of OFREP, but its clients read nothing of it but the header."""
    behind = Proxies(trusted=Networks("127.0.0.1"))
    async with serving(store, Settings(limits=Limits(address=Rates("1/minute")), proxies=behind)) as client:
        client.headers["x-forwarded-for"] = "203.0.113.9"
        await ask(client)
        answer = await ask(client)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
