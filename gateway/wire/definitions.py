"""What a request for definitions, or for remote config, says of itself; and what stands for a payload it must not see.

Invariant: a header that makes no sense is as good as none.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

REDACTED: Final = b'"\\"********* (encrypted)\\""'
"""As PostHog has it: JSON text, in JSON text."""
_REFUSED: Final = re.compile(rb";\s*q=0(\.0*)?\s*$")
_MAX_CACHED_BYTES: Final = 128


def read_token(query_string: bytes) -> str | None:
    """The project's public token; None when it is not there, or empty. Of several the last counts."""
    # SDKs ask for the same again and again; long ones are somebody's own.
    return (_read_token if len(query_string) <= _MAX_CACHED_BYTES else _read_token.__wrapped__)(query_string)


@lru_cache(256)
def _read_token(query_string: bytes) -> str | None:
    return dict(parse_qsl(query_string.decode("latin-1"))).get("token")


def accepts_gzip(accept_encoding: bytes) -> bool:
    """Whether gzip is named among the encodings, and not as one that is refused."""
    return any(
        part.partition(b";")[0].strip() == b"gzip" and not _REFUSED.search(part)
        for part in accept_encoding.lower().split(b",")
    )
