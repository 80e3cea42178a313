"""Fixtures that more than one folder of tests uses: a real server in a process of its own.

Every process started here is stopped here.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drills.servers import NotInstalled
from gateway import telemetry
from gateway.telemetry import JsonFormatter, TextFormatter
from tests.servers import (  # noqa: F401 - fixtures for every test
    cluster_url,
    database,
    one_cluster,
    one_redis,
    one_sentinel,
    pgbouncer,
    postgres,
    redis_server,
    sentinel_url,
    unavailable,
)

PATIENCE_S = 30.0
"""How long a test waits for a process before it fails. Never reached when all is well."""


AGAINST_THE_CLOCK = frozenset(
    {"abuse", "balancers", "clients", "contracts", "deploy", "drills", "processes", "rehearsal"}
)
"""Folders of tests whose processes share the machine with whatever else runs on it."""

_FOR_TESTS = tuple(
    it for setting in ("server.port=0", "metrics.port=0", "server.lame_duck_s=0") for it in ("--set", setting)
)


class ServerProcess:
    """`flagstone serve` with these arguments, on a free port unless they say otherwise."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._stderr = folder / "stderr.txt"
        with self._stderr.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", *_FOR_TESTS, *arguments],
                cwd=folder,
                env={name: value for name, value in os.environ.items() if not name.startswith("FLAGSTONE__")},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout

    @property
    def errors(self) -> str:
        """What the process wrote to stderr so far."""
        return self._stderr.read_text()

    def wait_until_ready(self) -> "ServerProcess":
        """The same, once it answers; `url`, `port` and `metrics_url` are known from here on."""
        watchdog = threading.Timer(PATIENCE_S, self._process.kill)
        watchdog.start()
        try:
            announced = next((line for line in self._stdout if line.startswith("flagstone is ready at ")), None)
        finally:
            watchdog.cancel()
        assert announced is not None, self.errors
        self.url = announced.split()[-1]
        self.metrics_url = next(self._stdout, "").rpartition(" ")[2].strip()
        self.port = int(self.url.rsplit(":", 1)[1])
        return self

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """The exit code, once it has one."""
        return self._process.wait(PATIENCE_S)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._stdout.close()


def pytest_itemcollected(item: pytest.Item) -> None:
    """What runs real processes against the clock gets a second try on a busy machine; failing twice is failing."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    if folder in AGAINST_THE_CLOCK:
        item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """A test that asks for what the machine does not have is skipped."""
    with _skipping():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    with _skipping():
        return (yield)


@contextmanager
def _skipping() -> Iterator[None]:
    try:
        yield
    except NotInstalled as missing:
        unavailable(str(missing))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """No test logs to the stderr that another one had, or past the capture of those after it, as a worker does."""
    yield
    root = logging.getLogger()
    for handler in tuple(root.handlers):
        if isinstance(handler.formatter, JsonFormatter | TextFormatter):
            root.removeHandler(handler)
            handler.close()
    telemetry._lines = None


@pytest.fixture(params=["uvicorn", "hypercorn"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each of the engines: what holds for one holds for the other."""
    name: str = request.param
    return name


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts `flagstone serve` with the given arguments, and stops whatever was started."""
    started: list[ServerProcess] = []

    def start(*arguments: str) -> ServerProcess:
        folder = tmp_path / f"server-{len(started)}"
        folder.mkdir()
        started.append(ServerProcess(folder, *arguments))
        return started[-1]

    yield start
    for server in started:
        server.end()
