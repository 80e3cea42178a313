"""Every encoding of a request body, and what becomes of bytes that are none of them."""

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BodyTooLarge, GatewayError, UndecodableBody
from gateway.wire.bodies import FORM, MAX_DEPTH, decode_body, is_too_deep


class Shape(msgspec.Struct):
    token: str | None = None
    count: int | float | None = None
    properties: dict[str, Any] | None = None


DECODER = msgspec.json.Decoder(Shape)
PLAIN = '{"token":"phc_ü","properties":{"a":[1,">>>???"]}}'.encode()
VALUE = Shape(token="phc_ü", properties={"a": [1, ">>>???"]})
LIMIT = 10_000


def decode(
    body: bytes, content_type: str | None = "application/json", compression: str | None = None, **headers: str
) -> Shape:
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    if content_type is not None:
        given[b"content-type"] = content_type.encode()
    return decode_body(body, DECODER, headers=given, compression=compression, max_decoded_bytes=LIMIT)


def why(body: bytes, **how: Any) -> str:
    with pytest.raises(UndecodableBody) as caught:
        decode(body, **how)
    detail = caught.value.detail
    return detail.removeprefix("Failed to decode request: ").removesuffix(
        ". Please check your request format and try again."
    )


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "text/plain", "Application/JSON; charset=utf-8", "text/plain;charset=UTF-8", "", None],
)
def test_decode_body__plain_json__is_decoded(content_type: str | None) -> None:
    """JSON is taken as JSON and as text, with or without parameters, and when nothing is declared."""
    assert decode(PLAIN, content_type) == VALUE


@pytest.mark.parametrize("content_type", ["application/xml", "multipart/form-data", "application/jsonx"])
def test_decode_body__other_content_type__is_refused(content_type: str) -> None:
    """A content type that no client sends is refused by name of the problem."""
    assert why(PLAIN, content_type=content_type) == "unsupported content type"


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "gzip"},
        {"compression": "gzip-js"},
        {"content_encoding": "gzip"},
        {"content_encoding": "GZIP, identity"},
        {"content_type": "text/plain"},
    ],
    ids=["parameter", "js-parameter", "header", "header-list", "magic-bytes"],
)
def test_decode_body__gzip__is_inflated(how: dict[str, Any]) -> None:
    """Gzip is recognised by parameter, by header, and by its first bytes alone."""
    assert decode(gzip.compress(PLAIN, mtime=0), **how) == VALUE


def test_decode_body__unknown_compression__is_refused() -> None:
    """A compression that is not known is refused before the body is looked at."""
    assert why(PLAIN, compression="lz64") == "Unsupported compression type"


def test_decode_body__gzip_at_the_cap__is_inflated() -> None:
    """A body that inflates to exactly the cap is still taken."""
    assert decode(gzip.compress(b'{"token":"%s"}' % (b"x" * (LIMIT - 12)))).token == "x" * (LIMIT - 12)


def test_decode_body__gzip_over_the_cap__is_too_large() -> None:
    """A body that inflates to one byte more than the cap is too large, whatever it holds."""
    with pytest.raises(BodyTooLarge):
        decode(gzip.compress(b" " * (LIMIT + 1)))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (PLAIN, "invalid gzip"),
        (gzip.compress(PLAIN, mtime=0)[:-1], "truncated gzip"),
        (gzip.compress(PLAIN, mtime=0) + b"{}", "data after the end of the gzip stream"),
        (gzip.compress(PLAIN, mtime=0) + gzip.compress(PLAIN, mtime=0), "data after the end of the gzip stream"),
        (zlib.compress(PLAIN), "invalid gzip"),
        (b"", "truncated gzip"),
    ],
    ids=["plain", "cut", "trailing", "two-members", "zlib", "empty"],
)
def test_decode_body__not_one_whole_gzip_stream__is_refused(body: bytes, told: str) -> None:
    """What is declared as gzip must be one complete stream and nothing more."""
    assert why(body, compression="gzip") == told


ENCODED = base64.b64encode(PLAIN).decode()


def test_encoded_sample__holds_the_characters_that_get_mangled() -> None:
    """The sample of the tests below has a plus, a slash or padding for them to be about."""
    assert set("+/=") & set(ENCODED)


@pytest.mark.parametrize(
    "body",
    [
        f"data={quote_plus(ENCODED)}",
        f"data={ENCODED}",
        f"data={ENCODED.replace('+', ' ')}",
        quote_plus(ENCODED),
        ENCODED.rstrip("="),
    ],
    ids=["escaped", "bare", "plus-read-as-space", "without-name", "without-padding"],
)
def test_decode_body__base64_form__is_decoded(body: str) -> None:
    """The form that posthog-js sends is decoded, also where something on the way touched its escaping."""
    assert decode(body.encode(), FORM, "base64") == VALUE


@pytest.mark.parametrize(
    "body",
    [ENCODED, ENCODED.rstrip("="), quote(ENCODED, safe=""), " ".join([ENCODED[:9], ENCODED[9:]])],
    ids=["padded", "unpadded", "escaped", "spaced"],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_decode_body__base64_text__is_the_fallback(body: str, content_type: str) -> None:
    """Text that is no JSON is tried as base64 of JSON."""
    assert decode(body.encode(), content_type) == VALUE


@pytest.mark.parametrize("how", [{"compression": "gzip"}, {"content_encoding": "gzip"}, {}])
def test_decode_body__gzip_in_a_form__is_refused(how: dict[str, Any]) -> None:
    """A form is never gzip, however that is declared."""
    assert why(gzip.compress(PLAIN, mtime=0), content_type=FORM, **how) == "gzip is not supported in a form"


@pytest.mark.parametrize("body", [b"", b"data=", b"data=x", b"{}", b"data=bm90IGpzb24="])
def test_decode_body__form_without_base64_json__is_refused(body: bytes) -> None:
    """A form that does not hold base64 of JSON is refused, plain JSON included."""
    assert why(body, content_type=FORM) == "invalid JSON"


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
def test_decode_body__number_that_is_not_finite__is_null(literal: bytes) -> None:
    """Numbers that JSON cannot say, which some encoders write all the same, are null."""
    assert decode(b'{"count":%s,"properties":{"a":[%s]}}' % (literal, literal)) == Shape(properties={"a": [None]})


def test_decode_body__bad_utf8__is_replaced() -> None:
    """Bytes that are not UTF-8 become replacement characters instead of an error."""
    assert decode(b'{"token":"a\xff"}').token == "a\ufffd"


@pytest.mark.parametrize("escape", [b"\\ud800", b"\\udfff", b"\\udc00\\ud800"])
def test_decode_body__lone_surrogate__is_replaced(escape: bytes) -> None:
    """An escape that stands for no character does not survive into any text, be it a key or a value."""
    decoded = decode(b'{"token":"%s","properties":{"%s":["%s"]}}' % (escape, escape, escape))
    text = "\ufffd" * (len(escape) // 6)
    assert decoded == Shape(token=text, properties={text: [text]})


def test_decode_body__surrogate_pair__is_its_character() -> None:
    """Two escapes that together stand for a character are that character, also in JSON that needed tidying."""
    assert decode(b'{"token":"\\ud83d\\ude00","count":NaN}').token == "\U0001f600"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"token":5}', "Expected `str | null`, got `int` - at `$.token`"),
        (b'{"properties":[]}', "Expected `object | null`, got `array` - at `$.properties`"),
        (b'{"token":5,"count":NaN}', "Expected `str | null`, got `int` - at `$.token`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
    ],
)
def test_decode_body__wrong_type__names_the_path(body: bytes, told: str) -> None:
    """JSON of the wrong shape is refused with the path of what is wrong."""
    assert why(body) == told


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"not json", b'{"a":1}x', b"{'a':1}", b'{"a":1,}', b"\x00", b'{"count":%s}' % (b"1" * 5000)],
)
def test_decode_body__not_json__is_refused(body: bytes) -> None:
    """What is no JSON in any encoding is refused; looser dialects of JSON are not taken."""
    assert why(body) == "invalid JSON"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"properties":{"a":' + b"["])
@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_decode_body__depth_bomb__is_refused(opening: bytes, depth: int) -> None:
    """JSON nested beyond reason is refused like any other that cannot be read."""
    assert why(opening * depth) == "JSON nested deeper than 64 levels"


@pytest.mark.parametrize("closed", [True, False])
def test_decode_body__deep_but_whole_json__ends_in_a_gateway_error(closed: bool) -> None:
    """Deep nesting that is well-formed is refused too, before anything has to walk it."""
    body = b'{"properties":{"a":' + b"[" * 63 + (b"]" * 63 + b"}}" if closed else b"")
    assert why(body) == "JSON nested deeper than 64 levels"


@pytest.mark.parametrize(
    "text", [b'"' + b'\\"' * 400_000, b'"' * 900_001, b'"' + b"\\" * 800_001, b'"a' * 400_001, b"]" * 900_000]
)
def test_is_too_deep__text_that_never_ends__takes_no_longer_than_its_length(text: bytes) -> None:
    """A search that began anew at each quote would hold up everybody for minutes because of a few kilobytes."""
    assert not is_too_deep(b"{}" * 65 + text)
    assert is_too_deep(b"[" * 65 + text)


def test_is_too_deep__brackets_in_texts__are_none() -> None:
    """Whatever is quoted, with quotes and backslashes of its own, nests nothing."""
    for quoted in ("[" * 99, "]" * 99 + "{", '"[', '\\"[' * 40, "\\" * 3 + "["):
        value: object = quoted
        for _ in range(MAX_DEPTH - 1):
            value = {quoted: value}
        assert not is_too_deep(json.dumps([value, quoted, []]).encode())
        assert is_too_deep(json.dumps([[value, quoted, []]]).encode())


def test_decode_body__many_brackets_side_by_side__are_not_deep() -> None:
    """Only nesting counts, and brackets inside text do not nest."""
    properties = {f"p{number}": ["[[[[", {"a": '"{{'}] for number in range(100)}
    assert decode(msgspec.json.encode({"properties": properties})).properties == properties


ENCODINGS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, base64.b64encode, lambda body: b"data=" + body]
JSONISH = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


@given(
    body=st.binary(max_size=200)
    | JSONISH.map(msgspec.json.encode)
    | st.text('{}[]":,\\ud8NaN01eE.-', max_size=40).map(str.encode),
    encode=st.sampled_from(ENCODINGS),
    content_type=st.sampled_from(["application/json", "text/plain", FORM, "image/png"]),
    compression=st.sampled_from([None, "gzip", "base64"]),
)
def test_decode_body__any_bytes__are_a_value_or_a_gateway_error(
    body: bytes, encode: Callable[[bytes], bytes], content_type: str, compression: str | None
) -> None:
    """No bytes make it raise anything but a GatewayError, and no text it returns holds a lone surrogate."""
    try:
        value = decode(encode(body), content_type, compression)
    except GatewayError:
        return
    msgspec.json.encode(value)
