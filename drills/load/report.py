"""What a load run counts and reports: durations, outcomes, a time line; as values, as a table, and as an SVG.

Nothing is sent and no clock is read here. Invariant: durations are seconds on the way in and milliseconds in a report.
"""

import itertools
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeVar, get_args
from xml.sax.saxutils import escape

import msgspec

Outcome = Literal["ok", "partial", "shed", "limited", "other", "timeout", "error", "cut", "unsent"]
"""`error` ended before its answer began, `cut` within it; `unsent` found the queue for a connection full."""
Summary = Literal["good", "refused"]
"""`refused` is shed or limited."""
GOOD: Final[tuple[Outcome, ...]] = ("ok", "partial")
REFUSED: Final[tuple[Outcome, ...]] = ("shed", "limited")
FAILED: Final[tuple[Outcome, ...]] = ("other", "timeout", "error", "cut", "unsent")

SLOT_S: Final = 0.1
LATE_S: Final = 0.01
WIDTH: Final = 900
HEIGHT: Final = 300
PERCENTS: Final = (0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100)


class Stats(msgspec.Struct, frozen=True):
    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Slot(msgspec.Struct, frozen=True):
    """A tenth of a second: what became due in it, and what ended in it. `p99_ms` is that of the goodput."""

    at_s: float
    due: int
    retried: int
    goodput: int
    shed: int
    limited: int
    failed: int
    p99_ms: float | None
    partial: int = 0
    """Of the goodput."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run saw. `first` and `retried` are attempts by outcome; `curve` is (percent, ms) of the goodput."""

    url: str
    machine: str
    phases: tuple[tuple[float, float], ...]
    seconds: float
    goodput_per_s: float
    first: dict[Outcome, Stats]
    retried: dict[Outcome, Stats]
    by_phase: list[dict[Outcome, Stats]]
    """All attempts by the phase in which they ended, from when they were in fact sent: what the server alone took."""
    due_by_phase: list[dict[Outcome | Summary, Stats]]
    """All attempts by the phase in which they ended, from when they were due: what whoever asked had to wait."""
    probe: dict[Outcome, Stats]
    statuses: dict[int, int]
    connections: int
    reconnects: int
    queued: int
    """Attempts that found all connections in use and waited for one."""
    lateness: Stats
    """How late the generator itself was."""
    own_cpu: float
    """Of one core."""
    slots: list[Slot]
    curve: list[tuple[float, float]]

    @property
    def due(self) -> int:
        return self.lateness.count

    @property
    def warnings(self) -> list[str]:
        """Why the figures are not those of the server."""
        found = []
        if self.lateness.p99_ms > LATE_S * 1000:
            found.append(f"the generator could not keep up: itself {self.lateness.p99_ms:.0f} ms late at p99")
        if self.queued:
            found.append(f"{self.queued} attempts waited in the generator for one of {self.connections} connections")
        if unsent := sum(each["unsent"].count for each in (self.first, self.retried) if "unsent" in each):
            found.append(f"{unsent} attempts were not sent: too many waited for a connection")
        return found


Kind = TypeVar("Kind", bound=str)


class Histogram:
    """Counts of durations, each off by less than 1 %, however many there are."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._longest_us = 0
        self.count = 0

    def __repr__(self) -> str:
        return f"<Histogram of {self.count}>"

    def add(self, seconds: float) -> None:
        us = int(seconds * 1e6)
        self._longest_us = max(self._longest_us, us)
        self.count += 1
        bucket = us | ((1 << max(us.bit_length() - 8, 0)) - 1)  # Its eight leading bits, filled up with ones.
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def at(self, *percents: float) -> list[float]:
        """Milliseconds that so many percent do not exceed; percents are in ascending order."""
        buckets = sorted(self._counts.items()) or [(0, 0)]
        reached = list(itertools.accumulate(count for _, count in buckets))
        found, index = [], 0
        for percent in percents:
            while reached[index] < percent / 100 * self.count:
                index += 1
            found.append(min(buckets[index][0], self._longest_us) / 1000)
        return found

    def curve(self) -> list[tuple[float, float]]:
        return list(zip(PERCENTS, self.at(*PERCENTS), strict=True))

    def stats(self) -> Stats:
        return Stats(self.count, *self.at(50, 90, 99, 99.9, 100))


class Tally:
    """What became of all attempts so far. `watch` is called with each slot that is over."""

    def __init__(self, watch: Callable[[Slot], None] | None = None, phases: int = 1) -> None:
        self._watch = watch
        self.first = {outcome: Histogram() for outcome in get_args(Outcome)}
        self.retried = {outcome: Histogram() for outcome in get_args(Outcome)}
        self.phases = [{outcome: Histogram() for outcome in get_args(Outcome)} for _ in range(phases)]
        """Filled by whoever knows when an attempt was sent."""
        self.due_phases = [{it: Histogram() for it in (*get_args(Outcome), *get_args(Summary))} for _ in range(phases)]
        self.good = Histogram()
        self.lateness = Histogram()
        self.queued = 0
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.slots: list[Slot] = []
        self._good: list[float] = []
        """Of the slot under way."""
        self._counted = Counter[str]()

    def add(self, outcome: Outcome, seconds: float, phase: int = 0, *, is_retry: bool) -> None:
        (self.retried if is_retry else self.first)[outcome].add(seconds)
        self.due_phases[phase][outcome].add(seconds)
        if outcome in GOOD:
            self.good.add(seconds)
            self.due_phases[phase]["good"].add(seconds)
            self._good.append(seconds)
        elif outcome in REFUSED:
            self.due_phases[phase]["refused"].add(seconds)

    def seal(self, elapsed_s: float) -> None:
        """Close the slots that are over by now."""
        while elapsed_s >= (len(self.slots) + 1) * SLOT_S:
            total = Counter[str]({it: self.first[it].count + self.retried[it].count for it in get_args(Outcome)})
            total["due"], total["retried"] = self.lateness.count, sum(each.count for each in self.retried.values())
            new, self._counted = total - self._counted, total
            good, self._good = sorted(self._good), []
            slot = Slot(
                at_s=round(len(self.slots) * SLOT_S, 1), due=new["due"], retried=new["retried"], goodput=len(good),
                shed=new["shed"], limited=new["limited"], failed=sum(new[outcome] for outcome in FAILED),
                p99_ms=good[int(len(good) * 0.99)] * 1000 if good else None, partial=new["partial"],
            )  # fmt: skip
            self.slots.append(slot)
            if self._watch:
                self._watch(slot)


def seen(histograms: Mapping[Kind, Histogram]) -> dict[Kind, Stats]:
    """Statistics of the outcomes that there were."""
    return {outcome: each.stats() for outcome, each in histograms.items() if each.count}


def progress(slot: Slot) -> None:
    """Print the last tenth of each second."""
    if round(slot.at_s / SLOT_S) % 10 == 9:
        print(slot, file=sys.stderr)


def table(report: Report) -> str:
    """The report for people."""
    late = f"{report.lateness.p50_ms:.2f} ms at p50, {report.lateness.p99_ms:.2f} ms at p99"
    rows = [
        report.machine,
        f"{report.url}: {report.due} due in {report.seconds:.1f} s, goodput {report.goodput_per_s:.1f}/s",
        f"{report.connections} connections, {report.reconnects} reconnects, statuses {report.statuses}",
        f"generator: {report.own_cpu:.0%} of a core, late by {late}",
        "",
        f"{'ms':16}{'count':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}{'max':>9}",
    ]
    for group, stats in (("", report.first), ("retried ", report.retried), ("probe ", report.probe)):
        for outcome, it in stats.items():
            figures = (it.p50_ms, it.p90_ms, it.p99_ms, it.p999_ms, it.max_ms)
            rows.append(f"{group + outcome:16}{it.count:9}" + "".join(f"{figure:9.2f}" for figure in figures))
    rows += ["", f"{'per second':16}{'due':>9}{'retried':>9}{'goodput':>9}{'shed':>9}{'limited':>9}{'failed':>9}"]
    ends_s = 0.0
    for seconds, rate in report.phases:
        begins_s, ends_s = ends_s, ends_s + seconds
        slots = [slot for slot in report.slots if begins_s <= slot.at_s + SLOT_S / 2 < ends_s]
        columns = zip(*((it.due, it.retried, it.goodput, it.shed, it.limited, it.failed) for it in slots), strict=True)
        rows.append(
            f"{f'{seconds:g} s of {rate:g}':16}" + "".join(f"{sum(column) / seconds:9.1f}" for column in columns)
        )
    return "\n".join(rows)


def draw(report: Report) -> str:
    """The report as an SVG: the time line above, percentiles of the goodput below."""
    # Each nine of a percentile is as wide as the one before.
    nines = [(-math.log10(max(1 - percent / 100, 1e-5)), ms) for percent, ms in report.curve]
    marks = {-math.log10(1 - percent / 100): f"p{percent:g}" for percent in (0, 50, 90, 99, 99.9, 99.99)}
    latency = {"ms": ("#27c", [ms for _, ms in nines])}
    below = _panel("latency of the goodput", [nine for nine, _ in nines], latency, marks)
    return sheet(f"{report.url}, {report.machine}", time_line("per second, over seconds", report), below)


def time_line(title: str, report: Report) -> str:
    """What became of the requests of each tenth of a second, as a panel of a sheet."""
    seconds = [slot.at_s for slot in report.slots]
    lines = {
        "due": ("#999", [slot.due / SLOT_S for slot in report.slots]),
        "goodput": ("#2a7", [slot.goodput / SLOT_S for slot in report.slots]),
        "shed, limited": ("#e90", [(slot.shed + slot.limited) / SLOT_S for slot in report.slots]),
        "failed": ("#c33", [slot.failed / SLOT_S for slot in report.slots]),
    }
    return _panel(title, seconds, lines, _ticks(max(seconds, default=0)))


def sheet(title: str, *panels: str) -> str:
    """An SVG of panels, one below the other."""
    placed = "".join(f'<g transform="translate(0 {at * HEIGHT + 30})">{it}</g>' for at, it in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(panels) * HEIGHT + 30}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="10" y="18">{escape(title)}</text>{placed}</svg>\n'
    )


def _ticks(highest: float) -> dict[float, str]:
    """Round values from 0 to the highest, about five."""
    step = 10 ** math.floor(math.log10(max(highest, 1e-3)))
    step *= next(factor for factor in (0.2, 0.5, 1, 2) if highest <= 5 * factor * step)
    return {index * step: f"{index * step:g}" for index in range(int(highest / step + 1e-9) + 1)}


def _panel(title: str, xs: Sequence[float], lines: dict[str, tuple[str, list[float]]], marks: dict[float, str]) -> str:
    """One diagram: lines of a name, a color and a value for each of xs."""
    highest = max((y for _, ys in lines.values() for y in ys), default=0) or 1
    widest = max(xs, default=0) or 1

    def at(x: float, y: float) -> str:
        return f"{60 + x / widest * (WIDTH - 80):.1f},{HEIGHT - 30 - y / highest * (HEIGHT - 70):.1f}"

    parts = []
    for y, label in _ticks(highest).items():
        parts.append(f'<path d="M{at(0, y)} L{at(widest, y)}" stroke="#eee"/>')
        parts.append(f'<text transform="translate({at(0, y)})" x="-6" y="4" text-anchor="end">{label}</text>')
    for x, label in marks.items():
        if x <= widest:
            parts.append(f'<text transform="translate({at(x, 0)})" y="16" text-anchor="middle">{label}</text>')
    legend = f'<text x="60" y="24">{title}: '
    for name, (color, ys) in lines.items():
        points = " ".join(at(x, y) for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{points}"/>')
        legend += f'<tspan fill="{color}" dx="8">{name}</tspan>'
    return "".join(parts) + legend + "</text>"
