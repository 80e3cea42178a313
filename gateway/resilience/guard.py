"""What stands between callers and one dependency: a breaker, a bulkhead, a bound on time, and one load for equal calls.

Which dependency it is, and what a call does, is the caller's. Invariant: a caller gets its answer or a StoreError
within the time it has left, whatever the dependency does - also one that does not react to being cancelled.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from enum import StrEnum
from math import inf
from typing import Any, Final, TypeVar

from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import Clock
from gateway.resilience.breaker import Breaker, Ticket
from gateway.resilience.bulkhead import Bulkhead

T = TypeVar("T")

MAX_ABANDONED: Final = 64
"""Loads given up that have not ended. With this many the dependency is taken to be hanging and is not asked."""
CLOSE_TIMEOUT_S: Final = 1.0
FASTEST_WINDOW_S: Final = 10.0


class Outcome(StrEnum):
    """How a load ended, or why there was none."""

    OK = "ok"
    TIMEOUT = "timeout"
    ERROR = "error"
    GONE = "gone"
    OPEN = "open"
    BUSY = "busy"
    SKIPPED = "skipped"


OnCall = Callable[[Outcome, float, float], None]
"""Told of each load: how it ended, how long it waited for a slot, and how long it took then, both in seconds."""


class _Flight:
    """One load under way, and how many wait for it."""

    __slots__ = ("ends_at", "entered_at", "started_at", "task", "ticket", "waiting")

    def __init__(self, ticket: Ticket, started_at: float, ends_at: float) -> None:
        self.task: asyncio.Task[Any]
        self.ticket = ticket
        self.started_at = started_at
        self.ends_at = ends_at
        self.entered_at: float | None = None
        self.waiting = 0


class Guard:
    """Use as an async context manager: closing cancels whatever is still under way."""

    def __init__(
        self,
        name: str,
        breaker: Breaker,
        bulkhead: Bulkhead,
        clock: Clock,
        *,
        on_call: OnCall = lambda *_: None,
        max_abandoned: int = MAX_ABANDONED,
    ) -> None:
        self.name = name
        self.breaker = breaker
        self.bulkhead = bulkhead
        self._clock = clock
        self._on_call = on_call
        self._max_abandoned = max_abandoned
        self._flights: dict[Hashable, _Flight] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._fastest = _Fastest(clock)

    def __repr__(self) -> str:
        return f"<Guard {self.name}: {self.breaker!r}, {self.bulkhead!r}, {len(self._abandoned)} abandoned>"

    async def __aenter__(self) -> "Guard":
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)

    async def call(
        self, load: Callable[[], Coroutine[Any, Any, T]], time_left_s: float, key: Hashable | None = None
    ) -> T:
        """What `load` gives, if that takes no longer than `time_left_s`. Calls with an equal key share one load.

        Raises StoreTimeout, StoreUnavailable when the dependency is not asked, or what `load` raised.
        """
        flight = self._flights.get(key) if key is not None else None
        if flight is None:
            flight = self._start(load, time_left_s, key)
        has_timed_out = False
        flight.waiting += 1
        try:
            await asyncio.wait({flight.task}, timeout=max(0.0, time_left_s))
            if not flight.task.done():
                has_timed_out = True
                raise StoreTimeout(f"{self.name}: no answer within {time_left_s * 1000:.0f} ms")
            if flight.task.cancelled():  # By closing: nothing else cancels what somebody waits for.
                raise StoreUnavailable(f"{self.name}: closed")
            result: T = flight.task.result()
            return result
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._abandon(flight, key, has_timed_out=has_timed_out)

    def _start(self, load: Callable[[], Coroutine[Any, Any, Any]], time_left_s: float, key: Hashable | None) -> _Flight:
        self._refuse_what_is_hopeless(time_left_s)
        ticket = self.breaker.admit()
        if ticket is None:
            raise self._refused(Outcome.OPEN, StoreUnavailable("circuit open after failures"))
        now = self._clock.monotonic()
        flight = _Flight(ticket, now, now + time_left_s)
        flight.task = asyncio.create_task(self._fly(flight, load))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._reap)
        if key is not None:
            self._flights[key] = flight
            flight.task.add_done_callback(lambda _: self._forget(key, flight))
        return flight

    def _refuse_what_is_hopeless(self, time_left_s: float) -> None:
        """No load starts that cannot finish in time, as far as anybody can tell."""
        if time_left_s <= 0:
            raise self._refused(Outcome.SKIPPED, StoreTimeout("no time was left to ask"))
        if time_left_s < self._fastest.seconds():
            raise self._refused(Outcome.SKIPPED, StoreTimeout(f"{time_left_s * 1000:.0f} ms are too few lately"))
        if len(self._abandoned) >= self._max_abandoned:
            raise self._refused(Outcome.BUSY, StoreUnavailable("too many calls that were given up have not ended"))
        wait_s = self.bulkhead.expected_wait_s()
        if wait_s and wait_s + self.bulkhead.held_s >= time_left_s:
            raise self._refused(Outcome.BUSY, StoreUnavailable("all connections are busy for longer than there is"))

    def _refused(self, outcome: Outcome, error: StoreError) -> StoreError:
        self._on_call(outcome, 0.0, 0.0)
        return type(error)(f"{self.name}: {error}")

    async def _fly(self, flight: _Flight, load: Callable[[], Coroutine[Any, Any, T]]) -> T:
        has_waited = self.bulkhead.in_use >= self.bulkhead.slots
        try:
            entered_at = await self.bulkhead.enter()
        except BaseException as error:  # The line was full, or everybody left it.
            flight.ticket.dropped()
            if isinstance(error, StoreUnavailable):
                raise self._refused(Outcome.BUSY, error) from None
            raise
        if has_waited and flight.ends_at - entered_at < self.bulkhead.held_s:
            # It would be given up midway, which costs a connection; the next in line has more time.
            self.bulkhead.hand_on()
            flight.ticket.dropped()
            raise self._refused(Outcome.BUSY, StoreUnavailable("all connections were busy for too long"))
        flight.entered_at = entered_at
        try:
            result = await load()
        except StoreTimeout:
            self._ended(flight, Outcome.TIMEOUT)
            raise
        except asyncio.CancelledError as error:
            if flight.task.cancelling():
                raise
            # Something inside was cancelled. Passed on as such, it would end the caller, and the probe never.
            self._ended(flight, Outcome.ERROR)
            raise StoreError(f"{self.name}: cancelled from within") from error
        except Exception:
            self._ended(flight, Outcome.ERROR)
            raise
        else:
            self._ended(flight, Outcome.OK)
            return result
        finally:
            # Also of a load that was given up: it holds its place for as long as it really runs.
            self.bulkhead.leave(entered_at)

    def _abandon(self, flight: _Flight, key: Hashable | None, *, has_timed_out: bool) -> None:
        """Cancel a load nobody waits for, without waiting until it has let go."""
        if flight.entered_at is None:
            self._on_call(Outcome.BUSY if has_timed_out else Outcome.GONE, 0.0, 0.0)
            flight.ticket.dropped()
        else:
            self._ended(flight, Outcome.TIMEOUT if has_timed_out else Outcome.GONE)
        self._forget(key, flight)
        self._abandoned.add(flight.task)
        flight.task.cancel()

    def _ended(self, flight: _Flight, outcome: Outcome) -> None:
        """Tell everybody concerned, once: what a load that was given up does later is nobody's business."""
        if flight.task in self._abandoned:
            return
        entered_at = flight.entered_at or flight.started_at
        duration_s = self._clock.monotonic() - entered_at
        if outcome is Outcome.OK:
            self._fastest.add(duration_s)
            flight.ticket.succeeded(duration_s)
        elif outcome is Outcome.GONE:
            flight.ticket.dropped()
        else:
            flight.ticket.failed()
        self._on_call(outcome, entered_at - flight.started_at, duration_s)

    def _forget(self, key: Hashable | None, flight: _Flight) -> None:
        if key is not None and self._flights.get(key) is flight:
            del self._flights[key]

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # Taken, so that asyncio does not report it as never retrieved.


class _Fastest:
    """The shortest time a call took lately, as seen in the present window and the one before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._present = self._before = inf
        self._turns_at = clock.monotonic() + FASTEST_WINDOW_S

    def add(self, duration_s: float) -> None:
        self._turn()
        self._present = min(self._present, duration_s)

    def seconds(self) -> float:
        """Zero when nothing is known."""
        self._turn()
        fastest = min(self._present, self._before)
        return 0.0 if fastest == inf else fastest

    def _turn(self) -> None:
        late_s = self._clock.monotonic() - self._turns_at
        if late_s >= 0:
            self._before = self._present if late_s < FASTEST_WINDOW_S else inf
            self._present = inf
            self._turns_at = self._clock.monotonic() + FASTEST_WINDOW_S
