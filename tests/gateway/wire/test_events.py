"""What is read of a request for a stream, and what an event is on the wire.

Invariant: every message ends with an empty line, without which no client takes it.
"""

import msgspec
import pytest

from gateway.wire.events import SIGN_OF_LIFE, opening, read_last_id, refetch
from gateway.wire.query import read_parameters

MS = 1_795_271_954_397


@pytest.mark.parametrize(
    ("query", "token"),
    [
        (b"token=phc_a", "phc_a"),
        (b"token=phc_a&token=phc_b", "phc_b"),
        (b"token=phc%5Fa&x=1", "phc_a"),
        (b"token=", None),
        (b"", None),
        (b"\xff&%", None),
    ],
)
def test_read_token__query__is_the_token_in_it(query: bytes, token: str | None) -> None:
    """A query without a token, or with an empty one, names no project; of two the last counts."""
    assert read_parameters(query).token == token


@pytest.mark.parametrize(
    ("given", "version"),
    [
        (b"42", 42),
        (b"", None),
        (b"-1", None),
        (b"4 2", None),
        (b"\xb2", None),
        (b"9" * 19, 10**19 - 1),
        (b"9" * 20, None),
    ],
)
def test_read_last_id__header__is_the_version_if_it_is_one(given: bytes, version: int | None) -> None:
    """An id that is none of ours tells nothing, however it came about."""
    assert read_last_id({b"last-event-id": given}) == version
    assert read_last_id({}) is None


def test_opening__any__has_the_time_to_come_back_and_the_id() -> None:
    """What a client needs for coming back, in a message that it is not told of."""
    assert opening(MS, 2345) == b": open\nretry: 2345\nid: %d\n\n" % MS


def test_refetch__moment__is_the_event_of_the_protocol() -> None:
    """An event has a type, an id, the tag of the definitions, and when they changed in seconds."""
    *head, data, end, nothing = refetch(MS, "abc").split(b"\n")
    assert head == [b"event: message", b"id: %d" % MS]
    assert data.startswith(b"data: ")
    assert msgspec.json.decode(data[6:]) == {"type": "refetchEvaluation", "etag": "abc", "lastModified": MS // 1000}
    assert (end, nothing) == (b"", b"")


def test_sign_of_life__any__is_a_comment() -> None:
    """A client skips it."""
    assert SIGN_OF_LIFE.startswith(b":")
    assert SIGN_OF_LIFE.endswith(b"\n\n")
