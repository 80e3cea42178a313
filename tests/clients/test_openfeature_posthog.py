"""PostHog's own OpenFeature provider for Python, released and unmodified, against a real server process.

Its counterpart for Node, `@posthog/openfeature-node-provider`, is not on the npm registry.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.posthog import PostHogProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
from posthog import Posthog

from tests.builders import flag
from tests.clients.connecting import Connect, MakeStage
from tests.clients.stage import ADA, EVERYTHING, FACTS, SECRET, Stage, every_kind_of_flag

pytestmark = [
    pytest.mark.client,
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

ADA_ASKS = EvaluationContext("ada")


@pytest.fixture
def shop(stage: MakeStage) -> Stage:
    more = [flag("size", variants={"12": 100}), flag("a/b", rollout=100)]
    return stage(*every_kind_of_flag(), *more, group_types=["team"], persons=[ADA])


@pytest.fixture
def openfeature() -> Iterator[Callable[[Posthog], OpenFeatureClient]]:
    """Makes an OpenFeature client of a PostHog client."""

    def over(client: Posthog) -> OpenFeatureClient:
        api.set_provider_and_wait(PostHogProvider(client))
        return api.get_client()

    yield over
    api.shutdown()


@pytest.fixture
def of(shop: Stage, connect: Connect, openfeature: Callable[[Posthog], OpenFeatureClient]) -> OpenFeatureClient:
    """One that asks the service for each flag."""
    return openfeature(connect(shop))


def told(details: FlagEvaluationDetails[Any]) -> tuple[Any, str | None, Reason | str | None]:
    return details.value, details.variant, details.reason


def test_types__of_flags__are_those_that_openfeature_asks_for(of: OpenFeatureClient) -> None:
    """Booleans, variants as texts and numbers, and payloads as objects arrive with why they are so."""
    assert told(of.get_boolean_details("on", False, ADA_ASKS)) == (True, None, Reason.TARGETING_MATCH)
    assert told(of.get_boolean_details("off", True, ADA_ASKS)) == (False, None, Reason.DEFAULT)
    assert told(of.get_string_details("split", "red", ADA_ASKS)) == ("blue", "blue", Reason.TARGETING_MATCH)
    assert told(of.get_integer_details("size", 1, ADA_ASKS)) == (12, "12", Reason.TARGETING_MATCH)
    assert told(of.get_float_details("size", 1.0, ADA_ASKS)) == (12.0, "12", Reason.TARGETING_MATCH)
    assert told(of.get_object_details("split", {}, ADA_ASKS)) == ({"width": 3}, "blue", Reason.TARGETING_MATCH)
    assert of.get_boolean_value("a/b", False, ADA_ASKS) is True


def test_context__beside_its_key__decides(of: OpenFeatureClient) -> None:
    """Attributes are properties of the person, and groups are groups."""
    assert of.get_boolean_value("paid", False, EvaluationContext("eve", {"plan": "pro"})) is True
    assert of.get_boolean_value("paid", True, EvaluationContext("eve")) is False
    assert of.get_boolean_value("in-team", False, EvaluationContext("eve", {"groups": {"team": "t1"}})) is True


def test_flag__that_is_not_there__is_the_default_with_its_error(of: OpenFeatureClient) -> None:
    """A missing flag, one of another type and a context without a key are told apart."""
    assert of.get_boolean_details("nowhere", True, ADA_ASKS).error_code == ErrorCode.FLAG_NOT_FOUND
    assert of.get_integer_details("split", 7, ADA_ASKS).error_code == ErrorCode.TYPE_MISMATCH
    details = of.get_boolean_details("on", False, EvaluationContext())
    assert (details.value, details.error_code) == (False, ErrorCode.TARGETING_KEY_MISSING)


def test_persons__that_are_gone__cost_only_the_flags_that_need_them(of: OpenFeatureClient, shop: Stage) -> None:
    """In an outage a flag that could not be told is the caller's default; all others are what they were."""
    shop.lose(*FACTS)
    details = of.get_boolean_details("paid", True, ADA_ASKS)
    assert (details.value, details.error_code) == (True, ErrorCode.FLAG_NOT_FOUND)
    assert told(of.get_boolean_details("on", False, ADA_ASKS)) == (True, None, Reason.TARGETING_MATCH)
    assert told(of.get_string_details("split", "red", ADA_ASKS)) == ("blue", "blue", Reason.TARGETING_MATCH)


def test_provider__that_evaluates_by_itself__says_the_same(
    shop: Stage, connect: Connect, openfeature: Callable[[Posthog], OpenFeatureClient]
) -> None:
    """With a secret key the provider loads definitions when it starts, though the store is gone, and answers alone."""
    connect(shop).get_all_flags("ada")
    shop.lose(*EVERYTHING)
    of = openfeature(connect(shop, secret_key=SECRET, enable_local_evaluation=False))
    asked = EvaluationContext("ada", {"plan": "pro"})
    assert of.get_boolean_value("paid", False, asked) is True
    assert told(of.get_string_details("split", "red", asked)) == ("blue", "blue", Reason.TARGETING_MATCH)
    assert shop.metric("requests_total", 'endpoint="flags"') == 1
