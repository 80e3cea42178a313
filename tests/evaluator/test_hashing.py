"""Buckets equal those of PostHog and its SDKs, and comparing bytes says the same as comparing floats."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.hashing import (
    EVERY_DIGEST,
    LONG_SCALE,
    NO_DIGEST,
    ZERO_DIGEST,
    MurmurBuckets,
    Sha1Buckets,
    bucket,
    prehashed,
    threshold_at_most,
    threshold_below,
    variant_thresholds,
)

CORPUS = Path(__file__).parent.parent / "corpus" / "bucketing"
SPLITS: dict[str, dict[str, float]] = {
    "50/50": {"control": 50, "test": 50},
    "33.33/33.33/33.34": {"a": 33.33, "b": 33.33, "c": 33.34},
    "10/20/30/40": {"v1": 10, "v2": 20, "v3": 30, "v4": 40},
    "45/45": {"first": 45, "second": 45},
}


def cases(name: str) -> list[Any]:
    return list(json.loads((CORPUS / f"{name}.json").read_text())["cases"])


def buckets(flag_key: str, percentages: dict[str, float] | None = None) -> Sha1Buckets:
    return Sha1Buckets(prehashed(f"{flag_key}."), variant_thresholds((percentages or {}).values()))


@pytest.mark.parametrize("case", cases("texts"), ids=lambda case: case["text"][:40])
def test_bucket__of_a_known_text__is_the_published_value(case: dict[str, Any]) -> None:
    """Every published hash of a whole text comes out to the last digit."""
    assert bucket(hashlib.sha1(case["text"].encode()).digest()) == case["bucket"]


@pytest.mark.parametrize("case", cases("flags"), ids=lambda case: f"{case['flag']}.{case['identifier']}")
def test_buckets__for_flag_and_identifier__decide_rollout_and_variant(case: dict[str, Any]) -> None:
    """Hashes, inclusion at a percentage and the chosen variant agree with the vectors."""
    identity = case["identifier"].encode()
    flag = buckets(case["flag"])
    digest = flag.rollout_digest(identity)
    assert bucket(digest) == case["bucket"]
    assert bucket(flag.variant_digest(identity)) == case["variant_bucket"]
    for percentage, included in case.get("included_at", {}).items():
        assert (digest < threshold_at_most(int(percentage) / 100)) is included
    for split, expected in case.get("variants", {}).items():
        names = [*SPLITS[split], None]
        assert names[buckets(case["flag"], SPLITS[split]).variant(identity)] == expected


def test_buckets__of_an_empty_identifier__are_zero_without_hashing() -> None:
    """An empty identifier is in every rollout, even of 0 %, and gets the first variant."""
    flag = buckets("beta", SPLITS["50/50"])
    assert flag.rollout_digest(b"") == flag.variant_digest(b"") == ZERO_DIGEST
    assert flag.rollout_digest(b"") < threshold_at_most(0.0)
    assert flag.variant(b"") == 0


@pytest.mark.parametrize(
    ("percentages", "bounds"),
    [
        ([33.34], [0.33340000000000003]),
        ([10, 20, 30, 40], [0.1, 0.30000000000000004, 0.6000000000000001, 1.0]),
        ([1.01, 10.02, 88.97], [0.0101, 0.1103, 0.9999999999999999]),
        ([50, -20, 70], [0.5, 0.5, 1.0]),
    ],
)
def test_variant_thresholds__of_float_sums__are_those_of_the_sdks(
    percentages: list[float], bounds: list[float]
) -> None:
    """Bounds are float sums from left to right, never below an earlier one."""
    assert variant_thresholds(percentages) == [threshold_below(bound) for bound in bounds]


def test_thresholds__at_the_ends__admit_nobody_or_everybody() -> None:
    """Outside [0, 1] there is nothing left to compare; at 1.0 only `at most` admits the bucket 1.0."""
    assert threshold_at_most(-0.01) == NO_DIGEST
    assert threshold_below(0.0) == NO_DIGEST
    assert threshold_at_most(1.0) == threshold_below(1.5) == EVERY_DIGEST
    highest = b"\xff" * 20
    assert bucket(highest) == 1.0
    assert highest < threshold_at_most(1.0)
    assert not highest < threshold_below(1.0)


digests = st.binary(min_size=20, max_size=20)
fractions = st.one_of(
    st.floats(min_value=-0.5, max_value=1.5),
    st.integers(min_value=0, max_value=100).map(lambda percentage: percentage / 100),
    st.integers(min_value=0, max_value=(1 << 60) - 1).map(lambda value: value / LONG_SCALE),
)


@given(digests, fractions)
def test_thresholds__for_any_digest_and_fraction__agree_with_floats(digest: bytes, fraction: float) -> None:
    """Comparing bytes is exactly comparing the floats."""
    assert (digest < threshold_at_most(fraction)) is (bucket(digest) <= fraction)
    assert (digest < threshold_below(fraction)) is (bucket(digest) < fraction)


@given(st.integers(min_value=0, max_value=(1 << 60) - 1))
def test_thresholds__next_to_the_bound__agree_with_floats(value: int) -> None:
    """The last admitted value is admitted, and the first refused one refused, also where floats collapse."""
    fraction = value / LONG_SCALE
    for near in (value - 129, value - 1, value, value + 1, value + 129):
        if 0 <= near < 1 << 60:
            digest = (near << 4).to_bytes(8) + bytes(12)
            assert (digest < threshold_at_most(fraction)) is (near / LONG_SCALE <= fraction)
            assert (digest < threshold_below(fraction)) is (near / LONG_SCALE < fraction)


@given(st.text(max_size=300), st.text(max_size=300))
def test_bucket__of_any_identifier__is_in_range_and_stable(flag_key: str, identifier: str) -> None:
    """A bucket is between 0 and 1, and the same every time."""
    identity = identifier.encode(errors="replace")
    first = bucket(buckets(flag_key).rollout_digest(identity))
    assert 0.0 <= first <= 1.0
    assert bucket(buckets(flag_key).rollout_digest(identity)) == first


@pytest.mark.parametrize("case", cases("murmur3"), ids=lambda case: f"{case['flag']}.{case['identifier']}")
def test_murmur__for_flag_and_identifier__is_the_pinned_bucket(case: dict[str, Any]) -> None:
    """What murmur3 says is pinned: a change would move people between buckets."""
    flag, identity = MurmurBuckets(case["flag"], []), case["identifier"].encode()
    assert bucket(flag.rollout_digest(identity)) == case["bucket"]
    assert bucket(flag.variant_digest(identity)) == case["variant_bucket"]


def test_murmur__of_rollout_and_variant__are_independent() -> None:
    """The lower half of a rollout is spread evenly over the variants, which one shared hash would not do."""
    flag = MurmurBuckets("independent", variant_thresholds([50, 50]))
    identities = [f"u{number}".encode() for number in range(4000)]
    included = [identity for identity in identities if flag.rollout_digest(identity) < threshold_at_most(0.1)]
    first = sum(flag.variant(identity) == 0 for identity in included)
    assert 300 < len(included) < 500
    assert 0.4 < first / len(included) < 0.6


def test_murmur__of_keys_and_identities_that_join_alike__differ() -> None:
    """The key's length is hashed, so that `a` with `b:c` is not `a:b` with `c`."""
    assert MurmurBuckets("a", []).rollout_digest(b"b:c") != MurmurBuckets("a:b", []).rollout_digest(b"c")


def test_murmur__of_an_empty_identifier__is_zero() -> None:
    """The rule for empty identifiers does not depend on the hash."""
    flag = MurmurBuckets("beta", variant_thresholds([50, 50]))
    assert flag.rollout_digest(b"") == flag.variant_digest(b"") == ZERO_DIGEST
    assert flag.variant(b"") == 0
