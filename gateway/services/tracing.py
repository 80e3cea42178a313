"""Decides which requests are traced, and sends their spans on, behind everybody's back and from a bounded queue.

How spans are encoded and where they go is their adapters'. Invariant: a request waits for none of this, and what
becomes of each span is counted exactly once.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from random import random
from typing import Final, NamedTuple, Protocol

from config.operating import TRACES_PATH
from config.reload import Live
from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.ports import Clock
from gateway.telemetry import Outage, RequestRecord, log_event
from gateway.traces import Parent, Trace

DUE_AT: Final = 512
"""Spans from which on they are sent at once."""
BATCH_S: Final = 1.0
"""How late they may be otherwise."""
MAX_BATCH: Final = 8192
"""Spans of one call, a megabyte or two. A busy worker comes to its next call late, and has many by then."""
PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 8.0)
"""After each failed try of one batch."""
CLOSE_TIMEOUT_S: Final = 1.0
"""How long closing lets the queue empty itself; what is left then is dropped and counted."""


class Collector(Protocol):
    async def send(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Whether a request was taken, as opposed to refused for what it is. Raises StoreError."""
        ...


class Encoding(Protocol):
    def spans(self, record: RequestRecord, trace: Trace, outcome: str, *, ended_ns: int, now: float) -> bytes: ...

    def payload(self, requests: Iterable[bytes]) -> bytes: ...


class _Request(NamedTuple):
    encoded: bytes
    spans: int


class TracingService:
    """Use as an async context manager: it owns the task that sends."""

    def __init__(self, collector: Collector, encoding: Encoding, live: Live, clock: Clock, metrics: Metrics) -> None:
        self._collector = collector
        self._encoding = encoding
        self._live = live
        self._clock = clock
        self._metrics = metrics
        self._waiting: deque[_Request] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._is_due = asyncio.Event()
        self._is_closing = asyncio.Event()
        self._outage = Outage("trace_export")
        self.queued = 0
        """Spans that wait, and those being sent."""

    def __repr__(self) -> str:
        return f"<Tracing {self.queued} spans queued{', sending' if self._sender else ''}>"

    async def __aenter__(self) -> "TracingService":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_due.set()
        self._is_closing.set()
        if (sender := self._sender) is not None:
            await asyncio.wait({sender}, timeout=CLOSE_TIMEOUT_S)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        self._ended(list(self._waiting), "stopped")

    def begin(self, parent: Parent | None, sample_ratio: float) -> Trace | None:
        """The request's place in a trace; None when it has none."""
        if parent is None and random() >= sample_ratio:  # noqa: S311 - guards nothing
            return None
        return Trace(parent)

    def ended(self, record: RequestRecord, outcome: str) -> None:
        """Have the spans of this request sent soon, if it is sampled; dropped when too many wait already."""
        trace = record.trace
        if trace is None or not trace.is_open:
            return
        trace.is_open = False
        spans = 1 + len(trace.parts)
        if self.queued + spans > self._live.settings.traces.max_queued:
            self._metrics.spans("full", spans)
            return
        ended_ns = int(self._clock.now().timestamp() * 1e6) * 1000
        try:
            encoded = self._encoding.spans(record, trace, outcome, ended_ns=ended_ns, now=self._clock.monotonic())
        except Exception as error:  # A bug here costs a trace, and not the answer that it tells of.
            log_event("trace_crashed", logging.ERROR, exception=error)
            self._metrics.spans("failed", spans)
            return
        self.queued += spans
        self._waiting.append(_Request(encoded, spans))
        if self.queued >= DUE_AT:
            self._is_due.set()
        # A sender lives only while there is something to send, and in no request's context.
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send(), context=Context())

    async def _send(self) -> None:
        try:
            while self._waiting:
                await _pause(self._is_due, BATCH_S)
                batch = self._take()
                outcome = "stopped"
                try:
                    outcome = await self._outcome_of(batch)
                finally:
                    self._ended(batch, outcome)
        finally:
            self._sender = None

    def _take(self) -> list[_Request]:
        """The requests that are sent next."""
        batch, spans = [], 0
        while self._waiting and spans < MAX_BATCH:
            batch.append(self._waiting.popleft())
            spans += batch[-1].spans
        if not self._is_closing.is_set() and self.queued - spans < DUE_AT:
            self._is_due.clear()
        return batch

    async def _outcome_of(self, batch: list[_Request]) -> str:
        body = self._encoding.payload(request.encoded for request in batch)
        for pause_s in PAUSES_S:
            try:
                return await self._try(body)
            except (StoreError, TimeoutError) as error:
                self._outage.failed(error)
            except Exception as error:  # A bug in an adapter must not pass unseen because nobody waits.
                log_event("trace_export_crashed", logging.ERROR, exception=error)
                return "failed"
            await _pause(self._is_closing, pause_s)
        return "failed"

    async def _try(self, body: bytes) -> str:
        settings = self._live.settings.traces
        own = [(b"content-type", b"application/x-protobuf")]
        given = [(name.lower().encode(), value.encode()) for name, value in settings.headers.items()]
        async with asyncio.timeout(settings.timeout_ms / 1000):
            is_taken = await self._collector.send("POST", TRACES_PATH.encode(), own + given, body)
        if not is_taken:
            self._outage.failed(StoreError("refused; traces.url or traces.headers may be wrong"))
            return "refused"
        self._outage.succeeded()
        return "exported"

    def _ended(self, batch: list[_Request], outcome: str) -> None:
        spans = sum(request.spans for request in batch)
        self.queued -= spans
        self._metrics.spans(outcome, spans)


async def _pause(unless: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await unless.wait()
    except TimeoutError:
        return
