"""How values of a result are said: shares, durations, bounds, moments. One way for terminal, page and documentation.

Nothing is laid out here. Invariant: no rounding makes a failure vanish: what is not zero is never said as zero.
"""

from typing import Final

from drills.load.report import Outcome
from drills.model import Line, Measure
from drills.results import OF_THE_MACHINE, Alerted, Judged, Run

NAMES: Final[dict[Measure, str]] = {
    "failed_share": "Failed", "partial_share": "Partial", "limited_share": "Limited (429)", "shed_share": "Shed (503)",
    "goodput_per_s": "Answered", "p50_ms": "p50", "p90_ms": "p90", "p99_ms": "p99", "refused_p99_ms": "p99 of refusals",
    "wrong": "Wrong answers", "unready_answers": "Refused though ready", "recovery_s": "Recovered after",
    "ready_s": "Slowest start",
}  # fmt: skip
OUTCOMES: Final[dict[Outcome, str]] = {
    "ok": "whole", "partial": "partial", "limited": "429", "shed": "503, shed", "other": "other statuses",
    "timeout": "no answer in time", "error": "connection failed", "cut": "answer cut short", "unsent": "no connection",
}  # fmt: skip
NOTHING: Final = "–"  # noqa: RUF001 - A dash, as tables have it.


def share(value: float) -> str:
    """A share as a percentage."""
    percent = 100 * value
    if 0 < percent < 0.001:
        return "< 0.001 %"
    return f"{percent:.2f} %" if 99 < percent < 100 else f"{percent:.3g} %"


def number(value: float) -> str:
    """Three digits that matter, and thousands apart."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def measured(measure: Measure | None, value: float | None) -> str:
    """A value with the unit of its measure."""
    if value is None or value != value:  # noqa: PLR0124 - NaN is not itself.
        return NOTHING
    if measure is None:
        return number(value)
    if measure.endswith("_share"):
        return share(value)
    if measure.endswith("_per_s"):
        return f"{number(value)}/s"
    unit = measure.rpartition("_")[2]
    return f"{number(value)} {unit}" if unit in ("ms", "s") else number(value)


def bound(line: Line) -> str:
    """What a line asks for."""
    lowest, highest = (measured(line.measure, it) for it in (line.at_least, line.at_most))
    if line.at_least is None:
        return f"at most {highest}"
    if line.at_most is None:
        return f"at least {lowest}"
    return f"{lowest} to {highest}"


def held(judged: Judged) -> str:
    """What became of a line."""
    return ("held" if judged.holds else "broken") if judged.is_judged else "not judged"


def moment(at_s: float) -> str:
    """Seconds from the fault, with their sign."""
    return f"{at_s:+.1f} s"


def minutes(value: float) -> str:
    """Minutes as people say them."""
    if value < 180:
        return f"{number(value)} min"
    hours, rest = divmod(round(value), 60)
    return f"{number(hours / 24)} days" if hours >= 48 else f"{hours} h {rest} min"


def answers(run: Run) -> str:
    """What callers saw while the fault lasted, most frequent first."""
    seen = run.load.by_phase[1] if len(run.load.by_phase) > 1 else {}
    total = sum(stats.count for stats in seen.values())
    ordered = sorted(seen.items(), key=lambda item: -item[1].count)
    return ", ".join(f"{OUTCOMES[outcome]} {share(stats.count / total)}" for outcome, stats in ordered) or NOTHING


def is_watched(run: Run) -> bool:
    """Whether there was a Prometheus that alerts could have come from."""
    return not any("prometheus" in it.lower() for it in run.missing)


def first_alert(run: Run) -> Alerted | None:
    """The first alert after the fault."""
    of_the_fault = (it for it in run.alerts if it.from_s >= 0 and it.name not in OF_THE_MACHINE)
    return min(of_the_fault, key=lambda it: it.from_s, default=None)


def noticed(run: Run, minute_s: float) -> str:
    """The first alert after the fault, and when it fired."""
    first = first_alert(run)
    if first is None:
        return "by no alert" if is_watched(run) else NOTHING
    return f"{first.name}, after {number(first.from_s)} s ({minutes(first.from_s / minute_s)} by its rule's clock)"
