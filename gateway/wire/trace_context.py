"""W3C Trace Context: the headers in which callers say which trace a request is part of, and those told to others.

Whose word is believed is decided elsewhere. Invariant: what is not exactly as the standard has it is as good as absent,
and no text of a caller goes on that was not checked whole.
"""

import re
from collections.abc import Iterable
from typing import Final

from gateway.traces import Parent, Trace

Headers = Iterable[tuple[bytes, bytes]]

TRACEPARENT: Final = b"traceparent"
MAX_MEMBERS: Final = 32

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_MEMBER: Final = re.compile(
    r"([a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)


def parent_of(headers: Headers) -> Parent | None:
    """The caller's span; None when there is none, or no telling which."""
    given = [(name, value.decode("latin-1")) for name, value in headers if name in (TRACEPARENT, b"tracestate")]
    found = [value for name, value in given if name == TRACEPARENT]
    matched = _TRACEPARENT.fullmatch(found[0]) if len(found) == 1 else None
    if matched is None:
        return None
    version, trace_id, span_id, flags, more = matched.groups()
    # Later versions may say more, behind what this one does.
    if version == "ff" or (version == "00" and more is not None) or not (int(trace_id, 16) and int(span_id, 16)):
        return None
    state = _state_of(",".join(value for name, value in given if name != TRACEPARENT))
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1), state)


def headers_of(trace: Trace) -> list[tuple[bytes, bytes]]:
    """What is told to whoever is called for the request."""
    told = [(TRACEPARENT, b"00-%b-%b-%02x" % (trace.trace_id.encode(), trace.span_id.encode(), trace.is_sampled))]
    return [*told, (b"tracestate", trace.state.encode())] if trace.state else told


def _state_of(text: str) -> str:
    """The members of all headers together; empty when any of them is not as it should be."""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    matched = [_MEMBER.fullmatch(member) for member in members]
    keys = {it[1] for it in matched if it is not None}
    return ",".join(members) if len(members) <= MAX_MEMBERS and len(keys) == len(members) else ""
