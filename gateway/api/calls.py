"""A call of the management API, the operation it is of, and its answer: what endpoints take and give.

Who may call is found out in auth.py, what is done about it in the services. Invariant: an endpoint sees a call only
once it may be made, its query has been read, and its body is there.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Send

from config.management import Api
from evaluator.definitions import decode
from evaluator.types import Problem
from gateway.editing_ports import Actor, Item, ManagedStore, PersonalKey
from gateway.errors import Invalid, StoreError, Unavailable
from gateway.refusing import Headers
from gateway.services.editing import EditingService
from gateway.services.editing_references import ItemKind
from gateway.services.keys import KeyService
from gateway.telemetry import log_event
from gateway.wire.bodies import MAX_DEPTH, is_too_deep
from gateway.wire.management import item_answer

MAX_PARAMETERS: Final = 20
MAX_DIGITS: Final = 18
"""Of an id or a version."""
MAX_REQUEST_KEY_CHARACTERS: Final = 200
_PLACE: Final = re.compile(r"^(?P<message>.*?)(?: - at `\$\.?(?P<name>.*)`)?$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"unknown field `(?P<name>.*)`$", re.DOTALL)
_ETAG: Final = re.compile(r'"?(?P<version>\d{1,18})"?')

Number = Annotated[int, msgspec.Meta(ge=0, le=10**MAX_DIGITS)]

T = TypeVar("T")


class NoQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No parameters."""


class Paging(NoQuery, frozen=True, kw_only=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="How many to answer at most.")] = 100
    offset: Annotated[Number, msgspec.Meta(description="How many to leave out before them.")] = 0


class Searching(Paging, frozen=True, kw_only=True):
    search: Annotated[str, msgspec.Meta(max_length=400, description="Part of the key or name, in any case.")] = ""


class Listing(Searching, frozen=True, kw_only=True):
    active: Annotated[bool | None, msgspec.Meta(description="Only those that are on, or that are off.")] = None
    deleted: Annotated[bool, msgspec.Meta(description="The deleted ones instead of the others.")] = False
    order: Annotated[Literal["id", "-id"], msgspec.Meta(description="By id; -id has the newest first.")] = "id"


class HistoryPaging(NoQuery, frozen=True, kw_only=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="How many changes to answer at most.")] = 100
    before: Annotated[Number | None, msgspec.Meta(description="Only older ones than the one with this id.")] = None


class Trying(NoQuery, frozen=True, kw_only=True):
    dry_run: Annotated[bool, msgspec.Meta(description="Write nothing; answer whose value would change.")] = False


class Planning(NoQuery, frozen=True, kw_only=True):
    delete: Annotated[bool, msgspec.Meta(description="Delete what is stored and not in the body.")] = False


class Applying(Planning, frozen=True, kw_only=True):
    if_version: Annotated[
        Number | None, msgspec.Meta(description="The project's version that the plan was made for.")
    ] = None


class Replacing(NoQuery, frozen=True, kw_only=True):
    replace: Annotated[bool, msgspec.Meta(description="Take everybody out first.")] = False


@asynccontextmanager
async def in_time(api: Api) -> AsyncIterator[None]:
    """Makes Unavailable of a store that fails or takes too long."""
    try:
        async with asyncio.timeout(api.timeout_s):
            yield
    except (StoreError, TimeoutError) as error:
        log_event("management_failed", logging.WARNING, reason=f"{type(error).__name__}: {error}")
        raise Unavailable from None


class Slots:
    """How many uploads are under way."""

    def __init__(self) -> None:
        self.taken = 0

    def __repr__(self) -> str:
        return f"<Slots {self.taken} taken>"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """`project_id` and `ref` are 0 where the path has none; `body` is empty where the endpoint reads by itself."""

    path: str
    query: Any
    headers: Mapping[bytes, bytes]
    body: bytes
    receive: Receive
    by: Actor
    key: PersonalKey | None
    """None: whoever calls may do everything."""
    kind: ItemKind
    project_id: int
    ref: int | str
    store: ManagedStore
    editing: EditingService
    keys: KeyService
    uploads: Slots
    api: Api

    @property
    def is_trial(self) -> bool:
        """Whether nothing is to be written."""
        return isinstance(self.query, Trying) and self.query.dry_run

    def fields(self) -> dict[str, Any]:
        """The object in the body, none being an empty one, with the version that If-Match may name. Raises Invalid."""
        fields = self.read(dict[str, Any])
        version = self.seen_version()
        return fields if version is None else {"version": version, **fields}

    def read(self, shape: type[T]) -> T:
        """The body as this. Raises Invalid with all that is wrong."""
        if is_too_deep(self.body):
            raise Invalid([Problem("undecodable", "$", None, f"nested deeper than {MAX_DEPTH} levels")])
        value = decode(self.body or b"{}", shape)
        if isinstance(value, tuple):
            raise Invalid(value)
        return value

    def asked_for(self, *but: str) -> dict[str, str]:
        """The parameters given, but for these, as they would be given again."""
        given: dict[str, object] = msgspec.to_builtins(self.query)
        default = msgspec.to_builtins(type(self.query)())
        changed = {name: value for name, value in given.items() if value != default[name] and name not in but}
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in changed.items()}

    def seen_version(self) -> int | None:
        """What If-Match says that the caller has seen. Raises Invalid."""
        given = self.headers.get(b"if-match", b"").decode("latin-1").strip()
        if given in ("", "*"):
            return None
        etag = _ETAG.fullmatch(given)
        if etag is None:
            raise Invalid([Problem("invalid", "If-Match", None, 'must be one version, such as "3"')])
        return int(etag["version"])

    def request_key(self) -> str | None:
        """What makes a creation the same as an earlier one. Raises Invalid."""
        given = self.headers.get(b"idempotency-key")
        if given is None:
            return None
        text = given.decode("latin-1")
        if not (0 < len(text) <= MAX_REQUEST_KEY_CHARACTERS and text.isascii() and text.isprintable()):
            what = f"must be 1 to {MAX_REQUEST_KEY_CHARACTERS} printable characters"
            raise Invalid([Problem("invalid", "Idempotency-Key", None, what)])
        return text


class Answer:
    """A whole answer: JSON, or none at all."""

    __slots__ = ("_body", "_headers", "_status")

    def __init__(self, body: bytes, status: int = 200, headers: Headers = ()) -> None:
        self._body = body
        self._status = status
        self._headers = headers

    async def send(self, send: Send) -> None:
        headers = [(b"cache-control", b"no-store"), *self._headers]
        if self._status != 204:
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


NOTHING: Final = Answer(b"", 204)


def answer(value: object, status: int = 200) -> Answer:
    return Answer(msgspec.json.encode(value), status)


def answer_item(item: Item, status: int = 200) -> Answer:
    """The item, under its version."""
    return Answer(item_answer(item), status, [(b"etag", b'"%d"' % item.version)])


Handler = Callable[[Call], Awaitable[Answer]]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the route table: what runs for a method and a path, who may, and what is said of it in OpenAPI.

    `takes` is the shape of a JSON body, or the media types of an upload, which the endpoint reads by itself.
    """

    method: str
    path: str
    run: Handler
    scopes: tuple[str, ...]
    """All of which are needed. None at all: no key is needed either."""
    kind: ItemKind = "cohort"
    """Only flags are found by a key as well."""
    query: type[NoQuery] = NoQuery
    takes: Any = None
    gives: Any = None
    of: Any = None
    """What a list consists of, or the lines of an upload."""
    also: Any = None
    """What else it may answer."""
    headers: tuple[str, ...] = ()
    status: int = 200

    @property
    def is_upload(self) -> bool:
        return isinstance(self.takes, tuple)


def read_query(query_string: bytes, shape: type[T]) -> T:
    """The parameters as this. Raises Invalid, with the name of the parameter as the path."""
    try:
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise Invalid([Problem("invalid", "?", None, f"more than {MAX_PARAMETERS} parameters")]) from None
    given = dict(pairs)
    if len(given) < len(pairs):
        twice = next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)
        raise Invalid([Problem("duplicate", twice, None, "given more than once")])
    try:
        return msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as error:
        place, unknown = _PLACE.match(str(error)), _UNKNOWN.search(str(error))
        if unknown is not None:
            raise Invalid([Problem("invalid", unknown["name"], None, "there is no such parameter")]) from None
        assert place is not None  # noqa: S101 - the pattern matches any text
        raise Invalid([Problem("invalid", place["name"] or "?", None, place["message"])]) from None
