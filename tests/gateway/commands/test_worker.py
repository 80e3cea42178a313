"""`flagstone worker` as a real process: it builds, says how it is, and ends when it is told to, and not before."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from gateway.__main__ import main
from tests.conftest import PATIENCE_S
from tests.gateway.commands.conftest import Run

SOON_S = 10.0


class Worker:
    """A worker over the store in this folder, and what it prints."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self._log = folder / "worker.txt"
        chosen = ("metrics.port=0", "log.format=text", *settings)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "worker", *(it for each in chosen for it in ("--set", each))],
                cwd=folder,
                env={name: value for name, value in os.environ.items() if not name.startswith("FLAGSTONE__")},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def printed(self, number: int) -> list[str]:
        """So many lines, as soon as they are there."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE_S, self._process.kill)
        watchdog.start()
        try:
            return [self._process.stdout.readline().strip() for _ in range(number)]
        finally:
            watchdog.cancel()

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        return self._process.wait(PATIENCE_S)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start_worker(*settings: str) -> Worker:
        started.append(Worker(tmp_path, *settings))
        return started[-1]

    yield start_worker
    for worker in started:
        worker.end()


def until(condition: Callable[[], bool], log: Callable[[], str]) -> None:
    """Waits until this is so."""
    ends_at = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < ends_at, log()
        time.sleep(0.02)


def test_worker__edit_of_somebody_else__is_built_and_counted(
    shop: Run, start: Callable[..., Worker], tmp_path: Path
) -> None:
    """It prints where its metrics are, publishes what others edit, ignores SIGHUP, and ends cleanly on SIGTERM."""
    assert shop
    worker = start("builder.poll_ms=20")
    where, building = worker.printed(2)
    assert where.startswith("metrics are at http://")
    assert building == "flagstone worker is building"

    def metrics() -> str:
        return httpx.get(where.split()[-1]).text

    (path,) = tmp_path.glob("*.sqlite3")
    with closing(sqlite3.connect(path, timeout=SOON_S)) as connection, connection:
        connection.execute("UPDATE projects SET version = version + 1")
    until(lambda: "published" in worker.log, lambda: worker.log)
    until(lambda: 'builds_total{outcome="published"}' in metrics(), metrics)
    assert "flagstone_builder_heartbeat_age_seconds" in metrics()
    assert "# TYPE flagstone_container_memory_bytes gauge" in metrics()
    worker.tell(signal.SIGHUP)
    until(lambda: "settings_need_a_restart" in worker.log, lambda: worker.log)
    assert httpx.get(where.split()[-1]).status_code == 200
    worker.tell(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert "Traceback" not in worker.log


def test_worker__without_metrics__says_only_that_it_builds(shop: Run, start: Callable[..., Worker]) -> None:
    """Nothing listens that was not asked for, and SIGINT ends it as well."""
    assert shop
    worker = start("metrics.is_enabled=false")
    assert worker.printed(1) == ["flagstone worker is building"]
    worker.tell(signal.SIGINT)
    assert worker.exit_code() == 0
    assert "Traceback" not in worker.log


def test_worker__over_a_file__says_that_there_is_nothing_to_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is served as it is."""
    path = tmp_path / "definitions.json"
    path.write_text('{"projects": []}')
    assert main(("worker", "--set", f"store.url=file:{path}")) != 0
    assert "there is nothing to build" in capsys.readouterr().err


def test_worker__port_of_its_metrics_taken__says_so(shop: Run, start: Callable[..., Worker]) -> None:
    """It does not build without being seen."""
    assert shop
    first = start()
    port = first.printed(1)[0].removesuffix("/metrics").rpartition(":")[2]
    second = start(f"metrics.port={port}")
    assert second.exit_code() != 0
    assert "Traceback" not in second.log
