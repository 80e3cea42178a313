"""Definitions as bytes that outlive the process: versioned, checksummed, compressed where that pays.

Where the bytes are kept is not known here. Invariant: what was cut short, changed, or written by a newer format is
Corrupt, and never becomes definitions.

Layout, big-endian: magic (4), format (1), flags (1), project id (8), version (8), length of the document (8), payload,
and the SHA-256 of everything before it (32).
"""

import hashlib
import struct
import zlib
from typing import Final

from gateway.ports import Definitions

MAGIC: Final = b"FLSN"
FORMAT: Final = 1
MAX_DOCUMENT_BYTES: Final = 64 << 20
"""A larger document is taken for a broken one, so that a small entry cannot inflate to fill the memory."""

_COMPRESSED: Final = 1
_HEAD: Final = struct.Struct(">4sBBqqQ")
_DIGEST_BYTES: Final = 32


class Corrupt(ValueError):
    """Bytes that are no sound envelope; its text says why."""


def pack(definitions: Definitions, *, compress_above_bytes: int) -> bytes:
    """The definitions as an envelope; documents larger than that many bytes are compressed."""
    document = definitions.document
    is_compressed = len(document) > compress_above_bytes
    payload = zlib.compress(document, 1) if is_compressed else document
    flags = _COMPRESSED if is_compressed else 0
    head = _HEAD.pack(MAGIC, FORMAT, flags, definitions.project_id, definitions.version, len(document))
    return b"".join((head, payload, hashlib.sha256(head + payload).digest()))


def unpack(raw: bytes) -> Definitions:
    """The definitions in an envelope. Raises Corrupt."""
    if len(raw) < _HEAD.size + _DIGEST_BYTES:
        raise Corrupt("cut short")
    magic, number, flags, project_id, version, length = _HEAD.unpack_from(raw)
    if magic != MAGIC:
        raise Corrupt("not an envelope")
    if number != FORMAT:
        raise Corrupt(f"format {number} is not the one of this process, {FORMAT}")
    body, digest = raw[:-_DIGEST_BYTES], raw[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise Corrupt("the checksum does not match")
    if length > MAX_DOCUMENT_BYTES:
        raise Corrupt(f"a document of {length} bytes is too large")
    payload = body[_HEAD.size :]
    document = _inflated(payload, length) if flags & _COMPRESSED else payload
    if len(document) != length:
        raise Corrupt("the document has another length than announced")
    return Definitions(project_id, version, document)


def _inflated(payload: bytes, length: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(payload, length + 1)
    except zlib.error as error:
        raise Corrupt(f"cannot be decompressed: {error}") from None
