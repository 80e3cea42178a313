"""A request to /bootstrap -> BootstrapQuery: for whom a page is rendered, with which flags, in which form.

Its body has the members of /flags, read in query.py. Invariant: a visitor is described here as the browser will
describe itself once posthog-js was started with the answer, so that the page and the browser find the same flags.
"""

import os
import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Meta, Struct, field

from evaluator.definitions import UNDECODABLE
from evaluator.types import Context, Problem
from gateway.errors import Invalid, UndecodableBody
from gateway.wire.bodies import MAX_DEPTH, decode_body, is_too_deep
from gateway.wire.query import Body, Headers, context_of

Format = Literal["json", "script"]


class Visitor(Struct, frozen=True):
    """Whom a page is for. `is_new` says that nobody had heard of them before this request."""

    context: Context
    is_identified: bool
    is_new: bool = False


class BootstrapQuery(Struct, frozen=True, kw_only=True):
    """`is_batch` asks for one answer with something for each visitor; `with_facts` lets stored facts be loaded."""

    token: str | None
    visitors: Sequence[Visitor]
    is_batch: bool = False
    with_facts: bool = False
    format: Format = "json"
    nonce: str | None = None


class _Request(Body):
    is_identified: bool | None = None
    distinct_ids: list[str | int | float] | None = None
    cookie: str | None = None
    facts: Literal["allow", "deny"] | None = None
    format: Format | None = None
    nonce: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/_=-]{1,256}\Z")] | None = None


class _Identity(Struct):
    """What posthog-js keeps in its cookie, as far as it says who somebody is."""

    distinct_id: str | None = None
    device_id: str | None = field(default=None, name="$device_id")
    user_state: str | None = field(default=None, name="$user_state")

    @property
    def is_identified(self) -> bool:
        if self.user_state is not None:
            return self.user_state == "identified"
        return self.device_id not in (None, self.distinct_id)  # Older versions kept no state.


_BODY: Final = msgspec.json.Decoder(_Request)
_IDENTITY: Final = msgspec.json.Decoder(_Identity)
_NOBODY: Final = _Identity()
_LISTS: Final = ("flag_keys", "evaluation_contexts")
_OBJECTS: Final = ("groups", "person_properties", "group_properties")
_TEXTS: Final = (
    "token", "distinct_id", "anon_distinct_id", "device_id", "evaluation_runtime", "facts", "format", "nonce",
)  # fmt: skip
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_AT: Final = re.compile(r"^(?P<message>.*) - at `\$\.?(?P<path>.*?)`", re.DOTALL)


def read_parameters(query_string: bytes, headers: Headers, now: datetime) -> BootstrapQuery:
    """The query of a GET, whose cookie may say who asks. Raises Invalid, which names the parameter."""
    given = dict(parse_qsl(query_string.decode("latin-1")))
    members: dict[str, Any] = {name: given[name] for name in _TEXTS if name in given}
    members |= {name: [item for item in given[name].split(",") if item] for name in _LISTS if name in given}
    members |= {name: _json(name, given[name]) for name in _OBJECTS if name in given}
    if "is_identified" in given:
        members["is_identified"] = _BOOLEANS.get(given["is_identified"].lower(), given["is_identified"])
    try:
        request = msgspec.convert(members, _Request)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    return _query_of(request, headers, now, max_ids=0)


def read_body(body: bytes, headers: Headers, now: datetime, *, max_decoded_bytes: int, max_ids: int) -> BootstrapQuery:
    """The query of a POST. Raises Invalid, which names the path of what is wrong, or BodyTooLarge."""
    try:
        request = decode_body(body, _BODY, headers=headers, compression=None, max_decoded_bytes=max_decoded_bytes)
    except UndecodableBody as error:
        raise _refusal(error.why) from None
    return _query_of(request, headers, now, max_ids=max_ids)


def _json(name: str, text: str) -> object:
    data = text.encode()
    if is_too_deep(data):
        raise Invalid([Problem("undecodable", name, None, f"JSON nested deeper than {MAX_DEPTH} levels")])
    try:
        return msgspec.json.decode(data)
    except UNDECODABLE:
        raise Invalid([Problem("undecodable", name, None, "invalid JSON")]) from None


def _refusal(message: str) -> Invalid:
    """The error with the path that a decoder's message ends with."""
    found = _AT.match(message)
    path, message = (found["path"], found["message"]) if found else ("", message)
    return Invalid([Problem("undecodable", path or "$", None, message)])


def _query_of(request: _Request, headers: Headers, now: datetime, *, max_ids: int) -> BootstrapQuery:
    token = request.token or request.dollar_token or request.api_key
    request.evaluation_runtime = request.evaluation_runtime or "client"
    ids = request.distinct_ids
    if ids is None:
        cookies = request.cookie or headers.get(b"cookie", b"").decode("latin-1")
        visitors = [_visitor(request, _identity(cookies, token), headers, now)]
    elif len(ids) > max_ids:
        raise Invalid([Problem("invalid", "distinct_ids", None, f"more than {max_ids} people at once")])
    else:
        people = (msgspec.structs.replace(request, distinct_id=distinct_id) for distinct_id in ids)
        visitors = [_visitor(person, _NOBODY, headers, now) for person in people]
    return BootstrapQuery(
        token=token,
        visitors=visitors,
        is_batch=ids is not None,
        with_facts=request.facts == "allow",
        format=request.format or "json",
        nonce=request.nonce,
    )


def _visitor(request: _Request, identity: _Identity, headers: Headers, now: datetime) -> Visitor:
    """Whom the request names, else whom the cookie does, else somebody new."""
    context = context_of(request, headers)
    is_named = context is not None and context.distinct_id != ""
    if context is None or not is_named:
        distinct_id = identity.distinct_id or _new_id(now)
        context = context_of(msgspec.structs.replace(request, distinct_id=distinct_id), headers)
        assert context is not None  # noqa: S101 - as it has an id now
    is_known = context.distinct_id == identity.distinct_id
    is_identified = identity.is_identified if is_known else is_named
    if request.is_identified is not None:
        is_identified = request.is_identified
    # What posthog-js makes of its own identity when it is told who somebody is.
    was_anonymous = bool(identity.distinct_id) and not is_known and not identity.is_identified
    context = msgspec.structs.replace(
        context,
        device_id=context.device_id or (identity.device_id if is_identified else context.distinct_id),
        anon_distinct_id=context.anon_distinct_id
        or (identity.distinct_id if is_identified and was_anonymous else None),
    )
    return Visitor(context, is_identified, is_new=not is_named and not is_known)


def _identity(cookies: str, token: str | None) -> _Identity:
    """Who posthog-js says that this is, in its cookie; nobody where that cannot be read."""
    if not token:
        return _NOBODY
    start = f"ph_{token.replace('+', 'PL').replace('/', 'SL').replace('=', 'EQ')}_posthog="
    for cookie in cookies.split(";"):
        if cookie.strip().startswith(start):
            try:
                return _IDENTITY.decode(unquote(cookie.strip().removeprefix(start)))
            except UNDECODABLE:
                return _NOBODY
    return _NOBODY


def _new_id(now: datetime) -> str:
    """A UUID of version 7, as posthog-js makes them itself."""
    bits = int(now.timestamp() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return str(uuid.UUID(int=bits & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x7000 << 64 | 0x8000 << 48))
