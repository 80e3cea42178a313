"""The parent of the workers: starts them, replaces them, passes on what they are to know, and stops them in order.

Answers no requests itself. Invariant: as long as it lives there are as many workers as asked for, or it is trying; once
it is gone there are none.
"""

import asyncio
import logging
import random
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final

import msgspec

from config.reload import dumps
from config.sources import Loaded
from gateway.background import Background
from gateway.server.channel import (
    Accepting,
    Begin,
    Committed,
    CutOff,
    Drain,
    Gather,
    Go,
    LameDuck,
    Message,
    Opened,
    Prepared,
    Ready,
    Rendered,
    ReplaceMe,
)
from gateway.server.child import Child, State
from gateway.server.gathering import Gathering
from gateway.server.reloading import InForce, Outcome
from gateway.server.tally import Tally
from gateway.standing import SupervisorReport, WorkerState
from gateway.telemetry import log_event

START_TIMEOUT_S: Final = 60.0
"""How long a new worker may take until it can evaluate a snapshot before its replacing another one is given up."""
STOP_GRACE_S: Final = 5.0
"""Beyond what a worker allows itself to stop, before it is killed."""
FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 30.0
STEADY_S: Final = 30.0
"""A worker that lived this long shows that starting one works."""
MAX_FAILED_STARTS: Final = 5
"""Workers that fail to start, one after the other, before it is given up if none is left."""


class Supervisor:
    """Runs until told to stop. `load` reads the settings anew."""

    def __init__(
        self,
        loaded: Loaded,
        load: Callable[[], Loaded],
        listener: socket.socket,
        metrics_listener: socket.socket | None,
        announce: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._metrics_listener = metrics_listener
        self._announce = announce
        self.children: dict[int, Child] = {}
        self._being_born: set[int] = set()  # By number, which no other one is to get meanwhile.
        self.tally = Tally()
        self.in_force = InForce(loaded.settings, load, self.children, self.tally)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._has_lame_duck = True
        self._has_announced = False
        self._failed_starts = 0
        self._crashes = 0
        self._exit_code = 0
        self._changing = asyncio.Lock()
        """Held while workers are replaced or settings change, so that neither happens amid the other."""
        self._gathering = Gathering(self.tally, self.children, lambda: msgspec.json.encode(self.report()))
        self._background = Background()

    def __repr__(self) -> str:
        return f"<Supervisor of {list(self.children.values())!r}>"

    async def run(self) -> int:
        """The exit code, once stopped: 0 when told to and all went in order."""
        self._on(signal.SIGTERM, self.stop)
        self._on(signal.SIGINT, self.stop, False)
        self._on(signal.SIGHUP, lambda: self._background.spawn(self.reload()))
        self._on(signal.SIGUSR2, lambda: self._background.spawn(self.roll()))
        # The first one alone, so that what keeps workers from starting is told once.
        first = await self._start()
        await first.becomes(State.ACCEPTING, START_TIMEOUT_S)
        while not self._stop.is_set() and self._lacking():
            await self._start()
        await self._stop.wait()
        await self._shut_down()
        return self._exit_code

    def _on(self, number: signal.Signals, do: Callable[..., object], *args: object) -> None:
        self._loop.add_signal_handler(number, do, *args)

    def stop(self, has_lame_duck: bool = True) -> None:
        """Stop in order; told twice, without waiting for anybody."""
        if self._stop.is_set():
            self._hurry.set()
            self._tell(CutOff())
        self._has_lame_duck = has_lame_duck
        self._stop.set()

    # Starting and losing workers.

    async def _start(self) -> Child:
        index = next(it for it in count() if it not in self.children and it not in self._being_born)
        self._being_born.add(index)
        try:
            child = self.children[index] = await Child.start(index, self._listener, self._metrics_listener)
        finally:
            self._being_born.remove(index)
        child.send(Begin(index, dumps(self.in_force.settings)))
        self._background.spawn(self._look_after(child))
        return child

    async def _look_after(self, child: Child) -> None:
        while (message := await child.receive()) is not None:
            self._heard(child, message)
        code = await child.ended()
        del self.children[child.index]
        await self._lost(child, code)

    def _heard(self, child: Child, message: Message) -> None:
        match message:
            case Opened():
                child.send(Go(self.in_force.generation, dumps(self.in_force.settings)))
            case Accepting():
                child.enter(State.ACCEPTING)
                self._failed_starts = 0
                if not self._has_announced and self._accepting() >= self.in_force.settings.server.workers:
                    self._has_announced = True
                    self._announce()
            case Ready():
                child.enter(State.READY)
            case Prepared() | Committed():
                child.answered(message)
            case ReplaceMe(reason=reason):
                self._background.spawn(self._replace_alone(child, reason))
            case Gather(query=query, is_status=is_status):
                self._background.spawn(self._gathering.gather(child, query, is_status=is_status))
            case Rendered():
                self._gathering.rendered(message)

    def _accepting(self) -> int:
        return sum(child.state in (State.ACCEPTING, State.READY) for child in self.children.values())

    async def _lost(self, child: Child, code: int) -> None:
        if child.state is State.LEAVING or self._stop.is_set():
            if code:
                self._exit_code = 1
            # If another was lost while this one's successor started, it is only now that there are too few.
            await self._refill()
            return
        has_started = child.state is not State.STARTING
        self.tally.exited(code)
        log_event("worker_exited", logging.ERROR, worker=child.index, pid=child.pid, code=code,
                  lived_s=round(child.age_s(), 1))  # fmt: skip
        if not has_started:
            self._failed_starts += 1
            # A refusal has told its reason, and would only be told again.
            if not self._has_announced or (self._failed_starts >= MAX_FAILED_STARTS and not self._accepting()):
                self._give_up()
                return
        self._crashes = 0 if child.age_s() > STEADY_S else self._crashes + 1
        await self._refill()

    async def _refill(self) -> None:
        """Start what is lacking, after a pause that grows with the number of failures."""
        await self._pause(self._crashes)
        while not self._stop.is_set() and self._lacking():
            try:
                await self._start()
            except OSError as error:  # The system has no room for a process now.
                log_event("worker_not_started", logging.ERROR, reason=error.strerror)
                self._crashes += 1
                await self._pause(self._crashes)

    def _lacking(self) -> bool:
        staying = sum(it.state is not State.LEAVING for it in self.children.values())
        return staying + len(self._being_born) < self.in_force.settings.server.workers

    def _give_up(self) -> None:
        if not self._stop.is_set():
            log_event("gave_up", logging.ERROR, failed_starts=self._failed_starts)
            self._exit_code = 1
            self.stop(False)

    async def _pause(self, crashes: int) -> None:
        """Nothing before the first new start; then longer each time, and not the same for all."""
        if crashes > 1:
            delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (crashes - 2))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s * random.uniform(0.5, 1))  # noqa: S311

    # Replacing workers.

    async def roll(self) -> bool:
        """Replace every worker by a new one, one at a time; whether all were."""
        async with self._changing:
            old = [child for child in self.children.values() if child.state is not State.LEAVING]
            for child in old:
                if not await self._replace(child, "roll"):
                    return False
        return True

    async def _replace_alone(self, child: Child, reason: str) -> None:
        async with self._changing:
            if child.state in (State.ACCEPTING, State.READY):
                await self._replace(child, reason)

    async def _replace(self, old: Child, reason: str) -> bool:
        """Whether a new one took its place. The old one goes on if the new one does not become ready."""
        if self._stop.is_set():
            return False
        new = await self._start()
        is_ready = await new.becomes(State.READY, START_TIMEOUT_S)
        self.tally.replaced(reason, is_done=is_ready)
        if not is_ready:
            log_event("worker_not_replaced", logging.ERROR, worker=old.index, reason=reason)
            self._dismiss(new)
            return False
        log_event("worker_replaced", worker=old.index, by=new.index, reason=reason)
        self._dismiss(old)
        await self._gone(old)
        return True

    def _dismiss(self, child: Child) -> None:
        child.enter(State.LEAVING)
        child.send(Drain())

    async def _gone(self, child: Child) -> None:
        """Returns once it is, which is bounded."""
        server = self.in_force.settings.server
        if not await child.is_gone(server.drain_timeout_s + STOP_GRACE_S):
            log_event("worker_killed", logging.ERROR, worker=child.index, pid=child.pid)
            self._exit_code = 1
            child.kill()
            await child.is_gone(STOP_GRACE_S)

    # Settings.

    async def reload(self) -> Outcome:
        """Read the settings anew and put in force what can be, in all workers or in none."""
        async with self._changing:
            return await self.in_force.reload()

    def report(self) -> SupervisorReport:
        """What it knows of how the service stands."""
        states = (
            WorkerState(worker=it.index, pid=it.pid, state=it.state.value, age_s=round(it.age_s(), 1))
            for it in self.children.values()
        )
        in_force = self.in_force
        return SupervisorReport(
            generation=in_force.generation,
            wanted=in_force.settings.server.workers,
            workers=tuple(sorted(states, key=lambda it: it.worker)),
            reload=in_force.last,
        )

    # Stopping.

    def _tell(self, message: Message) -> None:
        for child in self.children.values():
            child.send(message)

    async def _shut_down(self) -> None:
        server = self.in_force.settings.server
        lame_duck_s = server.lame_duck_s if self._has_lame_duck and self._has_announced else 0.0
        log_event("stopping", lame_duck_s=lame_duck_s, drain_timeout_s=server.drain_timeout_s)
        self._tell(LameDuck())
        if lame_duck_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), lame_duck_s)
        # They are few, and there in a moment; without a goodbye they would stay.
        while self._being_born:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._listener.close()
        for child in self.children.values():
            self._dismiss(child)
        await asyncio.gather(*(self._gone(child) for child in tuple(self.children.values())))
        if self._metrics_listener is not None:
            self._metrics_listener.close()
