"""A run as a picture: requests by what became of them, p99, other curves, alerts as bars; the fault shaded.

Only this file knows matplotlib. Invariant: two runs drawn with the same Scales can be laid over each other, and what a
color says is said by its darkness or its hatching too.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from math import isfinite
from typing import Final, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from drills.load.report import SLOT_S, Slot
from drills.model import Drill
from drills.report import words
from drills.results import Alerted, Run

SLOTS: Final = 5
"""So many slots make a column: a tenth of a second alone is noise."""

OUTCOMES: Final[tuple[tuple[str, str, str, Callable[[Slot], int]], ...]] = (
    ("whole", "#cfe3f3", "", lambda slot: slot.goodput - slot.partial),
    ("partial", "#5b9fd0", "", lambda slot: slot.partial),
    ("limited (429)", "#f5d76e", "///", lambda slot: slot.limited),
    ("shed (503)", "#e08214", "...", lambda slot: slot.shed),
    ("failed", "#7f1d1d", "", lambda slot: slot.failed),
)
INK: Final = "#1b1f24"
FAINT: Final = "#8a929b"
SHADE: Final = "#f1ece4"
SEVERITIES: Final = {"page": "#7f1d1d", "ticket": "#a85f0a"}
WIDTH_IN: Final = 10.5
STYLE: Final = {
    "font.size": 9, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.5,
}  # fmt: skip


class Scales(NamedTuple):
    """How far the axes reach."""

    begins_s: float
    ends_s: float
    per_s: float
    p99_ms: tuple[float, float]
    series: Mapping[str, tuple[float, float]]


def scales(drill: Drill, *runs: Run) -> Scales:
    """Axes that all of these runs fit into."""
    columns = [column for run in runs for column in _columns(run)]
    latencies = [ms for column in columns if (ms := _p99(column)) is not None]
    ended = [sum(_per_s(column, count) for *_, count in OUTCOMES) for column in columns]
    busiest = max([1.0, *ended, *(_per_s(column, _asked) for column in columns)])
    p99 = (min(latencies, default=1.0) / 1.5, max(latencies, default=10.0) * 1.5)
    values: dict[str, list[float]] = {}
    for run in runs:
        for name, points in _series(run).items():
            values.setdefault(name, []).extend(value for _, value in points)
    series = {name: (min(0.0, *each), max(0.0, *each) * 1.08 or 1.0) for name, each in values.items() if each}
    return Scales(-drill.load.before_s, drill.load.during_s + drill.load.after_s, busiest * 1.06, p99, series)


def picture(drill: Drill, run: Run, scale: Scales) -> bytes:
    """The run as PNG."""
    from matplotlib import rc_context

    lanes = _lanes(run.alerts)
    curves = [(name, points) for name, points in _series(run).items() if points]
    heights = [0.3, 2.5, 1.5, *(0.95 for _ in curves), 0.2 + 0.2 * max(len(lanes), 1)]
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + 1.0 + 0.12 * len(heights)), layout="constrained")
        FigureCanvasAgg(figure)
        axes: list[Axes] = figure.subplots(
            len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False
        )[:, 0].tolist()
        title = f"{drill.name}, without the {run.without}" if run.without else f"{drill.name}, all protections in force"
        figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold")
        for axis in axes[1:]:
            axis.axvspan(0, drill.load.during_s, color=SHADE, linewidth=0, zorder=0)
            for happened in run.happened:
                axis.axvline(happened.at_s, color=FAINT, linewidth=0.6, linestyle=(0, (4, 3)), zorder=1)
        done, requests, latency, *others, alerts = axes
        _draw_numbers(done, run, scale)
        _draw_requests(requests, drill, run, scale)
        _draw_latency(latency, drill, run, scale)
        for axis, (name, points) in zip(others, curves, strict=True):
            axis.plot(*zip(*points, strict=True), color="#2b5f8a", linewidth=1.3)
            axis.set_ylim(*scale.series[name])
            _entitle(axis, name)
        none = "Alerts: none fired" if words.is_watched(run) else "Alerts: not watched"
        _draw_alerts(alerts, "Alerts" if lanes else none, lanes, scale)
        axes[0].set_xlim(scale.begins_s, scale.ends_s)
        alerts.set_xlabel("seconds from the fault; shaded: while it lasts")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=125, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def _entitle(axis: Axes, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=9, pad=4)
    axis.grid(axis="y", color="#dfe3e7", linewidth=0.6)
    axis.set_axisbelow(True)


def _bare(axis: Axes) -> None:
    """Leave only what is drawn."""
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)


def _draw_numbers(axis: Axes, run: Run, scale: Scales) -> None:
    """What was done, by its number in the report's table; numbers that would cover each other are one."""
    _bare(axis)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(bottom=False)
    axis.set_ylim(0, 1)
    for at_s, label in _numbers(run, (scale.ends_s - scale.begins_s) / 45):
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": FAINT, "linewidth": 0.7}
        axis.text(at_s, 0.5, label, ha="center", va="center", fontsize=8, bbox=box, clip_on=False)


def _numbers(run: Run, nearest_s: float) -> Iterator[tuple[float, str]]:
    """Where a number stands, and which: "3", or "3-5" where there is room only for one."""
    group: list[tuple[int, float]] = []
    for at, happened in enumerate(sorted(run.happened, key=lambda it: it.at_s), 1):
        if group and happened.at_s - group[-1][1] >= nearest_s:
            yield _label(group)
            group = []
        group.append((at, happened.at_s))
    if group:
        yield _label(group)


def _label(group: Sequence[tuple[int, float]]) -> tuple[float, str]:
    (first, begins), (last, ends) = group[0], group[-1]
    return (begins + ends) / 2, f"{first}" if first == last else f"{first}-{last}"


def _draw_requests(axis: Axes, drill: Drill, run: Run, scale: Scales) -> None:
    columns = list(_columns(run))
    columns += columns[-1:]  # A step is drawn up to the next edge: the last one needs it too.
    edges = [index * SLOTS * SLOT_S - drill.load.before_s for index in range(len(columns))]
    below = [0.0] * len(columns)
    handles = []
    for name, color, hatch, count in OUTCOMES:
        above = [base + _per_s(column, count) for base, column in zip(below, columns, strict=True)]
        drawn = axis.fill_between(
            edges, below, above, step="post", facecolor=color, hatch=hatch or None, edgecolor=INK if hatch else color,
            linewidth=0, label=name, zorder=2,
        )  # fmt: skip
        handles.append(drawn)
        below = above
    due = [_per_s(column, _asked) for column in columns]
    (asked,) = axis.step(edges, due, where="post", color=INK, linewidth=0.9, label="asked", zorder=3)
    axis.set_ylim(0, scale.per_s)
    _entitle(axis, "Requests per second, when they ended")
    axis.legend(
        handles=[asked, *handles], loc="lower right", bbox_to_anchor=(1, 1), ncols=len(handles) + 1, frameon=False,
        borderaxespad=0, handlelength=1.4, columnspacing=1.2, fontsize=8.5,
    )  # fmt: skip


def _draw_latency(axis: Axes, drill: Drill, run: Run, scale: Scales) -> None:
    points = [(column[0].at_s - drill.load.before_s + SLOTS * SLOT_S / 2, _p99(column)) for column in _columns(run)]
    axis.set_yscale("log")
    axis.set_ylim(*scale.p99_ms)
    axis.plot(
        [at_s for at_s, _ in points], [float("nan") if ms is None else ms for _, ms in points],
        color="#2b5f8a", linewidth=1.3, zorder=3,
    )  # fmt: skip
    axis.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: words.number(ms)))
    lowest, highest = scale.p99_ms
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if highest > 100 * lowest else (1.0, 2.0, 5.0)))
    axis.minorticks_off()
    _entitle(axis, "p99 of the answers, milliseconds (a gap: nobody was answered)")


def _lanes(alerts: Sequence[Alerted]) -> list[tuple[str, list[Alerted]]]:
    """Alerts of one name, lane by lane, the first to fire on top."""
    by_name = sorted(alerts, key=lambda it: it.name)
    lanes = [(name, list(each)) for name, each in groupby(by_name, key=lambda it: it.name)]
    return sorted(lanes, key=lambda lane: min(it.from_s for it in lane[1]))


def _draw_alerts(axis: Axes, title: str, lanes: Sequence[tuple[str, list[Alerted]]], scale: Scales) -> None:
    axis.set_title(title, loc="left", fontsize=9, pad=4)
    _bare(axis)
    axis.set_ylim(max(len(lanes), 1), 0)
    for at, (name, each) in enumerate(lanes):
        for it in each:
            ends = scale.ends_s if it.until_s is None else it.until_s
            axis.barh(
                at + 0.5, max(ends - it.from_s, 0.1), left=it.from_s, height=0.62, zorder=2,
                color=SEVERITIES.get(it.severity, "#47525d"),
            )  # fmt: skip
        place, ink, side = _place(each, scale)
        label = f"{name} ({each[0].severity})" if each[0].severity else name
        axis.annotate(
            label, (place, at + 0.5), xytext=(5 if side == "left" else -5, 0), textcoords="offset points", ha=side,
            va="center", fontsize=8.5, color=ink, zorder=3,
        )  # fmt: skip


def _place(alerts: Sequence[Alerted], scale: Scales) -> tuple[float, str, Literal["left", "right"]]:
    """Where the label of a lane has room, in which color, and which of its sides is there: in a bar, or beside one."""
    bars = sorted((it.from_s, scale.ends_s if it.until_s is None else it.until_s) for it in alerts)
    begins, ends = max(bars, key=lambda bar: bar[1] - bar[0])
    if ends - begins > 0.3 * (scale.ends_s - scale.begins_s):
        return begins, "white", "left"
    rooms = [(next_begins - ends, ends) for (_, ends), (next_begins, _) in pairwise([*bars, (scale.ends_s, 0.0)])]
    room, place = max(rooms)
    if bars[0][0] - scale.begins_s > room:
        return bars[0][0], INK, "right"
    return place, INK, "left"


def _series(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Where a curve has a value: a quantile of nothing is NaN."""
    return {name: [point for point in points if isfinite(point[1])] for name, points in run.series.items()}


def _columns(run: Run) -> Iterator[list[Slot]]:
    slots = run.load.slots
    return (slots[at : at + SLOTS] for at in range(0, len(slots), SLOTS))


def _asked(slot: Slot) -> int:
    return slot.due + slot.retried


def _per_s(column: Sequence[Slot], count: Callable[[Slot], int]) -> float:
    return sum(map(count, column)) / (len(column) * SLOT_S)


def _p99(column: Sequence[Slot]) -> float | None:
    """The highest of the column's slots; None where none of them had an answer."""
    return max((slot.p99_ms for slot in column if slot.p99_ms is not None), default=None)
