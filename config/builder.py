"""Settings of the builder, which turns what is stored of a project into the document that gateways serve.

The rest of the tree is in settings.py. Invariant: each has a bound that holds also when thousands of projects change.
"""

from typing import Annotated

from msgspec import Meta, Struct


class Builder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How edits become published documents, by `flagstone worker` or inside `serve`."""

    is_embedded: Annotated[
        bool,
        Meta(
            description="Whether the workers of `serve` also build. Off, changes are served once a `flagstone "
            "worker` has built them; run one where projects are large or many, so that building takes no time from "
            "answering.",
        ),
    ] = True
    concurrency: Annotated[
        int,
        Meta(ge=1, le=64, description="Projects that one process builds at once. Each uses one connection at a time."),
    ] = 4
    poll_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="How often edits are looked for that were not announced. PostgreSQL announces them; SQLite "
            "does not.",
        ),
    ] = 200
    min_rest_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="How long a project rests after a build. Edits meanwhile go into one build; if there were any, "
            "the next rest is twice as long.",
        ),
    ] = 100
    max_rest_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=600_000,
            description="The longest rest of a project that is edited all the time: so late may its edits be. Must not "
            "be below `builder.min_rest_ms`.",
        ),
    ] = 5000
    max_builds_per_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=100_000,
            description="Builds that one process begins per second, so that thousands of changed projects keep neither "
            "the database nor the gateways from answering.",
        ),
    ] = 200.0
    max_document_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=64 << 20,
            description="A larger document is not published: the project is refused, as logs, metrics and API tell, "
            "and its last good document stays served.",
        ),
    ] = 32 << 20
    lease_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="For how long a project is one worker's. A build that takes longer is given up; what a worker "
            "that was killed had begun is built by others after this time.",
        ),
    ] = 30.0
    max_retry_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86_400,
            description="The longest time between tries of a project that cannot be built. An edit of it, which may be "
            "the cure, has it tried again soon.",
        ),
    ] = 300.0
    verify_s: Annotated[
        float,
        Meta(
            ge=1,
            le=2_592_000,
            description="How often each project's published document is compared, byte for byte, with what is stored, "
            "and Redis with that. What differs is built anew and counted.",
        ),
    ] = 3600.0
    max_verifications_per_s: Annotated[
        float,
        Meta(ge=0.01, le=100_000, description="Comparisons that one process begins per second."),
    ] = 10.0
