"""Results of drills that were never run, rich enough to see what reports make of them.

Nothing is asserted here. Invariant: the same result every time, as reports of it are compared.
"""

import random
from typing import Any

import msgspec

from drills.load.report import Outcome, Report, Slot, Stats
from drills.model import Drill, Line, Load, Original, Phase, Step, Topology, Without
from drills.results import Alerted, Happened, Judged, Result, Run

MACHINE = "2026-11-21 17:00 UTC, 2 x Some Processor, Linux, Python 3.12.3"

DRILL = Drill(
    name="database-hangs",
    title="The database accepts connections and never answers",
    original=Original(
        who="PostHog, 2025-09-29",
        what="A shorter connection timeout met a busy writer database. Retries without a breaker did the rest, and "
        "instances that could not answer stayed in rotation for 45 minutes.",
        source="https://github.com/PostHog/posthog/issues/39133",
        lasted_min=108.0, failed_share=0.78, symptom="504", noticed_after_min=27.0,
    ),
    topology=Topology(instances=2, has_builder=True, settings={"persons_pool.acquire_timeout_ms": 300}),
    load=Load(rate=120.0, retries=1, before_s=8, during_s=24, after_s=12),
    timeline=(Step(at_s=0, do="blackhole", to="postgres"), Step(at_s=24, do="heal", to="postgres")),
    lines=(
        Line(name="failed", what="Requests fail as rarely as before", measure="failed_share", at_most=0.001),
        Line(name="slow", what="Answers stay within the budget and 50 ms", measure="p99_ms", at_most=1050),
        Line(name="wrong", what="No answer is wrong without saying so", measure="wrong", at_most=0),
        Line(name="goodput", what="As many answers as were asked for", measure="goodput_per_s", at_least=118),
        Line(name="recovers", what="All is well five seconds after", measure="recovery_s", at_most=5, phase="after"),
        Line(name="held", what="Connections held at the end of the fault, of 40 there are", query="sum(x)", at_most=40),
    ),
    alerts=("FlagstoneBreakerOpen", "FlagstonePartialAnswers"),
    may_fire=("FlagstoneSnapshotOld",),
    without=Without(
        protection="breakers", settings={"breakers.is_enabled": False}, fails=("failed", "slow"),
        alerts=("FlagstoneServerErrors",),
    ),
)  # fmt: skip


def stats(count: int, p99_ms: float = 12.0) -> Stats:
    return Stats(count, p99_ms / 4, p99_ms / 2, p99_ms, p99_ms * 1.5, p99_ms * 3)


def load(*, is_protected: bool, drill: Drill = DRILL) -> Report:
    """What the load saw: partial answers while the fault lasts, or failures, limits and shedding."""
    dice = random.Random(5)
    slots = []
    for index in range(round(drill.load.seconds * 10)):
        at_s = index / 10
        since = at_s - drill.load.before_s
        due = round(drill.load.rate / 10)
        is_hurt = 0 <= since < drill.load.during_s
        failed = limited = shed = partial = 0
        p99: float | None = dice.uniform(6, 11)
        if is_hurt and is_protected:
            partial, p99 = dice.randint(4, 6), dice.uniform(9, 14) + (300 if since < 1 else 0)
        elif is_hurt or (since >= 0 and since < drill.load.during_s + 3 and not is_protected):
            failed, limited, shed = dice.randint(5, 8), 1, 2
            p99 = dice.uniform(1500, 2900) if dice.random() > 0.1 or since < 15 else None
        good = due - failed - limited - shed if p99 is not None else 0
        slots.append(
            Slot(at_s=at_s, due=due, retried=failed // 2, goodput=good, shed=shed, limited=limited,
                 failed=failed if good else due, p99_ms=p99, partial=min(partial, good))
        )  # fmt: skip
    during: dict[Outcome, Stats] = {"ok": stats(1400), "partial": stats(1480)}
    if not is_protected:
        during = {"timeout": stats(1900, 3000), "ok": stats(500), "shed": stats(400), "limited": stats(80)}
    return Report(
        url="http://127.0.0.1:1", machine=MACHINE, phases=((8, 120), (24, 120), (12, 120)), seconds=44.0,
        goodput_per_s=119.0, first=during, retried={}, by_phase=[{"ok": stats(960)}, during, {"ok": stats(1440)}],
        due_by_phase=[{}, {}, {}], probe={}, statuses={200: 5280}, connections=256, reconnects=0, queued=0,
        lateness=stats(5280, 0.5), own_cpu=0.2, slots=slots, curve=[],
    )  # fmt: skip


def measures(*, is_protected: bool) -> dict[Phase, dict[str, float]]:
    calm = {"failed_share": 0.0, "partial_share": 0.0, "p50_ms": 2.9, "p99_ms": 10.8, "goodput_per_s": 120.0}
    hurt = {
        "failed_share": 0.0,
        "partial_share": 0.513,
        "p50_ms": 3.1,
        "p99_ms": 311.0,
        "goodput_per_s": 120.0,
        "wrong": 0,
    }
    if not is_protected:
        hurt = {"failed_share": 0.826, "shed_share": 0.14, "p50_ms": 1440.0, "p99_ms": 2910.0, "goodput_per_s": 20.9}
    return {"before": calm, "during": hurt, "after": {**calm, "recovery_s": 0.4 if is_protected else 6.2}}


def run(*, is_protected: bool = True, drill: Drill = DRILL, **changes: Any) -> Run:
    values = [0.0, 311.0, 0, 120.0, 0.4, 38] if is_protected else [0.826, 2910.0, 0, 20.9, 6.2, 40]
    alerts = [
        Alerted("FlagstoneBreakerOpen", "ticket", 3.5, 27.0),
        Alerted("FlagstonePartialAnswers", "page", 7.0, None),
        Alerted("FlagstoneSnapshotOld", "ticket", 21.0, 26.0),
    ]
    happened = [
        Happened(0.0, "PostgreSQL accepts connections and never answers"),
        Happened(0.6, "the breaker of persons opens on instance.1"),
        Happened(0.7, "the breaker of persons opens on instance.2"),
        Happened(12.0, "reload persons_pool.acquire_timeout_ms=100"),
        Happened(24.0, "PostgreSQL answers again"),
        Happened(24.9, "all breakers are closed"),
    ]
    made = Run(
        without="" if is_protected else "breakers", began="2026-11-21 17:00 UTC", machine=MACHINE,
        measures=measures(is_protected=is_protected),
        judged=[
            Judged(line, value, line.holds(value), is_judged=line.name != "held")
            for line, value in zip(drill.lines, values, strict=True)
        ],
        alerts=alerts if is_protected else [Alerted("FlagstoneServerErrors", "page", 2.0, 35.0)],
        happened=happened if is_protected else [happened[0], happened[4]],
        load=load(is_protected=is_protected, drill=drill),
        series={
            "Connections in use": [(it / 2, 4 + 30 * (0 <= it / 2 < 24 and not is_protected)) for it in range(-16, 72)]
        },
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def result(**changes: Any) -> Result:
    """A drill that has passed, with both runs."""
    made = Result(drill=DRILL, run=run(), without=run(is_protected=False))
    return msgspec.structs.replace(made, **changes)
