"""Items and answers of OFREP: what each way a flag can turn out looks like to OpenFeature's clients."""

from typing import Any

import msgspec
import pytest
from openfeature.flag_evaluation import Reason as OpenFeatureReason

from evaluator.snapshot import build_snapshot
from evaluator.types import Context, Facts, FlagResult, Reason, ReasonCode
from gateway.app import ROUTES
from gateway.errors import FlagNotFound, OverQuota, Unavailable
from gateway.wire.flags import OFREP_FLAG, encode_result
from gateway.wire.ofrep import (
    encode_bulk,
    encode_single,
    event_streams,
    flag_item,
    inactive_item,
    refusal,
    refused_items,
    snapshot_members,
)
from tests.builders import NOTHING_STORED, ask, condition, flag, person, project

UNSET = object()


def item_of(document: dict[str, Any], facts: Facts = NOTHING_STORED, **properties: Any) -> dict[str, Any]:
    """The item of the only flag of a project."""
    built = build_snapshot(msgspec.json.encode(project(document, group_types=["team"])), 1, encode_result)
    (outcome,) = ask(built, Context(distinct_id="u1", person_properties=properties), facts).outcomes
    item: dict[str, Any] = msgspec.json.decode(outcome.fragments[OFREP_FLAG] or b"")
    return item


def ruled(*rules: dict[str, Any], default: Any = None) -> dict[str, Any]:
    numbered = [{"id": f"r{number}", "seed": "s", **rule} for number, rule in enumerate(rules)]
    return flag("ruled", filters={"version": 2, "rules": numbered, "default_value": default})


RELEASE = {"rule_type": "targeted_release"}
SPLIT = {"rule_type": "percentage_rollout", "rollout_percentage": 100}
EXPERIMENT = {"rule_type": "experiment", "rollout_percentage": 100}
HELD_OUT = {"holdout": {"id": 3, "exclusion_percentage": 100}}
PRO = condition(person("plan", "pro"))


@pytest.mark.parametrize(
    ("document", "value", "variant", "reason"),
    [
        (flag("f"), True, None, "TARGETING_MATCH"),
        (flag("f", rollout=0), False, None, "SPLIT"),
        (flag("f", PRO), False, None, "DEFAULT"),
        (flag("f", condition(), filters={"aggregation_group_type_index": 0}), False, None, "DEFAULT"),
        (flag("f", variants={"blue": 100}), "blue", "blue", "SPLIT"),
        (flag("f", variants={"blue": 0}), UNSET, None, "TARGETING_MATCH"),
        (flag("f", PRO, variants={"blue": 100}), UNSET, None, "DEFAULT"),
        (flag("f", filters=HELD_OUT), True, "holdout-3", "SPLIT"),
        (flag("f", variants={"blue": 100}, filters=HELD_OUT), "holdout-3", "holdout-3", "SPLIT"),
        (flag("f", {"properties": 5}), UNSET, None, "DISABLED"),
        (ruled({**RELEASE, "value": True}), True, None, "TARGETING_MATCH"),
        (ruled({**RELEASE, "value": "text"}), "text", None, "TARGETING_MATCH"),
        (ruled({**RELEASE, "value": 25}), 25, None, "TARGETING_MATCH"),
        (ruled({**RELEASE, "value": {"columns": [1]}}), {"columns": [1]}, None, "TARGETING_MATCH"),
        (ruled({**SPLIT, "value": "text"}), "text", None, "SPLIT"),
        (ruled({**SPLIT, "value": "text", "rollout_percentage": 0}, default="other"), "other", None, "SPLIT"),
        (ruled(default=False), False, None, "DEFAULT"),
        (ruled(), UNSET, None, "DEFAULT"),
        (ruled({**EXPERIMENT, "variants": [{"key": "a", "value": 1, "weight": 100}]}), 1, "a", "SPLIT"),
    ],
)
def test_flag_item__of_each_kind_of_flag__is_typed_as_the_code_expects(
    document: dict[str, Any], value: object, variant: str | None, reason: str
) -> None:
    """A flag has values of one type alone; else none, and the code's default holds."""
    item = item_of(document)
    assert item.get("value", UNSET) == value
    assert isinstance(item.get("value"), bool) == isinstance(value, bool)
    assert (item["variant"], item["reason"]) == (variant, reason)


def test_flag_item__of_a_whole_number_that_is_a_float__stays_one() -> None:
    """A client that asks for a float takes no integer."""
    item = flag_item_text(ruled({**RELEASE, "value": 1.0}))
    assert b'"value":1.0,' in item


def flag_item_text(document: dict[str, Any]) -> bytes:
    built = build_snapshot(msgspec.json.encode(project(document)), 1, encode_result)
    return ask(built).outcomes[0].fragments[OFREP_FLAG] or b""


def test_flag_item__in_full__says_in_metadata_what_posthog_says() -> None:
    """The payload, and why it is so, come with every flag, as text, numbers and booleans."""
    document = flag("f", variants={"blue": 100}, payloads={"blue": '{"a":1}'}, id=7, version=3)
    assert item_of(document) == {
        "key": "f",
        "value": "blue",
        "variant": "blue",
        "reason": "SPLIT",
        "metadata": {
            "enabled": True,
            "flagId": 7,
            "flagVersion": 3,
            "reasonCode": "condition_match",
            "conditionIndex": 0,
            "payload": '{"a":1}',
        },
    }


def test_flag_item__of_a_failed_flag__is_an_error_with_its_cause() -> None:
    """What could not be told is an error of this flag alone, and no value that somebody might take for one."""
    item = item_of(flag("f", PRO, id=7), Facts())
    assert item == {
        "key": "f",
        "errorCode": "GENERAL",
        "errorDetails": "Stored facts were not asked for",
        "metadata": {"enabled": False, "flagId": 7, "flagVersion": 1, "reasonCode": "not_fetched"},
    }


@pytest.mark.parametrize("code", [*ReasonCode, "from-the-future"])
def test_flag_item__for_every_reason__has_one_that_openfeature_knows(code: str) -> None:
    """The client for Python refuses an answer whose reason it does not know."""
    result = FlagResult(
        key="f", id=1, version=1, has_experiment=False, enabled=True, variant=None, payload=None,
        reason=Reason(code, None, ""),
    )  # fmt: skip
    reason = msgspec.json.decode(flag_item(result))["reason"]
    assert reason in {known.value for known in OpenFeatureReason} - {"ERROR", "STALE", "CACHED"}
    assert (reason == "UNKNOWN") == (code == "from-the-future")


def test_encode_single__has_the_snapshot_in_the_metadata_of_the_flag() -> None:
    """An answer about one flag has one place for all that is said beside its value."""
    members = snapshot_members(4, 130, "disk", "timeout", is_over_quota=True)
    assert msgspec.json.decode(encode_single(inactive_item("a/b"), members)) == {
        "key": "a/b",
        "variant": None,
        "reason": "DISABLED",
        "metadata": {
            "enabled": False,
            "reasonCode": "flag_disabled",
            "snapshotVersion": 4,
            "snapshotAgeMs": 130,
            "snapshotSource": "disk",
            "degraded": "timeout",
            "quotaLimited": True,
        },
    }


def test_encode_bulk__of_refused_flags__is_an_item_for_each() -> None:
    """The errors are per flag, and what holds for all of them stands once."""
    items = refused_items(["a", 'b"'], OverQuota())
    members = snapshot_members(4, 0, "store", None, is_over_quota=False)
    answer = msgspec.json.decode(encode_bulk(items, members, event_streams("phc_a&b", 30)))
    assert [(item["key"], item["errorCode"]) for item in answer["flags"]] == [("a", "GENERAL"), ('b"', "GENERAL")]
    assert all(item["errorDetails"] == OverQuota().detail for item in answer["flags"])
    assert answer["metadata"] == {"snapshotVersion": 4, "snapshotAgeMs": 0, "snapshotSource": "store"}
    (stream,) = answer["eventStreams"]
    path, _, query = stream["endpoint"]["requestUri"].partition("?")
    assert (stream["type"], query, stream["inactivityDelaySec"]) == ("sse", "token=phc_a%26b", 30)
    assert path in {route.path for route in ROUTES}


def test_refusal__of_anything__has_a_code_and_details() -> None:
    """Clients lose an error that lacks either."""
    assert refusal(FlagNotFound("x"), "x") == {
        "key": "x",
        "errorCode": "FLAG_NOT_FOUND",
        "errorDetails": "There is no flag 'x' for this caller.",
    }
    assert refusal(Unavailable(), None) == {"errorCode": "GENERAL", "errorDetails": Unavailable().detail}
