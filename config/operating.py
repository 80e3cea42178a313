"""Settings of what operators see: the log, the metrics, traces, and how the service stands.

The rest of the tree is in settings.py. Invariant: what an operator must know of is told at any setting; only what went
well may be left out.
"""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from config.address import Address, upstream_problems
from config.pairs import Pairs, SecretPairs

TRACES_PATH: Final = "/v1/traces"
"""Where OpenTelemetry's protocol has traces, below the address of a collector."""
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")
_OWN_HEADERS: Final = ("host", "content-type", "content-length", "transfer-encoding", "connection")


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Prometheus reads what the service says of itself, and operators how it stands."""

    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="Address to serve `/metrics` and `/_status` on, apart from the public one so that nobody "
            "outside reads them.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Port to serve `/metrics` on; 0 takes any free one and says which."),
    ] = 8001
    is_enabled: Annotated[
        bool,
        Meta(description="Whether metrics are served at all."),
    ] = True


class Status(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/_status`, how the service stands."""

    is_public: Annotated[
        bool,
        Meta(
            description="Whether `/_status` is there for clients too, in a short form. On, because it says nothing but "
            "what they notice themselves: whether answers are complete, since when not, and in what way. Operators "
            "find the whole of it beside `/metrics` in any case.",
        ),
    ] = True


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
    sample_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Part of the requests with nothing unusual about them that have a line in the log, taken by "
            "chance; `sampled_at` in each line says how many it stands for. All others have one always: an error "
            "(404 aside), flags that could not be decided, a client that left, or more than `log.slow_ms`.",
        ),
    ] = 1.0
    slow_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=600_000,
            description="From how long on a request is slow, and has a line whatever `log.sample_ratio` is. Well "
            "above what one takes that waits for a database, and below the default of `requests.budget_ms`.",
        ),
    ] = 250.0


class Traces(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenTelemetry traces of requests, sent by OTLP over HTTP as protobuf. Needs the extra `traces`."""

    url: Annotated[
        Address,
        Meta(
            description="Where traces go, such as `http://collector:4318`; `/v1/traces` is put after it. Empty: there "
            "are none, and what requests say of traces is not looked at.",
        ),
    ] = Address("")
    headers: Annotated[
        SecretPairs,
        Meta(
            description="What goes along with each call of `traces.url`, such as `authorization=Bearer%20abc`: pairs "
            "separated by commas, with values percent-encoded where they have to be. Shown masked.",
        ),
    ] = SecretPairs("")
    timeout_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=600_000,
            description="Time for one call of `traces.url`, all in all. One that fails is made again, five times at "
            "most; requests wait for none.",
        ),
    ] = 10_000
    sample_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Part of the requests that are traced, taken by chance. Those that `traces.parents` are "
            "believed about are traced if and only if their caller is.",
        ),
    ] = 0.01
    parents: Annotated[
        Literal["nobody", "inside", "proxies", "everybody"],
        Meta(
            description="Whose `traceparent` is believed, and with it whether to trace. `inside`: that of clients "
            "which are in `proxies.trusted` themselves, so that nobody outside has requests traced. `proxies`: all "
            "that comes from there, for proxies that begin traces, or drop what clients send. `everybody` is for a "
            "service that only a network of one's own can reach.",
        ),
    ] = "inside"
    max_queued: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Spans that may wait in one worker to be sent, or be on their way; what comes beyond is "
            "dropped, and counted. Each takes about 200 bytes. The default is what some hundred traced requests per "
            "second make in ten.",
        ),
    ] = 8192
    service_name: Annotated[
        str,
        Meta(min_length=1, description="What this service is called in traces (`service.name`)."),
    ] = "flagstone"
    attributes: Annotated[
        Pairs,
        Meta(
            description="What else is said of this service in traces, such as "
            "`deployment.environment.name=production,service.namespace=shop`.",
        ),
    ] = Pairs("")


def trace_problems(traces: Traces) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong: the settings concerned, and why."""
    for problem in upstream_problems(traces.url):
        yield ("traces.url",), problem
    if traces.url.reveal().rstrip("/").endswith(TRACES_PATH):
        yield ("traces.url",), f"ends with {TRACES_PATH}, which is put after it anyway"
    for name in ("headers", "attributes"):
        for problem in getattr(traces, name).problems():
            yield (f"traces.{name}",), problem
    for number, (name, value) in enumerate(traces.headers.items(), 1):
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            yield ("traces.headers",), f"part {number} is no header that can be sent"
        elif name.lower() in _OWN_HEADERS:
            yield ("traces.headers",), f"{name.lower()} is not for anybody to choose"
    if traces.url:
        try:
            version("opentelemetry-proto")
        except PackageNotFoundError:
            yield ("traces.url",), "needs what is not installed here: pip install 'flagstone[traces]'"
