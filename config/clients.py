"""Settings of what clients get beside flags: pages rendered with them, streams, quotas, and what becomes of events.

The rest of the tree is in settings.py. Invariant: whatever clients send or leave open has a bound.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct

from config.address import Address, upstream_problems
from config.rates import Rates, RateTable

PERIODS: Final = ("day", "month")


class Keys(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Personal API keys with which SDKs fetch definitions and remote config. The management API asks the store anew for
    each of its calls."""

    ttl_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long a key that the store knew is taken without asking again. Spares the store a look-up "
            "for each poll; a revoked key still reads definitions for this long.",
        ),
    ] = 5.0
    stale_s: Annotated[
        float,
        Meta(
            ge=0,
            le=31_536_000,
            description="How long a key that the store knew is taken while the store does not answer. A day, as for "
            "snapshots: who could read the definitions before an outage reads them during it.",
        ),
    ] = 86_400.0
    max_known: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Keys remembered at once by one worker; the ones not used for longest are forgotten first.",
        ),
    ] = 10_000


class Bootstrap(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/bootstrap`, for servers that render pages with flags in them."""

    budget_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Time for a whole request, if it is less than `requests.budget_ms`. A page waits for this, and "
            "can be shown without flags.",
        ),
    ] = 50
    max_ids: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="People that one request may ask for at once. Each costs as much as a request of its own, "
            "during which the worker does nothing else.",
        ),
    ] = 100


class Quota(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many requests a project has in a day or a month. Beyond them, SDKs are told so and get no flags."""

    project: Annotated[
        Rates,
        Meta(
            description="Quota of each project, such as `50000/day; 1000000/month`, by the calendar in UTC. Counted in "
            "`redis.url` for all processes together, otherwise by each worker for itself, from its start. Empty: no "
            "quota.",
        ),
    ] = Rates("")
    projects: Annotated[
        RateTable,
        Meta(
            description="Quotas of single projects, instead of `quota.project`: a table from tokens to quotas. As "
            "text, a JSON object.",
        ),
    ] = RateTable({})
    definitions_cost: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="What a request for definitions counts, as an SDK that evaluates by itself asks for nothing "
            "else. PostHog counts ten.",
        ),
    ] = 10
    sync_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=60,
            description="How often what was counted is brought to Redis and read back from there. A quota can be "
            "exceeded by what all processes answer meanwhile.",
        ),
    ] = 1.0
    max_projects: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Projects with a quota that one worker counts at once; the ones not asked for longest are "
            "forgotten first, what they used being in Redis.",
        ),
    ] = 10_000


class Streams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Streams of server-sent events, on which OpenFeature's browser clients are told to fetch flags again. How many
    there may be is `concurrency.streams`."""

    is_enabled: Annotated[
        bool,
        Meta(description="Whether there are any, and answers to OFREP's bulk evaluation name them."),
    ] = True
    heartbeat_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=3600,
            description="How often a stream on which nothing happens carries a comment, so that no proxy takes it for "
            "dead.",
        ),
    ] = 15.0
    max_age_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86_400,
            description="Age at which a stream is ended, less up to a quarter by chance; its client comes back, maybe "
            "to another instance. Spreads streams evenly after some instances were replaced. Some clients call "
            "themselves stale when a stream ends, hence four hours.",
        ),
    ] = 14_400.0
    spread_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=600_000,
            description="Over how long the streams of a project are told of a change, each at a moment of its own. All "
            "of them fetch their flags at once otherwise. Changes within it are told once.",
        ),
    ] = 1000
    inactivity_delay_s: Annotated[
        int,
        Meta(
            ge=1,
            le=86_400,
            description="After how long in the background a client may close its stream; told to clients as it is.",
        ),
    ] = 120


class Capture(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of the events that PostHog's SDKs send. They are answered at once in any case."""

    upstream: Annotated[
        Address,
        Meta(
            description="Where events go on to, such as `https://events.example.com`; their path is put after it. "
            "They go as they came, with the address of the client, and at most once. Without a user or a password. "
            "Empty: they are counted and dropped.",
        ),
    ] = Address("")
    persons: Annotated[
        bool,
        Meta(
            description="Whether events that identify persons and groups (`$identify`, `$set`, `$groupidentify`, "
            "aliases) update the store, which must not be a file. Off, because whoever knows a project's public token "
            "could then write what its flags are decided by.",
        ),
    ] = False
    max_buffered_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 40,
            description="What may wait in one worker to go upstream, and as much again to be stored; what comes "
            "beyond is dropped, and counted. The default is 16 MiB.",
        ),
    ] = 16 << 20
    max_in_flight: Annotated[
        int,
        Meta(ge=1, le=1000, description="Requests to the upstream at once, each on a connection of its own."),
    ] = 8
    timeout_ms: Annotated[
        int,
        Meta(ge=1, le=600_000, description="Time for one request to the upstream, after which its events are lost."),
    ] = 5000
    max_persons: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Persons and groups whose updates may wait in one worker; what comes beyond is dropped, and "
            "counted.",
        ),
    ] = 10_000


def client_problems(quota: Quota, capture: Capture, store: Address) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong or contradicts itself: the settings concerned, and why."""
    for name, value in (("project", quota.project), ("projects", quota.projects)):
        for problem in value.problems():
            yield (f"quota.{name}",), problem
    every = [quota.project, *(rates for token in quota.projects if (rates := quota.projects.get(token)))]
    for item in (item for rates in every for item in rates.items):
        if item.GRANULARITY.name not in PERIODS or item.multiples != 1:
            yield ("quota.project", "quota.projects"), f"a quota is per {' or per '.join(PERIODS)}"
            break
    for problem in upstream_problems(capture.upstream):
        yield ("capture.upstream",), problem
    if capture.persons and store.scheme == "file":
        yield ("capture.persons", "store.url"), "a file is only read: nothing that events say can be stored there"
