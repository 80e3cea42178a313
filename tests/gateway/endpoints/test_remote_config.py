"""Remote config over the whole app: who gets which payload, and what the others are told."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from config.edge import Limits
from config.management import Api
from config.rates import Rates
from config.settings import Settings
from gateway.editing_ports import Actor
from gateway.errors import StoreUnavailable
from gateway.services.keys import KeyService
from tests.builders import flag, project
from tests.fake_editing import FakeManagedStore
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, Client, MemoryStore, serving

SECRET = {"authorization": "Bearer phs_one"}
CONFIG = "/api/projects/{}/feature_flags/{}/remote_config"


def remote(key: str, id_: int, payload: Any, **fields: Any) -> dict[str, Any]:
    return flag(key, payloads={"true": payload}, id=id_, is_remote_configuration=True, **fields)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> MemoryStore:
    document = project(
        remote("limits", 11, '{"k": 1}'),
        remote("empty", 12, ""),
        remote("secret", 13, "gAAAA", has_encrypted_payloads=True),
        flag("ordinary", id=14, payloads={"true": "1"}),
        secret_tokens=["phs_one"],
    )
    store = MemoryStore({TOKEN: document})
    store.managed = FakeManagedStore(clock)
    shell = msgspec.json.encode({"name": "Test", "token": TOKEN})
    await store.managed.create_project(shell, TOKEN, Actor("test"), project_id=1)
    return store


@pytest.fixture
async def key(store: MemoryStore, clock: FakeClock) -> dict[str, str]:
    return await key_for(store, clock, 1)


async def key_for(store: MemoryStore, clock: FakeClock, project_id: int) -> dict[str, str]:
    text, _ = await KeyService(store.managed, clock).create("k", ["feature_flag:read"], [project_id], "test")
    return {"authorization": f"Bearer {text}"}


@pytest.fixture
async def client(store: MemoryStore, clock: FakeClock) -> AsyncIterator[Client]:
    async with serving(store, clock=clock) as client:
        yield client


async def fetch(
    client: Client, flag_key: str, sent: dict[str, str], *, named: str = "@current", token: str | None = TOKEN
) -> httpx.Response:
    query = {} if token is None else {"token": token}
    return await client.get(CONFIG.format(named, flag_key), params=query, headers=sent)


@pytest.mark.parametrize("name", ["limits", "11"])
@pytest.mark.parametrize(("named", "token"), [("@current", TOKEN), ("1", TOKEN), ("1", None)])
async def test_remote_config__with_either_credential__is_the_payload(
    client: Client, key: dict[str, str], name: str, named: str, token: str | None
) -> None:
    """However the flag and the project are named, the answer is a JSON string that holds the JSON text stored."""
    for sent in (SECRET, key):
        answer = await fetch(client, name, sent, named=named, token=token)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert msgspec.json.decode(answer.json()) == {"k": 1}
        assert answer.headers["x-flagstone-snapshot"] == "1; age_ms=0; source=store"


async def test_remote_config__empty__is_an_answer_without_a_body(client: Client) -> None:
    """Nothing configured is no error."""
    answer = await fetch(client, "empty", SECRET)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_remote_config__encrypted__is_shown_to_nobody(client: Client, key: dict[str, str]) -> None:
    """A secret token gets what says that there is something; a key, which could read it at PostHog, an error."""
    redacted = await fetch(client, "secret", SECRET)
    assert (redacted.status_code, msgspec.json.decode(redacted.json())) == (200, "********* (encrypted)")
    refused = await fetch(client, "secret", key)
    assert (refused.status_code, refused.json()["code"]) == (500, "remote_config_decrypt_failed")
    assert refused.json()["type"] == "server_error"


@pytest.mark.parametrize(
    ("named", "token", "sent", "flag_key", "status", "code"),
    [
        ("@current", "phc_x", SECRET, "limits", 401, "authentication_failed"),
        ("@current", TOKEN, {}, "limits", 401, "not_authenticated"),
        ("@current", TOKEN, {"authorization": "Bearer phs_x"}, "limits", 401, "authentication_failed"),
        ("@current", None, SECRET, "limits", 404, "not_found"),
        ("mine", TOKEN, SECRET, "limits", 404, "not_found"),
        ("²", TOKEN, SECRET, "limits", 404, "not_found"),
        ("9" * 30, None, SECRET, "limits", 404, "not_found"),
        ("2", None, SECRET, "limits", 404, "not_found"),
        ("2", TOKEN, SECRET, "limits", 403, "permission_denied"),
        ("@current", TOKEN, SECRET, "nothing", 404, "not_found"),
        ("@current", TOKEN, SECRET, "ordinary", 404, "not_found"),
    ],
)
async def test_remote_config__not_there_or_not_allowed__says_which(
    client: Client, named: str, token: str | None, sent: dict[str, str], flag_key: str, status: int, code: str
) -> None:
    """Each way of asking for nothing has its status, as at PostHog."""
    answer = await fetch(client, flag_key, sent, named=named, token=token)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_remote_config__key_of_another_project__is_denied(
    client: Client, store: MemoryStore, clock: FakeClock
) -> None:
    """A key opens the projects that it is for."""
    answer = await fetch(client, "limits", await key_for(store, clock, 2), named="1", token=None)
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


async def test_remote_config__everything_down__is_answered_on(
    client: Client, store: MemoryStore, clock: FakeClock, key: dict[str, str]
) -> None:
    """Who could read it before an outage reads it during it, by whatever name; what is not known is a 503."""
    asked = [(sent, token, named) for sent in (SECRET, key) for token, named in ((TOKEN, "@current"), (None, "1"))]
    for sent, token, named in asked:
        await fetch(client, "limits", sent, token=token, named=named)
    store.error = store.managed.error = StoreUnavailable("x")
    clock.advance(3600)
    for sent, token, named in asked:
        assert (await fetch(client, "limits", sent, token=token, named=named)).status_code == 200
    assert (await fetch(client, "limits", SECRET, token=None, named="2")).status_code == 503
    assert (await fetch(client, "limits", SECRET, token="phc_x")).status_code == 503


@pytest.mark.parametrize(("rate", "statuses"), [("2/minute", [200, 200, 429]), ("", [200, 200, 200])])
async def test_limits_remote_config__hold_a_personal_key_to_its_rate(
    store: MemoryStore, clock: FakeClock, key: dict[str, str], rate: str, statuses: list[int]
) -> None:
    """limits.remote_config: how often one personal key may ask; secret tokens and other keys are not concerned."""
    async with serving(store, Settings(limits=Limits(remote_config=Rates(rate))), clock) as client:
        assert [(await fetch(client, "limits", key)).status_code for _ in range(3)] == statuses
        assert [(await fetch(client, "limits", SECRET)).status_code for _ in range(3)] == [200] * 3
        assert (await fetch(client, "limits", await key_for(store, clock, 1))).status_code == 200


@pytest.mark.parametrize("is_enabled", [False, True])
async def test_remote_config__whether_there_is_a_management_api_or_not__is_the_same(
    store: MemoryStore, is_enabled: bool
) -> None:
    """It stands below /api/ for the sake of SDKs alone; other methods are told what there is."""
    async with serving(store, Settings(api=Api(is_enabled=is_enabled))) as client:
        path = CONFIG.format("@current", "limits")
        for it in (path, path + "/"):
            assert (await client.get(f"{it}?token={TOKEN}", headers=SECRET)).status_code == 200
        assert (await client.head(f"{path}?token={TOKEN}", headers=SECRET)).status_code == 200
        assert (await client.options(path)).headers["allow"] == "GET, OPTIONS, HEAD"
        assert (await client.post(path)).status_code == 405
