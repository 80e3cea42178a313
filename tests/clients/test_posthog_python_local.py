"""The released posthog SDK for Python evaluating by itself, with definitions polled from a real server process."""

from typing import Any

import pytest
import requests
from posthog import AsyncPosthog, Posthog

from tests.builders import condition, flag
from tests.clients.connecting import Connect, MakeStage
from tests.clients.stage import (
    ADA,
    AT_ACME,
    COHORTS,
    EVERYTHING,
    LOCAL,
    SECRET,
    TOKEN,
    Stage,
    every_kind_of_flag,
    flags_of_cohorts,
    typed_flag,
    until,
)

pytestmark = [
    pytest.mark.client,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:posthog"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

LOADING = {"personal_api_key": SECRET, "enable_local_evaluation": False}
"""An SDK that fetches definitions when told to, not every 30 s."""
TOLD = {key: value for key, value in LOCAL.items() if key != "inactive"}
"""What it says when there is one that it cannot conclude: what it is told, which is nothing of inactive flags."""
ASKED = {"person_properties": AT_ACME, "groups": {}}


@pytest.fixture
def shop(stage: MakeStage) -> Stage:
    return stage(*flags(), group_types=["team"], persons=[ADA], cohorts=COHORTS)


def flags() -> list[dict[str, Any]]:
    return [*every_kind_of_flag(), *flags_of_cohorts()]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the SDK has asked for, and the status it got."""
    requests_seen: list[tuple[str, int]] = []
    send = requests.Session.request

    def recording(self: requests.Session, method: str, url: str, *args: Any, **options: Any) -> requests.Response:
        response = send(self, method, url, *args, **options)
        requests_seen.append((requests.utils.urlparse(url).path, response.status_code))
        return response

    monkeypatch.setattr(requests.Session, "request", recording)
    return requests_seen


def last(client: Posthog, seen: list[tuple[str, int]]) -> int:
    """The status of the next fetch of definitions."""
    client._load_feature_flags()
    return seen[-1][1]


def keys(client: Posthog) -> set[str]:
    """The flags that the SDK has definitions of."""
    return {it["key"] for it in client.feature_flags or []}


def test_definitions__loaded_once__answer_without_the_server(
    shop: Stage, connect: Connect, seen: list[tuple[str, int]]
) -> None:
    """Conditions, variants, payloads, cohorts and dependencies are concluded by the SDK alone."""
    client = connect(shop, **LOADING)
    client.load_feature_flags()
    assert seen == [("/flags/definitions", 200)]
    found = client.get_all_flags_and_payloads("ada", **ASKED, only_evaluate_locally=True)
    assert found["featureFlags"] == {key: value for key, value in LOCAL.items() if key != "listed"}
    assert found["featureFlagPayloads"] == {"split": '{"width":3}'}
    assert client.get_feature_flag("above", "ada", only_evaluate_locally=True) is True
    assert client.get_feature_flag("worker", "bob", person_properties={"email": "bob@x.test"}) is False
    assert client.get_feature_flag("in-team", "ada", groups={"team": "t1"}) is True
    assert len(seen) == 1


def test_flag__that_the_sdk_cannot_tell__is_asked_for(
    shop: Stage, connect: Connect, seen: list[tuple[str, int]]
) -> None:
    """Who is in a static cohort only the service knows: the SDK asks it, and is told."""
    client = connect(shop, **LOADING)
    client.load_feature_flags()
    assert client.get_feature_flag("listed", "ada", only_evaluate_locally=True) is None
    assert client.get_feature_flag("listed", "ada") is False
    assert seen[1:] == [("/flags/", 200)]
    assert client.get_all_flags("ada", **ASKED) == TOLD


def test_flag_of_rules__that_the_sdk_cannot_read__is_asked_for(
    stage: MakeStage, connect: Connect, seen: list[tuple[str, int]]
) -> None:
    """The SDK knows no rules: it has the typed value from the service, for itself and for what depends on the flag."""
    ratio = typed_flag("ratio", 0.5)
    above = {"key": str(ratio["id"]), "type": "flag", "value": True, "operator": "flag_evaluates_to"}
    client = connect(stage(ratio, flag("above", condition(above)), flag("on")), **LOADING)
    client.load_feature_flags()
    assert client.get_all_flags("ada", **ASKED, only_evaluate_locally=True) == {"on": True}
    assert len(seen) == 1
    result = client.get_feature_flag_result("ratio", "ada", **ASKED)
    assert result is not None
    assert (result.enabled, result.payload) == (True, 0.5)
    assert client.get_all_flags("ada", **ASKED) == {"ratio": True, "above": True, "on": True}


def test_polling__of_what_has_not_changed__costs_no_body(
    stage: MakeStage, engine: str, connect: Connect, seen: list[tuple[str, int]]
) -> None:
    """After the first fetch an SDK that polls is told 304, until a flag changes, which then reaches it by itself."""
    shop = stage(*every_kind_of_flag(), settings=(f"server.engine={engine}",))
    client = connect(shop, personal_api_key=SECRET, poll_interval=0.05)
    client.load_feature_flags()
    until(lambda: seen.count(("/flags/definitions", 304)) >= 3)
    assert seen.count(("/flags/definitions", 200)) == 1
    assert shop.metric("requests_total", 'endpoint="definitions"') >= 4
    shop.put(flag("off", rollout=100))
    until(lambda: client.get_feature_flag("off", "ada", only_evaluate_locally=True) is True)
    until(lambda: seen[-1] == ("/flags/definitions", 304))
    assert seen.count(("/flags/definitions", 200)) == 2


@pytest.mark.parametrize("kind", ["secret token", "personal key"])
def test_store__that_is_gone__takes_no_definitions_away(
    shop: Stage, connect: Connect, seen: list[tuple[str, int]], kind: str
) -> None:
    """With every table lost, an SDK that starts now gets all definitions, whichever key it has shown before."""
    key = SECRET if kind == "secret token" else shop.key()[0]
    connect(shop, **LOADING | {"personal_api_key": key}).load_feature_flags()
    shop.lose(*EVERYTHING)
    client = connect(shop, **LOADING | {"personal_api_key": key})
    client.load_feature_flags()
    assert last(client, seen) == 304
    assert {status for _, status in seen} == {200, 304}
    assert keys(client) == LOCAL.keys()


def test_key__that_was_revoked__empties_the_sdk(
    stage: MakeStage, connect: Connect, seen: list[tuple[str, int]]
) -> None:
    """A key known to be worthless is a 401, on which this SDK forgets what it had."""
    shop = stage(*flags(), settings=("keys.ttl_s=0",), cohorts=COHORTS)
    key, number = shop.key()
    client = connect(shop, **LOADING | {"personal_api_key": key})
    client.load_feature_flags()
    assert keys(client) == LOCAL.keys()
    shop.command("keys", "revoke", number)
    assert last(client, seen) == 401
    assert keys(client) == set()


def test_key__without_the_scope__is_forbidden(shop: Stage, connect: Connect, seen: list[tuple[str, int]]) -> None:
    """A key that may not read flags is a 403, and loads nothing."""
    client = connect(shop, **LOADING | {"personal_api_key": shop.key("cohort:read")[0]})
    client.load_feature_flags()
    assert seen == [("/flags/definitions", 403)]


def test_quota__that_is_spent__empties_the_sdk(stage: MakeStage, connect: Connect, seen: list[tuple[str, int]]) -> None:
    """Beyond its quota a project's SDKs are told 402, on which they forget; nor are there flags for others."""
    shop = stage(*flags(), settings=("quota.project=11/day",), cohorts=COHORTS)
    client = connect(shop, **LOADING)
    client.load_feature_flags()
    assert client.get_feature_flag("listed", "ada") is False
    assert last(client, seen) == 402
    assert keys(client) == set()
    assert not client.get_all_flags("ada")
    assert seen[-1] == ("/flags/", 200)


def test_rate__that_is_exceeded__leaves_the_sdk_its_definitions(
    stage: MakeStage, connect: Connect, seen: list[tuple[str, int]]
) -> None:
    """An SDK that asks too often is told 429 and goes on with what it has."""
    shop = stage(*flags(), settings=("limits.conditional_definitions=1/hour",), cohorts=COHORTS)
    client = connect(shop, **LOADING)
    client.load_feature_flags()
    assert [last(client, seen), last(client, seen)] == [304, 429]
    assert keys(client) == LOCAL.keys()


def test_snapshot__that_is_refused_for_its_age__leaves_the_sdk_its_definitions(
    stage: MakeStage, connect: Connect, seen: list[tuple[str, int]]
) -> None:
    """Where old definitions are not to be served, an outage is a 503 and never a 401: SDKs keep what they have."""
    settings = ("snapshots.hard_ttl_s=2", "snapshots.on_hard_ttl=fail")
    shop = stage(*flags(), settings=settings, cohorts=COHORTS)
    client = connect(shop, **LOADING)
    client.load_feature_flags()
    shop.lose(*EVERYTHING)
    until(lambda: last(client, seen) == 503)
    assert {status for _, status in seen} <= {200, 304, 503}
    assert keys(client) == LOCAL.keys()
    shop.heal()
    until(lambda: last(client, seen) == 304)


def test_persons__that_are_gone__cost_what_only_they_can_tell(shop: Stage, connect: Connect) -> None:
    """Definitions and properties at hand, an SDK needs no store; of the rest it is told what needs none."""
    client = connect(shop, **LOADING)
    client.load_feature_flags()
    shop.lose("distinct_ids", "cohort_members")
    assert client.get_all_flags("ada", **ASKED) == {key: value for key, value in TOLD.items() if key != "listed"}
    assert client.get_feature_flag("listed", "ada") is None


@pytest.fixture
def configured(stage: MakeStage) -> Stage:
    config = flag("limits", payloads={"true": '{"max": 5}'}, is_remote_configuration=True)
    return stage(config, flag("on", payloads={"true": "1"}))


@pytest.mark.parametrize("kind", ["secret token", "personal key"])
def test_remote_config__with_a_key__is_its_payload(configured: Stage, connect: Connect, kind: str) -> None:
    """The payload of a flag that is remote config comes as its text; other flags have none, nor do strangers."""
    client = connect(
        configured, **LOADING | {"personal_api_key": SECRET if kind == "secret token" else configured.key()[0]}
    )
    assert client.get_remote_config_payload("limits") == '{"max": 5}'
    assert client.get_remote_config_payload("on") is None
    assert client.get_remote_config_payload("nowhere") is None
    configured.lose(*EVERYTHING)
    assert client.get_remote_config_payload("limits") == '{"max": 5}'
    stranger = connect(configured, **LOADING | {"personal_api_key": "phs_stranger"})
    assert stranger.get_remote_config_payload("limits") is None


async def test_remote_config__with_the_async_client__is_the_same(configured: Stage) -> None:
    """The SDK's client for asyncio reads the same payload."""
    async with AsyncPosthog(TOKEN, host=configured.url, send=False, secret_key=SECRET) as client:
        assert await client.get_remote_config_payload("limits") == '{"max": 5}'
