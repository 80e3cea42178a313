"""Outcomes -> the JSON that `posthog.init({bootstrap: ...})` takes, with members beside it that posthog-js ignores.

Flags that are off are in it as well: posthog-js that was started with flags asks for no others by itself, and would not
know them. Invariant: what it says of a flag is the fragment that was made when the snapshot was built.
"""

from collections.abc import Iterable, Sequence

import msgspec

from evaluator.types import Outcome
from gateway.wire.bootstrap_query import Visitor
from gateway.wire.flags import BOOTSTRAP_PAYLOAD, LEGACY_VALUE, joined


def encode_bootstrap(
    visitor: Visitor,
    outcomes: Sequence[Outcome],
    *,
    version: int,
    age_ms: int,
    source: str,
    errors: bool,
    is_over_quota: bool,
) -> bytes:
    """The flags of one visitor. Failed ones are left out, and named in `incomplete`."""
    device_id = visitor.context.device_id
    incomplete = [outcome.result.key for outcome in outcomes if outcome.result.failed]
    return (
        b'{"distinctID":%s,"isIdentifiedID":%s%s,"featureFlags":{%s},"featureFlagPayloads":{%s},'
        b'"snapshot":{"version":%d,"age_ms":%d,"source":"%s"},"errors":%s,"incomplete":%s%s}'
    ) % (
        msgspec.json.encode(visitor.context.distinct_id),
        _boolean(visitor.is_identified),
        b"" if device_id is None else b',"deviceID":' + msgspec.json.encode(device_id),
        joined(outcomes, LEGACY_VALUE),
        joined(outcomes, BOOTSTRAP_PAYLOAD),
        version,
        age_ms,
        source.encode(),
        _boolean(errors),
        msgspec.json.encode(incomplete),
        b',"quotaLimited":["feature_flags"]' if is_over_quota else b"",
    )


def encode_batch(bootstraps: Iterable[bytes]) -> bytes:
    """Those of several visitors, in their order."""
    return b'{"bootstraps":[%s]}' % b",".join(bootstraps)


def _boolean(value: bool) -> bytes:
    return b"true" if value else b"false"
