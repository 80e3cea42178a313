"""Buckets: where an identifier falls between 0 and 1, and the same question asked of raw digest bytes.

The hash is that of PostHog and its SDKs: the first 15 hex digits of sha1, divided by 0xFFFFFFFFFFFFFFF as floats.
A project may choose murmur3 instead, of which the same digits are taken.
Invariant: for every digest and fraction, comparing bytes with a threshold gives the same answer as computing the
float and comparing that; so the hot path never converts a digest to a number.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final, Protocol

import mmh3

LONG_SCALE: Final = float(0xFFFFFFFFFFFFFFF)
HASH_BITS: Final = 60
EVERY_DIGEST: Final = b"\xff" * 21
NO_DIGEST: Final = b""
ZERO_DIGEST: Final = bytes(20)
"""Stands for the hash of an empty identifier, which by rule is 0.0 and not computed."""


murmur_digest: Final = mmh3.mmh3_x64_128_digest


class Hash(Protocol):
    """The part of hashlib's objects that is used here."""

    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


def prehashed(prefix: str) -> Callable[[], Hash]:
    """A factory of sha1 objects that have already taken in `prefix`."""
    return hashlib.sha1(prefix.encode(errors="replace"), usedforsecurity=False).copy


def bucket(digest: bytes) -> float:
    """The bucket in [0, 1] that a digest stands for."""
    return (int.from_bytes(digest[:8]) >> 4) / LONG_SCALE


@lru_cache(maxsize=4096)
def threshold_at_most(fraction: float) -> bytes:
    """The bytes T for which `digest < T` says the same as `bucket(digest) <= fraction`."""
    return _threshold(lambda value: value / LONG_SCALE <= fraction)


@lru_cache(maxsize=4096)
def threshold_below(fraction: float) -> bytes:
    """The bytes T for which `digest < T` says the same as `bucket(digest) < fraction`."""
    return _threshold(lambda value: value / LONG_SCALE < fraction)


def _threshold(admits: Callable[[int], bool]) -> bytes:
    """Search for the count of admitted 60-bit values; `admits` is true up to some value and false from there."""
    low, high = 0, 1 << HASH_BITS
    while low < high:
        middle = (low + high) // 2
        if admits(middle):
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return NO_DIGEST
    if low == 1 << HASH_BITS:
        return EVERY_DIGEST
    return (low << 4).to_bytes(8)


def variant_thresholds(percentages: Iterable[float]) -> list[bytes]:
    """Ascending thresholds, one per variant; `bisect_right(thresholds, digest)` is the variant's position.

    A position past the end says that no variant claims the digest. The sums are taken in order and in floats, as the
    SDKs do; where a negative weight lowers the sum, no digest is below it that was not below an earlier one.
    """
    sums = accumulate(percentage / 100 for percentage in percentages)
    return [threshold_below(highest) for highest in accumulate(sums, max)]


class Sha1Buckets:
    """How identities are hashed for one flag by PostHog's service and its SDKs: once for its rollout, and salted for
    its variants.
    """

    __slots__ = ("prefix", "thresholds")

    def __init__(self, prefix: Callable[[], Hash], thresholds: Sequence[bytes]) -> None:
        self.prefix = prefix
        self.thresholds = thresholds

    def rollout_digest(self, identity: bytes) -> bytes:
        """The digest to compare with a rollout's threshold."""
        if not identity:
            return ZERO_DIGEST
        hashed = self.prefix()
        hashed.update(identity)
        return hashed.digest()

    def variant_digest(self, identity: bytes) -> bytes:
        """The digest to compare with the variants' thresholds."""
        return self.rollout_digest(identity and identity + b"variant")

    def variant(self, identity: bytes) -> int:
        """The position of the variant that claims the identity; the number of variants when none does."""
        return bisect_right(self.thresholds, self.variant_digest(identity))


class MurmurBuckets:
    """Buckets by murmur3 (x64, 128 bits), for projects whose clients never evaluate by themselves.

    What is hashed is `rollout:<bytes in the key>:<key>:<identity>`, and `variant:...` for the variant, so that no key
    and identity can be mistaken for another pair, and rollout and variant are independent. The first 60 bits of the
    digest stand for the bucket, as with sha1; an empty identity is at 0.0 here too.
    """

    __slots__ = ("prefix", "salted", "thresholds")

    def __init__(self, key: str, thresholds: Sequence[bytes]) -> None:
        encoded = key.encode(errors="replace")
        self.prefix = b"rollout:%d:%s:" % (len(encoded), encoded)
        self.salted = b"variant:%d:%s:" % (len(encoded), encoded)
        self.thresholds = thresholds

    def rollout_digest(self, identity: bytes) -> bytes:
        return murmur_digest(self.prefix + identity) if identity else ZERO_DIGEST

    def variant_digest(self, identity: bytes) -> bytes:
        return murmur_digest(self.salted + identity) if identity else ZERO_DIGEST

    def variant(self, identity: bytes) -> int:
        return bisect_right(self.thresholds, self.variant_digest(identity))


Buckets = Sha1Buckets | MurmurBuckets
