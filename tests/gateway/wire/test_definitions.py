"""What a request for definitions says of itself."""

import msgspec
import pytest

from gateway.wire.definitions import REDACTED, accepts_gzip
from gateway.wire.query import read_parameters


@pytest.mark.parametrize(
    ("query", "token"),
    [
        (b"token=phc_1", "phc_1"),
        (b"token=phc_1&send_cohorts", "phc_1"),
        (b"send_cohorts&token=phc%5F1", "phc_1"),
        (b"token=a&token=b", "b"),
        (b"token=" + b"x" * 200, "x" * 200),
        (b"token=", None),
        (b"tokens=1", None),
        (b"", None),
        (b"%FF=\xff&token=%FF", "\ufffd"),
    ],
)
def test_token__in_any_query__is_read(query: bytes, token: str | None) -> None:
    """The token is found beside whatever else SDKs send; an empty one is none."""
    assert read_parameters(query).token == token


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        (b"gzip", True),
        (b"deflate, gzip;q=1.0, *;q=0.5", True),
        (b"br,GZIP ; q=0.2", True),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000", False),
        (b"gzip;q=0.001", True),
        (b"identity", False),
        (b"xgzipx", False),
        (b"", False),
    ],
)
def test_gzip__accepted_or_refused__is_told(header: bytes, is_accepted: bool) -> None:
    """Nobody gets gzip who has not asked for it, or has said no to it."""
    assert accepts_gzip(header) is is_accepted


def test_redacted__is_json_text_in_json() -> None:
    """SDKs decode it as they do any payload."""
    assert msgspec.json.decode(msgspec.json.decode(REDACTED)) == "********* (encrypted)"
