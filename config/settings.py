"""The frozen tree of settings: every name with its unit, range, default, and what it does for whom.

What stands behind the service is in backends.py; no reading of files or variables here (see sources.py). Invariant:
every setting has a default, so that a service starts from nothing, and a description, which gives the default's reason
and which docs/settings.md repeats word for word.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, get_args, get_origin

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from config.address import Address, pool_problems, redis_problems, store_problems
from config.backends import (
    Breakers,
    DefinitionsPool,
    Disk,
    Overrides,
    PersonsPool,
    Redis,
    Store,
    WriterPool,
)
from config.builder import Builder
from config.clients import Bootstrap, Capture, Keys, Quota, Streams, client_problems
from config.edge import Concurrency, Limits, Proxies, edge_problems
from config.management import Api, api_problems
from config.networks import Networks
from config.operating import Log, Metrics, Status, Traces, trace_problems
from config.pairs import Pairs, SecretPairs
from config.rates import Rates, RateTable
from config.server import Server, server_problems


class Snapshots(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fresh the definitions in memory are, and how much of them is kept."""

    refresh_s: Annotated[
        float,
        Meta(
            ge=0.01,
            le=3600,
            description="How often the versions of the projects held are compared with the store, all in one query. A "
            "changed flag is in force at most about this much later, earlier where the store or Redis announces it. A "
            "random part of up to a quarter, fixed per process and project, is taken off.",
        ),
    ] = 1.0
    hard_ttl_s: Annotated[
        float,
        Meta(
            ge=1,
            le=31_536_000,
            description="Age from which `snapshots.on_hard_ttl` decides about a snapshot that could not be compared "
            "with any store. A day is longer than any outage should last.",
        ),
    ] = 86_400.0
    on_hard_ttl: Annotated[
        Literal["serve", "not_ready", "fail"],
        Meta(
            description="What becomes of a snapshot past `snapshots.hard_ttl_s`: it is served on, or served while "
            "readiness says 503 so that a balancer turns elsewhere, or its requests are refused with 503. Old flags "
            "are better than none, hence the default.",
        ),
    ] = "serve"
    max_loads: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Documents loaded at once by one process: so many for projects it does not hold, and as many "
            "for projects that changed. Bounds what a thousand changed projects ask of the store at the same time.",
        ),
    ] = 8
    max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="What all snapshots in memory may occupy, as estimated from their documents and flags. The "
            "default is 1 GiB; the ones not asked for longest go first.",
        ),
    ] = 1 << 30
    max_local_bytes: Annotated[
        int,
        Meta(
            ge=1 << 10,
            le=1 << 40,
            description="What is prepared for SDKs that evaluate by themselves, and for remote config, may occupy. The "
            "default is 256 MiB; what was not asked for longest goes first, and is made again when asked for.",
        ),
    ] = 256 << 20
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
            description="Time for a whole request, from its arrival. Well below the 3 s after which PostHog's clients "
            "stop waiting for flags. A client may shorten it with `X-Request-Timeout-Ms`, never lengthen it.",
        ),
    ] = 1000
    answer_reserve_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="Part of the budget kept back to answer: what a store has not delivered by then counts as "
            "missing. At most half of a budget that a client or `bootstrap.budget_ms` shortened. Must be below "
            "`requests.budget_ms`.",
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


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    server: Server = Server()
    store: Store = Store()
    definitions_pool: DefinitionsPool = DefinitionsPool()
    persons_pool: PersonsPool = PersonsPool()
    writer_pool: WriterPool = WriterPool()
    overrides: Overrides = Overrides()
    redis: Redis = Redis()
    disk: Disk = Disk()
    breakers: Breakers = Breakers()
    proxies: Proxies = Proxies()
    limits: Limits = Limits()
    concurrency: Concurrency = Concurrency()
    snapshots: Snapshots = Snapshots()
    requests: Requests = Requests()
    keys: Keys = Keys()
    bootstrap: Bootstrap = Bootstrap()
    streams: Streams = Streams()
    quota: Quota = Quota()
    capture: Capture = Capture()
    api: Api = Api()
    builder: Builder = Builder()
    metrics: Metrics = Metrics()
    status: Status = Status()
    log: Log = Log()
    traces: Traces = Traces()


SECTIONS: Final[Mapping[str, type[Struct]]] = {section.name: section.type for section in fields(Settings)}
FIELDS: Final[Mapping[str, FieldInfo]] = {
    f"{section}.{field.name}": field for section, shape in SECTIONS.items() for field in fields(shape)
}
"""Every setting by its path ("server.port"), in the order of the tree."""

_NOUNS: Final = {
    int: "a whole number",
    float: "a number",
    str: "text",
    Address: "text",
    bool: "true or false",
    Networks: "text",
    Pairs: "text",
    SecretPairs: "text",
    Rates: "rates",
    RateTable: "a table of rates",
}


def expects(field: FieldInfo) -> str:
    """What a value of the field must be, for people: "a whole number from 0 to 65535"."""
    shape, meta = get_args(field.type)
    if get_origin(shape) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(shape))
    if meta.min_length:
        return f"{_NOUNS[shape]}, not empty"
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
    return [
        *_address_problems(settings),
        *(Problem(paths, message) for paths, message in server_problems(settings.server)),
        *(Problem(("proxies.trusted",), message) for message in settings.proxies.trusted.problems()),
        *(
            Problem(paths, message)
            for paths, message in edge_problems(settings.limits, settings.concurrency, settings.redis.url)
        ),
        *(
            Problem(paths, message)
            for paths, message in client_problems(settings.quota, settings.capture, settings.store.url)
        ),
        *(Problem(paths, message) for paths, message in api_problems(settings.api)),
        *(Problem(paths, message) for paths, message in trace_problems(settings.traces)),
        *_request_problems(settings.requests),
        *_breaker_problems(settings.breakers),
        *_builder_problems(settings.builder),
    ]


def _address_problems(settings: Settings) -> Iterator[Problem]:
    for message in store_problems(settings.store.url):
        yield Problem(("store.url",), message)
    for message in redis_problems(settings.redis.url):
        yield Problem(("redis.url",), message)
    for section in ("definitions_pool", "persons_pool", "writer_pool"):
        url: Address = getattr(settings, section).url
        for message in pool_problems(url):
            yield Problem((f"{section}.url",), message)
        if url and not settings.store.url.is_postgres:
            yield Problem((f"{section}.url", "store.url"), "a pool has a database of its own only beside postgresql://")


def _breaker_problems(breakers: Breakers) -> Iterator[Problem]:
    if breakers.max_open_s < breakers.open_s:
        yield Problem(
            ("breakers.max_open_s", "breakers.open_s"),
            f"a longest time of {breakers.max_open_s} s is below the first of {breakers.open_s} s",
        )


def _builder_problems(builder: Builder) -> Iterator[Problem]:
    if builder.max_rest_ms < builder.min_rest_ms:
        yield Problem(
            ("builder.max_rest_ms", "builder.min_rest_ms"),
            f"a longest rest of {builder.max_rest_ms} ms is below the first of {builder.min_rest_ms} ms",
        )


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


def advise(settings: Settings) -> Iterator[Problem]:
    """What works and is probably not meant: bounds that cannot be reached because one around them is smaller."""
    pool, requests = settings.persons_pool, settings.requests
    nested_ms = pool.acquire_timeout_ms + pool.statement_timeout_ms
    available_ms = requests.budget_ms - requests.answer_reserve_ms
    if settings.store.url.is_postgres and nested_ms > available_ms:
        yield Problem(
            ("persons_pool.acquire_timeout_ms", "persons_pool.statement_timeout_ms", "requests.budget_ms"),
            f"a connection and a statement may take {nested_ms} ms, of which a request waits only {available_ms} ms",
        )
    writer = settings.writer_pool.url
    if settings.api.is_enabled and writer and writer != settings.store.url:
        yield Problem(
            ("writer_pool.url", "store.url"),
            "persons are kept in a database of their own, where the API and the command line do not put any",
        )
