"""Bytes of a request body -> a typed value, in every encoding that PostHog's clients send.

Nothing here knows a field of any request. Invariant: whatever the bytes, the outcome is a value or a GatewayError,
never more than `max_decoded_bytes` were inflated on the way, and no text in the value holds a lone surrogate.
"""

import binascii
import json
import math
import re
import zlib
from collections.abc import Mapping
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.errors import BodyTooLarge, UndecodableBody

T = TypeVar("T")

FORM: Final = "application/x-www-form-urlencoded"
JSON_OR_TEXT: Final = ("application/json", "text/plain")
GZIP_MAGIC: Final = b"\x1f\x8b"
GZIP_NAMES: Final = ("gzip", "gzip-js")
_GZIP_WINDOW_BITS: Final = 31
MAX_DEPTH: Final = 64
"""How deep JSON may nest: deeper than any property, and far less than what makes a decoder or encoder give up."""
# One without an end lasts to the end of the text. Otherwise the search would begin anew at each quote in it.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")


def decode_body(
    body: bytes,
    decoder: msgspec.json.Decoder[T],
    *,
    headers: Mapping[bytes, bytes],
    compression: str | None,
    max_decoded_bytes: int,
) -> T:
    """The value in `body`. `compression` is the query parameter of that name; header names are lower case.

    Raises UndecodableBody, naming the path where a value has the wrong type, and BodyTooLarge.
    """
    if compression not in (None, "base64", *GZIP_NAMES):
        raise UndecodableBody("Unsupported compression type")
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    is_gzip = (
        compression in GZIP_NAMES
        or b"gzip" in headers.get(b"content-encoding", b"").lower()
        or body.startswith(GZIP_MAGIC)
    )
    if media_type == FORM:
        if is_gzip:
            raise UndecodableBody("gzip is not supported in a form")
        return _decode_json(_decode_form(body), decoder)
    if media_type and media_type not in JSON_OR_TEXT:
        raise UndecodableBody("unsupported content type")
    if is_gzip:
        body = _gunzip(body, max_decoded_bytes)
    try:
        return _decode_json(body, decoder)
    except _NotJson as error:
        try:
            return _decode_json(_decode_base64(unquote_to_bytes(body)), decoder)
        except _NotJson:
            raise error from None


class _NotJson(UndecodableBody):
    """Not JSON at all, as opposed to JSON of another shape: the bytes may still be something else."""


def _gunzip(data: bytes, limit_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        plain = stream.decompress(data, limit_bytes + 1)
    except zlib.error:
        raise UndecodableBody("invalid gzip") from None
    if len(plain) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    if not stream.eof:
        raise UndecodableBody("truncated gzip")
    if stream.unused_data:
        raise UndecodableBody("data after the end of the gzip stream")
    return plain


def _decode_form(body: bytes) -> bytes:
    # A form reads "+" as a space, so a space here was once a "+" of base64.
    return _decode_base64(unquote_to_bytes(body).removeprefix(b"data=").replace(b" ", b"+"))


def _decode_base64(text: bytes) -> bytes:
    # Characters outside the alphabet are skipped, and padding beyond what is needed is ignored.
    try:
        return binascii.a2b_base64(text + b"==")
    except binascii.Error:
        raise _NotJson("invalid JSON") from None


def _decode_json(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    if is_too_deep(data):
        raise UndecodableBody(f"JSON nested deeper than {MAX_DEPTH} levels")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return decoder.decode(_tidy(data))
    except msgspec.ValidationError as error:
        raise UndecodableBody(str(error)) from None
    except ValueError:
        raise _NotJson("invalid JSON") from None


def is_too_deep(data: bytes) -> bool:
    """Whether brackets nest beyond MAX_DEPTH; most bodies have too few of them to need a closer look."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", data).translate(_ONE_KIND, _NO_BRACKETS)
    # Each time around, the innermost pairs go: a loop over every bracket would hold up everybody for a large body.
    for _ in range(MAX_DEPTH):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets or brackets.count(b"[") > MAX_DEPTH


def _tidy(data: bytes) -> bytes:
    """The same JSON made strict: numbers that are not finite as null, and what is not Unicode as U+FFFD."""
    value = json.loads(data.decode("utf-8", "replace"), parse_constant=lambda _: None, parse_float=_finite)
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
