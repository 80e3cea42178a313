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

    def __init__(self, folder: Path, *settings: str, config: Path | None = None) -> None:
        self._log = folder / "worker.txt"
        chosen = ("metrics.port=0", "log.format=text", *settings)
        named = ("--config", str(config)) if config else ()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "worker", *named, *(it for each in chosen for it in ("--set", each))],
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

    def start_worker(*settings: str, config: Path | None = None) -> Worker:
        started.append(Worker(tmp_path, *settings, config=config))
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
    """It prints where its metrics are, publishes what others edit, survives SIGHUP, and ends cleanly on SIGTERM."""
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
    until(lambda: 'reloads_total{result="unchanged"} 1' in metrics(), metrics)
    assert httpx.get(where.split()[-1]).status_code == 200
    worker.tell(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert "Traceback" not in worker.log


def test_worker__sighup__puts_in_force_what_its_file_says(
    shop: Run, start: Callable[..., Worker], tmp_path: Path
) -> None:
    """builder.poll_ms: without a restart edits are found sooner; a bad file changes nothing, and is told of."""
    assert shop
    file = tmp_path / "flagstone.toml"
    file.write_text("[builder]\npoll_ms = 60000\nis_embedded = true\n")
    worker = start(config=file)
    where = worker.printed(2)[0].split()[-1]

    def metrics() -> str:
        return httpx.get(where).text

    def reload(settings: str, expected: str) -> None:
        file.write_text(settings)
        worker.tell(signal.SIGHUP)
        until(lambda: expected in metrics(), lambda: worker.log)

    until(lambda: 'builds_total{outcome="published"}' in metrics(), metrics)
    reload("[builder]\npoll_ms = -1\n", 'reloads_total{result="refused"} 1')
    assert "builder.poll_ms: expected" in worker.log
    assert "flagstone_last_reload_good 0" in metrics()
    reload("[builder]\npoll_ms = 20\nis_embedded = false\n", 'reloads_total{result="changed"} 1')
    assert "needs_restart=\"('builder.is_embedded',)\"" in worker.log
    assert "flagstone_last_reload_good 1" in metrics()
    built = metrics()
    (path,) = tmp_path.glob("*.sqlite3")
    with closing(sqlite3.connect(path, timeout=SOON_S)) as connection, connection:
        connection.execute("UPDATE projects SET version = version + 1")
    until(lambda: published(metrics()) > published(built), lambda: worker.log)
    worker.tell(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert "Traceback" not in worker.log


def published(metrics: str) -> float:
    return next(float(row.split()[-1]) for row in metrics.splitlines() if 'builds_total{outcome="published"}' in row)


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
