"""Listens for announced changes, and begins again whenever the connection is lost.

What a change means is the snapshots' business. Invariant: nothing depends on an announcement; a lost one costs the time
until versions are compared the next time.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, Protocol

from gateway.errors import StoreError
from gateway.ports import ChangeFeed, Clock
from gateway.telemetry import Outage, log_event

PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 15.0
CLOSE_TIMEOUT_S: Final = 1.0


class FeedMetrics(Protocol):
    """What is counted of a feed."""

    def at_scrape(self, callback: Callable[[], None]) -> None: ...

    def heartbeat(self, task: str, age_s: float) -> None: ...

    def feed_connected(self, source: str, *, is_connected: bool) -> None: ...

    def change_told(self, source: str) -> None: ...


class ChangeListener:
    """Use as an async context manager. `source` names the feed in metrics and logs: postgres, redis or edits."""

    def __init__(
        self,
        source: str,
        feed: ChangeFeed,
        told: Callable[[int | None], None],
        clock: Clock,
        metrics: FeedMetrics,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._feed = feed
        self._told = told
        self._clock = clock
        self._metrics = metrics
        self._jitter = jitter
        self._outage = Outage(f"{source}_feed")
        self._pause_s = PAUSE_S
        self.is_lost = False
        """Whether there is no connection although one was tried."""
        self._beat_at = clock.monotonic()
        self._task: asyncio.Task[None]
        metrics.at_scrape(lambda: metrics.heartbeat(f"feed_{source}", clock.monotonic() - self._beat_at))

    async def __aenter__(self) -> "ChangeListener":
        self._task = asyncio.create_task(self._keep_listening())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except StoreError as error:
                self._outage.failed(error)
            except Exception as error:  # A bug in an adapter must not end listening for good.
                log_event("feed_crashed", logging.ERROR, source=self._source, exception=error)
            self._metrics.feed_connected(self._source, is_connected=False)
            self.is_lost = True
            await asyncio.sleep(self._pause_s * self._jitter())
            self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)

    async def _listen(self) -> None:
        async for project_id in self._feed.changes():
            self._beat_at = self._clock.monotonic()
            self._pause_s = PAUSE_S
            self._outage.succeeded()
            self._metrics.feed_connected(self._source, is_connected=True)
            self.is_lost = False
            if project_id is not None:
                self._metrics.change_told(self._source)
            self._told(project_id)
