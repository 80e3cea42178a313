"""Keeps the identifiers that flags with experience continuity hash: after the answer, and without anybody waiting.

Deciding what to keep is the evaluator's. Invariant: the queue is bounded, each write is tried twice at most, and what
is dropped is counted; reading never waits for any of this.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from config.backends import Overrides
from evaluator.types import OverrideWrite
from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.ports import OverrideStore
from gateway.resilience.guard import Guard
from gateway.telemetry import Outage, log_event

WRITERS: Final = 2
TRIES: Final = 2
RETRY_S: Final = 0.1
"""The longest pause before the second try, of which a random part is taken."""
CLOSE_TIMEOUT_S: Final = 2.0
"""How long closing lets the queue empty itself; what is left then is dropped and counted."""


class OverrideService:
    """Use as an async context manager: it owns the tasks that write."""

    def __init__(
        self,
        store: OverrideStore,
        guard: Guard,
        metrics: Metrics,
        *,
        max_queued: int,
        timeout_s: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._guard = guard
        self._metrics = metrics
        self._max_queued = max_queued
        self._timeout_s = timeout_s
        self._jitter = jitter
        self._queue: deque[tuple[int, OverrideWrite]] = deque()
        self._writers: set[asyncio.Task[None]] = set()
        self._outage = Outage("override_store")
        self._is_full = False

    def __repr__(self) -> str:
        return f"<OverrideService {len(self._queue)}/{self._max_queued} queued, {len(self._writers)} writing>"

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def __aenter__(self) -> "OverrideService":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writers:
            await asyncio.wait(self._writers, timeout=CLOSE_TIMEOUT_S)
        for writer in self._writers:
            writer.cancel()
        self._metrics.override_write("dropped", len(self._queue))
        self._queue.clear()

    def adopt(self, settings: Overrides) -> None:
        """Keep to these bounds from the next write on; what is queued stays so."""
        self._max_queued, self._timeout_s = settings.max_queued_writes, settings.write_timeout_ms / 1000

    def keep(self, project_id: int, write: OverrideWrite) -> None:
        """Have these hash keys kept soon; dropped when too many wait already."""
        if len(self._queue) >= self._max_queued:
            self._metrics.override_write("dropped")
            if not self._is_full:
                log_event("override_writes_dropped", logging.WARNING, queued=len(self._queue))
            self._is_full = True
            return
        self._is_full = False
        self._queue.append((project_id, write))
        # A writer lives only while there is something to write, so that none can die unseen while idle.
        if len(self._writers) < WRITERS:
            writer = asyncio.create_task(self._write())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)

    async def _write(self) -> None:
        while self._queue:
            project_id, write = self._queue.popleft()
            for tries_left in reversed(range(TRIES)):
                if await self._is_over(project_id, write, tries_left):
                    break
                await asyncio.sleep(RETRY_S * self._jitter())

    async def _is_over(self, project_id: int, write: OverrideWrite, tries_left: int) -> bool:
        """Try once; whether the write was made or given up."""
        try:
            await self._guard.call(
                lambda: self._store.save_overrides(project_id, write.distinct_ids, write.hash_keys), self._timeout_s
            )
        except StoreError as error:
            self._outage.failed(error)
        except Exception as error:  # A bug in an adapter must not pass unseen because nobody waits.
            log_event("override_write_crashed", logging.ERROR, exception=error)
            tries_left = 0
        else:
            self._outage.succeeded()
            self._metrics.override_write("written")
            return True
        self._metrics.override_write("retried" if tries_left else "failed")
        return not tries_left
