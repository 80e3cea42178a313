"""The service as its operator sees it while clients ask: its processes, its commands, its metrics.

What clients notice is counted in clients.py. Invariant: every wait ends, at the latest after the patience of a client.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.__main__ import DEMO
from gateway.server.control import ask
from tests.conftest import ServerProcess
from tests.processes.clients import PATIENCE_S, Load

Start = Callable[..., ServerProcess]
Serve = Callable[..., "Service"]


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Returns once it is."""
    ends_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends_at, f"never: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Service:
    """A running service, whose definitions and settings are files that a test may change."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def load(self, **clients: int) -> Load:
        return Load(self.server.port, **clients)

    def command(self, *words: str) -> tuple[int, str]:
        """The exit code of `flagstone ...`, and what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *words, "--set", f"server.control_path={self.folder / 'control'}"],
            cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def status(self) -> list[dict[str, Any]]:
        """What `flagstone status` is told of each worker."""
        status = ask(str(self.folder / "control"), "status", PATIENCE_S).status
        assert status is not None
        return [msgspec.structs.asdict(it) for it in status.workers]

    def workers(self) -> dict[int, int]:
        """The PIDs of workers that answer, by their numbers."""
        return {it["worker"]: it["pid"] for it in self.status() if it["state"] in ("accepting", "ready")}

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric's values whose labels include this text."""
        told = httpx.get(self.server.metrics_url, timeout=PATIENCE_S).text
        rows = re.findall(rf"^flagstone_{name}(?:\{{([^}}]*)\}})? (\S+)$", told, re.MULTILINE)
        return sum(float(value) for found, value in rows if labels in found)

    def settings(self, **sections: dict[str, object]) -> None:
        """Write the file of settings anew."""
        (self.folder / "settings.toml").write_text(_toml({"log": {"level": "warning"}} | sections))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of the log with this event."""
        lines = [line for line in self.server.errors.splitlines() if f'"{name}"' in line]
        return [it for it in map(json.loads, lines) if it["event"] == name]

    def stopped(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code, after this signal."""
        self.server.tell(number)
        return self.server.exit_code()


def _toml(sections: dict[str, dict[str, object]]) -> str:
    return "\n".join(
        f"[{section}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        for section, values in sections.items()
    )


@pytest.fixture
def serve(start_server: Start, tmp_path: Path) -> Serve:
    """Starts the service with the demo's definitions, and waits until it answers."""

    def start(*settings: str) -> Service:
        folder = tmp_path / "service"
        folder.mkdir()
        (folder / "settings.toml").write_text(_toml({"log": {"level": "warning"}}))
        (folder / "definitions.json").write_bytes(DEMO.read_bytes())
        all_settings = (
            f"store.url=file:{folder / 'definitions.json'}", f"server.control_path={folder / 'control'}",
            "log.format=json", *settings,
        )  # fmt: skip
        arguments = [it for setting in all_settings for it in ("--set", setting)]
        server = start_server("--config", str(folder / "settings.toml"), *arguments)
        return Service(server.wait_until_ready(), folder)

    return start


@pytest.fixture(params=[1, 2], ids="{}-workers".format)
def workers(request: pytest.FixtureRequest) -> int:
    """How many workers there are."""
    number: int = request.param
    return number
