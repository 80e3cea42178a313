"""What a request for definitions, or for remote config, says of itself; and what stands for a payload it must not see.

Invariant: a header that makes no sense is as good as none.
"""

import re
from typing import Final

REDACTED: Final = b'"\\"********* (encrypted)\\""'
"""As PostHog has it: JSON text, in JSON text."""
_REFUSED: Final = re.compile(rb";\s*q=0(\.0*)?\s*$")


def accepts_gzip(accept_encoding: bytes) -> bool:
    """Whether gzip is named among the encodings, and not as one that is refused."""
    return any(
        part.partition(b";")[0].strip() == b"gzip" and not _REFUSED.search(part)
        for part in accept_encoding.lower().split(b",")
    )
