"""Settings of the processes: where they listen, which engine speaks, how many there are, and how they let go.

The rest of the tree is in settings.py. Invariant: every wait and every number of connections has a bound.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the service listens, with how many processes, and how it lets go of connections."""

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
    engine: Annotated[
        Literal["auto", "hypercorn", "uvicorn"],
        Meta(
            description="What speaks HTTP: `hypercorn` has HTTP/1.1, HTTP/2 and TLS; `uvicorn` has plain HTTP/1.1, "
            "several times as fast, for a place behind a load balancer, and needs the extra `fast`. `auto` takes "
            "uvicorn where it is installed and TLS is not asked for.",
        ),
    ] = "auto"
    tls_certificate: Annotated[
        str,
        Meta(
            description="File with the certificate and its chain (PEM), to speak TLS and HTTP/2 without a load "
            "balancer. Empty: plain HTTP. Read when a worker starts.",
        ),
    ] = ""
    tls_key: Annotated[
        str,
        Meta(description="File with the private key of `server.tls_certificate` (PEM), which must not be encrypted."),
    ] = ""
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Processes that answer requests, each with memory and connections of its own. One per core "
            "uses a machine fully; one is enough for most, and keeps the footprint small.",
        ),
    ] = 1
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Connections of one worker at once. At the bound the one that has been idle for longest is "
            "closed for each new one, then the one whose head takes longest; when all have requests, new ones wait in "
            "the backlog. Lowered to what the limit on open files leaves room for.",
        ),
    ] = 10_000
    max_requests_per_connection: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000_000,
            description="Requests after which a connection is closed, told in the last answer. Lets balancers spread "
            "their connections anew over the workers every now and then, at a cost of nothing.",
        ),
    ] = 10_000
    keep_alive_timeout_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="How long an idle connection stays open. Longer than the 60 s of the usual load balancer, so "
            "that the balancer closes first and never sends a request into a closing connection.",
        ),
    ] = 75.0
    header_timeout_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=600,
            description="Time for the head of a request to arrive, from its first byte. Bounds those who send it one "
            "byte at a time; the default leaves room for a poor mobile network.",
        ),
    ] = 10.0
    write_timeout_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=600,
            description="Time for a client to take an answer. One that reads too slowly for that is cut off.",
        ),
    ] = 30.0
    lame_duck_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="How long the service goes on answering after SIGTERM while readiness says 503 already, so "
            "that balancers turn elsewhere before connections are refused. Two to three of their health checks; an "
            "interrupt from the keyboard skips it.",
        ),
    ] = 5.0
    drain_timeout_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long requests in flight may take to finish after that. Many times a request's budget, "
            "and together with `server.lame_duck_s` well within the 30 s that Kubernetes waits before it kills.",
        ),
    ] = 10.0
    max_requests: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000_000,
            description="Requests after which a worker is replaced, by a new one that answers before the old one "
            "stops, one worker at a time. Up to a tenth less, so that workers do not come due together. 0: never.",
        ),
    ] = 0
    max_memory_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 40,
            description="Resident memory of a worker above which it is replaced in the same way, before the system "
            "kills it. 0: never.",
        ),
    ] = 0
    hang_timeout_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="How long a worker may be stuck in one step before it ends itself, writing where it was "
            "stuck, and is replaced. Longer than anything it ever does at once.",
        ),
    ] = 30.0
    control_path: Annotated[
        str,
        Meta(
            description="Socket through which `flagstone reload`, `restart` and `status` reach the service, for its "
            "own user only. Counts from the working directory. Empty: none, and only signals reach it.",
        ),
    ] = "flagstone.sock"


def server_problems(server: Server) -> Iterator[tuple[tuple[str, ...], str]]:
    """What contradicts itself: the settings concerned, and why."""
    if bool(server.tls_certificate) != bool(server.tls_key):
        yield ("server.tls_certificate", "server.tls_key"), "a certificate and its key are only of use together"
    if server.tls_certificate and server.engine == "uvicorn":
        yield ("server.engine", "server.tls_certificate"), "TLS is spoken by the engine hypercorn only"
