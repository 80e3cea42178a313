"""The table of cases: what is asked, what has to come back, and why.

A case is skipped where the server has no flag of the kind it needs. Invariant: every case can fail, which
test_suite.py shows for each of them.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import httpx
from msgspec import Struct

from tests.ofrep_conformance import checks
from tests.ofrep_conformance.checks import Check, error, header, is_json, member, no_member, status, value_is

Role = Literal["boolean", "text", "integer", "float", "object", "disabled", "slash", "failing", "varies"]
UNKNOWN: Final = "conformance-suite-no-such-flag"
WHO: Final = {"targetingKey": "conformance"}
_ORIGIN: Final = {"origin": "https://conformance.example"}


class Varies(Struct, frozen=True):
    """A flag that is not the same for two values of an attribute."""

    key: str
    attribute: str
    values: tuple[Any, Any]

    def context(self, which: int) -> dict[str, Any]:
        return {**WHO, self.attribute: self.values[which]}


class Flags(Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of flags of the server, by what they are good for. `failing` cannot be told while the suite runs."""

    boolean: str | None = None
    text: str | None = None
    integer: str | None = None
    float: str | None = None
    object: str | None = None
    disabled: str | None = None
    slash: str | None = None
    failing: str | None = None
    varies: Varies | None = None


class Ask(NamedTuple):
    """A request: about the flag of a role, or with this key, or about all. `body` stands instead of a context."""

    role: Role | None = None
    key: str | None = None
    query: str = ""
    context: Mapping[str, Any] | None = WHO
    body: bytes | None = None
    headers: Mapping[str, str] = {}
    is_known: bool = True
    is_escaped: bool = False
    method: str = "POST"
    which: int | None = None
    """For all flags, with this of the two values by which the flag of the role varies."""


class Case(NamedTuple):
    """`of` says whether it is OFREP's text or a released client that wants this. With `first`, that is asked before,
    and its ETag is sent along. With `until`, it is asked again until it is answered with this status."""

    name: str
    of: Literal["spec", "client"]
    why: str
    ask: Ask
    checks: tuple[Check, ...]
    first: Ask | None = None
    until: int | None = None
    needs: Role | None = None


BULK: Final = Ask()
BOOLEAN: Final = Ask("boolean")
NOBODY: Final[Mapping[str, Any]] = {}
_OK: Final = (status(200), is_json)


def _others_are_fine(answer: httpx.Response) -> str | None:
    return None if any("errorCode" not in it for it in checks.items(answer)) else "no flag could be told"


def _some_failed(answer: httpx.Response) -> str | None:
    return None if any("errorCode" in it for it in checks.items(answer)) else "no flag has an error"


CASES: Final = (
    Case(
        "single/is-json", "spec", "An answer is JSON, and says so: clients for JavaScript refuse others.",
        BOOLEAN, _OK,
    ),
    Case("single/key", "spec", "The answer names the flag.", BOOLEAN, (*_OK, member("key"))),
    Case(
        "single/variant-is-there", "client", "The client for Python fails without the member, which may be null.",
        BOOLEAN, (*_OK, checks.has_variants),
    ),
    Case(
        "single/reason-is-known", "client", "The client for Python fails on a reason that OpenFeature does not have.",
        BOOLEAN, (*_OK, checks.known_reason),
    ),
    Case(
        "single/metadata-is-plain", "spec", "Metadata are text, numbers and booleans.",
        BOOLEAN, (*_OK, checks.plain_metadata),
    ),
    Case("single/boolean", "spec", "A boolean flag has a boolean.", BOOLEAN, (*_OK, value_is(bool))),
    Case("single/text", "spec", "A text flag has text.", Ask("text"), (*_OK, value_is(str))),
    Case("single/integer", "spec", "An integer has no fraction.", Ask("integer"), (*_OK, value_is(int))),
    Case(
        "single/float", "client", "A float has a fraction, also when it is whole: Python's client takes no 1 for 1.0.",
        Ask("float"), (*_OK, value_is(float)),
    ),
    Case("single/object", "spec", "An object is one.", Ask("object"), (*_OK, value_is(dict))),
    Case(
        "single/disabled", "spec", "A disabled flag has no value: the code's default holds.",
        Ask("disabled"), (*_OK, member("reason", "DISABLED"), no_member("value")),
    ),
    Case(
        "single/key-with-a-slash", "client", "Released clients put keys into the path as they are.",
        Ask("slash"), _OK,
    ),
    Case(
        "single/key-escaped", "client", "Newer clients escape keys.",
        Ask("slash", is_escaped=True), _OK,
    ),
    Case(
        "single/no-context", "client", "The client for Python sends no context where there is none.",
        Ask("boolean", body=b"{}"), (status(200, 400), is_json, member("key")),
    ),
    Case(
        "single/unknown-flag", "spec", "A flag that does not exist is a 404 with its key and a code.",
        Ask(key=UNKNOWN), (status(404), is_json, member("key", UNKNOWN), error("FLAG_NOT_FOUND")),
    ),
    Case(
        "single/no-json", "client", "A broken request is a 400 with details: without them Python's client fails on it.",
        Ask("boolean", body=b"{"), (status(400), is_json, member("key"), error("PARSE_ERROR", "INVALID_CONTEXT")),
    ),
    Case(
        "single/context-is-no-object", "spec", "A context of another type is refused.",
        Ask("boolean", body=b'{"context":5}'),
        (status(400), is_json, member("key"), error("INVALID_CONTEXT", "PARSE_ERROR")),
    ),
    Case(
        "single/unknown-credential", "spec", "Who is not known is told so, and not that there is no such flag.",
        Ask("boolean", is_known=False), (status(401, 403),),
    ),
    Case(
        "single/failed-flag", "client", "Of the statuses for it, clients read the details of 400 alone.",
        Ask("failing"), (status(400), is_json, member("key"), error("GENERAL")),
    ),
    Case("bulk/is-json", "spec", "An answer is JSON, and says so.", BULK, (*_OK, member("flags"))),
    Case("bulk/items-are-whole", "spec", "Each flag is a success or a failure, and comes once.", BULK,
         (*_OK, checks.whole_items)),
    Case("bulk/variants-are-there", "client", "Each success has a variant, which may be null.", BULK,
         (*_OK, member("flags"), checks.has_variants)),
    Case("bulk/reasons-are-known", "client", "Each success has a reason that OpenFeature knows.", BULK,
         (*_OK, checks.known_reason)),
    Case("bulk/metadata-is-plain", "spec", "Metadata of flags and of the answer are plain.", BULK,
         (*_OK, checks.plain_metadata)),
    Case("bulk/streams-are-whole", "spec", "A stream has one address, and a delay of at least a second.", BULK,
         (*_OK, checks.streams_are_whole)),
    Case(
        "bulk/nobody-yet", "client", "A page that does not know its visitor yet has to become ready all the same.",
        Ask(context=NOBODY), (*_OK, member("flags")),
    ),
    Case("bulk/no-json", "spec", "A broken request is a 400 with a code.", Ask(body=b"{"),
         (status(400), is_json, error("PARSE_ERROR", "INVALID_CONTEXT"))),
    Case("bulk/unknown-credential", "spec", "Who is not known is told so.", Ask(is_known=False), (status(401, 403),)),
    Case(
        "bulk/partial-success", "client", "One flag that cannot be told costs no other: an error for all of them "
        "leaves a page with the flags of the visitor before.",
        BULK, (*_OK, _some_failed, _others_are_fine, checks.whole_items), needs="failing",
    ),
    Case("etag/is-sent", "spec", "Bulk answers have an ETag.", BULK, (*_OK, header("etag", r'^(W/)?".+"$'))),
    Case("etag/not-modified", "spec", "Who has the answer gets a 304 without a body.", BULK,
         (status(304), checks.empty), first=BULK),
    Case(
        "etag/of-the-attributes", "client", "The client for browsers sends the tag of the context before, unless the "
        "targeting key is another: with a 304, a visitor who upgrades keeps the flags from before.",
        Ask("varies", which=1), (status(200), is_json), first=Ask("varies", which=0),
    ),
    Case("etag/refetch-parameters", "spec", "What a stream said may come along, and changes nothing.",
         Ask(query="flagConfigEtag=x&flagConfigLastModified=1767225600"), (*_OK, member("flags"))),
    Case("browser/answers-are-readable", "client", "Pages on another origin read answers.",
         Ask(headers=_ORIGIN), (header("access-control-allow-origin", r"^(\*|https://conformance\.example)$"),)),
    Case("browser/etag-is-readable", "client", "Pages on another origin read the tag.",
         Ask(headers=_ORIGIN), (header("access-control-expose-headers", r"(^|,)\s*etag\s*(,|$)|^\*$"),)),
    Case(
        "browser/preflight", "client", "Pages on another origin may authenticate and revalidate.",
        Ask(method="OPTIONS", headers={
            **_ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,if-none-match",
        }),
        (status(200, 204), header("access-control-allow-headers", r"authorization|^\*$"),
         header("access-control-allow-headers", r"if-none-match|^\*$")),
    ),
    Case(
        "limits/retry-after-is-whole-seconds", "client", "Of a date as OFREP's text has it, clients for JavaScript "
        "read the year as seconds, and the client for Python does not wait at all.",
        BULK, (status(429), checks.whole_seconds), until=429,
    ),
)  # fmt: skip
