"""What the supervisor does in moments too short to be met with real processes.

Workers are fakes here. Invariant: a test decides what happens while the supervisor waits for something.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest

from config.settings import Settings
from config.sources import Loaded
from gateway.server.channel import Begin, Commit, Committed, Go, Message, Opened, Prepare, Prepared, supervisor_end
from gateway.server.child import Child, State
from gateway.server.supervisor import Supervisor


@dataclass(eq=False)
class FakeChild:
    """A worker that answers as told, and remembers what it was told."""

    index: int
    state: State = State.STARTING
    told: list[Message] = field(default_factory=list)
    on_prepare: Callable[[], None] = lambda: None

    def send(self, message: Message) -> None:
        self.told.append(message)

    async def ask(self, message: Prepare | Commit, within_s: float) -> Prepared | Committed:
        self.told.append(message)
        if isinstance(message, Commit):
            return Committed(message.generation)
        self.on_prepare()
        return Prepared(message.generation)

    async def receive(self) -> None:
        await asyncio.Event().wait()


def with_workers(number: int, **requests: int) -> Settings:
    settings = Settings()
    return msgspec.structs.replace(
        settings,
        server=msgspec.structs.replace(settings.server, workers=number),
        requests=msgspec.structs.replace(settings.requests, **requests),
    )


@pytest.fixture
def supervise() -> Callable[[Settings, Settings], Supervisor]:
    """Makes a supervisor under these settings that will find those others when it reads them anew."""

    def make(now: Settings, later: Settings) -> Supervisor:
        return Supervisor(Loaded(now, {}), lambda: Loaded(later, {}), cast("socket.socket", None), None, lambda: None)

    return make


Supervise = Callable[[Settings, Settings], Supervisor]


async def test_reload__worker_let_go_meanwhile__gets_the_new_settings_too(supervise: Supervise) -> None:
    """server.workers: one that was told to accept while the others were asked does not keep what they leave behind."""
    supervisor = supervise(with_workers(2), with_workers(2, max_body_bytes=2000))
    starting = FakeChild(1)

    def let_go() -> None:
        supervisor._heard(cast("Child", starting), Opened())
        starting.state = State.ACCEPTING

    asked = FakeChild(0, State.READY, on_prepare=let_go)
    supervisor.children.update(cast("dict[int, Child]", {0: asked, 1: starting}))
    assert (await supervisor.reload()).result == "changed"
    assert [it.generation for it in starting.told if isinstance(it, Go)] == [0, 1]
    assert Commit(1) in asked.told


async def test_ask__worker_that_is_gone__is_not_waited_for() -> None:
    """server.workers: a worker that dies between the two steps of a reload does not hold it up."""
    ours, theirs = socket.socketpair()
    theirs.close()
    process = await asyncio.create_subprocess_exec("true")
    child = Child(0, process, await supervisor_end(ours))
    assert await child.ended() == 0
    async with asyncio.timeout(1):
        assert await child.ask(Commit(1), within_s=60) is None


async def test_lost__while_another_is_replaced__is_made_up_for(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """server.workers: with a successor on its way there seem to be enough, until the one it replaces has gone."""

    async def start(index: int, *_: Any) -> FakeChild:
        return FakeChild(index, State.READY)

    monkeypatch.setattr(Child, "start", start)
    supervisor = supervise(with_workers(2), with_workers(2))
    old, successor = FakeChild(0, State.READY), FakeChild(1)
    supervisor.children.update(cast("dict[int, Child]", {0: old, 1: successor}))
    await supervisor._refill()
    assert sorted(supervisor.children) == [0, 1]
    old.state = State.LEAVING
    del supervisor.children[0]
    await supervisor._lost(cast("Child", old), 0)
    assert sorted(supervisor.children) == [0, 1]
    supervisor._background.cancel()


async def test_start__two_at_once__have_numbers_of_their_own(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """server.workers: when several are lost at once, each is replaced, once, and is known to the supervisor."""
    started = []

    async def start(index: int, *_: Any) -> FakeChild:
        started.append(index)
        await asyncio.sleep(0)
        return FakeChild(index)

    monkeypatch.setattr(Child, "start", start)
    supervisor = supervise(with_workers(2), with_workers(2))
    await asyncio.gather(supervisor._refill(), supervisor._refill())
    assert started == sorted(supervisor.children) == [0, 1]
    assert [type(it.told[0]) for it in cast("dict[int, FakeChild]", supervisor.children).values()] == [Begin, Begin]
    supervisor._background.cancel()
