"""Definitions as bytes that outlive the process: versioned, checksummed, compressed where that pays.

Where the bytes are kept is not known here. Invariant: what was cut short, changed, or written by a newer format is
Corrupt, and never becomes definitions.

Layout, big-endian: magic (4), format (1), flags (1), project id (8), version (8), length of the document (8), payload,
and the SHA-256 of everything before it (32).
"""

import hashlib
import struct
import zlib
from typing import Any, Final

from gateway.ports import ETAG_CHARACTERS, Definitions

MAGIC: Final = b"FLSN"
FORMAT: Final = 1
MAX_DOCUMENT_BYTES: Final = 64 << 20
"""A larger document is taken for a broken one, so that a small entry cannot inflate to fill the memory."""

_COMPRESSED: Final = 1
_HEAD: Final = struct.Struct(">4sBBqqQ")
_DIGEST_BYTES: Final = 32
_INFLATE_BYTES: Final = 1 << 20


class Corrupt(ValueError):
    """Bytes that are no sound envelope; its text says why."""


class Packing:
    """Makes an envelope bit by bit, of a document whose length is known."""

    def __init__(self, project_id: int, version: int, length: int, *, compress_above_bytes: int) -> None:
        self._digest = hashlib.sha256()
        self._compressing = zlib.compressobj(1) if length > compress_above_bytes else None
        flags = _COMPRESSED if self._compressing else 0
        self._head = _HEAD.pack(MAGIC, FORMAT, flags, project_id, version, length)

    def add(self, part: bytes) -> bytes:
        """What the envelope grows by; for the first part that is the head as well, and maybe nothing for others."""
        grown = self._head + (self._compressing.compress(part) if self._compressing else part)
        self._head = b""
        self._digest.update(grown)
        return grown

    def end(self) -> bytes:
        """What the envelope ends with."""
        rest = self._head + (self._compressing.flush() if self._compressing else b"")
        self._digest.update(rest)
        return rest + self._digest.digest()


def pack(definitions: Definitions, *, compress_above_bytes: int) -> bytes:
    """The definitions as an envelope; documents larger than that many bytes are compressed."""
    document = definitions.document
    packing = Packing(
        definitions.project_id, definitions.version, len(document), compress_above_bytes=compress_above_bytes
    )
    return packing.add(document) + packing.end()


class Checking:
    """Checks an envelope bit by bit: it is as long as its document announced, and its document is the one expected."""

    def __init__(self, project_id: int, version: int, length: int, etag: str) -> None:
        self._expected = (project_id, version, length)
        self._etag = etag
        self._head = b""
        self._unread = b""
        self._whole = hashlib.sha256()
        self._document = hashlib.sha256()
        self._inflating: Any = None
        self._length = 0

    def add(self, part: bytes) -> None:
        """Raises Corrupt as soon as something is wrong."""
        self._unread += part
        if not self._head:
            if len(self._unread) < _HEAD.size:
                return
            self._begin()
        body, self._unread = self._unread[:-_DIGEST_BYTES], self._unread[-_DIGEST_BYTES:]
        self._whole.update(body)
        self._take(body)

    def end(self) -> None:
        """There is no more. Raises Corrupt."""
        if not self._head or self._unread != self._whole.digest():
            raise Corrupt("the checksum does not match")
        if self._length != self._expected[2] or self._document.hexdigest()[:ETAG_CHARACTERS] != self._etag:
            raise Corrupt("it holds another document")

    def _begin(self) -> None:
        self._head, self._unread = self._unread[: _HEAD.size], self._unread[_HEAD.size :]
        magic, number, flags, *described = _HEAD.unpack(self._head)
        if (magic, number, *described) != (MAGIC, FORMAT, *self._expected):
            raise Corrupt("it holds another version")
        self._whole.update(self._head)
        self._inflating = zlib.decompressobj() if flags & _COMPRESSED else None

    def _take(self, body: bytes) -> None:
        while body:
            piece, body = (body, b"") if self._inflating is None else self._inflated(body)
            self._document.update(piece)
            self._length += len(piece)
            if self._length > self._expected[2]:
                raise Corrupt("the document is longer than announced")

    def _inflated(self, body: bytes) -> tuple[bytes, bytes]:
        try:
            inflated = self._inflating.decompress(body, _INFLATE_BYTES)
        except zlib.error as error:
            raise Corrupt(f"cannot be decompressed: {error}") from None
        if self._inflating.unused_data:  # Which would be kept in memory, however much of it came.
            raise Corrupt("there is more than the document")
        return inflated, self._inflating.unconsumed_tail


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
