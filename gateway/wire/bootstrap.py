"""Outcomes -> what `posthog.init({bootstrap: ...})` takes, as JSON or as a script for a page.

Who a page is for, and what was asked, is read in bootstrap_query.py. Invariant: nothing that a flag, a payload or an id
may contain can end the script element it stands in.
"""

import re
from typing import Final

import msgspec
from msgspec import UNSET

from evaluator.definitions import UNDECODABLE
from evaluator.types import FlagResult
from gateway.wire.bodies import is_too_deep

VARIABLE: Final = "window.__FLAGSTONE_BOOTSTRAP__"
_UNSAFE: Final = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]")
_ESCAPES: Final = {
    b"<": rb"\u003c", b">": rb"\u003e", b"&": rb"\u0026", b"\xe2\x80\xa8": rb"\u2028", b"\xe2\x80\xa9": rb"\u2029",
}  # fmt: skip


def payload_member(result: FlagResult) -> bytes | None:
    """The member of `featureFlagPayloads` for this result; None when it has none."""
    if result.failed or not result.enabled or result.payload is None:
        return None
    return msgspec.json.encode({result.key: _payload(result.payload)})[1:-1]


def _payload(text: str) -> object:
    """The value of a payload; its text where that is no JSON.

    posthog-js parses whatever text it is given. A text that is JSON once more would become another value by that, and
    not the one that the same flag has in /flags, so it goes as it is stored.
    """
    value = _parsed(text)
    if value is UNSET or (isinstance(value, str) and _parsed(value) is not UNSET):
        return text
    return value


def _parsed(text: str) -> object:
    """The value of JSON text; UNSET where it has none."""
    data = text.encode()
    try:
        return UNSET if is_too_deep(data) else msgspec.json.decode(data)
    except UNDECODABLE:
        return UNSET


def script_of(answer: bytes, nonce: str | None) -> bytes:
    """A script element that assigns this JSON to VARIABLE, for a page that is UTF-8.

    The JSON stands in it as a string: as a literal object, a key `__proto__` would mean something else.
    """
    literal = _UNSAFE.sub(lambda found: _ESCAPES[found[0]], msgspec.json.encode(answer.decode()))
    opening = b"<script>" if nonce is None else b'<script nonce="%s">' % nonce.encode()
    return b"%s%s=JSON.parse(%s)</script>" % (opening, VARIABLE.encode(), literal)
