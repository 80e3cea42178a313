"""What is left of the service when several times as much is asked as one worker can answer.

`python -m bench.overload`; one engine and one kind of request with `--engine` and `--kind`. The worker has one core,
the generator and the backends the other. Invariant: what is offered does not depend on what is answered.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from bench.evaluation import project, with_condition, with_filters
from bench.stage import Service, backends, service
from drills.load.report import SLOT_S, Outcome, Report, Slot, sheet, time_line
from drills.machine import machine
from tests.drills.conftest import TOKEN

FLAGS: Final = 1000
"""Those that the one flag asked for depends on."""
DELAY_S: Final = 0.01
CALM_S, OVERLOAD_S, AFTER_S = 3.0, 8.0, 6.0
CALM, BUSY = (1.0, CALM_S - 0.2), (CALM_S + 1.5, CALM_S + OVERLOAD_S - 0.2)
"""Within those phases, also as the generator takes a moment to start."""
TIMES: Final = (1, 2, 5, 10)
RETRIES: Final = 3
TIMEOUT_S: Final = 1.0
MAX_CONNECTIONS: Final = 4000
BACK_S: Final = 1.0
"""So long the service must do well for the overload to count as over."""


class Seen(msgspec.Struct, frozen=True):
    """What a generator saw, and the share of a core that the worker had in the calm and in the overload."""

    report: Report
    calm_cpu: float
    busy_cpu: float


class Target(msgspec.Struct, frozen=True):
    """A service to ask, and what to ask it."""

    serving: Service
    asking: tuple[str, ...]

    def offer(self, *phases: tuple[float, float], retries: int = 0) -> Report:
        """What a generator in a process of its own saw."""
        return self._read(self._start(phases, retries))

    def overload(self, usual: float, too_much: float, retries: int) -> Seen:
        """The same of an overload between calm times."""
        generator = self._start(((CALM_S, usual), (OVERLOAD_S, too_much), (AFTER_S, usual)), retries)
        began, at, used = time.monotonic(), [], []
        for moment in (*CALM, *BUSY):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            at.append(time.monotonic())
            used.append(_cpu_s(self.serving))
        calm, _, busy = ((used[i + 1] - used[i]) / (at[i + 1] - at[i]) for i in range(3))
        return Seen(self._read(generator), calm, busy)

    def _start(self, phases: Sequence[tuple[float, float]], retries: int) -> subprocess.Popen[bytes]:
        connections = min(MAX_CONNECTIONS, max(64, int(max(rate for _, rate in phases) * TIMEOUT_S)))
        chosen = [it for seconds, rate in phases for it in ("--phase", f"{seconds}:{rate}")]
        return subprocess.Popen(
            [
                sys.executable, "-m", "drills.load", f"{self.serving.url}/flags?v=2", "--json",
                "--probe", "/_readiness", "--connections", str(connections),
                "--timeout", str(TIMEOUT_S), "--retries", str(retries),
                *self.asking, *chosen,
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip

    @staticmethod
    def _read(generator: subprocess.Popen[bytes]) -> Report:
        told, _ = generator.communicate(timeout=120)
        return msgspec.json.decode(told, type=Report)


def _cpu_s(serving: Service) -> float:
    """What the worker, the only child of the service, has used of the processor."""
    pid = serving.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def on_its_core(*settings: str) -> Iterator[Service]:
    """A service of one worker that shares its core with nothing of ours."""
    first, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {first})
    with service("server.workers=1", "limits.mode=off", *settings) as serving:
        os.sched_setaffinity(0, others or {first})
        try:
            yield serving
        finally:
            os.sched_setaffinity(0, {first, *others})


@contextmanager
def computing(engine: str, *settings: str) -> Iterator[Target]:
    """Requests bound by the processor: one flag that needs many others, so that the answer stays small."""

    def make(position: int) -> dict[str, Any]:
        if position < FLAGS:
            return with_filters(holdout={"id": 1, "exclusion_percentage": 10})(position)
        needed = ({"key": str(at + 1), "type": "flag", "operator": "flag_evaluates_to", "value": False}
                  for at in range(FLAGS))  # fmt: skip
        return with_condition(*needed)(position)

    with tempfile.TemporaryDirectory() as folder:
        definitions, body = Path(folder, "definitions.json"), Path(folder, "body.json")
        definitions.write_bytes(b'{"projects":[' + project(FLAGS + 1, make) + b"]}")
        asked = {"token": "phc_bench", "distinct_id": "u1", "flag_keys_to_evaluate": [f"flag-{FLAGS}"]}
        body.write_bytes(msgspec.json.encode(asked))
        with on_its_core(f"store.url=file:{definitions}", f"server.engine={engine}", *settings) as serving:
            yield Target(serving, ("--body", str(body)))


@contextmanager
def waiting(engine: str) -> Iterator[Target]:
    """Requests bound by waiting for what is stored of a person."""
    with backends() as behind, on_its_core(*behind.settings, f"server.engine={engine}") as serving:
        target = Target(serving, ("--flags-body", TOKEN))
        target.offer((2.0, 200.0))  # So that all connections are there: to make one takes several delays.
        behind.postgres.set("delay", seconds=DELAY_S)
        yield target


HEAD: Final = (
    "| offered | of the peak | per processor time | exact | answers, ms | sheds, ms | lost | health, ms | back, s "
    "| generator, late ms |\n|---|---|---|---|---|---|---|---|---|---|"
)
KINDS: Final = {"computing": computing, "waiting": waiting}


def capacity(target: Target) -> float:
    """The most exact answers per second, whatever is offered."""
    rate = 50.0
    while (exact := _exact(target.offer((2.0, rate)), 0)) > rate * 0.9:
        rate *= 2
    report = target.offer(*((4.0, exact * part) for part in (0.8, 0.9, 1.0, 1.1, 1.3)))
    return max(_exact(report, phase) for phase in range(5))


def _exact(report: Report, phase: int) -> float:
    found = report.by_phase[phase].get("ok")
    return found.count / report.phases[phase][0] if found else 0.0


def _goodput(report: Report, begins_s: float, seconds: float) -> float:
    return sum(slot.goodput for slot in _between(report, begins_s, begins_s + seconds)) / seconds


def _between(report: Report, begins_s: float, ends_s: float) -> list[Slot]:
    return [slot for slot in report.slots if begins_s <= slot.at_s + SLOT_S / 2 < ends_s]


def back_after_s(report: Report) -> float | None:
    """Seconds from the end of the overload until answers come, and as quickly as before; None when they never do."""
    usual_ms = _p99_ms(_between(report, CALM_S / 2, CALM_S))
    begins_s = CALM_S + OVERLOAD_S
    for number in range(round((AFTER_S - BACK_S) / SLOT_S) + 1):
        slots = _between(report, begins_s + number * SLOT_S, begins_s + number * SLOT_S + BACK_S)
        lost = sum(slot.shed + slot.limited + slot.failed for slot in slots)
        if lost <= 0.01 * sum(slot.due for slot in slots) and _p99_ms(slots) <= max(2 * usual_ms, 20):
            return number * SLOT_S
    return None


def _p99_ms(slots: Sequence[Slot]) -> float:
    return median([slot.p99_ms for slot in slots if slot.p99_ms is not None] or [math.inf])


def row(name: str, seen: Seen, peak: float) -> str:
    """What is to be known of one run."""
    report = seen.report
    calm, busy = (_goodput(report, begins_s, ends_s - begins_s) for begins_s, ends_s in (CALM, BUSY))
    per_cpu = (busy / seen.busy_cpu) / (calm / seen.calm_cpu)
    during = report.by_phase[1]
    goodput = _goodput(report, CALM_S, OVERLOAD_S) / peak
    exact = _exact(report, 1) / peak
    lost = sum(it.count for outcome, it in during.items() if outcome not in ("ok", "partial", "shed"))
    health = report.probe["ok"].count / sum(it.count for it in report.probe.values()) if "ok" in report.probe else 0.0
    slowest = report.probe["ok"].p99_ms if "ok" in report.probe else 0.0
    back_s = back_after_s(report)
    return (
        f"| {name} | {goodput:.0%} | {per_cpu:.0%} of {seen.busy_cpu:.0%} "
        f"| {exact:.0%} | {_times(during, 'ok')} | {_times(during, 'shed')} "
        f"| {lost} | {health:.0%}, {slowest:.0f} | {'never' if back_s is None else f'{back_s:.1f}'} "
        f"| {report.own_cpu:.0%}, {report.lateness.p99_ms:.0f} |"
    )


def _times(during: dict[Outcome, Any], outcome: Outcome) -> str:
    return f"{during[outcome].p50_ms:.1f}, {during[outcome].p99_ms:.1f}" if outcome in during else "-"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--engine", choices=("uvicorn", "hypercorn"), action="append")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--times", type=int, action="append", help="of the capacity (default: 1, 2, 5, 10)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    chosen = parser.parse_args()
    panels = []
    print(machine())
    for kind in chosen.kind or KINDS:
        for engine in chosen.engine or ("uvicorn", "hypercorn"):
            with KINDS[kind](engine) as target:
                peak = capacity(target)
                print(f"\n{kind}, {engine}: at most {peak:.0f} answers per second\n")
                print(HEAD, flush=True)
                all_times = chosen.times or TIMES
                for times, retries in (*((times, 0) for times in all_times), (max(all_times), RETRIES)):
                    seen = target.overload(peak / 2, peak * times, retries)
                    name = f"{times}x" + (f", {retries} retries" if retries else "")
                    print(row(name, seen, peak), flush=True)
                    if times == max(all_times):
                        panels.append(time_line(f"{kind}, {engine}, {name}, per second", seen.report))
    if chosen.plot:
        chosen.plot.write_text(sheet(machine(), *panels), encoding="utf-8")


if __name__ == "__main__":
    main()
