"""Flagstone seen from outside: `flagstone serve` and `flagstone worker` as processes, and its other commands.

What is inside of it is not known here. Invariant: a process that was started is gone when the drill is, with everything
that it started; its ports and its folder stay the same over restarts.
"""

import atexit
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from drills.servers import CannotStart, free_port

PATIENCE_S: Final = 60.0
"""How long a process may take to end, or a command to do what it does."""
PROBE_S: Final = 1.0
POLL_S: Final = 0.05
_SHOWN: Final = 4000
"""Characters of a log's end that a failure shows."""

Settings = Mapping[str, Any]
"""A tree: {"server": {"port": 8000}}."""


class Instance:
    """One `flagstone serve`. It keeps its log in `stderr` and its definitions in `snapshots`, both in its folder."""

    _command: tuple[str, ...] = ("serve",)
    _is_up: str = "/_readiness"

    def __init__(self, name: str, settings: Settings, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._folder = folder
        ours = {
            # Relative, as the path of a socket must be short.
            "server": {"port": free_port(), "control_path": "control"},
            "metrics": {"port": free_port()},
            "disk": {"path": "snapshots"},
            "log": {"format": "json", "level": "warning"},
        }
        self._settings = over(ours, settings)
        self.port: int = self._settings["server"]["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.metrics = f"127.0.0.1:{self._settings['metrics']['port']}"
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self.port}>"

    def start(self) -> None:
        """Begin; whether it is ready is another question."""
        self.end()
        arguments = [*_flagstone(*self._command), "--config", _written(self._settings, self._folder / "settings.toml")]
        self._started_at = time.monotonic()
        with (self._folder / "stderr").open("ab") as log:
            self._process = subprocess.Popen(
                arguments, cwd=self._folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        atexit.register(self.end)

    def wait_until_ready(self, patience_s: float) -> float:
        """Seconds from its start until it was ready. Raises CannotStart when it ended, or is not ready in time."""
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None:
                raise CannotStart(f"{self.name} has ended:\n{self._log()}")
            if time.monotonic() > self._started_at + patience_s:
                raise CannotStart(f"{self.name} is not ready after {patience_s:g} s:\n{self._log()}")
            time.sleep(POLL_S)
        return time.monotonic() - self._started_at

    def is_ready(self) -> bool:
        """Whether it says so itself."""
        connection = http.client.HTTPConnection(self._asked(), timeout=PROBE_S)
        try:
            connection.request("GET", self._is_up)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def reload(self, settings: Settings) -> None:
        """Have it read settings anew: these, on top of those that it has. They are kept over restarts."""
        self._settings = over(self._settings, settings)
        _written(self._settings, self._folder / "settings.toml")
        self._tell(signal.SIGHUP)

    def stop(self) -> int:
        """The exit code after an orderly end; of one that does not end, that of a killed process."""
        if (process := self._process) is None:
            return 0
        self._tell(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
        return self._ended(process)

    def kill(self) -> None:
        """No longer there, as when its machine is lost."""
        self.end()

    def end(self) -> None:
        """Whatever it takes."""
        if self._process is not None:
            self._ended(self._process)
        atexit.unregister(self.end)

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code, once nothing of the process and of its workers is left."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait(PATIENCE_S)
        self._process = None
        return code

    def _tell(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _asked(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _log(self) -> str:
        return (self._folder / "stderr").read_text(errors="replace")[-_SHOWN:]


class Builder(Instance):
    """One `flagstone worker`. Nobody asks it for flags; it is ready when it serves its metrics."""

    _command = ("worker",)
    _is_up = "/metrics"

    def _asked(self) -> str:
        return self.metrics


def command(settings: Settings, folder: Path, *arguments: str) -> str:
    """What `flagstone ARGUMENTS` printed, with these settings; raises CannotStart when it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*_flagstone(*arguments), "--config", _written(settings, folder / "command.toml")], cwd=folder,
        env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False, text=True,
    )  # fmt: skip
    if done.returncode:
        raise CannotStart(f"flagstone {' '.join(arguments)}:\n{done.stdout}{done.stderr}"[-_SHOWN:])
    return done.stdout


def over(below: Settings, above: Settings) -> dict[str, Any]:
    """One tree of two; where both say something, what is above holds."""
    return {
        name: over(below.get(name, {}), above.get(name, {})) if isinstance(value, Mapping) else value
        for name, value in {**below, **above}.items()
    }


def _flagstone(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", *arguments]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("FLAGSTONE__")}


def _written(settings: Settings, path: Path) -> str:
    """The path of these settings as TOML, which writes plain values as JSON does. Nobody finds half of the file."""
    lines: list[str] = []
    for section, values in settings.items():
        lines += [f"[{section}]", *(f"{name} = {msgspec.json.encode(it).decode()}" for name, it in values.items())]
    fresh = path.with_suffix(".fresh")
    fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")
    fresh.replace(path)
    return str(path.absolute())
