"""What a drill has shown, as values: measures of each phase, lines that held or not, alerts that fired.

Nothing is measured or drawn here. Invariant: a result can be written as JSON and read again, for a report of it can be
made later. Times are seconds from the beginning of `during`, negative before it.
"""

from typing import Final

import msgspec

from drills.load.report import Report
from drills.model import Drill, Line, Phase

OF_THE_MACHINE: Final = frozenset({"FlagstoneCpuPressure"})
"""What a machine that is busy with others fires rightly, whatever flagstone does."""


class Happened(msgspec.Struct, frozen=True):
    """Something that was done, or was seen to happen."""

    at_s: float
    what: str


class Alerted(msgspec.Struct, frozen=True):
    """An alert, from when it fired until it no longer did; None: it still did at the end."""

    name: str
    severity: str
    from_s: float
    until_s: float | None


class Judged(msgspec.Struct, frozen=True):
    """A line, the value that was measured, and whether it held. Without Prometheus a query has no value: not judged."""

    line: Line
    value: float | None
    holds: bool
    is_judged: bool = True


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a drill, with everything in force or without one protection."""

    without: str
    """The protection that was turned off; "" for none."""
    began: str
    machine: str
    measures: dict[Phase, dict[str, float]]
    judged: list[Judged]
    alerts: list[Alerted]
    happened: list[Happened]
    load: Report
    """Its slots count from the beginning of `before`."""
    series: dict[str, list[tuple[float, float]]] = {}
    """What else is worth a curve, from Prometheus: {"Worker CPU (cores)": [(at_s, value)]}."""
    missing: list[str] = []
    """What this machine does not have, and what therefore was not shown."""
    problems: list[str] = []
    """What makes the run worth nothing: an alert before the fault, a load that was not sent."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    drill: Drill
    run: Run
    without: Run | None = None

    @property
    def failures(self) -> list[str]:
        """Why the drill has not passed; nothing where it has."""
        found = [*self.run.problems]
        found += [f"{it.line.name}: {it.line.what}" for it in self.run.judged if it.is_judged and not it.holds]
        found += _missed(self.run, self.drill.alerts)
        expected = {*self.drill.alerts, *self.drill.may_fire, *OF_THE_MACHINE}
        found += [f"{name} fired" for name in sorted({it.name for it in self.run.alerts} - expected)]
        without = self.drill.without
        if self.without is not None and without is not None:
            held = {it.line.name for it in self.without.judged if it.is_judged and it.holds}
            found += [
                f"without the {without.protection}, {name} holds all the same" for name in without.fails if name in held
            ]
            found += [f"without the {without.protection}, {it}" for it in _missed(self.without, without.alerts)]
        return found

    @property
    def has_passed(self) -> bool:
        return not self.failures


def _missed(run: Run, alerts: tuple[str, ...]) -> list[str]:
    """Alerts that should have fired and did not, where there was a Prometheus to fire them."""
    if any("prometheus" in it.lower() for it in run.missing):
        return []
    fired = {it.name for it in run.alerts}
    return [f"{name} did not fire" for name in alerts if name not in fired]
