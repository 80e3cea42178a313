"""What kind of route a path is one of, which decides where it is counted, limited and measured.

Looked up once or twice per request, before anything else is known of it. Invariant: a path nobody serves is OTHER, so
that no client can make a new kind.
"""

from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    FLAGS = "flags"
    DECIDE = "decide"
    DEFINITIONS = "definitions"
    REMOTE_CONFIG = "remote_config"
    BOOTSTRAP = "bootstrap"
    OFREP = "ofrep"
    STREAMS = "streams"
    CONFIG = "config"
    CAPTURE = "capture"
    MANAGEMENT = "management"
    READINESS = "readiness"
    LIVENESS = "liveness"
    STATUS = "status"
    ROOT = "root"
    OTHER = "other"


STATUS: Final = "/_status"
STREAM: Final = "/ofrep/v1/stream"
CAPTURES: Final = ("/batch", "/e", "/i/v0/e", "/capture", "/track", "/engage", "/s")
QUIET: Final = ("/api/early_access_features", "/api/surveys", "/api/web_experiments")
"""What browsers ask for that a service of flags alone has nothing to say to."""

_KINDS: Final[dict[str, Kind]] = {
    "/flags": Kind.FLAGS,
    "/decide": Kind.DECIDE,
    "/flags/definitions": Kind.DEFINITIONS,
    "/api/feature_flag/local_evaluation": Kind.DEFINITIONS,
    "/bootstrap": Kind.BOOTSTRAP,
    STREAM: Kind.STREAMS,
    "/_readiness": Kind.READINESS,
    "/_liveness": Kind.LIVENESS,
    STATUS: Kind.STATUS,
    "": Kind.ROOT,
    **dict.fromkeys(CAPTURES, Kind.CAPTURE),
    **dict.fromkeys(QUIET, Kind.CONFIG),
}
_BY_PATH: Final = {path: kind for base, kind in _KINDS.items() for path in (base, base + "/")}
_REMOTE_CONFIG: Final = "/remote_config"

_PARTITIONS: Final = {
    Kind.DEFINITIONS: "definitions",
    Kind.REMOTE_CONFIG: "definitions",
    Kind.BOOTSTRAP: "bootstrap",
    Kind.STREAMS: "streams",
    Kind.CAPTURE: "capture",
    Kind.MANAGEMENT: "management",
}


def kind_of(path: str) -> Kind:
    known = _BY_PATH.get(path)
    if known is not None:
        return known
    if path.startswith("/ofrep/"):
        return Kind.OFREP
    if path.startswith("/array/"):
        return Kind.CONFIG
    if path.startswith("/api/"):
        is_remote_config = path.startswith("/api/projects/") and path.rstrip("/").endswith(_REMOTE_CONFIG)
        return Kind.REMOTE_CONFIG if is_remote_config else Kind.MANAGEMENT
    return Kind.OTHER


def partition_of(path: str) -> str:
    """Which requests this one is counted with where there is a bound on how many there may be at once."""
    return _PARTITIONS.get(kind_of(path), "flags")


def is_managed(path: str) -> bool:
    """Whether the path is one of the management API."""
    return kind_of(path) is Kind.MANAGEMENT
