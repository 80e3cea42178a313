"""Envelopes: what went in comes out, and whatever is not exactly that is refused."""

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ports import Definitions
from gateway.stores import envelope
from gateway.stores.envelope import Corrupt, pack, unpack

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
