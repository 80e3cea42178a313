"""What the operators' kit costs: metrics, the log and limits, in microseconds of a worker's processor time per request.

`flagstone serve` under 64 busy connections, which is switched from kind to kind by reloading, in interleaved rounds; a
cost is the difference between two kinds, each the mean of the quarter of its rounds that took least. Invariant: kinds
are compared within one process only, for two processes that do the same differ by more than what is looked for.
"""

import argparse
import asyncio
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

from bench.evaluation import project
from bench.gateway import CONNECTIONS, Client
from drills.machine import machine
from gateway.server.control import ask
from gateway.server.engines import new_event_loop

PROCESSES: Final = 2
ROUNDS: Final = 16
"""Of each process."""
ROUND_S: Final = 0.25
WARM_UP_S: Final = 0.06
SCRAPES: Final = 5
GOAL_US: Final = 15.0

SETTINGS: Final = """
[server]
workers = 1
port = 0
engine = "{engine}"
control_path = "{folder}/control"
lame_duck_s = 0
[metrics]
port = 0
[store]
url = "file:{definitions}"
[disk]
path = ""
[proxies]
trusted = "127.0.0.1"
[concurrency]
mode = "fixed"
[log]
format = "json"
{log}
[limits]
address = "1000000/second"
token = "{token}"
mode = "{limits}"
"""
LOGGED: Final = "level = 'info'"


class Kind(NamedTuple):
    """What is switched on."""

    is_counted: bool = True
    log: str = "level = 'error'"
    limits: str = "off"
    token: str = ""


KINDS: Final = {
    "nothing": Kind(is_counted=False),
    "metrics": Kind(),
    "log": Kind(log=LOGGED),
    "sampled": Kind(log=LOGGED + "\nsample_ratio = 0.01"),
    "address": Kind(log=LOGGED, limits="enforce"),
    "token": Kind(log=LOGGED, limits="enforce", token="1000000/second"),
}
"""Address is what is on by default; no token has a limit then."""
COUNTING: Final = """
import gateway.middleware.record as record, signal
from gateway.metrics import Metrics

def replace(new, outcome_of):
    for name, method in new.items():
        setattr(Metrics, name, method)
    record.outcome_of = outcome_of

own = {name: vars(Metrics)[name] for name in ("request_ended", "phase", "answered")}
judge = record.outcome_of
signal.signal(signal.SIGRTMIN, lambda *_: replace(own, judge))
signal.signal(signal.SIGRTMIN + 1, lambda *_: replace(dict.fromkeys(own, lambda *_, **__: None), lambda *_: "whole"))
"""
"""Run by Python at its start: signals that switch counting off and on. No setting does, as `/_status` is made of it."""


class Cost(NamedTuple):
    """Microseconds per request; `nothing` is all of a request without any of them."""

    nothing: float
    metrics: float
    log: float
    sampled: float
    address: float
    token: float
    total: float
    scrape_ms: float


class Server:
    """`flagstone serve` with one worker, whose log goes into a file."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self._folder = folder
        self._settings = settings
        self._path = folder / "flagstone.toml"
        self._write(KINDS["address"])
        (folder / "sitecustomize.py").write_text(COUNTING, encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLAGSTONE__")}
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), os.getcwd()])
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--config", str(self._path)],
                stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        assert told, (folder / "log").read_text(encoding="utf-8")
        self.port = int(told.rpartition(":")[2])
        self._metrics_url = self._process.stdout.readline().split()[-1]
        (self._worker,) = children(self._process.pid)

    def _write(self, kind: Kind) -> None:
        text = SETTINGS.format(
            **self._settings, folder=self._folder, log=kind.log, limits=kind.limits, token=kind.token
        )
        self._path.write_text(text, encoding="utf-8")

    def become(self, kind: Kind) -> None:
        self._write(kind)
        os.kill(self._worker, signal.SIGRTMIN if kind.is_counted else signal.SIGRTMIN + 1)
        answer = ask(f"{self._folder}/control", "reload", 10.0)
        assert answer.reload is not None, answer
        assert answer.reload.is_good, answer.reload

    def used_s(self) -> float:
        return processor_s(self._worker)

    def scrape_ms(self) -> float:
        """Of the worker's processor time, for one reading of its metrics."""
        used_s = self.used_s()
        for _ in range(SCRAPES):
            with urllib.request.urlopen(self._metrics_url, timeout=10) as answer:
                answer.read()
        return (self.used_s() - used_s) / SCRAPES * 1000

    def stop(self) -> None:
        assert self._process.stdout is not None
        self._process.terminate()
        self._process.wait(30)
        self._process.stdout.close()


def processor_s(pid: int) -> float:
    """Processor time of a process, to the nanosecond: /proc counts hundredths of seconds."""
    return time.clock_gettime((~pid << 3) | 2)


def children(pid: int) -> list[int]:
    return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def measure(server: Server) -> float:
    """Microseconds of the worker's processor per request."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Client, "127.0.0.1", server.port) for _ in range(CONNECTIONS)]
    await asyncio.sleep(WARM_UP_S)
    answered, used_s = Client.answered, server.used_s()
    await asyncio.sleep(ROUND_S)
    answered, used_s = Client.answered - answered, server.used_s() - used_s
    for transport, _ in made:
        transport.abort()
    await asyncio.sleep(WARM_UP_S)
    return used_s / answered * 1e6 if answered else math.inf


def costs(engine: str, definitions: Path) -> Iterator[str]:
    """Each cost: the mean of the processes, and how far each of them is from it at most."""
    for column in zip(*(_cost(engine, definitions) for _ in range(PROCESSES)), strict=True):
        yield f"{mean(column):.1f} ± {(max(column) - min(column)) / 2:.1f}"


def _cost(engine: str, definitions: Path) -> Cost:
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=new_event_loop) as runner:
        server = Server(Path(folder), engine=engine, definitions=definitions)
        try:
            runner.run(measure(server))
            for number in range(ROUNDS):
                # Backwards every second time, so that no kind always comes after the same one.
                for kind in list(KINDS)[:: -1 if number % 2 else 1]:
                    server.become(KINDS[kind])
                    found[kind].append(runner.run(measure(server)))
            scrape_ms = server.scrape_ms()
        finally:
            server.stop()
    nothing, metrics, log, sampled, address, token = (mean(sorted(found[kind])[: ROUNDS // 4]) for kind in KINDS)
    return Cost(
        nothing, metrics - nothing, log - metrics, sampled - metrics, address - log, token - address,
        address - nothing, scrape_ms,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kit", description=__doc__)
    parser.add_argument("--engine", choices=("uvicorn", "hypercorn"), action="append")
    parser.add_argument("--flags", type=int, action="append", help="default: 10 and 100")
    chosen = parser.parse_args(arguments)
    print(machine())
    columns = ("engine, flags", "nothing", "metrics", "log", "log, 1 %", "limit of addresses", "of tokens too",
               "metrics, log and limit of addresses", "ms per scrape")  # fmt: skip
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for flags in chosen.flags or (10, 100):
            definitions = Path(folder, f"{flags}.json")
            definitions.write_bytes(b'{"projects":[' + project(flags) + b"]}")
            for engine in chosen.engine or ("uvicorn", "hypercorn"):
                print(f"| {engine}, {flags} | {' | '.join(costs(engine, definitions))} |", flush=True)
    together = "metrics, log and limit of addresses together"
    print(f"\nTo reach: {together} for no more than {GOAL_US:.0f} us on uvicorn.")


if __name__ == "__main__":
    main()
