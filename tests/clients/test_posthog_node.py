"""The released posthog-node, unmodified, against a real server process: what it is told by /flags."""

import pytest

from tests.clients.connecting import ConnectNode, MakeStage
from tests.clients.stage import ADA, EXPECTED, FACTS, WITHOUT_FACTS, Stage, every_kind_of_flag

pytestmark = pytest.mark.client


@pytest.fixture
def shop(stage: MakeStage) -> Stage:
    return stage(*every_kind_of_flag(), group_types=["team"], persons=[ADA])


def test_all_flags__of_a_project__are_what_was_defined(shop: Stage, connect_node: ConnectNode) -> None:
    """Flags and payloads reach the SDK as they were put in."""
    found = connect_node(shop).getAllFlagsAndPayloads("ada")
    assert found == {"featureFlags": EXPECTED, "featureFlagPayloads": {"split": {"width": 3}}}


def test_one_flag__by_every_getter__is_the_same(shop: Stage, connect_node: ConnectNode) -> None:
    """A flag, its result and its payload come out of the SDK alike, whichever way is asked."""
    client = connect_node(shop)
    assert client.getFeatureFlag("split", "ada") == "blue"
    assert client.getFeatureFlagPayload("split", "ada") == {"width": 3}
    assert client.isFeatureEnabled("off", "ada") is False
    assert client.getFeatureFlag("inactive", "ada") is None
    result = client.getFeatureFlagResult("split", "ada")
    assert (result["enabled"], result["variant"], result["payload"]) == (True, "blue", {"width": 3})
    flags = client.evaluateFlags("ada")
    assert {key: value for key, (value, _) in flags.items()} == EXPECTED
    assert flags["split"] == ["blue", {"width": 3}]


def test_properties__of_store_and_request__decide_together(shop: Stage, connect_node: ConnectNode) -> None:
    """Stored properties count under any id of the person, and what the request says wins."""
    client = connect_node(shop)
    assert client.getAllFlags("ada-phone")["paid"] is True
    assert client.getAllFlags("stranger")["paid"] is False
    assert client.getAllFlags("stranger", {"personProperties": {"plan": "pro"}})["paid"] is True
    assert client.getAllFlags("ada", {"personProperties": {"plan": "free"}})["paid"] is False
    assert client.getAllFlags("ada", {"groups": {"team": "t1"}})["in-team"] is True


def test_flag_keys__asked_for__bring_their_dependencies(shop: Stage, connect_node: ConnectNode) -> None:
    """Only the flags asked for are answered, with those that they depend on."""
    assert connect_node(shop).getAllFlags("ada", {"flagKeys": ["above"]}) == {"above": True, "on": True}


def test_events__of_the_sdk__are_taken(shop: Stage, connect_node: ConnectNode) -> None:
    """What the SDK reports of flags that were read is answered well, so that it does not keep and repeat it."""
    client = connect_node(shop, sendFeatureFlagEvent=True)
    assert client.getFeatureFlag("on", "ada") is True
    client.flush()
    assert client.requests() == [["/flags/", 200, False], ["/batch/", 200, False]]
    assert shop.metric("event_requests_total", 'outcome="discarded"') == 1


def test_token__that_no_project_has__gives_no_flags(shop: Stage, connect_node: ConnectNode) -> None:
    """A wrong token is refused once, and not asked with again and again."""
    client = connect_node(shop, "phc_wrong")
    assert client.getAllFlags("ada") == {}
    assert client.requests() == [["/flags/", 401, False]]


def test_store__that_fails__costs_only_the_flags_that_need_it(shop: Stage, connect_node: ConnectNode) -> None:
    """With the persons gone, all other flags are exact; for those that need them this SDK has no word but off."""
    client = connect_node(shop)
    assert client.getAllFlags("ada") == EXPECTED
    shop.lose(*FACTS)
    assert client.getAllFlags("ada") == {**WITHOUT_FACTS, "paid": False}
    assert client.getAllFlags("ada", {"personProperties": {"plan": "pro"}}) == EXPECTED
    shop.heal()
    assert client.getAllFlags("ada") == EXPECTED
