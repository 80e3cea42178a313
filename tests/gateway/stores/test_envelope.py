"""Envelopes: what went in comes out, and whatever is not exactly that is refused."""

import hashlib
import itertools
import tracemalloc
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.ports import Definitions
from gateway.stores import envelope
from gateway.stores.envelope import Checking, Corrupt, Packing, pack, unpack

DEFINITIONS = Definitions(7, 3, b'{"flags": []}' * 100)


def signed(body: bytes) -> bytes:
    """The body with a checksum that fits."""
    return body + hashlib.sha256(body).digest()


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=300), st.integers(0, 300))
def test_unpack__of_packed__is_the_same(project_id: int, version: int, document: bytes, above: int) -> None:
    """Any definitions survive, compressed or not."""
    definitions = Definitions(project_id, version, document)
    assert unpack(pack(definitions, compress_above_bytes=above)) == definitions


def test_pack__larger_than_the_limit__is_smaller() -> None:
    """Documents beyond the size are compressed, up to it they are not."""
    size = len(DEFINITIONS.document)
    assert len(pack(DEFINITIONS, compress_above_bytes=size)) > size
    assert len(pack(DEFINITIONS, compress_above_bytes=size - 1)) < size / 2


@given(st.data())
def test_unpack__any_byte_changed__is_corrupt(data: st.DataObject) -> None:
    """No change of a single byte goes unnoticed, nor does any cut."""
    raw = pack(DEFINITIONS, compress_above_bytes=0)
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    for broken in (changed, raw[:at]):
        with pytest.raises(Corrupt):
            unpack(broken)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"XXXX" + pack(DEFINITIONS, compress_above_bytes=0)[4:-32], "not an envelope"),
        (b"FLSN\x02" + pack(DEFINITIONS, compress_above_bytes=0)[5:-32], "format 2 is not the one of this process, 1"),
        (envelope._HEAD.pack(b"FLSN", 1, 0, 1, 1, 5) + b"1234", "another length"),
        (envelope._HEAD.pack(b"FLSN", 1, 1, 1, 1, 5) + b"1234", "cannot be decompressed"),
        (envelope._HEAD.pack(b"FLSN", 1, 1, 1, 1, 5) + zlib.compress(b"x" * 10**7), "another length"),
        (envelope._HEAD.pack(b"FLSN", 1, 1, 1, 1, 2**40) + b"", "too large"),
    ],
)
def test_unpack__well_signed_nonsense__says_what_is_wrong(body: bytes, reason: str) -> None:
    """A sound checksum does not make sound content; nothing inflates beyond what it announces."""
    with pytest.raises(Corrupt, match=reason):
        unpack(signed(body))


def in_chunks(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The same bytes in pieces, cut at these places."""
    places = sorted({cut % (len(whole) + 1) for cut in cuts} | {0, len(whole)})
    return [whole[start:end] for start, end in itertools.pairwise(places)]


def check(chunks: Iterable[bytes], definitions: Definitions = DEFINITIONS) -> None:
    checking = Checking(definitions.project_id, definitions.version, len(definitions.document), definitions.etag)
    for chunk in chunks:
        checking.add(chunk)
    checking.end()


CUTS = st.lists(st.integers(0, 10**6), max_size=8)


@given(st.binary(max_size=3000), CUTS, CUTS, st.sampled_from([0, 1 << 20]))
def test_packing__in_any_pieces__is_an_envelope(
    document: bytes, cuts: list[int], others: list[int], above: int
) -> None:
    """However a document is cut into parts, what comes out unpacks to it, and passes the check in any other parts."""
    definitions = Definitions(7, 3, document)
    packing = Packing(7, 3, len(document), compress_above_bytes=above)
    raw = b"".join(packing.add(chunk) for chunk in in_chunks(document, cuts)) + packing.end()
    assert unpack(raw) == definitions
    check(in_chunks(raw, others), definitions)


@pytest.mark.parametrize("size", [2**20 - 1, 2**20, 2**20 + 1, 2**21 + 300])
@pytest.mark.parametrize("step", [1 << 20, 1000])
def test_checking__inflating_to_just_its_step__loses_nothing(size: int, step: int) -> None:
    """What inflates to a multiple of what is inflated at a time is whole, too."""
    definitions = Definitions(7, 3, b"x" * size)
    raw = pack(definitions, compress_above_bytes=0)
    check([raw[start : start + step] for start in range(0, len(raw), step)], definitions)


@given(st.data())
def test_checking__any_byte_changed__is_corrupt(data: st.DataObject) -> None:
    """Nor does it matter in which pieces a change or a cut arrives."""
    raw = pack(DEFINITIONS, compress_above_bytes=data.draw(st.sampled_from([0, 1 << 20])))
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    for broken in (changed, raw[:at], raw + raw[at:]):
        with pytest.raises(Corrupt):
            check(in_chunks(broken, data.draw(CUTS)))


@pytest.mark.parametrize(
    "change", [{"project_id": 8}, {"version": 4}, {"document": DEFINITIONS.document[:-1] + b" "}, {"document": b""}]
)
def test_checking__another_document__is_corrupt(change: dict[str, Any]) -> None:
    """A sound envelope of something else is not what was asked about."""
    with pytest.raises(Corrupt):
        check([pack(DEFINITIONS, compress_above_bytes=0)], replace(DEFINITIONS, **change))


def peak_bytes(definitions: Definitions, chunks: Iterable[bytes]) -> int:
    """The most memory that refusing this took."""
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            check(chunks, definitions)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_checking__that_inflates_without_end__is_given_up_early() -> None:
    """A small entry cannot fill the memory: neither by inflating, nor by what follows its document."""
    announced = Definitions(7, 3, b"x" * 1000)
    head = envelope._HEAD.pack(b"FLSN", 1, 1, 7, 3, 1000)
    bomb = head + zlib.compress(b"x" * 200_000_000, 9)
    assert len(bomb) < 250_000
    assert peak_bytes(announced, [bomb]) < 4_000_000
    followed = itertools.chain([pack(announced, compress_above_bytes=0)], (b"y" * 100_000 for _ in range(500)))
    assert peak_bytes(announced, followed) < 4_000_000
