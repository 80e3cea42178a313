"""/flags/definitions over the whole app: what SDKs that evaluate by themselves get, and what the others are told."""

import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from config.clients import Quota
from config.edge import Limits
from config.rates import Rates, RateTable
from config.settings import Settings
from gateway.errors import StoreUnavailable
from gateway.services import local_definitions
from gateway.services.keys import KeyService
from tests.builders import flag, project
from tests.fake_editing import FakeManagedStore
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, Client, MemoryStore, serving, settle

PATHS = [
    "/flags/definitions",
    "/flags/definitions/",
    "/api/feature_flag/local_evaluation",
    "/api/feature_flag/local_evaluation/",
]
SECRET = {"authorization": "Bearer phs_one"}
UNKNOWN_KEY = {"authorization": "Bearer phx_" + "u" * 43}


def document(*more: dict[str, Any], **fields: Any) -> dict[str, Any]:
    flags = [flag(f"flag-{number}", id=number) for number in range(1, 11)]
    return project(*flags, *more, secret_tokens=["phs_one"], group_types=["organization"], **fields)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    store = MemoryStore({TOKEN: document()})
    store.managed = FakeManagedStore(clock)
    return store


@pytest.fixture
async def client(store: MemoryStore, clock: FakeClock) -> AsyncIterator[Client]:
    async with serving(store, clock=clock) as client:
        yield client


async def key_for(store: MemoryStore, clock: FakeClock, *scopes: str) -> dict[str, str]:
    text, _ = await KeyService(store.managed, clock).create("k", scopes, [1], "test")
    return {"authorization": f"Bearer {text}"}


async def fetch(client: Client, sent: dict[str, str] | None = None, **headers: str) -> httpx.Response:
    path = f"/flags/definitions?token={TOKEN}&send_cohorts"
    return await client.get(path, headers={**(SECRET if sent is None else sent), **headers})


@pytest.mark.parametrize("path", PATHS)
async def test_definitions__with_a_secret_token__are_what_sdks_read(client: Client, path: str) -> None:
    """An SDK finds everything it looks for, under the old path as under the new one."""
    answer = await client.get(f"{path}?token={TOKEN}&send_cohorts", headers=SECRET)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "private, must-revalidate"
    assert answer.headers["x-flagstone-snapshot"] == "1; age_ms=0; source=store"
    found = answer.json()
    assert [it["key"] for it in found["flags"]] == [f"flag-{number}" for number in range(1, 11)]
    assert (found["group_type_mapping"], found["cohorts"]) == ({"0": "organization"}, {})


async def test_definitions__with_a_personal_key__are_the_same(
    client: Client, store: MemoryStore, clock: FakeClock
) -> None:
    """Either kind of credential opens the same definitions."""
    key = await key_for(store, clock, "feature_flag:read")
    assert (await fetch(client, key)).content == (await fetch(client)).content


@pytest.mark.parametrize(("encoding", "is_compressed"), [("gzip, deflate", True), ("identity", False)])
async def test_definitions__compressed__only_for_those_who_ask(
    client: Client, encoding: str, is_compressed: bool
) -> None:
    """The compressed form was made once, and says that caches must not mix it up with the other."""
    async with client.stream(
        "GET", f"/flags/definitions?token={TOKEN}", headers={**SECRET, "accept-encoding": encoding}
    ) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert ("content-encoding" in answer.headers) is is_compressed
    assert int(answer.headers["content-length"]) == len(raw)
    assert "Accept-Encoding" in answer.headers["vary"]
    body = (await fetch(client)).content
    assert (gzip.decompress(raw) if is_compressed else raw) == body


@pytest.mark.parametrize("form", ["W/{}", "{}", "{bare}", '"x", W/{}', "*"])
async def test_definitions__known_by_their_tag__are_not_sent_again(client: Client, form: str) -> None:
    """However a client or a proxy writes the tag, a 304 carries what the next request needs, and no body."""
    etag = (await fetch(client)).headers["etag"]
    strong = etag.removeprefix("W/")
    tag = form.replace("{bare}", strong.strip('"')).replace("{}", strong)
    answer = await fetch(client, **{"if-none-match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == etag
    assert answer.headers["cache-control"] == "private, must-revalidate"
    assert answer.headers["x-flagstone-snapshot"] == "1; age_ms=0; source=store"
    assert "content-type" not in answer.headers


async def test_definitions__changed__are_sent_under_another_tag(
    client: Client, store: MemoryStore, clock: FakeClock
) -> None:
    """A tag is good for as long as the content is the same, whatever the version."""
    tag = (await fetch(client)).headers["etag"]
    statuses = []
    for version, changed in ((2, document(name="renamed")), (3, document(flag("new", id=99)))):
        store.put(TOKEN, changed, version)
        clock.advance(2)
        await fetch(client)
        await settle()
        answer = await fetch(client, **{"if-none-match": tag})
        assert answer.headers["x-flagstone-snapshot"].startswith(f"{version};")
        statuses.append((answer.status_code, answer.headers["etag"] == tag))
    assert statuses == [(304, True), (200, False)]


async def test_definitions__other_methods__are_answered_like_elsewhere(client: Client) -> None:
    """HEAD has the headers, OPTIONS the methods, and nothing else is taken."""
    path = f"/flags/definitions?token={TOKEN}"
    head = await client.head(path, headers=SECRET)
    assert (head.status_code, head.headers["etag"]) == (200, (await fetch(client)).headers["etag"])
    options = await client.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, "GET, OPTIONS, HEAD")
    assert (await client.post(path, headers=SECRET)).status_code == 405


@pytest.mark.parametrize(
    ("query", "headers", "status", "code", "detail"),
    [
        ("", SECRET, 400, "missing_token", "token"),
        ("token=", SECRET, 400, "missing_token", "token"),
        ("token=phc_x", SECRET, 401, "authentication_failed", "The provided API key is invalid or has expired"),
        (f"token={TOKEN}", {}, 401, "not_authenticated", "Authentication credentials were not provided."),
        (
            f"token={TOKEN}",
            {"authorization": "Bearer phs_x"},
            401,
            "authentication_failed",
            "Secret API token is invalid.",
        ),
        (f"token={TOKEN}", UNKNOWN_KEY, 401, "authentication_failed", "The provided API key is invalid"),
    ],
)
async def test_definitions__not_for_whoever_asks__say_why(
    client: Client, query: str, headers: dict[str, str], status: int, code: str, detail: str
) -> None:
    """Each refusal has the status that SDKs act on, a code, and a sentence for people."""
    answer = await client.get(f"/flags/definitions?{query}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert detail in answer.json()["detail"]


async def test_definitions__key_without_the_scope__is_denied(
    client: Client, store: MemoryStore, clock: FakeClock
) -> None:
    """Who is known but may not learns which scope it takes."""
    answer = await fetch(client, await key_for(store, clock, "cohort:read"))
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert "feature_flag:read" in answer.json()["detail"]


async def test_definitions__everything_down__are_served_on(
    client: Client, store: MemoryStore, clock: FakeClock
) -> None:
    """What was served before an outage is served all through it, to whoever could read it before, days later still."""
    key = await key_for(store, clock, "*")
    before = await fetch(client, key)
    store.error = store.managed.error = StoreUnavailable("x")
    clock.advance(3 * 86_400)
    assert (await fetch(client)).content == before.content
    assert (await fetch(client, **{"if-none-match": before.headers["etag"]})).status_code == 304
    # A key is taken for a day.
    assert (await fetch(client, key)).status_code == 503
    assert (await fetch(client, UNKNOWN_KEY)).status_code == 503


async def test_definitions__store_is_down_from_the_start__cannot_be_told(client: Client, store: MemoryStore) -> None:
    """A token that nobody could look up is not called wrong: a 401 would make SDKs drop their flags."""
    store.error = StoreUnavailable("x")
    answer = await fetch(client)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_definitions__cannot_be_prepared__name_the_version_they_are_of(
    client: Client, store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a version break the preparation, the one before is served, and says so."""
    before = await fetch(client)
    monkeypatch.setattr(local_definitions, "local_definitions", None)
    store.put(TOKEN, document(flag("new", id=99)), 2)
    clock.advance(2)
    await fetch(client)
    await settle()
    answer = await fetch(client)
    assert (answer.status_code, answer.content) == (200, before.content)
    assert answer.headers["x-flagstone-snapshot"].startswith("1;")
    assert (await fetch(client, **{"if-none-match": before.headers["etag"]})).status_code == 304
    assert (await client.ask()).headers["x-flagstone-snapshot"].startswith("2;")


async def test_definitions__sdks_would_disagree__are_refused(store: MemoryStore) -> None:
    """A project that buckets as no SDK does is evaluated by the service alone; only who may read it is told."""
    store.put(TOKEN, document(bucketing="murmur3"))
    async with serving(store) as client:
        answer = await fetch(client)
        assert (answer.status_code, answer.json()["code"]) == (400, "local_evaluation_unsupported")
        assert "murmur3" in answer.json()["detail"]
        assert (await fetch(client, {})).status_code == 401


async def statuses(settings: Settings, *tags: str | None) -> list[int]:
    """What requests with these If-None-Match headers get, one after the other; "new" stands for the present tag."""
    store = MemoryStore({TOKEN: document()})
    async with serving(store, Settings()) as client:
        new = (await fetch(client)).headers["etag"]
    async with serving(store, settings) as client:
        asked = [{} if tag is None else {"if-none-match": new if tag == "new" else tag} for tag in tags]
        return [(await fetch(client, **headers)).status_code for headers in asked]


TWO = Rates("2/minute")
FREE = Rates("")


async def test_limits_definitions__hold_a_project_to_full_answers() -> None:
    """limits.definitions: how often all definitions are sent; polls that change nothing are not among them."""
    limited = Settings(limits=Limits(definitions=TWO, conditional_definitions=FREE))
    assert await statuses(limited, None, "new", None, "new", "new", None) == [200, 304, 200, 304, 304, 429]
    assert await statuses(Settings(limits=Limits(definitions=FREE)), None, None, None) == [200, 200, 200]


async def test_limits_conditional_definitions__hold_a_project_to_polls() -> None:
    """limits.conditional_definitions: how often a project is asked whether there is something new; an old tag that is
    answered with all definitions counts as such too."""
    limited = Settings(limits=Limits(definitions=TWO, conditional_definitions=TWO))
    assert await statuses(limited, "new", "new", "new", None, None) == [304, 304, 429, 200, 200]
    assert await statuses(limited, "old", "old", None) == [200, 200, 429]
    assert await statuses(limited, None, "old", "old") == [200, 200, 429]


async def test_limits_definitions_tokens__are_a_project_s_own() -> None:
    """limits.definitions_tokens: a project's own rates, and none if they are empty, in place of those of all."""
    for own, expected in ((FREE, [200] * 4), (Rates("1/minute"), [200, 429, 429, 429])):
        table = RateTable({TOKEN: str(own)})
        limited = Settings(limits=Limits(definitions=TWO, definitions_tokens=table))
        assert await statuses(limited, None, None, None, None) == expected


@pytest.mark.parametrize(("mode", "last"), [("enforce", 429), ("shadow", 200), ("off", 200)])
async def test_definitions__limited_in_another_mode__are_only_counted(mode: Any, last: int) -> None:
    """Rates for definitions follow the mode of all limits."""
    assert (await statuses(Settings(limits=Limits(definitions=TWO, mode=mode)), None, None, None))[-1] == last


@pytest.mark.parametrize(("cost", "expected"), [(10, [200, 304, 402]), (5, [200, 304, 200, 304, 402]), (0, [200] * 9)])
async def test_quota_definitions_cost__is_what_a_request_counts(cost: int, expected: list[int]) -> None:
    """quota.definitions_cost: so much of a project's quota is used by a request for definitions, also an empty one."""
    asked = [None if status == 200 else "new" for status in expected]
    limited = Settings(quota=Quota(project=Rates("20/day"), definitions_cost=cost))
    assert await statuses(limited, *asked) == expected
