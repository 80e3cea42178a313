"""Settings of what stands between the service and everybody: whom to believe, how often who may ask, how many at once.

The rest of the tree is in settings.py. Invariant: left alone, nobody is believed.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from config.address import Address
from config.networks import Networks
from config.rates import Rates, RateTable

ROUTES: Final = ("flags", "decide", "definitions", "bootstrap", "ofrep", "streams", "config", "capture", "other")
"""Routes that may have rates of their own."""

_RATES: Final = (
    "address", "token", "routes", "tokens", "definitions", "conditional_definitions", "definitions_tokens",
    "remote_config", "management",
)  # fmt: skip


class Proxies(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose word counts about where a request comes from."""

    trusted: Annotated[
        Networks,
        Meta(
            description="Networks of the load balancers and proxies in front, separated by commas, such as "
            "`10.0.0.0/8, fd00::/8`. Only what they say in `proxies.header` is believed, read from the right; the "
            "client is the nearest address that is not in here. Empty: nobody is believed, and the client is who "
            "connects.",
        ),
    ] = Networks("")
    header: Annotated[
        Literal["x-forwarded-for", "forwarded"],
        Meta(
            description="The header in which they name the client. Only one is read, as a proxy that sets one lets "
            "clients write the other.",
        ),
    ] = "x-forwarded-for"


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often somebody may ask. Rates are written as `500/second; 12000/minute`: a burst, and what lasts."""

    mode: Annotated[
        Literal["off", "shadow", "enforce"],
        Meta(
            description="Whether limits are enforced, or only counted (`shadow`), or neither. In shadow, what would be "
            "denied is in the metrics: a way to find rates that fit. A limit on addresses that would hit everybody "
            "behind a load balancer is not enforced in any mode; what is wrong is then told.",
        ),
    ] = "enforce"
    address: Annotated[
        Rates,
        Meta(
            description="Rates of one client address (of an IPv6 client: of its /64), for each worker. An office or a "
            "mobile network may have thousands of people behind one address, hence the generous default. Empty: no "
            "limit.",
        ),
    ] = Rates("500/second; 12000/minute")
    token: Annotated[
        Rates,
        Meta(
            description="Rates of one project token, for each worker. Empty: no limit, as nobody but its owner knows "
            "how much traffic a project has.",
        ),
    ] = Rates("")
    routes: Annotated[
        RateTable,
        Meta(
            description="Rates of one client address on a route, instead of `limits.address`: a table to rates from "
            "`flags`, `decide`, `definitions` (with remote config), `bootstrap`, `ofrep`, `streams`, `config`, "
            "`capture` and `other`. As text, a JSON object.",
        ),
    ] = RateTable({})
    tokens: Annotated[
        RateTable,
        Meta(
            description="Rates of a project, instead of `limits.token`: a table from tokens to rates. As text, a JSON "
            "object.",
        ),
    ] = RateTable({})
    definitions: Annotated[
        Rates,
        Meta(
            description="Rates of a project's requests for definitions that are answered with all of them, for each "
            "worker. SDKs ask every 30 s per process. Empty: no limit.",
        ),
    ] = Rates("600/minute")
    conditional_definitions: Annotated[
        Rates,
        Meta(
            description="Rates of a project's requests for definitions that say which ones they have. Those that turn "
            "out to be old count as `limits.definitions` as well. Empty: no limit.",
        ),
    ] = Rates("6000/minute")
    definitions_tokens: Annotated[
        RateTable,
        Meta(
            description="Rates of a project, instead of `limits.definitions`: a table from tokens to rates. As text, a "
            "JSON object.",
        ),
    ] = RateTable({})
    remote_config: Annotated[
        Rates,
        Meta(
            description="Rates of one personal API key on remote config, for each worker; a project's secret token is "
            "not limited. Empty: no limit.",
        ),
    ] = Rates("600/minute")
    warn_ratio: Annotated[
        float,
        Meta(
            ge=0.01,
            le=1,
            description="Part of a rate from which answers carry the header `X-PostHog-Rate-Limit-Warning`, so that a "
            "client's owner learns of it before anything is denied.",
        ),
    ] = 0.8
    max_keys: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Addresses and tokens that one worker remembers at once, at some 300 bytes each; those not "
            "seen for longest are forgotten first. Bounds what made-up ones occupy.",
        ),
    ] = 100_000
    is_balancer_spared: Annotated[
        bool,
        Meta(
            description="Whether the limit on addresses is suspended for an internal address that looks like a load "
            "balancer which hides its clients: one not in `proxies.trusted`, or one that names nobody. Without it a "
            "mistake there denies nearly everybody.",
        ),
    ] = True
    is_fleet_wide: Annotated[
        bool,
        Meta(
            description="Whether rates hold for all processes together, counted in `redis.url`, on top of the count of "
            "each worker. Costs a round trip to Redis per request and rate.",
        ),
    ] = False
    on_failure: Annotated[
        Literal["local", "allow", "deny"],
        Meta(
            description="What decides while Redis does not, with `limits.is_fleet_wide`: the worker's own count, or "
            "nothing (`allow`), or everything is denied (`deny`).",
        ),
    ] = "local"
    management: Annotated[
        Rates,
        Meta(
            description="Rates of one address on the routes for operators, `/metrics` and `/_status`. Room for several "
            "Prometheus servers, and a bound on what a mistaken script costs.",
        ),
    ] = Rates("10/second; 120/minute")


class Concurrency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many requests a worker has in hand at once. Health and `/_status` are never refused."""

    mode: Annotated[
        Literal["adaptive", "fixed", "off"],
        Meta(
            description="Whether the limit follows how crowded the worker is, stays at `concurrency.limit`, or is none "
            "at all. Time spent waiting for stores does not count as crowded.",
        ),
    ] = "adaptive"
    limit: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="The limit when it is fixed, and where an adaptive one begins.",
        ),
    ] = 100
    floor: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="An adaptive limit never falls below this: one request runs, and one is ready.",
        ),
    ] = 2
    ceiling: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="An adaptive limit never rises above this: bounds the memory of requests that all wait for a "
            "slow store. As many more may be sending their bodies. Must not be below `concurrency.floor`.",
        ),
    ] = 1000
    definitions: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Requests for definitions at once, which have a limit of their own: they are large, and must "
            "neither displace flags nor be displaced by them.",
        ),
    ] = 8
    bootstrap: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Requests of servers that render pages at once, likewise."),
    ] = 64
    management: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Calls of the management API at once, likewise: scripts must not displace flags, nor an "
            "overload of flags whoever is about to switch one off.",
        ),
    ] = 32
    streams: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Streams of events open at once. One more is told when to come back, and ended.",
        ),
    ] = 1000
    capture: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Requests with events at once, likewise: there are many, and none may displace flags.",
        ),
    ] = 32
    max_queued: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Requests that may wait for their turn. Enough for a burst; a longer line would only make "
            "everybody late.",
        ),
    ] = 100
    max_wait_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="The longest that a request waits for its turn. One that would wait longer, or beyond its own "
            "time, is refused at once with 503, so that its client can do something else.",
        ),
    ] = 100
    max_lag_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="How late the event loop may be before an adaptive limit shrinks whatever else is measured.",
        ),
    ] = 50


def edge_problems(limits: Limits, concurrency: Concurrency, redis: Address) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong or contradicts itself: the settings concerned, and why."""
    for name in _RATES:
        for problem in getattr(limits, name).problems():
            yield (f"limits.{name}",), problem
    for route in limits.routes:
        if route not in ROUTES:
            yield ("limits.routes",), f'"{route}" is none of {", ".join(ROUTES)}'
    if limits.is_fleet_wide and not redis:
        yield ("limits.is_fleet_wide", "redis.url"), "rates of all processes are counted in Redis, which is not set"
    elif limits.is_fleet_wide and redis.scheme == "redis+cluster":
        yield ("limits.is_fleet_wide", "redis.url"), "rates of all processes are not counted in a cluster"
    if concurrency.ceiling < concurrency.floor:
        yield (
            ("concurrency.ceiling", "concurrency.floor"),
            f"a ceiling of {concurrency.ceiling} is below the floor of {concurrency.floor}",
        )
