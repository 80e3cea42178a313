"""/flags and /decide over the whole app: methods, shapes, encodings and refusals, as a client sees them."""

import base64
import gzip
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.errors import StoreUnavailable
from gateway.ports import StoredFacts
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, Client, MemoryStore, one_project, serving

REQUEST_ID = "3b0f3c1e-0d54-4b2a-9c59-2f1b6a7d9e10"
NOW_MS = 1_768_478_400_000
BODY = msgspec.json.encode({"token": TOKEN, "distinct_id": "u1"})
PATHS = ["/flags", "/flags/", "/decide", "/decide/"]


@pytest.fixture
def store() -> MemoryStore:
    return one_project()


@pytest.fixture
async def client(store: MemoryStore) -> AsyncIterator[Client]:
    async with serving(store) as client:
        yield client


def record(key: str, id_: int, reason: dict[str, Any], **members: Any) -> dict[str, Any]:
    metadata = {"id": id_, "version": 1, "description": None, "payload": None, "has_experiment": False}
    return {"key": key, "enabled": False, "variant": None, "reason": reason, "metadata": metadata, **members}


MATCHED = {"code": "condition_match", "condition_index": 0, "description": "Matched condition set 1"}
UNMATCHED = {"code": "no_condition_match", "condition_index": 0, "description": "No matching condition set"}
LATE = {
    "code": "database_unavailable",
    "condition_index": None,
    "description": "The store of properties cannot be reached",
}


@pytest.mark.parametrize("path", ["/flags", "/flags/"])
async def test_flags__post__is_the_exact_answer(client: Client, path: str) -> None:
    """A plain request for version 2 gets records, the request's id and the moment of the clock, and nothing else."""
    answer = await client.post(f"{path}?v=2", content=BODY, headers={"x-request-id": REQUEST_ID})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "errorsWhileComputingFlags": False,
        "flags": {"on": record("on", 1, MATCHED, enabled=True), "paid": record("paid", 2, UNMATCHED)},
        "requestId": REQUEST_ID,
        "evaluatedAt": NOW_MS,
    }


async def test_flags__store_of_persons_is_down__says_which_flags_failed(client: Client, store: MemoryStore) -> None:
    """Without stored properties the answer is a 200 in which the flags that needed them are marked."""
    await client.ask()
    store.error = StoreUnavailable("x")
    answer = await client.ask()
    assert answer.status_code == 200
    assert answer.json()["errorsWhileComputingFlags"] is True
    assert answer.json()["flags"] == {
        "on": record("on", 1, MATCHED, enabled=True),
        "paid": record("paid", 2, LATE, failed=True),
    }


async def test_flags__stored_property__decides(client: Client, store: MemoryStore) -> None:
    """What is stored of a person reaches the flag."""
    store.persons["u1"] = StoredFacts({"plan": "paid"})
    assert (await client.ask()).json()["flags"]["paid"]["enabled"] is True


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/flags?v=1", {"featureFlags": {"on": True, "paid": False}, "featureFlagPayloads": {}}),
        ("/flags?config=false", {"featureFlags": {"on": True, "paid": False}, "featureFlagPayloads": {}}),
        ("/decide?v=3", {"featureFlags": {"on": True, "paid": False}, "featureFlagPayloads": {}}),
        ("/decide", {"featureFlags": ["on"], "hasFeatureFlags": True}),
        ("/decide/?v=2", {"featureFlags": {"on": True}, "hasFeatureFlags": True}),
        ("/flags", {"hasFeatureFlags": True, "supportedCompression": ["gzip", "gzip-js"]}),
    ],
)
async def test_flags__other_versions__get_their_shape(client: Client, path: str, members: dict[str, Any]) -> None:
    """Old and default versions are answered in the shape that they know."""
    answer = (await client.post(path, content=BODY)).json()
    assert {name: answer.get(name) for name in members} == members


async def test_flags__typed_version__has_values(client: Client) -> None:
    """Version 4 gets records with one value."""
    flags = (await client.ask("v=4")).json()["flags"]
    assert {key: flag["value"] for key, flag in flags.items()} == {"on": True, "paid": False}


async def test_flags__header_of_a_proxy__makes_it_decide(client: Client) -> None:
    """A proxy that rewrote /decide says so in a header."""
    answer = await client.post("/flags?v=2", content=BODY, headers={"x-original-endpoint": "decide"})
    assert answer.json()["featureFlags"] == {"on": True}


@pytest.mark.parametrize(
    ("query", "content_type", "content", "encoding"),
    [
        ("v=2", "application/json", BODY, None),
        ("v=2", "text/plain", BODY, None),
        ("v=2", "text/plain", gzip.compress(BODY, mtime=0), None),
        ("v=2&compression=gzip-js", "text/plain", gzip.compress(BODY, mtime=0), None),
        ("v=2", "application/json", gzip.compress(BODY, mtime=0), "gzip"),
        ("v=2", "text/plain", base64.b64encode(BODY), None),
        ("v=2&compression=base64", "application/x-www-form-urlencoded", b"data=" + base64.b64encode(BODY), None),
    ],
)
async def test_flags__every_encoding__is_understood(
    client: Client, query: str, content_type: str, content: bytes, encoding: str | None
) -> None:
    """Whatever form a client's body has, the answer is the same."""
    headers = {"content-type": content_type} | ({"content-encoding": encoding} if encoding else {})
    answer = await client.post(f"/flags?{query}", content=content, headers=headers)
    assert answer.json()["flags"]["on"]["enabled"] is True


async def test_flags__disabled__are_empty_also_without_a_distinct_id(client: Client, store: MemoryStore) -> None:
    """A client that wants no flags gets none, and needs to name nobody."""
    answer = await client.post("/flags?v=2", json={"token": TOKEN, "disable_flags": True})
    assert answer.status_code == 200
    assert answer.json()["flags"] == {}
    assert "load_facts" not in store.calls


@pytest.mark.parametrize("path", PATHS)
async def test_flags__get__is_minimal(client: Client, store: MemoryStore, path: str) -> None:
    """A GET evaluates nothing, and is laid out by its version."""
    old, new = await client.get(path), await client.get(f"{path}?v=2")
    assert (old.status_code, new.status_code) == (200, 200)
    assert (old.json()["featureFlags"], old.json()["featureFlagPayloads"]) == ({}, {})
    assert new.json()["flags"] == {}
    assert new.headers["content-type"] == "application/json"
    assert store.calls == []


@pytest.mark.parametrize("path", PATHS)
async def test_flags__head_and_options__have_no_body(client: Client, path: str) -> None:
    """HEAD tells the type of an answer, and OPTIONS outside a preflight the methods."""
    head, options = await client.head(path), await client.options(path)
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "application/json")
    assert (options.status_code, options.content) == (204, b"")
    assert options.headers["allow"] == "GET, POST, OPTIONS, HEAD"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "QUERY"])
async def test_flags__other_method__is_405(client: Client, method: str) -> None:
    """A method that is not there is refused with those that are."""
    answer = await client.request(method, "/flags")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST, OPTIONS, HEAD"
    assert answer.json()["code"] == "method_not_allowed"


def json_error(kind: str, code: str, detail: str) -> bytes:
    return msgspec.json.encode({"type": kind, "code": code, "detail": detail, "attr": None})


UNDECODABLE = "Failed to decode request: {}. Please check your request format and try again."
NO_TOKEN = json_error(
    "authentication_error",
    "not_authenticated",
    "No API token provided. Please include a valid API token in your request.",
)
BAD_TOKEN = json_error(
    "authentication_error",
    "authentication_failed",
    "The provided API key is invalid or has expired. Please check your API key and try again.",
)
NO_ID = b"The distinct_id field is missing from the request. Please include a valid identifier."


@pytest.mark.parametrize(
    ("content", "status", "body"),
    [
        ({"distinct_id": "u1"}, 401, NO_TOKEN),
        ({"token": "", "distinct_id": "u1"}, 401, NO_TOKEN),
        ({"token": None}, 401, NO_TOKEN),
        ({"token": "phc_wrong", "distinct_id": "u1"}, 401, BAD_TOKEN),
        ({"token": "phc_wrong"}, 401, BAD_TOKEN),
        ({"token": TOKEN}, 400, NO_ID),
        ({"token": TOKEN, "distinct_id": None}, 400, NO_ID),
        ({"token": 1}, 400, UNDECODABLE.format("Expected `str | null`, got `int` - at `$.token`").encode()),
        (b"{", 400, UNDECODABLE.format("invalid JSON").encode()),
        (b"", 400, UNDECODABLE.format("invalid JSON").encode()),
        (b"\x1f\x8b", 400, UNDECODABLE.format("truncated gzip").encode()),
    ],
)
async def test_flags__bad_request__is_told_as_posthog_tells_it(
    client: Client, content: dict[str, Any] | bytes, status: int, body: bytes
) -> None:
    """Each thing that can be wrong has its status, its type of content and its words."""
    raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
    answer = await client.post("/flags?v=2", content=raw)
    assert (answer.status_code, answer.content) == (status, body)
    is_json = body.startswith(b"{")
    assert answer.headers["content-type"] == ("application/json" if is_json else "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("query", "content_type", "why"),
    [
        ("compression=br", "application/json", "Unsupported compression type"),
        ("v=2", "image/png", "unsupported content type"),
    ],
)
async def test_flags__unknown_encoding__is_400(client: Client, query: str, content_type: str, why: str) -> None:
    """An encoding nobody sends is named in the refusal."""
    answer = await client.post(f"/flags?{query}", content=BODY, headers={"content-type": content_type})
    assert (answer.status_code, answer.text) == (400, UNDECODABLE.format(why))


async def test_flags__store_down_from_the_start__is_503_and_says_when_to_return(
    client: Client, store: MemoryStore
) -> None:
    """With nothing to answer from, a project is unavailable: never a 401, and with a Retry-After."""
    store.error = StoreUnavailable("x")
    answer = await client.ask()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "A service dependency is temporarily unavailable. Please try again later."


async def test_flags__nested_to_the_limit_of_decoding__is_still_answered(client: Client) -> None:
    """A property nested as deeply as a body may be is harmless to the evaluation and to the answer."""
    for depth in (100, 500, 900, 990, 1000):
        body = b'{"token":"%s","distinct_id":"u1","person_properties":{"plan":%s%s}}'
        raw = body % (TOKEN.encode(), b"[" * depth, b"]" * depth)
        answer = await client.post("/flags?v=2", content=raw)
        assert answer.status_code in (200, 400)


async def test_flags__answer__says_how_fresh_it_is() -> None:
    """Version, age and source of the definitions stand in a header; of a degraded answer there is no word."""
    store, clock = one_project(), FakeClock()
    async with serving(store, clock=clock) as client:
        await client.ask()
        clock.advance(0.5)
        store.persons["u1"] = StoredFacts({"plan": "paid"})
        answer = await client.ask()
    assert answer.headers["x-flagstone-snapshot"] == "1; age_ms=500; source=store"
    assert "x-flagstone-degraded" not in answer.headers


async def test_flags__partial_answer__says_what_was_missing() -> None:
    """The cause stands in a header, which no client has to know."""
    store = one_project()
    async with serving(store) as client:
        await client.ask(disable_flags=True)
        store.error = StoreUnavailable("x")
        answer = await client.ask()
    assert answer.status_code == 200
    assert answer.headers["x-flagstone-degraded"] == "database_unavailable"
