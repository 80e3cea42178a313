"""The gate of the process: as many requests inside as the limit says, a short line of others, the rest shed at once.

What a refusal looks like on the wire is the middleware's. Invariant: whoever comes or leaves sees to it that nobody is
in line while a slot is free, and a slot handed to somebody who has gone is handed on.

The line is first come, first served while it empties now and then. While it does not, it is not a line but a backlog:
the newest goes first, since its caller is the likeliest to be there still, whoever has waited for half of the longest
wait is dropped, and only as many wait as may be inside, since refusing at once is cheaper than dropping. So most of
those served have hardly waited, instead of all of them nearly too long.
"""

import asyncio
from collections import OrderedDict
from math import inf
from typing import Final, Literal

from gateway.ports import Clock
from gateway.resilience.adaptive import Limit

BACKLOG_AFTER_S: Final = 0.1
"""Of a line that has not been empty: the interval that CoDel waits as well before a queue counts as standing."""
WEIGHT: Final = 0.1
"""Of the newest request in the running mean of how long slots are held."""

ShedReason = Literal["full", "late", "dropped"]
"""No room in line; not in time, as foreseen or as it turned out; pushed out by newer ones in a backlog."""


class Shed(Exception):
    """A request that had a place in line and gets no turn."""

    def __init__(self, reason: ShedReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Ticket:
    """A place inside, or in line: then there is a `turn`, done once the slot is had or the ticket shed."""

    __slots__ = ("is_taken", "placed_at", "shed", "since", "timer", "turn", "waited_s")

    def __init__(self, placed_at: float, since: float | None) -> None:
        self.placed_at = placed_at
        self.since = since
        """When the slot was had; None while there is none."""
        self.turn: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.shed: ShedReason | None = None
        self.is_taken = False
        """Whether its holder has come with it."""
        self.waited_s = 0.0
        """What its holder had waited for others before it had the slot."""


class Gate:
    """`limit` may be exchanged at any time; below those in flight it admits nobody until enough have left."""

    def __init__(self, limit: Limit, max_queued: int, max_wait_s: float, clock: Clock) -> None:
        self.limit = limit
        self.in_flight = 0
        self.shed: dict[ShedReason, int] = {"full": 0, "late": 0, "dropped": 0}
        self.last_shed: ShedReason = "full"
        self.max_queued = max_queued
        self.max_wait_s = max_wait_s
        self._clock = clock
        self._line: OrderedDict[Ticket, None] = OrderedDict()
        self._in_line_since = 0.0
        self._standing_at = -inf
        """When a backlog was last seen: one that is back so soon has not been worked off."""
        self._held_s = 0.0

    def __repr__(self) -> str:
        return f"<Gate {self.in_flight}/{self.limit.limit} active, {self.queued} queued>"

    @property
    def queued(self) -> int:
        return len(self._line)

    def expected_wait_s(self) -> float:
        """How long the next one would probably wait: for all in line, and those beyond a limit that has shrunk."""
        leaving_first = self.in_flight - self.limit.limit + self.queued + 1
        return leaving_first * self._held_s / max(1, self.in_flight) if leaving_first > 0 else 0.0

    def place(self, deadline_s_left: float) -> Ticket | None:
        """A ticket to run with, or one to `wait` with; None when the request had better be shed at once."""
        if self._line:  # The limit may have risen since somebody left.
            self._hand_on()
        if self.in_flight < self.limit.limit:
            self.in_flight += 1
            now = self._clock.monotonic()
            return Ticket(now, now)
        longest_s = min(self.max_wait_s, deadline_s_left)
        reason = self._reason_to_shed(longest_s)
        if reason is None:
            return self._place_in_line(longest_s)
        self._count(reason)
        return None

    async def wait(self, ticket: Ticket) -> None:
        """Returns when the ticket has its slot, which `leave` must then be told of.

        Raises Shed when there is none in time. Whoever is shed or cancelled here holds nothing and need not leave.
        """
        if ticket.turn is None:
            return
        try:
            if ticket.turn.done():
                # The slot became free before this task ran at all. If it went on at once, the whole line would run
                # within one turn of the event loop, in which nobody is refused and health is not answered.
                await asyncio.sleep(0)
            else:
                await ticket.turn
        except asyncio.CancelledError:
            self.abandon(ticket)
            raise
        if ticket.shed is not None:
            self._count(ticket.shed)
            raise Shed(ticket.shed)

    def abandon(self, ticket: Ticket) -> None:
        """Give back a place that nobody came for, inside or in line."""
        self._take_out(ticket)
        self._free(ticket)

    def leave(self, ticket: Ticket, own_s: float | None) -> None:
        """Give the slot back. `own_s` goes to the limit; None when the request says nothing about the usual.

        A ticket without a slot, because it has left already say, changes nothing.
        """
        if ticket.since is None:
            return
        self._held_s += WEIGHT * (self._clock.monotonic() - ticket.since - self._held_s)
        if own_s is not None:
            self.limit.sample(own_s, self.in_flight)
        self._free(ticket)

    def _reason_to_shed(self, longest_s: float) -> ShedReason | None:
        """Why nobody may join the line now; None when somebody may."""
        if self.queued >= (min(self.max_queued, self.limit.limit) if self._is_backlog() else self.max_queued):
            return "full"
        return "late" if self.expected_wait_s() >= longest_s else None

    def _count(self, reason: ShedReason) -> None:
        self.shed[reason] += 1
        self.last_shed = reason

    def _is_backlog(self) -> bool:
        return bool(self._line) and self._clock.monotonic() - self._in_line_since > BACKLOG_AFTER_S

    def _place_in_line(self, longest_s: float) -> Ticket:
        loop = asyncio.get_running_loop()
        ticket = Ticket(self._clock.monotonic(), None)
        ticket.turn = loop.create_future()
        ticket.timer = loop.call_later(longest_s, self._shed, ticket, "late")
        if not self._line and ticket.placed_at - self._standing_at > BACKLOG_AFTER_S:
            self._in_line_since = ticket.placed_at
        self._line[ticket] = None
        return ticket

    def _free(self, ticket: Ticket) -> None:
        if ticket.since is not None:
            ticket.since = None
            self.in_flight -= 1
        if self._line:
            self._hand_on()

    def _hand_on(self) -> None:
        """Fill the free slots from the line."""
        now = self._clock.monotonic()
        is_backlog = self._is_backlog()
        if is_backlog:
            self._standing_at = now
            while self._line and now - (oldest := next(iter(self._line))).placed_at > self.max_wait_s / 2:
                self._shed(oldest, "dropped")
        while self._line and self.in_flight < self.limit.limit:
            ticket = next(reversed(self._line) if is_backlog else iter(self._line))
            self._take_out(ticket)
            if ticket.turn is not None and not ticket.turn.done():  # It is done when its caller has been cancelled.
                ticket.since = now
                self.in_flight += 1
                ticket.turn.set_result(None)

    def _shed(self, ticket: Ticket, reason: ShedReason) -> None:
        self._take_out(ticket)
        if ticket.turn is not None and not ticket.turn.done():
            ticket.shed = reason
            ticket.turn.set_result(None)

    def _take_out(self, ticket: Ticket) -> None:
        self._line.pop(ticket, None)
        if ticket.timer is not None:
            ticket.timer.cancel()
