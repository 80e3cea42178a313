"""Trace: what OpenTelemetry is to know of one request, kept while it runs.

How that is written is in wire/, when it is sent in services/traces.py. Invariant: however much is done for a request,
and for however long after it, its trace keeps a bounded part of it.
"""

from contextvars import ContextVar
from os import urandom
from typing import Final, NamedTuple

MAX_PARTS: Final = 64
"""Of one request: a page for a hundred people has three of each."""


class Parent(NamedTuple):
    """What a caller said of its own span; ids are in hex."""

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str


class Part(NamedTuple):
    """Something that was done for the request, told at its end. A call of a dependency has an `outcome`."""

    name: str
    ended_at: float
    took_s: float
    outcome: str | None = None
    waited_s: float = 0.0


class Trace:
    """A request's place in a trace. `span_id` is the request's own span; the caller's if that is all there is."""

    __slots__ = ("http_version", "is_open", "is_sampled", "parent_id", "parts", "route", "scheme", "span_id", "state",
                 "trace_id")  # fmt: skip

    def __init__(self, parent: Parent | None) -> None:
        self.is_sampled = parent is None or parent.is_sampled
        self.trace_id = urandom(16).hex() if parent is None else parent.trace_id
        self.parent_id = None if parent is None else parent.span_id
        self.span_id = urandom(8).hex() if self.parent_id is None or self.is_sampled else self.parent_id
        self.state = "" if parent is None else parent.state
        self.is_open = self.is_sampled
        self.parts: list[Part] = []
        self.route: str | None = None
        self.scheme = ""
        self.http_version = ""

    def note(self, part: Part) -> None:
        """Keep this, unless the request is over: what it began may go on in the background."""
        if self.is_open and len(self.parts) < MAX_PARTS:
            self.parts.append(part)

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id}, {len(self.parts)} parts{', open' if self.is_open else ''}>"


trace_here: ContextVar[Trace | None] = ContextVar("trace_here", default=None)
"""The sampled trace of the request that is being answered where this is asked, or for which something was begun."""
