"""The released posthog-node evaluating by itself, with definitions polled from a real server process."""

from typing import Any

import pytest

from tests.builders import condition, flag
from tests.clients.connecting import ConnectNode, MakeStage
from tests.clients.node_client import NodeClient
from tests.clients.stage import (
    ADA,
    AT_ACME,
    COHORTS,
    EVERYTHING,
    LOCAL,
    SECRET,
    Stage,
    every_kind_of_flag,
    flags_of_cohorts,
    typed_flag,
    until,
)

pytestmark = pytest.mark.client

HOUR_MS = 3_600_000
LOADING = {"secretKey": SECRET, "featureFlagsPollingInterval": HOUR_MS, "strictLocalEvaluation": False}
"""An SDK that fetches definitions when it starts and when told to."""
ASKED = {"personProperties": AT_ACME, "groups": {}}
ALONE = {**ASKED, "onlyEvaluateLocally": True}


@pytest.fixture
def shop(stage: MakeStage) -> Stage:
    return stage(*flags(), group_types=["team"], persons=[ADA], cohorts=COHORTS)


def flags() -> list[dict[str, Any]]:
    return [*every_kind_of_flag(), *flags_of_cohorts()]


def loaded(client: NodeClient) -> NodeClient:
    """The same, once it has definitions."""
    assert client.waitForLocalEvaluationReady(10_000)
    assert client.requests() == [["/flags/definitions", 200, False]]
    return client


def reloaded(client: NodeClient) -> list[int]:
    """The statuses of what the SDK asks for when it is to load definitions anew."""
    client.reloadFeatureFlags()
    return [status for _, status, _ in client.requests()]


def test_definitions__loaded_once__answer_without_the_server(shop: Stage, connect_node: ConnectNode) -> None:
    """Conditions, variants, payloads, cohorts and dependencies are concluded by the SDK alone."""
    client = loaded(connect_node(shop, **LOADING))
    found = client.getAllFlagsAndPayloads("ada", ALONE)
    assert found["featureFlags"] == {key: value for key, value in LOCAL.items() if key != "listed"}
    assert found["featureFlagPayloads"] == {"split": {"width": 3}}
    assert client.getFeatureFlag("above", "ada", ALONE) is True
    assert client.getFeatureFlag("worker", "bob", {"personProperties": {"email": "bob@x.test"}}) is False
    assert client.getFeatureFlag("in-team", "ada", {"groups": {"team": "t1"}}) is True
    assert client.requests() == []


def test_flag__that_the_sdk_cannot_tell__is_asked_for(shop: Stage, connect_node: ConnectNode) -> None:
    """Who is in a static cohort only the service knows: the SDK asks it, and is told."""
    client = loaded(connect_node(shop, **LOADING))
    assert client.getFeatureFlag("listed", "ada", ALONE) is None
    assert client.requests() == []
    assert client.getFeatureFlag("listed", "ada", ASKED) is False
    assert client.requests() == [["/flags/", 200, False]]
    assert client.getAllFlags("ada", ASKED) == LOCAL


def test_flag_of_rules__that_the_sdk_cannot_read__is_asked_for(stage: MakeStage, connect_node: ConnectNode) -> None:
    """The SDK knows no rules: it asks the service about the flag, and about what depends on it."""
    ratio = typed_flag("ratio", 0.5)
    above = {"key": str(ratio["id"]), "type": "flag", "value": True, "operator": "flag_evaluates_to"}
    client = loaded(connect_node(stage(ratio, flag("above", condition(above)), flag("on")), **LOADING))
    assert client.getAllFlags("ada", ALONE) == {"on": True}
    assert client.requests() == []
    assert client.getAllFlags("ada", ASKED) == {"ratio": True, "above": True, "on": True}


def test_polling__of_what_has_not_changed__costs_no_body(shop: Stage, connect_node: ConnectNode) -> None:
    """After the first fetch an SDK that polls is told 304, until a flag changes, which then reaches it by itself."""
    client = connect_node(shop, secretKey=SECRET, featureFlagsPollingInterval=100)
    asked: list[list[Any]] = []

    def polled() -> list[list[Any]]:
        asked.extend(client.requests())
        return asked

    until(lambda: len(polled()) >= 4)
    assert asked == [["/flags/definitions", 200, False], *[["/flags/definitions", 304, True]] * (len(asked) - 1)]
    shop.put(flag("off", rollout=100))
    until(lambda: client.getFeatureFlag("off", "ada", ALONE) is True)
    until(lambda: polled()[-1][1] == 304)
    assert [status for _, status, _ in asked].count(200) == 2


@pytest.mark.parametrize("kind", ["secret token", "personal key"])
def test_store__that_is_gone__takes_no_definitions_away(shop: Stage, connect_node: ConnectNode, kind: str) -> None:
    """With every table lost, an SDK that starts now gets all definitions, whichever key it has shown before."""
    key = SECRET if kind == "secret token" else shop.key()[0]
    loaded(connect_node(shop, **LOADING | {"secretKey": key}))
    shop.lose(*EVERYTHING)
    client = loaded(connect_node(shop, **LOADING | {"secretKey": key}))
    assert reloaded(client) == [304]
    assert client.getAllFlags("ada", ALONE).items() <= LOCAL.items()


def test_key__that_was_revoked__leaves_the_sdk_its_definitions(stage: MakeStage, connect_node: ConnectNode) -> None:
    """A key known to be worthless is a 401, on which this SDK goes on with what it has."""
    shop = stage(*flags(), settings=("keys.ttl_s=0",), cohorts=COHORTS)
    key, number = shop.key()
    client = loaded(connect_node(shop, **LOADING | {"secretKey": key}))
    shop.command("keys", "revoke", number)
    assert reloaded(client) == [401]
    assert client.getFeatureFlag("worker", "ada", ALONE) is True


def test_quota__that_is_spent__empties_the_sdk(stage: MakeStage, connect_node: ConnectNode) -> None:
    """Beyond its quota a project's SDKs are told 402, on which they forget; nor are there flags for others."""
    shop = stage(*flags(), settings=("quota.project=10/day",), cohorts=COHORTS)
    client = loaded(connect_node(shop, **LOADING))
    assert client.getFeatureFlag("worker", "ada", ALONE) is True
    assert reloaded(client) == [402]
    assert client.getAllFlags("ada", ALONE) == {}
    assert client.getAllFlags("ada", ASKED) == {}
    assert client.requests() == [["/flags/", 200, False]]


def test_rate__that_is_exceeded__leaves_the_sdk_its_definitions(stage: MakeStage, connect_node: ConnectNode) -> None:
    """An SDK that asks too often is told 429 and goes on with what it has."""
    shop = stage(*flags(), settings=("limits.conditional_definitions=1/hour",), cohorts=COHORTS)
    client = loaded(connect_node(shop, **LOADING))
    assert reloaded(client) + reloaded(client) == [304, 429]
    assert client.getFeatureFlag("worker", "ada", ALONE) is True


def test_snapshot__that_is_refused_for_its_age__leaves_the_sdk_its_definitions(
    stage: MakeStage, connect_node: ConnectNode
) -> None:
    """Where old definitions are not to be served, an outage is a 503 and never a 401: SDKs keep what they have."""
    settings = ("snapshots.hard_ttl_s=2", "snapshots.on_hard_ttl=fail")
    shop = stage(*flags(), settings=settings, cohorts=COHORTS)
    client = loaded(connect_node(shop, **LOADING))
    shop.lose(*EVERYTHING)
    until(lambda: reloaded(client) == [503])
    assert client.getFeatureFlag("worker", "ada", ALONE) is True
    shop.heal()
    until(lambda: reloaded(client) == [304])


@pytest.mark.parametrize("kind", ["secret token", "personal key"])
def test_remote_config__with_a_key__is_its_payload(stage: MakeStage, connect_node: ConnectNode, kind: str) -> None:
    """The payload of a flag that is remote config comes as its value; other flags have none, nor do strangers."""
    config = flag("limits", payloads={"true": '{"max": 5}'}, is_remote_configuration=True)
    shop = stage(config, flag("on", payloads={"true": "1"}))
    asking = {"enableLocalEvaluation": False}
    client = connect_node(shop, **asking, secretKey=SECRET if kind == "secret token" else shop.key()[0])
    assert client.getRemoteConfigPayload("limits") == {"max": 5}
    shop.lose(*EVERYTHING)
    assert client.getRemoteConfigPayload("limits") == {"max": 5}
    client.requests()
    client.getRemoteConfigPayload("on")
    client.getRemoteConfigPayload("nowhere")
    assert [status for _, status, _ in client.requests()] == [404, 404]
    stranger = connect_node(shop, **asking, secretKey="phs_stranger")
    stranger.getRemoteConfigPayload("limits")
    assert [status for _, status, _ in stranger.requests()] == [401]
