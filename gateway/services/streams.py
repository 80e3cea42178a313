"""The open streams of events: what each client has been told, and when it is told what next.

Nothing is written here, and no wire format is known. Invariant: what waits for a client is the newest version and a
moment, never a queue; however late a client is, it is told once.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Final

from msgspec import Struct

from config.clients import Streams
from config.reload import Live
from evaluator.snapshot import Snapshot
from gateway.background import Background
from gateway.errors import AuthenticationFailed, Unavailable
from gateway.metrics import Metrics, StreamEnd
from gateway.ports import Clock, Deadline
from gateway.services.held import Held
from gateway.services.snapshots import SnapshotService
from gateway.telemetry import log_event

TICK_S: Final = 0.1
"""How often all streams are looked at, in one go, so that none needs a timer: 1000 of them take some 40 µs."""
USE_S: Final = 5.0
"""How often a project that somebody listens to counts as asked for."""
MAX_LOADS: Final = 16
"""Projects that were pushed out and are loaded again in one go: those asked for flags come first."""
RECENT_S: Final = 60.0
"""For how long after a change a new client may have fetched its flags where the change had not arrived yet."""
EARLIER: Final = 0.25
"""Part of a time that is left out by chance, so that streams opened together do not stay together."""


class Version(Struct, frozen=True):
    """What is to be told of a snapshot. The snapshot itself would be kept in memory by whoever listens."""

    number: int
    etag: str


class Stream:
    """One client that listens. Iterating gives the versions to tell it of, and None when a sign of life is due."""

    __slots__ = (
        "_chance", "_clock", "_ends_at", "_newest", "_quiet_until", "_settings", "_tell_at", "_wake", "_write_at",
        "due_at", "known", "reason",
    )  # fmt: skip

    def __init__(
        self, newest: Version, known: int, settings: Callable[[], Streams], clock: Clock, chance: Callable[[], float]
    ) -> None:
        now = clock.monotonic()
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._newest = newest
        self._wake = asyncio.Event()
        self._tell_at = now if newest.number > known else inf
        self.due_at: float = now
        """When it is to be woken."""
        self._quiet_until = now
        self._ends_at = now + self._less(settings().max_age_s)
        self.known = known
        """The version that its client has the flags of, or was told of."""
        self.reason: StreamEnd | None = None
        """Why it is over; None while it is not."""
        self._written(now)

    def __repr__(self) -> str:
        return f"<Stream v{self.known} of v{self._newest.number}{f', {self.reason}' if self.reason else ''}>"

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Version | None:
        while self.reason is None:
            now = self._clock.monotonic()
            if now >= self._ends_at:
                self.end("age")
            elif now >= self._tell_at:
                self.known, self._tell_at = self._newest.number, inf
                self._quiet_until = now + self._settings().spread_ms / 1000
                self._written(now)
                return self._newest
            elif now >= self._write_at:
                self._written(now)
                return None
            else:
                self._wake.clear()
                await self._wake.wait()
        raise StopAsyncIteration

    def wake(self) -> None:
        """Have it look at the time."""
        self._wake.set()

    def end(self, reason: StreamEnd) -> None:
        """Have it end, if it does not for another reason already."""
        self.reason = self.reason or reason
        self.wake()

    def changed(self, newest: Version) -> None:
        """There is another version, to be told of at a moment of this stream's own."""
        self._newest = newest
        if newest.number > self.known and self._tell_at == inf:
            spread_s = self._settings().spread_ms / 1000
            self._tell_at = max(self._quiet_until, self._clock.monotonic() + self._chance() * spread_s)
            self.due_at = min(self.due_at, self._tell_at)

    def _written(self, now: float) -> None:
        self._write_at = now + self._less(self._settings().heartbeat_s)
        self.due_at = min(self._write_at, self._tell_at, self._ends_at)

    def _less(self, most_s: float) -> float:
        return most_s * (1 - self._chance() * EARLIER)


class StreamService:
    """Use as an async context manager: it owns the task that looks at the time for all streams."""

    def __init__(
        self,
        snapshots: SnapshotService,
        live: Live,
        clock: Clock,
        metrics: Metrics,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._snapshots = snapshots
        self._live = live
        self._clock = clock
        self._metrics = metrics
        self._chance = chance
        self._streams: dict[str, set[Stream]] = {}
        self._background = Background()
        snapshots.on_change = self._changed
        metrics.at_scrape(lambda: metrics.streams.set(len(self)))

    def __len__(self) -> int:
        return sum(map(len, self._streams.values()))

    def __repr__(self) -> str:
        return f"<StreamService {len(self)} streams of {len(self._streams)} projects>"

    async def __aenter__(self) -> "StreamService":
        self._background.spawn(self._keep_ticking())
        self._background.spawn(self._keep_using())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._background.cancel()

    @contextmanager
    def opened(self, held: Held, known: int | None) -> Iterator[Stream]:
        """A stream about this project, until the context is left; `known` is the version its client was told of last.

        One that missed something is told at once. So is a new one shortly after a change: where it fetched its flags,
        the change may not have arrived then.
        """
        newest = _version(held.snapshot)
        if known is None:
            is_recent = 0 <= self._clock.now().timestamp() - newest.number / 1000 < RECENT_S
            known = newest.number - is_recent
        stream = Stream(newest, known, lambda: self._live.settings.streams, self._clock, self._chance)
        token = held.snapshot.token
        streams = self._streams.setdefault(token, set())
        streams.add(stream)
        try:
            yield stream
        finally:
            streams.remove(stream)
            if not streams:
                del self._streams[token]
            self._metrics.stream_ended(stream.reason or "cut_off")

    def tick(self) -> None:
        """Wake the streams whose time for something has come, and end all of them once there are to be none."""
        now = self._clock.monotonic()
        is_over = self._live.is_leaving or not self._live.settings.streams.is_enabled
        for streams in self._streams.values():
            for stream in streams:
                if is_over:
                    stream.end("leaving" if self._live.is_leaving else "disabled")
                elif now >= stream.due_at:
                    stream.wake()

    async def use(self) -> None:
        """Ask for the projects that somebody listens to: what nobody asks for is pushed out, and not kept current."""
        loads = 0
        for token in tuple(self._streams):
            try:
                await self._snapshots.get(token, Deadline(self._clock, 0))
            except AuthenticationFailed:
                self._changed(token, None)
            except Unavailable:  # On its way from now on, if it can be had at all.
                loads += 1
                if loads >= MAX_LOADS:
                    break

    def _changed(self, token: str, snapshot: Snapshot | None) -> None:
        for stream in self._streams.get(token, ()):
            if snapshot is None:
                stream.end("unknown")
            else:
                stream.changed(_version(snapshot))

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    async def _keep_using(self) -> None:
        while True:
            await asyncio.sleep(USE_S)
            try:
                await self.use()
            except Exception as error:  # What one project did once must not cost all of them their news for good.
                log_event("listening_crashed", logging.ERROR, exception=error)


def _version(snapshot: Snapshot) -> Version:
    return Version(snapshot.version, snapshot.etag)
