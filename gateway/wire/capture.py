"""Events as PostHog's SDKs send them: what goes on to an upstream, and what they say of persons and groups.

Nothing is kept or looked up here. Invariant: an event that cannot be read is passed over alone, and all else that an
event says, but for the few members named here, is skipped without being decoded.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from evaluator.definitions import UNDECODABLE
from evaluator.types import MAX_DISTINCT_ID_CHARACTERS
from gateway.editing_ports import Update
from gateway.errors import UndecodableBody
from gateway.wire.bodies import FORM, decode_body

ANSWER: Final = b'{"status":"Ok"}'
"""What no SDK minds: the one for browsers looks for `quota_limited` in it, the others look at the status alone."""
MARK: Final = b"x-flagstone-forwarded"
"""On what goes upstream. An event that has it is not sent on again, so that no two services can pass it round."""
MAX_EVENTS: Final = 1000
"""Events of one body that are looked at. SDKs send a hundred at most."""
NOBODY: Final = frozenset({
    "", "0", "anonymous", "distinct_id", "distinctid", "email", "false", "guest", "id", "nan", "none",
    "not_authenticated", "null", "[object object]", "true", "undefined", "00000000-0000-0000-0000-000000000000",
})  # fmt: skip
"""What code that went wrong sends for everybody alike, in small letters: nobody can be learned from it."""

_SENT_ON: Final = (b"content-type", b"content-encoding", b"user-agent")
_UNPRINTABLE: Final = re.compile(rb"[^\x21-\x7e]")
_FIELD: Final = re.compile(rb"[\x20-\x7e\x80-\xff\t]+")

Headers = Mapping[bytes, bytes]
Id = str | int | float | None
Values = dict[str, Raw] | None


class _Properties(
    Struct,
    rename={
        "anon_distinct_id": "$anon_distinct_id",
        "put": "$set",
        "once": "$set_once",
        "group_type": "$group_type",
        "group_key": "$group_key",
        "group_put": "$group_set",
        "has_profile": "$process_person_profile",
    },
):
    token: str | None = None
    distinct_id: Id = None
    anon_distinct_id: Id = None
    alias: Id = None
    put: Values = None
    once: Values = None
    group_type: str | None = None
    group_key: Id = None
    group_put: Values = None
    has_profile: Any = None


class _Event(
    Struct, rename={"dollar_token": "$token", "dollar_id": "$distinct_id", "put": "$set", "once": "$set_once"}
):
    event: str | None = None
    api_key: str | None = None
    token: str | None = None
    dollar_token: str | None = None
    distinct_id: Id = None
    dollar_id: Id = None
    properties: _Properties | None = None
    put: Values = None
    once: Values = None


class _Body(Struct):
    """An event, or several with the token they have in common."""

    api_key: str | None = None
    token: str | None = None
    batch: list[Raw] | None = None
    data: Raw = Raw()


_RAW: Final = msgspec.json.Decoder(Raw)
_BODY: Final = msgspec.json.Decoder(list[Raw] | _Body)
_EVENT: Final = msgspec.json.Decoder(_Event)


def upstream_target(path: str, query_string: bytes) -> bytes:
    """What follows the upstream's address in a request line, whatever the client wrote."""
    query = _UNPRINTABLE.sub(lambda found: b"%%%02X" % found[0][0], query_string)
    return path.encode() + (b"?" + query if query else b"")


def upstream_headers(headers: Headers, client: str, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers that go upstream: none that could hold a secret, and the client's address as found here."""
    sent_on = [(name, headers[name]) for name in _SENT_ON if _FIELD.fullmatch(headers.get(name, b""))]
    own = [(b"x-forwarded-for", client.encode()), (b"x-request-id", request_id.encode()), (MARK, b"1")]
    return [*sent_on, *own]


def read_updates(
    body: bytes, query_string: bytes, headers: Headers, *, compression: str | None, max_decoded_bytes: int
) -> list[Update]:
    """What the events of a request say of persons and groups. A request without a body has them in its query.

    Raises UndecodableBody or BodyTooLarge.
    """
    if not body:
        body, headers, compression = query_string, {b"content-type": FORM.encode()}, None
    if headers.get(b"content-type", b"").startswith(FORM.encode()):
        body = next((part for part in body.split(b"&") if part.startswith(b"data=")), body)
    raw = decode_body(body, _RAW, headers=headers, compression=compression, max_decoded_bytes=max_decoded_bytes)
    updates: list[Update] = []
    for event, token in islice(_events(raw, None), MAX_EVENTS):
        try:
            update = _update(_EVENT.decode(event), token)
        except UNDECODABLE:
            continue
        if update is not None:
            updates.append(update)
    return updates


def _events(raw: Raw, token: str | None) -> Iterator[tuple[Raw, str | None]]:
    """Each event, with the token that stands around it."""
    try:
        decoded = _BODY.decode(raw)
    except UNDECODABLE as error:
        raise UndecodableBody(str(error)) from None
    if isinstance(decoded, list):
        yield from ((event, token) for event in decoded)
        return
    token = decoded.api_key or decoded.token or token
    if decoded.batch is not None:
        yield from ((event, token) for event in decoded.batch)
    elif decoded.data:
        yield from _events(decoded.data, token)
    else:
        yield raw, token


def _update(event: _Event, token: str | None) -> Update | None:
    """What an event says, or None. Whoever is not identified stays unknown."""
    given = event.properties or _Properties()
    token = event.api_key or event.token or event.dollar_token or given.token or token
    name = event.event
    if not token or given.has_profile is False or name == "$merge_dangerously":
        return None
    if name == "$groupidentify":
        key = _text(given.group_key)
        if not (given.group_type and key):
            return None
        return Update(token=token, group_type=given.group_type, key=key, put=_encoded(given.group_put))
    distinct_id = _id(_first(event.distinct_id, event.dollar_id, given.distinct_id))
    joined = _id({"$identify": given.anon_distinct_id, "$create_alias": given.alias}.get(name or ""))
    put = _encoded(event.put) | _encoded(given.put)
    once = _encoded(event.once) | _encoded(given.once)
    if not distinct_id or not (put or once or joined or name == "$identify"):
        return None
    return Update(token=token, key=distinct_id, joined=joined if joined != distinct_id else "", put=put, once=once)


def _first(*ids: Id) -> Id:
    return next((it for it in ids if it is not None), None)


def _text(of: Id) -> str:
    """An id as /flags reads it; numbers as their decimal text."""
    text = of if isinstance(of, str) else "" if of is None else msgspec.json.encode(of).decode()
    return text[:MAX_DISTINCT_ID_CHARACTERS]


def _id(of: Id) -> str:
    """The id of a person; empty where it is none."""
    text = _text(of)
    return "" if text.lower() in NOBODY else text


def _encoded(values: Values) -> dict[str, bytes]:
    """The values as JSON text. Raises what says that one is none."""
    encoded = {name: bytes(value) for name, value in (values or {}).items()}
    for value in encoded.values():
        msgspec.json.decode(value)
    return encoded
