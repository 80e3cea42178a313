"""OpenFeature's SDK for Node with its released OFREP provider, unmodified, against a real server process.

PostHog's own provider for Node, `@posthog/openfeature-node-provider`, is not on the npm registry.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.builders import flag
from tests.clients.connecting import MakeStage
from tests.clients.node_client import NodeClient, node_client
from tests.clients.stage import ADA, EVERYTHING, FACTS, TOKEN, Stage, every_kind_of_flag, typed_flag, until

pytestmark = pytest.mark.client

WHO = {"targetingKey": "ada"}
Open = Callable[..., NodeClient]


def flags() -> list[dict[str, Any]]:
    return [
        *every_kind_of_flag(),
        flag("a/b"),
        flag("unsplit", rollout=0, variants={"blue": 100}),
        typed_flag("ratio", 0.5),
        typed_flag("layout", {"columns": 2}),
    ]


@pytest.fixture
def shop(stage: MakeStage) -> Stage:
    return stage(*flags(), group_types=["team"], persons=[ADA])


@pytest.fixture
def openfeature() -> Iterator[Open]:
    """Makes OpenFeature clients of a server, each in a process of its own."""
    with ExitStack() as clients:

        def make(shop: Stage, token: str = TOKEN) -> NodeClient:
            headers = {"Authorization": f"Bearer {token}"}
            return clients.enter_context(node_client("openfeature", {"baseUrl": shop.url, "headers": headers}))

        yield make


def test_types__of_flags__arrive_as_they_are(shop: Stage, openfeature: Open) -> None:
    """Booleans, variants, numbers and objects are what was defined, with the reason."""
    client = openfeature(shop)
    assert client.getBooleanValue("on", False, WHO) is True
    assert client.getBooleanValue("off", True, WHO) is False
    details = client.getStringDetails("split", "red", WHO)
    assert (details["value"], details["variant"], details["reason"]) == ("blue", "blue", "SPLIT")
    assert client.getNumberValue("ratio", 0, WHO) == 0.5
    assert client.getObjectValue("layout", {}, WHO) == {"columns": 2}
    assert client.getBooleanValue("a/b", False, WHO) is True
    assert client.requests()[-1] == ["/ofrep/v1/evaluate/flags/a/b", 200, False]


def test_context__beside_its_key__decides(shop: Stage, openfeature: Open) -> None:
    """Attributes count as properties of the person, before stored ones."""
    client = openfeature(shop)
    assert client.getBooleanValue("paid", False, WHO) is True
    assert client.getBooleanValue("paid", True, {"targetingKey": "eve"}) is False
    assert client.getBooleanValue("paid", False, {"targetingKey": "eve", "plan": "pro"}) is True
    assert client.getBooleanValue("paid", True, {**WHO, "plan": "free"}) is False


def test_errors__of_any_kind__are_the_default_and_told_apart(shop: Stage, openfeature: Open) -> None:
    """A missing flag, one of another type and a context without a key have codes of their own.

    This client also takes it for an error that a flag without a variant leaves the value to the caller.
    """
    client = openfeature(shop)
    assert client.getBooleanDetails("nowhere", True, WHO)["errorCode"] == "FLAG_NOT_FOUND"
    assert client.getNumberDetails("split", 7, WHO)["errorCode"] == "TYPE_MISMATCH"
    nothing = client.getStringDetails("unsplit", "red", WHO)
    assert (nothing["value"], nothing["errorCode"]) == ("red", "GENERAL")
    details = client.getBooleanDetails("on", False, {})
    assert (details["value"], details["errorCode"]) == (False, "TARGETING_KEY_MISSING")
    assert openfeature(shop, "phc_wrong").getBooleanDetails("on", False, WHO)["errorCode"] == "GENERAL"


def test_persons__that_are_gone__cost_only_the_flags_that_need_them(shop: Stage, openfeature: Open) -> None:
    """In an outage a flag that could not be told is the caller's default; all others are what they were."""
    client = openfeature(shop)
    shop.lose(*FACTS)
    details = client.getBooleanDetails("paid", True, WHO)
    assert (details["value"], details["errorCode"]) == (True, "GENERAL")
    assert client.getStringValue("split", "red", WHO) == "blue"
    shop.heal()
    assert client.getBooleanValue("paid", False, WHO) is True


def test_store__that_is_gone__costs_no_flag_that_needs_none(shop: Stage, openfeature: Open) -> None:
    """What was answered once is answered on."""
    client = openfeature(shop)
    assert client.getBooleanValue("on", False, WHO) is True
    shop.lose(*EVERYTHING)
    assert client.getBooleanValue("on", False, WHO) is True
    assert client.getNumberValue("ratio", 0, {**WHO, "plan": "pro"}) == 0.5


def test_rate__that_is_exceeded__pauses_the_provider_for_seconds(stage: MakeStage, openfeature: Open) -> None:
    """One 429 silences the whole process, so it says for how many seconds, and those are few."""
    client = openfeature(stage(*flags(), settings=("limits.token=1/3second",)))
    seen: list[int] = []

    def is_limited() -> bool:
        client.getBooleanValue("on", False, WHO)
        seen.extend(status for _, status, _ in client.requests())
        return seen[-1:] == [429]

    until(is_limited)
    paused = client.getBooleanDetails("on", False, WHO)
    assert (paused["value"], paused["errorCode"]) == (False, "GENERAL")
    assert "paused" in paused["errorMessage"]
    assert client.requests() == []
    until(lambda: client.getBooleanValue("on", False, WHO) is True)
