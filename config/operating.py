"""Settings of what operators see: the log, the metrics, and how the service stands.

The rest of the tree is in settings.py. Invariant: what an operator must know of is told at any setting; only what went
well may be left out.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct


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
