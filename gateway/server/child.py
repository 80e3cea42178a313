"""A worker as its supervisor sees it: a process, a channel, and a state.

Invariant: a state only ever moves forward.
"""

import asyncio
import socket
import sys
import time
from contextlib import suppress
from enum import Enum
from typing import Any

from gateway.server.channel import (
    Commit,
    Committed,
    FromWorker,
    Message,
    Prepare,
    Prepared,
    SupervisorEnd,
    supervisor_end,
)


class State(Enum):
    STARTING = "starting"
    ACCEPTING = "accepting"
    READY = "ready"
    LEAVING = "leaving"


_ORDER = list(State)


class Child:
    def __init__(self, index: int, process: asyncio.subprocess.Process, channel: SupervisorEnd) -> None:
        self.index = index
        self.state = State.STARTING
        self._process = process
        self._channel = channel
        self._began_at = time.monotonic()
        self._is_gone = asyncio.Event()
        self._entered = asyncio.Event()
        self._asked: asyncio.Future[Prepared | Committed | None] | None = None

    @classmethod
    async def start(cls, index: int, listener: socket.socket, metrics_listener: socket.socket | None) -> "Child":
        """A new process that waits for its first message."""
        ours, theirs = socket.socketpair()
        descriptors = [theirs.fileno(), listener.fileno()]
        if metrics_listener is not None:
            descriptors.append(metrics_listener.fileno())
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "serving-worker", *map(str, descriptors),
                stdin=asyncio.subprocess.DEVNULL, pass_fds=descriptors,
            )  # fmt: skip
        return cls(index, process, await supervisor_end(ours))

    def __repr__(self) -> str:
        return f"<Child {self.index}, pid {self.pid}, {self.state.value}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    def age_s(self) -> float:
        return time.monotonic() - self._began_at

    def send(self, message: Message) -> None:
        self._channel.send(message)

    async def receive(self) -> FromWorker | None:
        """The next message; None once it is gone, or about to be."""
        return await self._channel.receive()

    def enter(self, state: State) -> None:
        if _ORDER.index(state) > _ORDER.index(self.state):
            self.state = state
            self._entered.set()
            self._entered = asyncio.Event()

    async def becomes(self, state: State, within_s: float) -> bool:
        """Whether it reaches this state in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while _ORDER.index(self.state) < _ORDER.index(state) and not self._is_gone.is_set():
                    await self._entered.wait()
        return state is self.state or (state is State.ACCEPTING and self.state is State.READY)

    async def ask(self, message: Prepare | Commit, within_s: float) -> Any:
        """Its answer; None without one in time."""
        if self._is_gone.is_set():
            return None
        self._asked = asyncio.get_running_loop().create_future()
        self.send(message)
        await asyncio.wait({self._asked}, timeout=within_s)
        answer = self._asked.result() if self._asked.done() else None
        self._asked = None
        return answer

    def answered(self, message: Prepared | Committed) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(message)

    async def ended(self) -> int:
        """Its exit code, once it has one; negative for a signal."""
        code = await self._process.wait()
        self._channel.close()
        self._is_gone.set()
        self._entered.set()
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)
        return code

    async def is_gone(self, within_s: float) -> bool:
        """Whether its process has ended within this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._is_gone.wait()
        return self._is_gone.is_set()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
