"""Outcomes -> the bytes of each response shape of /flags and /decide.

A result is encoded once, when a snapshot is built, for every shape; a response only joins the fragments of the shape
asked for. Invariant: `encode_result` and `encode_response` agree on which fragment stands at which index.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from evaluator.types import FlagResult, Fragments, Outcome, Reason
from gateway.wire.bootstrap import payload_member
from gateway.wire.ofrep import flag_item

(
    RECORD,
    TYPED_RECORD,
    LEGACY_VALUE,
    LEGACY_PAYLOAD,
    DECIDE_LIST_ENTRY,
    DECIDE_MAP_ENTRY,
    BOOTSTRAP_PAYLOAD,
    OFREP_FLAG,
) = range(8)
"""What stands at each index of a result's fragments. A fragment is None where the shape leaves the flag out."""


T = TypeVar("T")


class Shape(Enum):
    """How the flags of an answer are laid out."""

    RECORDS = "records"
    TYPED = "typed"
    LEGACY = "legacy"
    DECIDE_LIST = "decide_list"
    DECIDE_MAP = "decide_map"


class _Metadata(Struct, kw_only=True):
    id: int
    version: int
    description: None = None
    payload: str | None
    has_experiment: bool


class _TypedMetadata(_Metadata, kw_only=True):
    config_version: int = 1
    rule_type: str | UnsetType = UNSET
    rule_id: str | UnsetType = UNSET
    variant_key: str | UnsetType = UNSET
    experiment_id: int | UnsetType = UNSET
    holdout_id: int | UnsetType = UNSET


class _Record(Struct, kw_only=True):
    key: str
    enabled: bool
    variant: str | None
    failed: bool | UnsetType
    reason: Reason
    metadata: _Metadata


class _TypedRecord(Struct, kw_only=True):
    key: str
    value: object
    failed: bool | UnsetType
    reason: Reason
    metadata: _TypedMetadata


_CONFIG: Final = (
    b'"supportedCompression":["gzip","gzip-js"],"sessionRecording":false,"isAuthenticated":false,"toolbarParams":{},'
    b'"config":{"enable_collect_everything":true}'
)
_MORE_CONFIG: Final = (
    b',"hasFeatureFlags":%s,"surveys":false,"heatmaps":false,"capturePerformance":false,'
    b'"autocaptureExceptions":false,' + _CONFIG
)
_CONFIG_WITH_FLAGS: Final = _MORE_CONFIG % b"true"
_CONFIG_WITHOUT_FLAGS: Final = _MORE_CONFIG % b"false"

_OVER_QUOTA: Final = b',"quotaLimited":["feature_flags"]'
"""With it, clients keep the flags they have instead of taking the answer for an empty set."""

MINIMAL_RECORDS: Final = b'{"flags":{},%s}' % _CONFIG
MINIMAL_LEGACY: Final = b'{"featureFlags":{},"featureFlagPayloads":{},%s}' % _CONFIG
"""What a GET gets: nothing is evaluated."""


def encode_result(result: FlagResult) -> Fragments:
    """The JSON of one flag in every shape. A failed flag is marked in records and left out of the other shapes."""
    failed = True if result.failed else UNSET
    record = _Record(
        key=result.key,
        enabled=result.enabled,
        variant=result.variant,
        failed=failed,
        reason=result.reason,
        metadata=_Metadata(
            id=result.id, version=result.version, payload=result.payload, has_experiment=result.has_experiment
        ),
    )
    typed = _TypedRecord(
        key=result.key,
        value=None if result.failed else result.rule.value if result.rule else result.value,
        failed=failed,
        reason=result.reason,
        metadata=_typed_metadata(result),
    )
    value = _member(result.key, result.value)
    return (
        _member(result.key, record),
        _member(result.key, typed),
        None if result.failed else value,
        None if result.failed or result.payload is None else _member(result.key, result.payload),
        msgspec.json.encode(result.key) if result.enabled else None,
        value if result.enabled else None,
        payload_member(result),
        flag_item(result),
    )


def _typed_metadata(result: FlagResult) -> _TypedMetadata:
    """What a typed record says beside its value. Of rules the value itself is the data, so there is no payload."""
    metadata = _TypedMetadata(
        id=result.id,
        version=result.version,
        payload=result.payload,
        has_experiment=result.has_experiment,
        variant_key=_present(result.variant),
    )
    rule = result.rule
    if rule is None:
        return metadata
    return msgspec.structs.replace(
        metadata,
        config_version=2,
        payload=None,
        rule_type=_present(rule.rule_type),
        rule_id=_present(rule.rule_id),
        variant_key=_present(rule.variant_key),
        experiment_id=_present(rule.experiment_id),
        holdout_id=_present(rule.holdout_id),
    )


def _present(value: T | None) -> T | UnsetType:
    """The value, or what leaves its member out."""
    return UNSET if value is None else value


def encode_response(
    shape: Shape,
    outcomes: Iterable[Outcome],
    *,
    errors: bool,
    request_id: str,
    evaluated_at_ms: int,
    config_for_flags: bool | None = None,
    is_over_quota: bool = False,
) -> bytes:
    """A whole answer. `config_for_flags` adds the remote-config members, saying whether the project has flags."""
    match config_for_flags:
        case None:
            more = b""
        case True:
            more = _CONFIG_WITH_FLAGS
        case False:
            more = _CONFIG_WITHOUT_FLAGS
    if is_over_quota:
        more = _OVER_QUOTA + more
    if shape is Shape.DECIDE_LIST:
        return b'{"featureFlags":[%s]%s}' % (joined(outcomes, DECIDE_LIST_ENTRY), more)
    if shape is Shape.DECIDE_MAP:
        return b'{"featureFlags":{%s}%s}' % (joined(outcomes, DECIDE_MAP_ENTRY), more)
    if shape is Shape.LEGACY:
        flags = b'"featureFlags":{%s},"featureFlagPayloads":{%s}' % (
            joined(outcomes, LEGACY_VALUE),
            joined(outcomes, LEGACY_PAYLOAD),
        )
    else:
        flags = b'"flags":{%s}' % joined(outcomes, RECORD if shape is Shape.RECORDS else TYPED_RECORD)
    return b'{"errorsWhileComputingFlags":%s,%s,"requestId":"%s","evaluatedAt":%d%s}' % (
        b"true" if errors else b"false",
        flags,
        request_id.encode(),
        evaluated_at_ms,
        more,
    )


def joined(outcomes: Iterable[Outcome], index: int) -> bytes:
    """The fragments of one shape, without those that it leaves out."""
    return b",".join([part for outcome in outcomes if (part := outcome.fragments[index]) is not None])


def _member(key: str, value: object) -> bytes:
    return msgspec.json.encode({key: value})[1:-1]
