"""The socket for an operator's commands."""

import asyncio
import logging
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.server.control import ask, controlled, tell
from gateway.server.reloading import Outcome
from gateway.standing import SupervisorReport


class Supervisor:
    """As much of a supervisor as commands reach."""

    def __init__(self) -> None:
        self.reloads = 0

    async def reload(self) -> Outcome:
        self.reloads += 1
        return Outcome("changed", changed=("log.level",))

    async def roll(self) -> bool:
        return False

    def report(self) -> SupervisorReport:
        return SupervisorReport(generation=7, wanted=1, workers=())


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "flagstone.sock")


async def asked(path: str, command: str) -> Any:
    return await asyncio.to_thread(ask, path, command, 5.0)


async def test_control__commands__are_answered(path: str) -> None:
    """server.control_path: what is asked there is done, and what became of it is told."""
    supervisor: Any = Supervisor()
    async with controlled(supervisor, path):
        assert (await asked(path, "reload")).reload.changed == ("log.level",)
        assert (await asked(path, "restart")).is_rolled is False
        assert (await asked(path, "status")).status.generation == 7
        assert "no such command" in (await asked(path, "dance")).error
        await asyncio.to_thread(tell, path, "reload")
        while supervisor.reloads < 2:
            await asyncio.sleep(0.01)
    assert not os.path.exists(path)


async def test_control__socket__is_for_its_own_user(path: str) -> None:
    """Nobody else on the machine reloads or restarts the service."""
    async with controlled(Supervisor(), path):  # type: ignore[arg-type]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_control__left_behind_by_a_dead_service__is_replaced(path: str) -> None:
    """A service that was killed does not keep the next one from being reached."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with controlled(Supervisor(), path):  # type: ignore[arg-type]
        assert (await asked(path, "status")).status is not None


async def test_control__another_service_listens_there__is_told_and_left_alone(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two services in one folder both run; the second says that commands do not reach it."""
    caplog.set_level(logging.INFO)
    async with controlled(Supervisor(), path):  # type: ignore[arg-type]
        async with controlled(Supervisor(), path):  # type: ignore[arg-type]
            assert [record.message for record in caplog.records] == ["control_socket_unavailable"]
        assert (await asked(path, "status")).status is not None


async def test_control__no_path__listens_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """server.control_path: empty, there is no socket."""
    monkeypatch.chdir(tmp_path)
    async with controlled(Supervisor(), ""):  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())


async def test_control__caller_that_says_nothing_of_use__harms_nobody(path: str) -> None:
    """Endless lines and callers that hang up are dropped."""
    async with controlled(Supervisor(), path):  # type: ignore[arg-type]
        for noise in (b"x" * 10_000, b"", b"\xff\xfe\n"):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(path)
                caller.sendall(noise)
            await asyncio.sleep(0)
        assert (await asked(path, "status")).status is not None


def test_ask__service_that_dies_before_it_answers__is_told(path: str) -> None:
    """A command that was cut short is no success."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        hanging_up = threading.Thread(target=hang_up)
        hanging_up.start()
        with pytest.raises(OSError, match=r".*"):
            ask(path, "status", 5.0)
        hanging_up.join()
