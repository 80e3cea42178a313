"""Bodies as they come: cut into lines, put into batches, inflated, and never held as a whole."""

import gzip
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api import reading
from gateway.api.reading import BATCH_ROWS, MAX_LINE_BYTES, Line, Lines, read_batches, read_whole
from gateway.errors import BodyTooLarge, GatewayError, UndecodableBody, UnreadableBody
from gateway.refusing import Message
from tests.gateway.serving import part, receiving

GONE = {"type": "http.disconnect"}
GZIP = {b"content-encoding": b"gzip"}


async def batches(
    *pieces: bytes, headers: dict[bytes, bytes] | None = None, max_bytes: int = 1 << 30
) -> list[list[Line]]:
    """What a body of these pieces is cut into."""
    receive = receiving(*(part(piece, more=True) for piece in pieces), part(b""))
    return [batch async for batch in read_batches(receive, headers or {}, max_bytes)]


async def until_refused(*messages: Message) -> tuple[list[Line], GatewayError | None]:
    """The lines that come of these messages, and how it ended."""
    found: list[Line] = []
    try:
        async for batch in read_batches(receiving(*messages), {}, 100):
            found += batch
    except GatewayError as error:
        return found, error
    return found, None


@given(st.lists(st.binary(max_size=12)), st.integers(1, 9))
def test_lines__however_the_pieces_are_cut__are_the_same(texts: list[bytes], size: int) -> None:
    """Where a network cuts a stream has no meaning."""
    body = b"\n".join(texts)
    expected = [(number, line) for number, text in enumerate(body.split(b"\n"), 1) if (line := text.strip())]
    lines, found = Lines(), []
    for start in range(0, len(body), size):
        found += lines.feed(body[start : start + size])
    found += lines.end()
    assert found == expected


async def test_batches__many_lines__are_of_bounded_length() -> None:
    """A thousand rows are stored at once, and not a million."""
    found = await batches(b"1\n" * (2 * BATCH_ROWS + 5))
    assert [len(batch) for batch in found] == [BATCH_ROWS, BATCH_ROWS, 5]
    assert found[1][0] == (BATCH_ROWS + 1, b"1")


async def test_batches__long_lines__are_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long lines are, a batch has not many more bytes than it may."""
    monkeypatch.setattr(reading, "BATCH_BYTES", 10)
    assert [len(batch) for batch in await batches(b"12345\n" * 5)] == [2, 2, 1]


async def test_batches__line_that_is_too_long__is_told_and_not_kept() -> None:
    """One endless line costs no memory, and those after it count."""
    lines = Lines()
    for _ in range(40):
        assert list(lines.feed(b"x" * (MAX_LINE_BYTES // 16))) == []
    assert sum(map(len, lines._kept)) <= MAX_LINE_BYTES
    assert list(lines.feed(b"\nafter\n")) == [(1, None), (2, b"after")]


async def test_batches__body_that_ends_early__are_the_complete_lines() -> None:
    """Half a line never becomes a row, and what came before it is not lost."""
    found, error = await until_refused(part(b"one\ntw", more=True), GONE)
    assert found == [(1, b"one")]
    assert isinstance(error, UnreadableBody)


async def test_batches__body_that_is_too_large__are_what_came_before() -> None:
    """The bound on a stream is told once what it lets through is stored."""
    found, error = await until_refused(part(b"one\n", more=True), part(b"x" * 97))
    assert found == [(1, b"one")]
    assert isinstance(error, BodyTooLarge)


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_gzip__in_pieces__is_inflated_as_it_comes(size: int) -> None:
    """A compressed stream is read like any other."""
    body = gzip.compress(b"one\ntwo\n")
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert await batches(*pieces, headers=GZIP) == [[(1, b"one"), (2, b"two")]]


BOMB = gzip.compress(b" " * (64 << 20), compresslevel=9)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (gzip.compress(b"one\n", mtime=0)[:-3], "truncated gzip"),
        (gzip.compress(b"one\n", mtime=0) + b"more", "data after the end"),
        (b"no gzip at all", "invalid gzip"),
        (BOMB, "times as long"),
    ],
)
async def test_gzip__that_is_none__is_refused(body: bytes, why: str) -> None:
    """What claims to be gzip and is not, or grows beyond all reason, is refused as such."""
    with pytest.raises(UndecodableBody, match=why):
        await batches(body, headers=GZIP)


async def test_gzip__larger_than_allowed_once_inflated__is_refused() -> None:
    """The bound holds for what comes out."""
    with pytest.raises(BodyTooLarge):
        await batches(gzip.compress(b"0123456789\n" * 10), headers=GZIP, max_bytes=100)


async def test_encoding__unknown__is_refused() -> None:
    """What cannot be read is not taken for lines."""
    with pytest.raises(UndecodableBody, match="content encoding"):
        await batches(b"one\n", headers={b"content-encoding": b"br"})


@pytest.mark.parametrize("pieces", [[b'{"a": 1}'], [b'{"a"', b": 1}"], [b""]])
async def test_whole_body__in_pieces__is_put_together(pieces: Sequence[bytes]) -> None:
    """JSON is read once all of it is there."""
    receive = receiving(*(part(piece, more=True) for piece in pieces), part(b""))
    assert await read_whole(receive, {}, 100) == b"".join(pieces)


async def test_whole_body__too_large__is_refused() -> None:
    """One byte too many is refused, compressed or not."""
    with pytest.raises(BodyTooLarge):
        await read_whole(receiving(part(b"x" * 11)), {}, 10)
    with pytest.raises(BodyTooLarge):
        await read_whole(receiving(part(zlib.compress(b"x" * 11, wbits=31))), GZIP, 10)
