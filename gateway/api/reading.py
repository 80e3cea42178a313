"""Reads bodies as they come: whole ones within a size, and streams of lines in batches. Either may be gzip.

What a line means does not live here. Invariant: however much a sender sends, and however well it is compressed, no more
is held than a batch and a line.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Final

from starlette.types import Receive

from gateway.errors import BodyTooLarge, GatewayError, UndecodableBody, UnreadableBody

MAX_LINE_BYTES: Final = 1 << 20
BATCH_ROWS: Final = 1000
BATCH_BYTES: Final = 1 << 20
MAX_EXPANSION: Final = 100
"""How many times as long a body may become, beyond its first mebibyte: twice what exports of persons come to."""
_PIECE_BYTES: Final = 64 * 1024
_FREE_BYTES: Final = 1 << 20
_GZIP_WINDOW_BITS: Final = 31

Line = tuple[int, bytes | None]
"""A line and its number, which begins at 1. None: it was too long to be kept."""


async def read_whole(receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge, UndecodableBody and UnreadableBody."""
    return b"".join([piece async for piece in _pieces(receive, headers, max_bytes)])


async def read_batches(receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int) -> AsyncGenerator[list[Line]]:
    """The lines of the body that are not blank, in batches. Raises the same, after the lines that were complete."""
    lines, batch, size = Lines(), list[Line](), 0
    failure: GatewayError | None = None
    try:
        async with aclosing(_pieces(receive, headers, max_bytes)) as pieces:
            async for piece in pieces:
                for number, line in lines.feed(piece):
                    batch.append((number, line))
                    size += len(line or b"")
                    if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                        yield batch
                        batch, size = [], 0
        batch.extend(lines.end())
    except GatewayError as error:
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure


class Lines:
    """Cuts pieces into lines. Blank ones are counted and left out."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._is_too_long = False
        self.number = 0

    def feed(self, piece: bytes) -> Iterator[Line]:
        """The lines that end in this piece."""
        first, *others = piece.split(b"\n")
        self._keep(first)
        for other in others:
            yield from self.end()
            self._keep(other)

    def end(self) -> Iterator[Line]:
        """The line that has been kept until now."""
        self.number += 1
        line = b"".join(self._kept).strip()
        is_too_long = self._is_too_long
        self._kept.clear()
        self._kept_bytes, self._is_too_long = 0, False
        if is_too_long:
            yield self.number, None
        elif line:
            yield self.number, line

    def _keep(self, part: bytes) -> None:
        self._kept_bytes += len(part)
        if self._kept_bytes > MAX_LINE_BYTES:
            self._is_too_long = True
            self._kept.clear()
        elif part:
            self._kept.append(part)


async def _pieces(receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int) -> AsyncGenerator[bytes]:
    """The body piece by piece, inflated if need be."""
    coding = headers.get(b"content-encoding", b"").strip().lower()
    if coding not in (b"", b"identity", b"gzip"):
        raise UndecodableBody("the content encoding is neither gzip nor none")
    inflating = _Inflating() if coding == b"gzip" else None
    size, has_more = 0, True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise UnreadableBody
        has_more = message.get("more_body", False)
        body = message.get("body", b"")
        for piece in (body,) if inflating is None else inflating.feed(body):
            size += len(piece)
            if size > max_bytes:
                raise BodyTooLarge(max_bytes)
            yield piece
            if inflating is not None:
                await asyncio.sleep(0)  # A small piece may become very much.
    if inflating is not None:
        inflating.end()


class _Inflating:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
        self._received = 0
        self._made = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes of this piece, in pieces of bounded size."""
        self._received += len(data)
        while data:
            if self._stream.eof:
                raise UndecodableBody("data after the end of the gzip stream")
            try:
                piece = self._stream.decompress(data, _PIECE_BYTES)
            except zlib.error:
                raise UndecodableBody("invalid gzip") from None
            data = self._stream.unconsumed_tail or self._stream.unused_data
            self._made += len(piece)
            if self._made > _FREE_BYTES + MAX_EXPANSION * self._received:
                raise UndecodableBody(f"gzip that becomes more than {MAX_EXPANSION} times as long")
            yield piece

    def end(self) -> None:
        if not self._stream.eof:
            raise UndecodableBody("truncated gzip")
