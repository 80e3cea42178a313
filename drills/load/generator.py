"""An open-model load generator for HTTP/1.1: requests are due at the planned rate, whatever became of those before.

Its command line is in __main__.py; counting is report.py's.
Latency counts from when an attempt was due, so that a stalled server cannot hide what it kept from being sent.
Invariant: every attempt has exactly one outcome, and a run ends no later than one timeout after its schedule.
"""

import asyncio
import itertools
import socket
import sys
import time
from bisect import bisect
from collections import deque
from collections.abc import Callable
from typing import Final
from urllib.parse import urljoin, urlsplit

import msgspec

from drills.load.plan import LoadPlan
from drills.load.report import GOOD, SLOT_S, Outcome, Report, Slot, Tally, seen
from drills.machine import machine

TICK_S: Final = 0.001
UNTIL_CLOSE: Final = sys.maxsize
PARTIAL: Final = b'"errorsWhileComputingFlags":true'
REFUSALS: Final[dict[int, Outcome]] = {429: "limited", 503: "shed"}


def length(data: bytes | bytearray) -> int:
    """How long the answer that begins `data` is at least, and exactly once that many bytes are there."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return len(data) + 1
    head = data[:end].lower()
    has_body = int(head[9:12]) not in (204, 304)
    at = head.find(b"\r\ncontent-length:")
    if at >= 0 or not has_body:
        return end + (int(head[at + 17 : head.index(b"\r", at + 17)]) if has_body else 0)
    if b"\r\ntransfer-encoding: chunked\r" in head:
        # Seldom enough not to look at each chunk; JSON never holds a bare line end.
        return len(data) + (not data.endswith(b"\r\n0\r\n\r\n"))
    return UNTIL_CLOSE


class Attempt(msgspec.Struct):
    """A first try or a retry, from when it is due until it has its outcome."""

    due: float
    number: int = 0
    sent: float | None = None
    is_open: bool = True
    line: "Line | None" = None


class Line(asyncio.Protocol):
    """A connection, with one attempt at a time."""

    transport: asyncio.Transport

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._attempt: Attempt | None = None
        self._seen = bytearray()
        self._length = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._load.opened(self)

    def send(self, attempt: Attempt, message: bytes) -> None:
        self._attempt = attempt
        attempt.line = self
        attempt.sent = time.perf_counter()
        self.transport.write(message)

    def data_received(self, data: bytes | bytearray) -> None:
        if self._seen:
            self._seen += data
            data = self._seen
        try:
            if len(data) >= self._length:
                self._length = length(data)
            if len(data) >= self._length:
                self._answered(data)
            elif not self._seen:
                self._seen += data
        except ValueError:  # Not an answer that can be read.
            self._seen = bytearray(data)
            self.transport.abort()

    def _answered(self, data: bytes | bytearray) -> None:
        attempt, self._attempt = self._attempt, None
        is_last = b"\r\nconnection: close\r" in data[: data.find(b"\r\n\r\n") + 2].lower() or data[5:8] == b"1.0"
        if attempt is None or is_last or len(data) > self._length:
            self.transport.close()
            self._load.lines.discard(self)
        self._length = 0
        self._seen = bytearray()
        if attempt is not None:
            self._load.answered(attempt, int(data[9:12]), PARTIAL in data)
            self._load.freed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lines.discard(self)
        if self._length == UNTIL_CLOSE and exc is None:
            self._answered(self._seen)
        if self._attempt is not None:
            self._load.finish(self._attempt, "cut" if self._seen else "error")

    def drop(self) -> None:
        """Give up the attempt, and the connection with it."""
        self._attempt = None
        self._load.lines.discard(self)
        self.transport.abort()


class Load:
    """A run of one plan: what is due, what is under way, and over which connections."""

    def __init__(self, plan: LoadPlan, watch: Callable[[Slot], None] | None = None) -> None:
        self._plan = plan
        self._messages = itertools.cycle(plan.messages())
        self._due = plan.due()
        self._sources = itertools.cycle([(source, 0) for source in plan.sources] or [None])
        self.lines: set[Line] = set()
        self._idle: deque[Line] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[Attempt] = deque()
        self._started: deque[Attempt] = deque()  # In the order in which they time out.
        self._again: deque[Attempt] = deque()
        self.tally = Tally(watch, len(plan.phases))
        self._phase_ends = list(itertools.accumulate(seconds for seconds, _ in plan.phases))
        self.connections = self.most_connections = 0

    def __repr__(self) -> str:
        return f"<Load {len(self.lines)}/{self._plan.connections} connections, {len(self._waiting)} waiting>"

    async def run(self) -> None:
        """Return when every attempt has its outcome."""
        parts = urlsplit(self._plan.url)
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        self._address = found[0][4][:2]
        for _ in self._plan.sources:  # Each client is there from the beginning, and has its turn.
            self._connect_one()
        if self._connecting:
            await asyncio.wait(self._connecting)
        self._starts_at = time.perf_counter()
        self._ends_at = self._starts_at + self._plan.seconds
        self._next = self._starts_at + next(self._due, self._plan.seconds)
        try:
            while self._step(now := time.perf_counter()):
                await asyncio.sleep(TICK_S)
            self.tally.seal(now - self._starts_at + SLOT_S)
        finally:
            for line in list(self.lines):
                line.drop()
            for task in self._connecting:
                task.cancel()
            await asyncio.gather(*self._connecting, return_exceptions=True)
            await asyncio.sleep(0)  # For transports to close their sockets.

    def _step(self, now: float) -> bool:
        """Start what is due, and give up what took too long; False once nothing is left to do."""
        self.tally.seal(now - self._starts_at)
        while self._next <= now and self._next < self._ends_at:
            self.tally.lateness.add(now - self._next)
            self._start(Attempt(self._next))
            self._next = self._starts_at + next(self._due, self._plan.seconds)
        while self._again and self._again[0].due <= now:
            self._start(self._again.popleft())
        while self._started and not (self._started[0].is_open and now < self._started[0].due + self._plan.timeout_s):
            attempt = self._started.popleft()
            if attempt.is_open:
                if attempt.line is not None:
                    attempt.line.drop()
                self.finish(attempt, "timeout")
        while self._waiting and not self._waiting[0].is_open:
            self._waiting.popleft()
        self._connect()
        return bool(now < self._ends_at or self._started or self._again)

    def _start(self, attempt: Attempt) -> None:
        self._started.append(attempt)
        while self._idle:
            line = self._idle.popleft()
            if line in self.lines:
                line.send(attempt, next(self._messages))
                return
        if len(self._waiting) >= self._plan.max_waiting:
            self.finish(attempt, "unsent")
            return
        self._waiting.append(attempt)
        self.tally.queued += len(self.lines) >= self._plan.connections
        self._connect()

    def _connect(self) -> None:
        """Open what the waiting attempts still need, and may."""
        wanted = min(len(self._waiting), self._plan.connections - len(self.lines)) - len(self._connecting)
        for _ in range(wanted):
            self._connect_one()

    def _connect_one(self) -> None:
        task = asyncio.create_task(self._open())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: Line(self), *self._address, local_addr=next(self._sources)
                )
        except OSError as error:
            if self._waiting and not isinstance(error, TimeoutError):  # Who waited for that times out by itself.
                self.finish(self._waiting.popleft(), "error")

    def opened(self, line: Line) -> None:
        self.connections += 1
        self.lines.add(line)
        self.most_connections = max(self.most_connections, len(self.lines))
        self.freed(line)

    def freed(self, line: Line) -> None:
        """Use a connection for who has waited longest, or keep it, unless it is closed."""
        if line not in self.lines:
            self._connect()
            return
        while self._waiting:
            attempt = self._waiting.popleft()
            if attempt.is_open:
                line.send(attempt, next(self._messages))
                return
        self._idle.append(line)

    def answered(self, attempt: Attempt, status: int, is_partial: bool) -> None:
        self.tally.statuses[status] += 1
        good: Outcome = "partial" if is_partial else "ok"
        self.finish(attempt, good if 200 <= status < 300 else REFUSALS.get(status, "other"))

    def finish(self, attempt: Attempt, outcome: Outcome) -> None:
        now = time.perf_counter()
        if now > attempt.due + self._plan.timeout_s:  # Its client had gone, also where this was noticed late.
            outcome = "timeout"
        attempt.is_open, attempt.line = False, None
        phase = min(bisect(self._phase_ends, now - self._starts_at), len(self._phase_ends) - 1)
        self.tally.add(outcome, now - attempt.due, phase, is_retry=attempt.number > 0)
        if attempt.sent is not None:
            self.tally.phases[phase][outcome].add(now - attempt.sent)
        if outcome in GOOD or outcome == "unsent" or attempt.number >= self._plan.retries:
            return
        # None begins after the schedule, so that each has its whole timeout before the run ends.
        if (due := now + self._plan.retry_delay_s) < self._ends_at:
            self._again.append(Attempt(due, attempt.number + 1))


async def run(plan: LoadPlan, watch: Callable[[Slot], None] | None = None) -> Report:
    """The report of a whole run; `watch` is called with every tenth of a second of it."""
    load = Load(plan, watch)
    url, phases = urljoin(plan.url, plan.probe), ((plan.seconds, 10.0),)
    probe = Load(LoadPlan(url=url, phases=phases, connections=1, timeout_s=plan.timeout_s))
    began, used = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())
        if plan.probe:
            tasks.create_task(probe.run())
    seconds = time.perf_counter() - began
    tally = load.tally
    return Report(
        url=plan.url, machine=machine(), phases=plan.phases, seconds=seconds, goodput_per_s=tally.good.count / seconds,
        first=seen(tally.first), retried=seen(tally.retried),
        by_phase=list(map(seen, tally.phases)), due_by_phase=list(map(seen, tally.due_phases)),
        probe=seen(probe.tally.first),
        statuses=dict(sorted(tally.statuses.items())), connections=load.most_connections, queued=tally.queued,
        reconnects=load.connections - load.most_connections, lateness=tally.lateness.stats(),
        own_cpu=(time.process_time() - used) / seconds, slots=tally.slots, curve=tally.good.curve(),
    )  # fmt: skip
