"""OpenFeature's SDK for Python with the released OFREP provider, unmodified, against a real server process."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode

from tests.builders import flag, person
from tests.clients.connecting import MakeStage
from tests.clients.stage import ADA, EVERYTHING, FACTS, TOKEN, Stage, every_kind_of_flag

pytestmark = pytest.mark.client

ADAS = EvaluationContext("ada")
COLUMNS = {"columns": [1, 2]}
Open = Callable[..., OpenFeatureClient]


def typed(key: str, value: Any) -> dict[str, Any]:
    """A flag of rules that has this value for everybody whose plan is not free."""
    targeting = {"properties": [person("plan", "free", "is_not")]}
    rule = {"id": "r", "rule_type": "targeted_release", "value": value, "targeting": targeting}
    return flag(key, filters={"version": 2, "rules": [rule]})


@pytest.fixture
def shop(stage: MakeStage, engine: str) -> Stage:
    values = {"text": "hello", "count": 3, "ratio": 1.0, "layout": COLUMNS, "switch": True}
    return stage(
        *every_kind_of_flag(),
        *(typed(key, value) for key, value in values.items()),
        flag("of/servers", evaluation_runtime="server"),
        flag("of-browsers", evaluation_runtime="client"),
        flag("maybe", variants={"a": 0}),
        group_types=["team"],
        persons=[ADA],
        settings=(f"server.engine={engine}",),
    )


@pytest.fixture
def connect_openfeature() -> Iterator[Open]:
    """Makes clients of OpenFeature, each with a provider of its own."""
    providers: list[OFREPProvider] = []

    def make(shop: Stage, token: str = TOKEN) -> OpenFeatureClient:
        provider = OFREPProvider(shop.url, headers_factory=lambda: {"Authorization": f"Bearer {token}"})
        providers.append(provider)
        api.set_provider_and_wait(provider, f"test-{len(providers)}")
        return api.get_client(f"test-{len(providers)}")

    yield make
    api.shutdown()
    api.clear_providers()
    for provider in providers:
        provider.session.close()


def test_values__of_every_type__are_what_was_defined(shop: Stage, connect_openfeature: Open) -> None:
    """Each getter of the SDK has the value of a flag of its type; a float that is whole is a float."""
    client = connect_openfeature(shop)
    assert client.get_boolean_value("on", False, ADAS) is True
    assert client.get_boolean_value("off", True, ADAS) is False
    assert client.get_boolean_value("switch", False, ADAS) is True
    assert client.get_boolean_value("of/servers", False, ADAS) is True
    assert client.get_string_value("split", "red", ADAS) == "blue"
    assert client.get_string_value("text", "", ADAS) == "hello"
    assert client.get_integer_value("count", 0, ADAS) == 3
    assert client.get_float_value("ratio", 0.5, ADAS) == 1.0
    assert client.get_object_value("layout", {}, ADAS) == COLUMNS


def test_context__of_the_caller__decides_with_what_is_stored(shop: Stage, connect_openfeature: Open) -> None:
    """Attributes are properties of the person, and groups are groups; what is not said comes from the store."""
    client = connect_openfeature(shop)
    for context, paid in (
        (ADAS, True),
        (EvaluationContext("ada-phone"), True),
        (EvaluationContext("ada", {"plan": "free"}), False),
        (EvaluationContext("stranger"), False),
        (EvaluationContext("stranger", {"plan": "pro"}), True),
    ):
        assert client.get_boolean_value("paid", not paid, context) is paid
    assert client.get_boolean_value("in-team", True, ADAS) is False
    assert client.get_boolean_value("in-team", False, EvaluationContext("ada", {"groups": {"team": "t1"}})) is True
    assert client.get_boolean_value("above", False, ADAS) is True


def test_details__of_a_flag__say_why(shop: Stage, connect_openfeature: Open) -> None:
    """Reason, variant and payload come out of the SDK, and where the answer is from."""
    found = connect_openfeature(shop).get_string_details("split", "red", ADAS)
    assert (found.value, found.variant, found.reason, found.error_code) == ("blue", "blue", "SPLIT", None)
    assert found.flag_metadata["payload"] == '{"width":3}'
    assert found.flag_metadata["reasonCode"] == "condition_match"
    assert found.flag_metadata["snapshotSource"] == "store"


@pytest.mark.parametrize(
    ("key", "context", "code", "reason"),
    [
        ("inactive", ADAS, None, "DISABLED"),
        ("maybe", ADAS, None, "TARGETING_MATCH"),
        ("text", EvaluationContext("ada", {"plan": "free"}), None, "DEFAULT"),
        ("nope", ADAS, ErrorCode.FLAG_NOT_FOUND, "ERROR"),
        ("of-browsers", ADAS, ErrorCode.FLAG_NOT_FOUND, "ERROR"),
        ("text", None, ErrorCode.TARGETING_KEY_MISSING, "ERROR"),
        ("text", EvaluationContext("ada", {"groups": "team"}), ErrorCode.INVALID_CONTEXT, "ERROR"),
        ("on", ADAS, ErrorCode.TYPE_MISMATCH, "ERROR"),
    ],
)
def test_details__without_a_value__are_the_default_and_the_cause(
    shop: Stage, connect_openfeature: Open, key: str, context: EvaluationContext | None, code: Any, reason: str
) -> None:
    """The code's default holds where a flag has no value, which is no error, and where there is one, which is named."""
    found = connect_openfeature(shop).get_string_details(key, "mine", context)
    assert (found.value, found.error_code, found.reason) == ("mine", code, reason)
    assert bool(found.error_message) == (code is not None)


def test_token__that_no_project_has__is_an_error_of_each_flag(shop: Stage, connect_openfeature: Open) -> None:
    """A wrong token is told as such, and the code's default holds."""
    found = connect_openfeature(shop, "phc_wrong").get_boolean_details("on", False, ADAS)
    assert (found.value, found.error_code, found.error_message) == (False, ErrorCode.GENERAL, "unauthorized")


def test_store__that_fails__costs_only_the_flags_that_need_it(shop: Stage, connect_openfeature: Open) -> None:
    """With the persons gone, and then with everything, flags without stored properties are exact; the others are errors
    that say what is missing."""
    client = connect_openfeature(shop)
    assert client.get_boolean_value("paid", False, ADAS) is True
    shop.lose(*FACTS)
    for _ in range(2):
        assert client.get_string_value("split", "red", ADAS) == "blue"
        assert client.get_float_value("ratio", 0.5, EvaluationContext("ada", {"plan": "pro"})) == 1.0
        assert client.get_boolean_value("paid", False, EvaluationContext("ada", {"plan": "pro"})) is True
        found = client.get_boolean_details("paid", False, ADAS)
        assert (found.value, found.error_code) == (False, ErrorCode.GENERAL)
        assert "store of properties" in (found.error_message or "")
        shop.heal()
        shop.lose(*EVERYTHING)
    shop.heal()


def test_rate__of_the_project_is_exceeded__pauses_the_client_for_whole_seconds(
    stage: MakeStage, connect_openfeature: Open
) -> None:
    """A client that is told to come back asks nothing until then, and no longer than it was told."""
    shop = stage(flag("on"), settings=("limits.token=2/minute",))
    client = connect_openfeature(shop)
    provider = client.provider
    assert isinstance(provider, OFREPProvider)
    found = [client.get_boolean_details("on", False, ADAS) for _ in range(3)]
    assert [it.error_code for it in found] == [None, None, ErrorCode.GENERAL]
    assert provider.retry_after is not None
    assert provider.retry_after <= datetime.now(UTC) + timedelta(seconds=60)
    asked = shop.metric("requests_total", 'endpoint="ofrep"')
    paused = client.get_boolean_details("on", False, ADAS)
    assert paused.error_code == ErrorCode.GENERAL
    assert "paused" in (paused.error_message or "")
    assert shop.metric("requests_total", 'endpoint="ofrep"') == asked == 3
