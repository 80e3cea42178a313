"""Each response shape, compared to its exact JSON."""

from typing import Any

import msgspec
import pytest

from evaluator.types import FlagResult, Outcome, Reason, RuleAnswer
from gateway.wire.flags import MINIMAL_LEGACY, MINIMAL_RECORDS, Shape, encode_response, encode_result

REQUEST_ID = "3b0f3c1e-0d54-4b2a-9c59-2f1b6a7d9e10"
TAIL = {"requestId": REQUEST_ID, "evaluatedAt": 1763600000000}

ON = FlagResult(
    key="new-nav",
    id=41,
    version=7,
    has_experiment=True,
    enabled=True,
    variant="blue",
    payload='{"w":3}',
    reason=Reason("condition_match", 1, "Matched condition set 2"),
)
DARK = FlagResult(
    key='dark "ünit"',
    id=40,
    version=1,
    has_experiment=False,
    enabled=True,
    variant=None,
    payload=None,
    reason=Reason("condition_match", 0, "Matched condition set 1"),
)
OFF = FlagResult(
    key="old-nav",
    id=42,
    version=0,
    has_experiment=False,
    enabled=False,
    variant=None,
    payload=None,
    reason=Reason("out_of_rollout_bound", 0, "Out of rollout bound"),
)
BROKEN = FlagResult(
    key="broken",
    id=43,
    version=2,
    has_experiment=False,
    enabled=False,
    variant=None,
    payload=None,
    reason=Reason("timeout", None, "Too late"),
    failed=True,
)
CONFIG = {
    "supportedCompression": ["gzip", "gzip-js"],
    "sessionRecording": False,
    "surveys": False,
    "heatmaps": False,
    "capturePerformance": False,
    "autocaptureExceptions": False,
    "isAuthenticated": False,
    "toolbarParams": {},
    "config": {"enable_collect_everything": True},
}
MINIMAL_CONFIG = {
    "supportedCompression": ["gzip", "gzip-js"],
    "config": {"enable_collect_everything": True},
    "toolbarParams": {},
    "isAuthenticated": False,
    "sessionRecording": False,
}


def response(shape: Shape, *results: FlagResult, errors: bool = False, config_for_flags: bool | None = None) -> Any:
    body = encode_response(
        shape,
        [Outcome(result, encode_result(result)) for result in results],
        errors=errors,
        request_id=REQUEST_ID,
        evaluated_at_ms=1763600000000,
        config_for_flags=config_for_flags,
    )
    return msgspec.json.decode(body)


def metadata(id_: int, version: int, **members: Any) -> dict[str, Any]:
    return {
        "id": id_, "version": version, "description": None, "payload": None, "has_experiment": False, **members
    }  # fmt: skip


def test_encode_response__records__are_exact() -> None:
    """Records have every member at all times, except `failed`, which is there only when true."""
    assert response(Shape.RECORDS, ON, OFF, BROKEN, errors=True) == {
        "errorsWhileComputingFlags": True,
        "flags": {
            "new-nav": {
                "key": "new-nav",
                "enabled": True,
                "variant": "blue",
                "reason": {"code": "condition_match", "condition_index": 1, "description": "Matched condition set 2"},
                "metadata": metadata(41, 7, payload='{"w":3}', has_experiment=True),
            },
            "old-nav": {
                "key": "old-nav",
                "enabled": False,
                "variant": None,
                "reason": {"code": "out_of_rollout_bound", "condition_index": 0, "description": "Out of rollout bound"},
                "metadata": metadata(42, 0),
            },
            "broken": {
                "key": "broken",
                "enabled": False,
                "variant": None,
                "failed": True,
                "reason": {"code": "timeout", "condition_index": None, "description": "Too late"},
                "metadata": metadata(43, 2),
            },
        },
        **TAIL,
    }


def test_encode_response__typed_records__are_exact() -> None:
    """Typed records carry one value; it is null, and not false, when the flag failed."""
    assert response(Shape.TYPED, ON, DARK, OFF, BROKEN, errors=True) == {
        "errorsWhileComputingFlags": True,
        "flags": {
            "new-nav": {
                "key": "new-nav",
                "value": "blue",
                "reason": {"code": "condition_match", "condition_index": 1, "description": "Matched condition set 2"},
                "metadata": metadata(
                    41, 7, payload='{"w":3}', has_experiment=True, config_version=1, variant_key="blue"
                ),
            },
            'dark "ünit"': {
                "key": 'dark "ünit"',
                "value": True,
                "reason": {"code": "condition_match", "condition_index": 0, "description": "Matched condition set 1"},
                "metadata": metadata(40, 1, config_version=1),
            },
            "old-nav": {
                "key": "old-nav",
                "value": False,
                "reason": {"code": "out_of_rollout_bound", "condition_index": 0, "description": "Out of rollout bound"},
                "metadata": metadata(42, 0, config_version=1),
            },
            "broken": {
                "key": "broken",
                "value": None,
                "failed": True,
                "reason": {"code": "timeout", "condition_index": None, "description": "Too late"},
                "metadata": metadata(43, 2, config_version=1),
            },
        },
        **TAIL,
    }


def test_encode_response__legacy__leaves_out_what_failed() -> None:
    """Legacy answers have no way to say that a flag failed, so it is absent; payloads only where there is one."""
    assert response(Shape.LEGACY, ON, DARK, OFF, BROKEN, errors=True) == {
        "errorsWhileComputingFlags": True,
        "featureFlags": {"new-nav": "blue", 'dark "ünit"': True, "old-nav": False},
        "featureFlagPayloads": {"new-nav": '{"w":3}'},
        **TAIL,
    }


def test_encode_response__decide_list__names_enabled_flags() -> None:
    """The oldest shape is nothing but the keys of enabled flags."""
    assert response(Shape.DECIDE_LIST, OFF, ON, BROKEN, DARK, errors=True) == {
        "featureFlags": ["new-nav", 'dark "ünit"']
    }


def test_encode_response__decide_map__has_enabled_flags() -> None:
    """The second oldest shape maps enabled flags to their value."""
    assert response(Shape.DECIDE_MAP, OFF, ON, BROKEN, DARK) == {
        "featureFlags": {"new-nav": "blue", 'dark "ünit"': True}
    }


@pytest.mark.parametrize(
    ("shape", "answer"),
    [
        (Shape.RECORDS, {"errorsWhileComputingFlags": False, "flags": {}, **TAIL}),
        (Shape.TYPED, {"errorsWhileComputingFlags": False, "flags": {}, **TAIL}),
        (
            Shape.LEGACY,
            {"errorsWhileComputingFlags": False, "featureFlags": {}, "featureFlagPayloads": {}, **TAIL},
        ),
        (Shape.DECIDE_LIST, {"featureFlags": []}),
        (Shape.DECIDE_MAP, {"featureFlags": {}}),
    ],
)
@pytest.mark.parametrize("has_flags", [None, True, False])
def test_encode_response__nothing_to_say__is_empty_with_config_if_wanted(
    shape: Shape, answer: dict[str, Any], has_flags: bool | None
) -> None:
    """An answer without flags is well-formed in each shape, with and without the remote-config members."""
    config = {} if has_flags is None else {"hasFeatureFlags": has_flags, **CONFIG}
    assert response(shape, config_for_flags=has_flags) == {**answer, **config}


def test_minimal_answers__are_exact() -> None:
    """What a GET gets has no flags, in the layout of its version."""
    assert msgspec.json.decode(MINIMAL_RECORDS) == {"flags": {}, **MINIMAL_CONFIG}
    assert msgspec.json.decode(MINIMAL_LEGACY) == {"featureFlags": {}, "featureFlagPayloads": {}, **MINIMAL_CONFIG}


def test_encode_response__typed_record_of_rules__carries_the_value_and_the_rule() -> None:
    """A typed value stands as JSON, without a payload, and the metadata tell the rule; older shapes get what fits."""
    rule = RuleAnswer(value={"max": 3}, rule_type="experiment", rule_id="r1", variant_key="b", experiment_id=9)
    reason = Reason("experiment_split", 0, "Matched rule 1")
    result = FlagResult(
        key="limit",
        id=9,
        version=4,
        has_experiment=False,
        enabled=True,
        variant=None,
        payload='{"max":3}',
        reason=reason,
        rule=rule,
    )
    members = {
        "config_version": 2,
        "rule_type": "experiment",
        "rule_id": "r1",
        "variant_key": "b",
        "experiment_id": 9,
    }
    typed = response(Shape.TYPED, result)["flags"]["limit"]
    assert typed == {
        "key": "limit",
        "value": {"max": 3},
        "reason": msgspec.to_builtins(reason),
        "metadata": {**metadata(9, 4), **members},
    }
    record = response(Shape.RECORDS, result)["flags"]["limit"]
    assert (record["enabled"], record["variant"], record["metadata"]["payload"]) == (True, None, '{"max":3}')
    failed = msgspec.structs.replace(result, enabled=False, payload=None, failed=True, rule=RuleAnswer(value=None))
    assert response(Shape.TYPED, failed)["flags"]["limit"]["value"] is None
