"""The frozen tree of settings: every name with its unit, range, default, and what it does for whom.

No reading of files or variables here (see sources.py). Invariant: every setting has a default, so that a service starts
from nothing, and a description, which gives the default's reason and which docs/settings.md repeats word for word.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, get_args, get_origin

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields


class StoreUrl:
    """Where the store is, as SCHEME:PATH. Shows itself with any password masked."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def scheme(self) -> str:
        return self._text.partition(":")[0]

    @property
    def path(self) -> str:
        return self._text.partition(":")[2]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreUrl) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        # Up to the last "@", for a password may hold one that nobody escaped.
        return re.sub(r"(://[^:/@]*:).*(?=@)", r"\1***", self._text, flags=re.DOTALL)

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the service listens, and how it lets go of connections."""

    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="Address to listen on. By default only this machine, so that opening the service to others is "
            "somebody's decision; `0.0.0.0` or `::` listens everywhere.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Port to listen on; 0 takes any free one. The default needs no privileges."),
    ] = 8000
    backlog: Annotated[
        int,
        Meta(
            ge=1,
            le=65_535,
            description="Connections the kernel holds until they are accepted. Enough for many clients reconnecting at "
            "once; the kernel may cap it lower.",
        ),
    ] = 2048
    drain_timeout_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long requests in flight may take to finish once the service is told to stop. Many times "
            "a request's budget, and well within the 30 s that Kubernetes waits before it kills.",
        ),
    ] = 10.0
    keep_alive_timeout_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="How long an idle connection stays open. Longer than the 60 s of the usual load balancer, so "
            "that the balancer closes first and never sends a request into a closing connection.",
        ),
    ] = 75.0


class Store(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where definitions and what is known about persons are kept."""

    url: Annotated[
        StoreUrl,
        Meta(
            description="`file:PATH` or `sqlite:PATH`. The path follows the colon directly and counts from the working "
            "directory unless it starts with a slash. The default is one file that needs no other service.",
        ),
    ] = StoreUrl("sqlite:flagstone.sqlite3")


class Snapshots(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fresh the definitions in memory are, and how much of them is kept."""

    refresh_s: Annotated[
        float,
        Meta(
            ge=0.01,
            le=3600,
            description="How often the version of a served project is compared with the store. A changed flag is in "
            "force about this much later; comparing a version is cheap.",
        ),
    ] = 1.0
    unknown_token_ttl_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long a token that belongs to no project is remembered as such. Spares the store a look-up "
            "for each of its requests; a project created meanwhile is found this much later.",
        ),
    ] = 10.0
    max_projects: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Projects held in memory at once. Bounds what their definitions occupy; more than most "
            "installations have.",
        ),
    ] = 1000
    max_unknown_tokens: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Unknown tokens remembered at once. Bounds what made-up tokens occupy, and leaves room for far "
            "more than honest mistakes.",
        ),
    ] = 10_000


class Requests(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request may take."""

    budget_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Time for a whole request. Well below the 3 s after which PostHog's clients stop waiting for "
            "flags.",
        ),
    ] = 1000
    answer_reserve_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="Part of the budget kept back to answer: what a store has not delivered by then counts as "
            "missing. Must be below `requests.budget_ms`.",
        ),
    ] = 50
    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 30,
            description="Largest body, as received. Requests usually carry a few kilobytes; the default (1 MiB) leaves "
            "room for very large property sets.",
        ),
    ] = 1 << 20
    max_decoded_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 30,
            description="Largest body after decompression, so that a small compressed body cannot fill the memory. "
            "The default is 4 MiB. Must not be below `requests.max_body_bytes`.",
        ),
    ] = 4 << 20
    body_timeout_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=600,
            description="Time for a whole body to arrive, so that a slow sender cannot hold a place for long. The "
            "default leaves room for a poor mobile network.",
        ),
    ] = 5.0


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written about the service's doings, and how."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least severe lines that are written. The default includes one line per request."),
    ] = "info"
    format: Annotated[
        Literal["json", "text"],
        Meta(description="One JSON object per line, for programs that collect logs, or text for a person to read."),
    ] = "json"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    server: Server = Server()
    store: Store = Store()
    snapshots: Snapshots = Snapshots()
    requests: Requests = Requests()
    log: Log = Log()


SECTIONS: Final[Mapping[str, type[Struct]]] = {section.name: section.type for section in fields(Settings)}
FIELDS: Final[Mapping[str, FieldInfo]] = {
    f"{section}.{field.name}": field for section, shape in SECTIONS.items() for field in fields(shape)
}
"""Every setting by its path ("server.port"), in the order of the tree."""

_NOUNS: Final = {int: "a whole number", float: "a number", str: "text, not empty", StoreUrl: "text"}


def expects(field: FieldInfo) -> str:
    """What a value of the field must be, for people: "a whole number from 0 to 65535"."""
    shape, meta = get_args(field.type)
    if get_origin(shape) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(shape))
    return _NOUNS[shape] if meta.ge is None else f"{_NOUNS[shape]} from {meta.ge} to {meta.le}"


class Problem(Struct, frozen=True):
    """Something wrong with the settings at `paths`, whose values came from `origins` (in the same order, if known)."""

    paths: tuple[str, ...]
    message: str
    origins: tuple[str, ...] = ()

    def __str__(self) -> str:
        origins = f" [{', '.join(self.origins)}]" if self.origins else ""
        return f"{', '.join(self.paths)}: {self.message}{origins}"


def check(settings: Settings) -> list[Problem]:
    """Everything that is wrong although each value by itself is of its type and in its range."""
    return [*_store_problems(settings.store.url), *_request_problems(settings.requests)]


def _store_problems(url: StoreUrl) -> Iterator[Problem]:
    # The value is not repeated: who mistook the scheme may have written a password anywhere in it.
    if url.scheme not in ("file", "sqlite"):
        yield Problem(("store.url",), "starts with neither file: nor sqlite:")
    elif not url.path:
        yield Problem(("store.url",), f"names no path after {url.scheme}:")
    elif url.path.startswith("//"):
        # Elsewhere sqlite:///x is relative to the working directory; taken literally it would be a new file in /.
        yield Problem(("store.url",), f"the path follows {url.scheme}: directly, without //")


def _request_problems(requests: Requests) -> Iterator[Problem]:
    if requests.answer_reserve_ms >= requests.budget_ms:
        yield Problem(
            ("requests.answer_reserve_ms", "requests.budget_ms"),
            f"a reserve of {requests.answer_reserve_ms} ms leaves nothing of a budget of {requests.budget_ms} ms",
        )
    if requests.max_decoded_bytes < requests.max_body_bytes:
        yield Problem(
            ("requests.max_decoded_bytes", "requests.max_body_bytes"),
            f"a decoded body of at most {requests.max_decoded_bytes} bytes rules out received bodies "
            f"of up to {requests.max_body_bytes} bytes",
        )
