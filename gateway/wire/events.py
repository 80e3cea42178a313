"""Server-sent events as OFREP has them: what a client asks for a stream with, and what it reads on one.

When something is sent is decided elsewhere. Invariant: an event says that there is something to fetch, never what, so
that nobody is told another thing here than in the answer to a request.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import json

MEDIA_TYPE: Final = b"text/event-stream"
SIGN_OF_LIFE: Final = b":\n\n"
_MAX_ID_DIGITS: Final = 19


def read_last_id(headers: Mapping[bytes, bytes]) -> int | None:
    """The version that the client was last told of; None when it says none, or none of ours."""
    given = headers.get(b"last-event-id", b"")
    return int(given) if given.isdigit() and len(given) <= _MAX_ID_DIGITS else None


def opening(version: int, retry_ms: int) -> bytes:
    """The beginning of a stream: how long to wait before coming back, and the id to come back with.

    A client takes the id over without being told anything, so that it learns of what it missed also if nothing
    happened while it was here.
    """
    return b": open\nretry: %d\nid: %d\n\n" % (retry_ms, version)


def come_back(retry_ms: int) -> bytes:
    """All there is of a stream for which there is no room: when to try again."""
    return b"retry: %d\n\n" % retry_ms


def refetch(version: int, etag: str) -> bytes:
    """The event on which clients fetch their flags again. They are told in seconds when it was, a version in ms."""
    data = {"type": "refetchEvaluation", "etag": etag, "lastModified": version // 1000}
    return b"event: message\nid: %d\ndata: %s\n\n" % (version, json.encode(data))
