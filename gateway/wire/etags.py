"""Entity tags: made of everything that an answer depends on, and compared with what a client has.

Invariant: equal tags mean equal answers, but for what says how old they are; all tags are weak for that reason.
"""

import hashlib
from typing import Final

_BYTES: Final = 16


def etag_of(*parts: bytes) -> bytes:
    """A weak tag for an answer that depends on these parts, each of which ends where the next begins."""
    digest = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return b'W/"%s"' % digest.hexdigest().encode()


def is_known(if_none_match: bytes | None, etag: bytes) -> bool:
    """Whether a client that sends this `If-None-Match` has the answer with this tag.

    It may be a list, and a tag may come weak, strong or without its quotes, as SDKs and proxies make of it.
    """
    if if_none_match is None:
        return False
    wanted = _bare(etag)
    return any(given in (wanted, b"*") for given in map(_bare, if_none_match.split(b",")))


def _bare(tag: bytes) -> bytes:
    return tag.strip().removeprefix(b"W/").strip(b'"')
