"""A drill from beginning to end: the stage, the load, the steps at their moments, and what it all has shown.

Invariant: a run ends within the drill's own time and a bounded time for starting and stopping, whatever happens in it.
"""

import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from datetime import UTC, datetime
from typing import Final

import msgspec

from drills import contents
from drills.actions import Actions
from drills.judging import judged, measures
from drills.load.plan import LoadPlan
from drills.load.report import Report
from drills.machine import machine
from drills.meddling import Meddling
from drills.model import Drill, Line, Step, Without
from drills.results import OF_THE_MACHINE, Alerted, Happened, Result, Run
from drills.stage import PATIENCE_S, Say, Stage, standing
from drills.witness import Witness

LEAD_S: Final = 1.5
"""The load generator takes so long to start at most."""
SETTLE_S: Final = 2.0
"""For alerts to be told that there is nothing to tell."""
SERIES: Final = {
    "busiest worker (cores)": "max(flagstone:worker_cpu:cores2m)",
    "oldest snapshot (s)": "max(flagstone_snapshot_age_seconds)",
    "loop lag (s)": "max(flagstone_loop_lag_seconds)",
}


def run(drill: Drill, say: Say, *, with_without: bool = True) -> Result:
    """Run a drill, and once more without its protection. Raises NotInstalled, CannotStart."""
    whole = rehearse(drill, None, say)
    without = rehearse(drill, drill.without, say) if drill.without and with_without else None
    return Result(drill=drill, run=whole, without=without)


def rehearse(drill: Drill, without: Without | None, say: Say) -> Run:
    """One run, without a protection if one is given."""
    if without:
        say(f"once more without the {without.protection}")
    began = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    check = (without and without.check) or drill.topology.check
    with (
        standing(drill, without.settings if without else {}, check, say) as stage,
        Meddling() as others,
        closing(Actions(stage, others)) as actions,
    ):
        bodies = contents.bodies(drill.contents)
        witness = Witness(stage.url, stage.instances, bodies[:20])
        witness.begin()
        try:
            under_way = _Run(drill, stage, actions, say)
            report = under_way.load(bodies)
        finally:
            witness.end()
        found = measures(drill.load, report, witness.seen, actions.ready_s, under_way.during_at)
        alerts = under_way.alerts()
        return Run(
            without=without.protection if without else "",
            began=began,
            machine=machine(),
            measures=found,
            judged=judged(drill, found, under_way.query if stage.prometheus else None),
            alerts=alerts,
            happened=sorted(under_way.happened + under_way.told(witness), key=lambda it: it.at_s),
            load=report,
            series=under_way.series(),
            missing=stage.missing,
            problems=[
                *under_way.problems,
                *(
                    f"{it.name} fired before the faults"
                    for it in alerts
                    if it.from_s < 0 and it.name not in OF_THE_MACHINE
                ),
            ],
        )


class _Run:
    """The load and the steps of one run, and what Prometheus saw of them."""

    def __init__(self, drill: Drill, stage: Stage, actions: Actions, say: Say) -> None:
        self._drill = drill
        self._stage = stage
        self._actions = actions
        self._say = say
        self.began = time.time() + LEAD_S
        self.during_at = self.began + drill.load.before_s
        self.happened: list[Happened] = []
        self.problems: list[str] = []

    def load(self, bodies: list[bytes]) -> Report:
        """What the load generator reports, after all the steps have been done."""
        load = self._drill.load
        rates = (load.rate, load.rate if load.during_rate is None else load.during_rate, load.rate)
        plan = LoadPlan(
            url=f"{self._stage.url}/flags?v=2",
            phases=tuple(zip(load.lasts.values(), rates, strict=True)),
            bodies=tuple(bodies),
            connections=max(256, load.clients),
            sources=tuple(f"127.{1 + number // 250}.{number % 250 + 1}.1" for number in range(load.clients)),
            timeout_s=load.timeout_s,
            retries=load.retries,
            retry_delay_s=load.retry_delay_s,
        )
        path = self._stage.folder / "plan.json"
        path.write_bytes(msgspec.json.encode(plan))
        self._say(f"load: {' / '.join(f'{rate:g}' for rate in rates)} requests a second, {load.seconds:g} s")
        generator = subprocess.Popen(
            [sys.executable, "-m", "drills.load", "--plan", str(path), "--at", str(self.began), "--json"],
            stdout=subprocess.PIPE,
        )
        try:
            self._do_steps()
            told, _ = generator.communicate(timeout=max(0, self.began + load.seconds - time.time()) + PATIENCE_S)
        finally:
            generator.kill()
            generator.wait(PATIENCE_S)
        time.sleep(SETTLE_S * self._drill.minute_s / 2)
        report = msgspec.json.decode(told, type=Report)
        self.problems += [warning for warning in report.warnings if "not sent" in warning]
        return report

    def _do_steps(self) -> None:
        """Each step at its moment; one that takes long does not keep the next waiting."""
        under_way: list[Future[None]] = []
        with ThreadPoolExecutor(len(self._drill.timeline) or 1) as threads:
            for step in sorted(self._drill.timeline, key=lambda it: it.at_s):
                time.sleep(max(0.0, self.during_at + step.at_s - time.time()))
                under_way.append(threads.submit(self._do, step))
            wait(under_way, PATIENCE_S)

    def _do(self, step: Step) -> None:
        self._say(f"{step.at_s:+5.1f} s  {step}")
        self.happened.append(Happened(round(time.time() - self.during_at, 1), str(step)))
        try:
            self._actions.do(step)
        except Exception as error:
            self.problems.append(f"{step}: {error!r}")
            self._say(self.problems[-1])

    def told(self, witness: Witness) -> list[Happened]:
        """The first thing of each kind that the witness saw go wrong."""
        firsts = {(it.is_wrong, it.is_unready): it for it in reversed(witness.seen)}
        return [Happened(round(it.at - self.during_at, 1), it.what) for it in firsts.values()]

    def alerts(self) -> list[Alerted]:
        if self._stage.prometheus is None:
            return []
        fired = self._stage.prometheus.alerted(self.began, time.time())
        return [
            msgspec.structs.replace(it, from_s=round(it.from_s - self.during_at, 1), until_s=self._relative(it.until_s))
            for it in fired
        ]

    def _relative(self, at: float | None) -> float | None:
        return None if at is None else round(at - self.during_at, 1)

    def query(self, line: Line) -> float | None:
        """The value of a line's query when its phase ended."""
        load = self._drill.load
        ends = {"before": 0.0, "during": load.during_s, "after": load.during_s + load.after_s}
        prometheus = self._stage.prometheus
        return prometheus.value(line.query, self.during_at + ends[line.phase]) if prometheus else None

    def series(self) -> dict[str, list[tuple[float, float]]]:
        if self._stage.prometheus is None:
            return {}
        ends = self.began + self._drill.load.seconds
        curves = {name: self._stage.prometheus.curve(query, self.began, ends) for name, query in SERIES.items()}
        return {name: [(round(at - self.during_at, 1), value) for at, value in curve] for name, curve in curves.items()}
