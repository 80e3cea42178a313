"""The released posthog SDK for Python, unmodified, against a real server process on a real port."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from posthog import AsyncPosthog

from tests.builders import project
from tests.clients.connecting import Connect, MakeStage
from tests.clients.stage import (
    ADA,
    EXPECTED,
    FACTS,
    PAYLOADS,
    TOKEN,
    WITHOUT_FACTS,
    Stage,
    Start,
    every_kind_of_flag,
    until,
)
from tests.conftest import ServerProcess

pytestmark = [
    pytest.mark.client,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:posthog"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]


def definitions() -> dict[str, Any]:
    return {"projects": [{**project(*every_kind_of_flag(), token=TOKEN, group_types=["team"]), "persons": [ADA]}]}


@pytest.fixture
def server(start_server: Start, tmp_path: Path) -> ServerProcess:
    """A server over the definitions in a file."""
    path = tmp_path / "definitions.json"
    path.write_text(json.dumps(definitions()))
    return start_server("--set", f"store.url=file:{path}").wait_until_ready()


@pytest.mark.parametrize("version", [4, 3, 2, 1])
def test_all_flags__in_any_shape_the_sdk_reads__are_what_was_defined(
    server: ServerProcess, connect: Connect, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Typed records, enabled/variant records and the legacy maps give the SDK the same flags and payloads."""
    send = requests.Session.request

    def other_version(self: requests.Session, method: str, url: str, *args: Any, **options: Any) -> requests.Response:
        return send(self, method, url.replace("v=4", f"v={version}"), *args, **options)

    monkeypatch.setattr(requests.Session, "request", other_version)
    found = connect(server).get_all_flags_and_payloads("ada")
    assert found["featureFlags"] == EXPECTED
    payloads = {key: json.loads(payload) for key, payload in (found["featureFlagPayloads"] or {}).items()}
    assert payloads == PAYLOADS


def test_one_flag__with_its_payload__is_read_by_every_getter(server: ServerProcess, connect: Connect) -> None:
    """A flag, its result and its payload come out of the SDK as they were put in, whichever way is asked."""
    client = connect(server)
    assert client.get_feature_flag("split", "ada") == "blue"
    assert client.get_feature_flag_payload("split", "ada") == {"width": 3}
    assert client.feature_enabled("off", "ada") is False
    assert client.get_feature_flag("inactive", "ada") is None
    result = client.get_feature_flag_result("split", "ada")
    assert result is not None
    assert (result.enabled, result.variant, result.payload) == (True, "blue", {"width": 3})
    flags = client.evaluate_flags("ada")
    assert flags.is_enabled("on")
    assert flags.get_flag("split") == "blue"


def test_properties__of_store_and_request__decide_together(server: ServerProcess, connect: Connect) -> None:
    """Stored properties count under any id of the person, and what the request says wins."""
    client = connect(server)
    assert client.get_all_flags("ada-phone")["paid"] is True
    assert client.get_all_flags("stranger")["paid"] is False
    assert client.get_all_flags("stranger", person_properties={"plan": "pro"})["paid"] is True
    assert client.get_all_flags("ada", person_properties={"plan": "free"})["paid"] is False
    assert client.get_all_flags("ada", groups={"team": "t1"})["in-team"] is True


def test_flag_keys__asked_for__bring_their_dependencies(server: ServerProcess, connect: Connect) -> None:
    """Only the flags asked for are answered, with those that they depend on."""
    found = connect(server).get_all_flags("ada", flag_keys_to_evaluate=["above"])
    assert found == {"above": True, "on": True}


def test_gzip__from_the_client__is_understood(server: ServerProcess, connect: Connect) -> None:
    """A client that compresses its requests gets the same flags."""
    assert connect(server, gzip=True).get_all_flags("ada") == EXPECTED


def test_token__that_no_project_has__gives_no_flags_and_the_reason(
    server: ServerProcess, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong token is told as such, and the SDK answers with nothing rather than with wrong values."""
    client = connect(server, token="phc_wrong")
    assert not client.get_all_flags("ada")
    assert client.get_feature_flag("on", "ada") is None
    assert "The provided API key is invalid or has expired" in caplog.text


@pytest.fixture
def shop(stage: MakeStage) -> Stage:
    """The same definitions, with their persons in a store that can be lost."""
    return stage(*every_kind_of_flag(), group_types=["team"], persons=[ADA])


def test_store__that_fails__costs_only_the_flags_that_need_it(shop: Stage, connect: Connect) -> None:
    """With the persons gone, flags without stored properties are exact, and the others are left out, not guessed."""
    client = connect(shop)
    assert client.get_all_flags("ada") == EXPECTED
    shop.lose(*FACTS)
    assert client.get_all_flags("ada") == WITHOUT_FACTS
    assert client.get_feature_flag("paid", "ada") is None
    assert client.get_all_flags("ada", person_properties={"plan": "pro"}) == EXPECTED
    shop.heal()
    assert client.get_all_flags("ada") == EXPECTED


def test_events__of_the_sdk__are_taken(shop: Stage, connect: Connect) -> None:
    """What the SDK reports of flags that were read, and of users, is answered well."""
    refused: list[object] = []
    client = connect(shop, send=True, sync_mode=True, on_error=lambda error, batch: refused.append(error))
    assert client.get_feature_flag("on", "ada") is True
    client.capture("bought", distinct_id="ada")
    assert refused == []
    assert shop.metric("event_requests_total", 'outcome="discarded"') == 2


def test_rate__that_is_exceeded__gives_no_flags_for_a_while(
    stage: MakeStage, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that asks too often is told 429; it has no flags then, and does not try again by itself."""
    client = connect(stage(*every_kind_of_flag(), settings=("limits.token=1/second",)))
    until(lambda: not client.get_all_flags("ada"))
    assert "429" in caplog.text
    until(lambda: client.get_all_flags("ada"))


async def test_async_client__told_everything__has_the_same_flags(server: ServerProcess) -> None:
    """The SDK's client for asyncio reads values, variants and payloads of one answer, and of the flags asked for."""
    async with AsyncPosthog(TOKEN, host=server.url, send=False) as client:
        flags = await client.evaluate_flags("ada")
        assert {key: flags.get_flag(key) for key in flags.keys} == EXPECTED
        assert flags.get_flag_payload("split") == {"width": 3}
        asked = await client.evaluate_flags("ada", flag_keys=["in-team"], groups={"team": "t1"})
        assert {key: asked.get_flag(key) for key in asked.keys} == {"in-team": True}


async def test_async_client__while_persons_are_gone__has_the_exact_flags(shop: Stage) -> None:
    """A flag that could not be told has no value and is not enabled; all others are what they were."""
    async with AsyncPosthog(TOKEN, host=shop.url, send=False) as client:
        shop.lose(*FACTS)
        flags = await client.evaluate_flags("ada")
        assert {key: flags.get_flag(key) for key in flags.keys} == WITHOUT_FACTS
        assert (flags.get_flag("paid"), flags.is_enabled("paid")) == (None, False)


async def test_async_client__with_a_wrong_token__has_no_flags(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told 401, and goes on without flags."""
    async with AsyncPosthog("phc_wrong", host=server.url, send=False) as client:
        assert not (await client.evaluate_flags("ada")).keys
    assert "status=401" in caplog.text
