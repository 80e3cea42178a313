"""What may be wrong with an answer: each check gives a sentence about it, or None when all is well.

Invariant: no check raises, whatever the answer.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx

Check = Callable[[httpx.Response], str | None]

REASONS: Final = frozenset(
    ("STATIC", "DEFAULT", "TARGETING_MATCH", "SPLIT", "CACHED", "DISABLED", "UNKNOWN", "STALE", "ERROR")
)
ERROR_CODES: Final = frozenset(
    ("PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL", "FLAG_NOT_FOUND", "TYPE_MISMATCH")
)
_JSON: Final = re.compile(r"application/([^+;]+\+)?json\s*(;|$)", re.IGNORECASE)


def told(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer; an empty one where there is none."""
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def items(answer: httpx.Response) -> list[dict[str, Any]]:
    """The items of a bulk answer that are objects."""
    flags = told(answer).get("flags")
    return [item for item in flags if isinstance(item, dict)] if isinstance(flags, list) else []


def item(answer: httpx.Response, key: str) -> dict[str, Any]:
    """The item of a flag; an empty one where there is none."""
    return next((it for it in items(answer) if it.get("key") == key), {})


def status(*wanted: int) -> Check:
    def check(answer: httpx.Response) -> str | None:
        return None if answer.status_code in wanted else f"status {answer.status_code}, not {_either(wanted)}"

    return check


def is_json(answer: httpx.Response) -> str | None:
    given = answer.headers.get("content-type", "")
    return None if _JSON.match(given) and told(answer) else f"no JSON object, as {given!r}"


def member(name: str, *wanted: object) -> Check:
    """That the answer has this member, with one of these values if any are given."""

    def check(answer: httpx.Response) -> str | None:
        found = told(answer)
        if name not in found:
            return f"no member {name!r}"
        return f"{name} is {found[name]!r}, not {_either(wanted)}" if wanted and found[name] not in wanted else None

    return check


def no_member(name: str) -> Check:
    return lambda answer: f"{name} is {told(answer)[name]!r}" if name in told(answer) else None


def value_is(kind: type) -> Check:
    def check(answer: httpx.Response) -> str | None:
        value = told(answer).get("value")
        return None if type(value) is kind else f"value is {value!r}, not of type {kind.__name__}"

    return check


def known_reason(answer: httpx.Response) -> str | None:
    reasons = [it.get("reason") for it in items(answer) or [told(answer)] if "errorCode" not in it]
    return next((f"reason is {reason!r}" for reason in reasons if reason not in REASONS), None)


def has_variants(answer: httpx.Response) -> str | None:
    found = [it for it in items(answer) or [told(answer)] if "errorCode" not in it]
    return next((f"{it.get('key')!r} has no member 'variant'" for it in found if "variant" not in it), None)


def plain_metadata(answer: httpx.Response) -> str | None:
    for name, value in _metadata(answer):
        if not isinstance(value, bool | str | int | float):
            return f"metadata {name!r} is {value!r}"
    return None


def _metadata(answer: httpx.Response) -> Iterator[tuple[str, object]]:
    for it in (told(answer), *items(answer)):
        metadata = it.get("metadata", {})
        yield from metadata.items() if isinstance(metadata, dict) else [("", metadata)]


def error(*codes: str) -> Check:
    """That the answer has one of these codes, and details, which is more than the specification asks for."""

    def check(answer: httpx.Response) -> str | None:
        return _error(told(answer), codes)

    return check


def _error(found: dict[str, Any], codes: tuple[str, ...]) -> str | None:
    if found.get("errorCode") not in codes:
        return f"errorCode is {found.get('errorCode')!r}, not {_either(codes)}"
    details = found.get("errorDetails")
    return None if isinstance(details, str) and details else f"errorDetails is {details!r}"


def whole_items(answer: httpx.Response) -> str | None:
    """That each item is a success or a failure, as a whole, and no flag comes twice."""
    flags = told(answer).get("flags")
    if not isinstance(flags, list) or not flags:
        return "no flags"
    if len({it.get("key") for it in items(answer)}) < len(flags):
        return "an item without a key, or a key twice"
    for it in items(answer):
        wrong = _error(it, tuple(ERROR_CODES)) if "errorCode" in it else None if "reason" in it else "no reason"
        if wrong:
            return f"{it['key']!r}: {wrong}"
    return None


def empty(answer: httpx.Response) -> str | None:
    return f"a body of {len(answer.content)} bytes" if answer.content else None


def whole_seconds(answer: httpx.Response) -> str | None:
    given = answer.headers.get("retry-after")
    return None if given and given.isascii() and given.isdigit() and int(given) >= 1 else f"Retry-After is {given!r}"


def header(name: str, pattern: str) -> Check:
    def check(answer: httpx.Response) -> str | None:
        given = answer.headers.get(name)
        return None if given is not None and re.search(pattern, given, re.IGNORECASE) else f"{name} is {given!r}"

    return check


def streams_are_whole(answer: httpx.Response) -> str | None:
    """That each stream can be opened by what is said of it."""
    for stream in told(answer).get("eventStreams", ()):
        if not isinstance(stream.get("type"), str):
            return f"a stream without a type: {stream!r}"
        if ("url" in stream) == ("endpoint" in stream):
            return f"a stream with neither or both of url and endpoint: {stream!r}"
        if "endpoint" in stream and not isinstance(stream["endpoint"].get("requestUri"), str):
            return f"an endpoint without a requestUri: {stream!r}"
        delay = stream.get("inactivityDelaySec", 120)
        if type(delay) is not int or delay < 1:
            return f"inactivityDelaySec is {delay!r}"
    return None


def _either(wanted: tuple[object, ...]) -> str:
    return " or ".join(map(str, wanted))
