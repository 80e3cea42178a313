"""What a run has shown: measures of each phase from what was counted, and which lines held.

Nothing is started here. Invariant: what was not measured holds no line.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from drills.load.report import SLOT_S, Report, Stats
from drills.model import Drill, Line, Load, Phase
from drills.results import Judged
from drills.witness import Seen

CALM_S: Final = 1.0
"""So long without a failure at the end, and it is over."""

Measures = dict[Phase, dict[str, float]]


def measures(load: Load, report: Report, seen: Sequence[Seen], ready_s: Sequence[float], began: float) -> Measures:
    """Everything in model.Measure that there is a value of. `began` is when `during` did, in seconds since 1970."""
    found: Measures = {}
    for (phase, lasts_s), counted in zip(load.lasts.items(), report.due_by_phase, strict=True):
        at = [it for it in seen if load.phase_of(it.at - began) == phase]
        each = found[phase] = _of_phase(counted)
        each["goodput_per_s"] = counted["good"].count / lasts_s if "good" in counted else 0.0
        each["wrong"] = sum(it.is_wrong for it in at)
        each["unready_answers"] = sum(it.is_unready for it in at)
        if ready_s:
            each["ready_s"] = max(ready_s)
    recovered = _recovery_s(report, load.before_s + load.during_s)
    if recovered is not None:
        found["after"]["recovery_s"] = recovered
    return found


def _of_phase(counted: Mapping[Any, Stats]) -> dict[str, float]:
    def number(*kinds: str) -> int:
        return sum(counted[kind].count for kind in kinds if kind in counted)

    total = sum(stats.count for kind, stats in counted.items() if kind not in ("good", "refused"))
    if not total:
        return {}
    shares = {
        "failed_share": (total - number("good")) / total,
        "partial_share": number("partial") / total,
        "limited_share": number("limited") / total,
        "shed_share": number("shed") / total,
    }
    if "good" in counted:
        good = counted["good"]
        shares |= {"p50_ms": good.p50_ms, "p90_ms": good.p90_ms, "p99_ms": good.p99_ms}
    if "refused" in counted:
        shares["refused_p99_ms"] = counted["refused"].p99_ms
    return shares


def _recovery_s(report: Report, ends_s: float) -> float | None:
    """How long after this moment something failed for the last time; None: until the end, for all that is known."""
    after = [slot for slot in report.slots if slot.at_s >= ends_s - SLOT_S / 2]
    if not after:
        return None
    failing = [slot.at_s + SLOT_S for slot in after if slot.shed + slot.limited + slot.failed]
    if failing and failing[-1] > after[-1].at_s + SLOT_S - CALM_S:
        return None
    return round(failing[-1] - ends_s, 1) if failing else 0.0


def judged(drill: Drill, found: Measures, query: Callable[[Line], float | None] | None) -> list[Judged]:
    """Each line with its value. `query` answers those that ask Prometheus, where there is one."""
    verdicts = []
    for line in drill.lines:
        if line.measure is not None:
            value = found[line.phase].get(line.measure)
        elif query is not None:
            value = query(line)
        else:
            verdicts.append(Judged(line, None, holds=False, is_judged=False))
            continue
        verdicts.append(Judged(line, value, line.holds(value)))
    return verdicts
