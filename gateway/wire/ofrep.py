"""Outcomes -> what OpenFeature's clients read over OFREP; what they send is read in ofrep_query.py.

Invariant: every item is one that all released clients take, whatever their quirks: an item has `variant`, which may be
null, a reason that OpenFeature knows, and metadata of text, numbers and booleans as its last member.
"""

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Struct, UnsetType

from evaluator.types import FlagResult, ReasonCode
from gateway.errors import FlagNotFound, GatewayError, InvalidContext, TargetingKeyMissing, UndecodableBody

STREAM: Final = "/ofrep/v1/stream"
_REASONS: Final[dict[str, str]] = {
    ReasonCode.SUPER_CONDITION_VALUE: "TARGETING_MATCH",
    ReasonCode.HOLDOUT_CONDITION_VALUE: "SPLIT",
    ReasonCode.CONDITION_MATCH: "TARGETING_MATCH",
    ReasonCode.OUT_OF_ROLLOUT_BOUND: "SPLIT",
    ReasonCode.NO_CONDITION_MATCH: "DEFAULT",
    ReasonCode.NO_GROUP_TYPE: "DEFAULT",
    ReasonCode.FLAG_DISABLED: "DISABLED",
    ReasonCode.MISSING_DEPENDENCY: "DEFAULT",
    ReasonCode.TARGETING_MATCH: "TARGETING_MATCH",
    ReasonCode.ROLLOUT_MISS: "SPLIT",
    ReasonCode.EXPERIMENT_PAUSED: "DEFAULT",
    ReasonCode.HOLDOUT: "SPLIT",
    ReasonCode.EXPERIMENT_SPLIT: "SPLIT",
    ReasonCode.NO_RULE_MATCH: "DEFAULT",
    ReasonCode.MISSING_GROUP_KEY: "DEFAULT",
}
_ERROR_CODES: Final = {
    FlagNotFound: "FLAG_NOT_FOUND",
    InvalidContext: "INVALID_CONTEXT",
    TargetingKeyMissing: "TARGETING_KEY_MISSING",
    UndecodableBody: "PARSE_ERROR",
}


class _Metadata(Struct, rename="camel"):
    enabled: bool
    flag_id: int
    flag_version: int
    reason_code: str
    condition_index: int | UnsetType = UNSET
    payload: str | UnsetType = UNSET


class _Item(Struct):
    """One flag. Without a value, clients keep to the default in their code."""

    key: str
    value: object
    variant: str | None
    reason: str
    metadata: _Metadata


class _Failure(Struct, rename="camel"):
    key: str
    error_code: str
    error_details: str
    metadata: _Metadata


def flag_item(result: FlagResult) -> bytes:
    """One flag of an answer, as a JSON object."""
    reason, index = result.reason, result.reason.condition_index
    metadata = _Metadata(
        enabled=result.enabled,
        flag_id=result.id,
        flag_version=result.version,
        reason_code=reason.code,
        condition_index=UNSET if index is None else index,
        payload=UNSET if result.rule or result.payload is None else result.payload,
    )
    if result.failed:
        return msgspec.json.encode(_Failure(result.key, "GENERAL", reason.description, metadata))
    variant = result.rule.variant_key if result.rule else result.variant
    return msgspec.json.encode(_Item(result.key, _value(result), variant, _reason(result), metadata))


def _value(result: FlagResult) -> object:
    """The typed value; UNSET where a boolean would be one of the wrong type, or the flag has none."""
    if result.reason.code == ReasonCode.FLAG_DISABLED:
        return UNSET
    if result.rule:
        return UNSET if result.rule.value is None else result.rule.value
    if result.has_variants:
        return UNSET if result.variant is None else result.variant
    return result.enabled


def _reason(result: FlagResult) -> str:
    """OpenFeature's word for the reason."""
    reason = _REASONS.get(result.reason.code, "UNKNOWN")
    is_split = result.rule.rule_type == "percentage_rollout" if result.rule else result.variant is not None
    return "SPLIT" if is_split and reason == "TARGETING_MATCH" else reason


def inactive_item(key: str) -> bytes:
    """A flag that exists, and is switched off altogether."""
    metadata = {"enabled": False, "reasonCode": ReasonCode.FLAG_DISABLED.value}
    return msgspec.json.encode({"key": key, "variant": None, "reason": "DISABLED", "metadata": metadata})


def refused_items(keys: Iterable[str], error: GatewayError) -> bytes:
    """Each of these flags with the same error."""
    code, details = _error_code(error).encode(), msgspec.json.encode(error.detail)
    rest = b',"errorCode":"%s","errorDetails":%s,"metadata":{"enabled":false}}' % (code, details)
    return b",".join([b'{"key":%s%s' % (msgspec.json.encode(key), rest) for key in keys])


def refusal(error: GatewayError, key: str | None) -> dict[str, object]:
    """The members by which clients know a refusal; `key` is that of the flag asked for, if it was only one."""
    named = {} if key is None else {"key": key}
    return {**named, "errorCode": _error_code(error), "errorDetails": error.detail}


def _error_code(error: GatewayError) -> str:
    return next((code for kind, code in _ERROR_CODES.items() if isinstance(error, kind)), "GENERAL")


def snapshot_members(version: int, age_ms: int, source: str, degraded: str | None, *, is_over_quota: bool) -> bytes:
    """What answers say of where they come from and what they lack, as members of metadata."""
    return b'"snapshotVersion":%d,"snapshotAgeMs":%d,"snapshotSource":"%s"%s%s' % (
        version,
        age_ms,
        source.encode(),
        b"" if degraded is None else b',"degraded":' + msgspec.json.encode(degraded),
        b',"quotaLimited":true' if is_over_quota else b"",
    )


def encode_single(item: bytes, members: bytes) -> bytes:
    """An answer about one flag: its item, with more in its metadata, which ends it."""
    return b"%s,%s}}" % (item[:-2], members)


def encode_bulk(items: bytes, members: bytes, streams: bytes) -> bytes:
    """An answer about all flags."""
    return b'{"flags":[%s],"metadata":{%s}%s}' % (items, members, streams)


def event_streams(token: str, inactivity_delay_s: int) -> bytes:
    """The member of bulk answers that names the stream on which the project's changes are told."""
    endpoint = {"requestUri": f"{STREAM}?token={quote(token, safe='')}"}
    streams = [{"type": "sse", "endpoint": endpoint, "inactivityDelaySec": inactivity_delay_s}]
    return b',"eventStreams":' + msgspec.json.encode(streams)
