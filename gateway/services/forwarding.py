"""Sends events on to an upstream: behind everybody's back, from a bounded buffer, and each of them once at most.

How an upstream is spoken to is its adapter's. Invariant: a request waits for none of this, and what becomes of each one
is counted exactly once.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from config.clients import Capture
from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.resilience.guard import Guard
from gateway.telemetry import Outage, log_event

EVENT_BYTES: Final = 1024
"""What a request occupies beside its body, about; so that the buffer is bounded in number too."""
CLOSE_TIMEOUT_S: Final = 1.0
"""How long closing lets the buffer empty itself; what is left then is dropped and counted."""

Headers = Sequence[tuple[bytes, bytes]]


class EventUpstream(Protocol):
    async def send(self, method: str, target: bytes, headers: Headers, body: bytes) -> bool:
        """Whether a request was taken, as opposed to refused for what it is. Raises StoreError."""
        ...


class _Waiting(NamedTuple):
    method: str
    target: bytes
    headers: Headers
    body: bytes
    size: int


class ForwardingService:
    """Use as an async context manager: it owns the tasks that send."""

    def __init__(self, upstream: EventUpstream, guard: Guard, metrics: Metrics, settings: Capture) -> None:
        self._upstream = upstream
        self._guard = guard
        self._metrics = metrics
        self._settings = settings
        self._waiting: deque[_Waiting] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._outage = Outage("event_upstream")
        self._is_full = False
        self.buffered_bytes = 0
        """Of what waits and of what is being sent."""

    def __repr__(self) -> str:
        return f"<Forwarding {len(self._waiting)} waiting, {len(self._senders)} sending, {self.buffered_bytes} bytes>"

    async def __aenter__(self) -> "ForwardingService":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._senders:
            await asyncio.wait(self._senders, timeout=CLOSE_TIMEOUT_S)
        self._drop_waiting("stopped")
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)

    def forward(self, method: str, target: bytes, headers: Headers, body: bytes) -> None:
        """Have a request sent soon; dropped when too much waits already, or nobody is there to take it."""
        size = EVENT_BYTES + len(target) + len(body)
        if self.buffered_bytes + size > self._settings.max_buffered_bytes:
            self._metrics.event_request("full")
            if not self._is_full:
                log_event("events_dropped", logging.WARNING, buffered_bytes=self.buffered_bytes)
            self._is_full = True
            return
        self._is_full = False
        self.buffered_bytes += size
        self._waiting.append(_Waiting(method, target, headers, body, size))
        # A sender lives only while there is something to send, so that none can die unseen while idle.
        if len(self._senders) < self._settings.max_in_flight:
            sender = asyncio.create_task(self._send())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)

    async def _send(self) -> None:
        while self._waiting:
            event = self._waiting.popleft()
            outcome = "stopped"
            try:
                outcome = await self._outcome_of(event)
            finally:
                self._ended(event, outcome)

    async def _outcome_of(self, event: _Waiting) -> str:
        is_asked = False

        async def load() -> bool:
            nonlocal is_asked
            is_asked = True
            return await self._upstream.send(event.method, event.target, event.headers, event.body)

        try:
            is_taken = await self._guard.call(load, self._settings.timeout_ms / 1000)
        except StoreError as error:
            self._outage.failed(error)
            if is_asked:
                return "failed"
            self._drop_waiting("open")  # None of them would be let through either.
            return "open"
        except Exception as error:  # A bug in an adapter must not pass unseen because nobody waits.
            log_event("forwarding_crashed", logging.ERROR, exception=error)
            return "failed"
        self._outage.succeeded()
        return "forwarded" if is_taken else "refused"

    def _drop_waiting(self, outcome: str) -> None:
        while self._waiting:
            self._ended(self._waiting.popleft(), outcome)

    def _ended(self, event: _Waiting, outcome: str) -> None:
        self.buffered_bytes -= event.size
        self._metrics.event_request(outcome)
