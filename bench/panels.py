"""Panels of a Grafana board drawn from what Prometheus answers: HTML with SVG in it, for pictures without a Grafana.

What Grafana would draw alike is drawn alike: places, units, colours, thresholds, legends. Invariant: what has no data
says so, and nothing is drawn that no query found.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Final

WIDTH: Final = 1480
CELL, GAP = 30, 8
HEAD, LEGEND, AXIS = 26, 20, 66
NAMED: Final = {
    "green": "#3f9f4c", "yellow": "#e0b400", "orange": "#f28c1c", "red": "#d9363e", "blue": "#3a77d6",
    "gray": "#8a8f98", "purple": "#a45bc9", "dark-purple": "#6f2f99", "transparent": "none",
}  # fmt: skip
PALETTE: Final = (
    "#3f9f4c", "#3a77d6", "#f28c1c", "#a45bc9", "#d9363e", "#2aa5a0", "#c9a800", "#6f7fbf", "#b8577f", "#7a9a2e",
)  # fmt: skip
STYLE: Final = (
    """
body{margin:0;padding:12px;background:#eef0f3;font:12px/1.35 'DejaVu Sans',sans-serif;color:#22252b;width:WIDTHpx}
h1{font-size:17px;margin:0 0 10px}h1 small{font-weight:normal;font-size:12px;color:#5b616b;margin-left:12px}
main{display:grid;grid-template-columns:repeat(24,1fr);grid-auto-rows:CELLpx;gap:GAPpx}
section{background:#fff;border:1px solid #dcdfe4;border-radius:3px;overflow:hidden;position:relative}
h2{font-size:14px;margin:8px 0 0;align-self:end}h3{font-size:12px;margin:5px 8px 0;font-weight:600;height:20px}
.tile{display:flex;position:absolute;inset:26px 0 0 0}
.tile div{flex:1;color:#fff;text-align:center;place-content:center;display:grid}
.tile b{display:block;font-size:24px;line-height:1.15}.tile .two b{font-size:18px}
.legend{position:absolute;bottom:2px;left:8px;right:4px;height:17px;overflow:hidden;white-space:nowrap;font-size:11px}
.legend i{display:inline-block;width:12px;height:4px;margin:0 4px 2px 8px;border-radius:2px}
table{border-collapse:collapse;width:100%;font-size:12px}
th,td{text-align:left;padding:4px 8px;border-bottom:1px solid #e6e8eb}
.none{color:#8a8f98;text-align:center;padding-top:40px;font-size:13px}text{font-size:10px;fill:#5b616b}
""".replace("WIDTH", f"{WIDTH - 24}")
    .replace("CELL", f"{CELL}")
    .replace("GAP", f"{GAP}")
)


@dataclass(frozen=True)
class Series:
    """What one query found of one thing: its name, its labels, and points in time without those that are no numbers."""

    name: str
    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


def page(board: dict[str, Any], found: dict[int, list[Series]], span: tuple[float, float], says: str) -> str:
    """A board as HTML, of what was found for each panel by its id."""
    drawn = "".join(_placed(panel, found.get(panel["id"], []), span) for panel in board["panels"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><style>{STYLE}</style>'
        f"<h1>{escape(board['title'])}<small>{escape(says)}</small></h1><main>{drawn}</main></html>"
    )


def _placed(panel: dict[str, Any], series: list[Series], span: tuple[float, float]) -> str:
    grid = panel["gridPos"]
    place = f"grid-area:{grid['y'] + 1}/{grid['x'] + 1}/span {grid['h']}/span {grid['w']}"
    title = escape(panel["title"])
    if panel["type"] == "row":
        return f'<h2 style="{place}">{title}</h2>'
    column = (WIDTH - 24 - 23 * GAP) / 24
    width = grid["w"] * column + (grid["w"] - 1) * GAP - 2
    height = grid["h"] * CELL + (grid["h"] - 1) * GAP - HEAD - LEGEND - 4
    defaults = panel["fieldConfig"]["defaults"]
    if panel["type"] == "stat":
        inner = _tile(defaults, series)
    elif not series:
        inner = f'<p class="none">{escape(defaults.get("noValue", "No data"))}</p>'
    elif panel["type"] == "table":
        inner = _table(panel, series)
    else:
        draw = {"timeseries": _chart, "heatmap": _heatmap, "state-timeline": _states}[panel["type"]]
        inner = f'<svg width="{width:.0f}" height="{height:.0f}">{draw(panel, series, span, (width, height))}</svg>'
        if panel["type"] == "timeseries":
            inner += _legend(series, _colours(panel, series))
    return f'<section style="{place}"><h3>{title}</h3>{inner}</section>'


def amount(value: float, unit: str, digits: int | None = None) -> str:
    """A number as the board's units have it: 0.0123 in s is "12.3 ms"."""
    if unit == "percentunit":
        return f"{value * 100:.{1 if digits is None else digits}f} %"
    if unit == "s":
        factor, name = next((it for it in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if value * it[0] >= 1), (1, "s"))
        return f"{value * factor:.3g} {name}" if value < 1000 else f"{value / 60:.0f} min"
    if unit in ("bytes", "Bps"):
        power = min(4, int(math.log(value, 1024))) if value >= 1 else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}{'/s' * (unit == 'Bps')}"
    named = {"reqps": " req/s", "cps": " c/s", "d": " days"}.get(unit, "")
    return f"{value:.{digits}f}{named}" if digits is not None else f"{value:.3g}{named}"


def _step_colour(defaults: dict[str, Any], value: float | None) -> str:
    steps = defaults["thresholds"]["steps"]
    reached = [it["color"] for it in steps if it["value"] is None or (value is not None and value >= it["value"])]
    return NAMED[reached[-1]]


def _tile(defaults: dict[str, Any], series: list[Series]) -> str:
    unit, digits = defaults["unit"], defaults.get("decimals")
    if not series:
        nothing, colour = escape(defaults.get("noValue", "No data")), _step_colour(defaults, None)
        return f'<div class="tile"><div class="two" style="background:{colour}"><b>{nothing}</b></div></div>'
    shown = ""
    for it in series:
        value = it.points[-1][1]
        name = f"<span>{escape(it.name)}</span>" if len(series) > 1 or it.labels else ""
        kind = ' class="two"' if name else ""
        colour = _step_colour(defaults, value)
        shown += f'<div{kind} style="background:{colour}"><b>{amount(value, unit, digits)}</b>{name}</div>'
    return f'<div class="tile">{shown}</div>'


def _table(panel: dict[str, Any], series: list[Series]) -> str:
    organized = panel["transformations"][0]["options"]
    columns = sorted(organized["indexByName"], key=organized["indexByName"].get)
    head = "".join(f"<th>{escape(organized['renameByName'][it])}</th>" for it in columns)
    rows = sorted(
        tuple((it.labels | {"Value": f"{it.points[-1][1]:.0f}"}).get(column, "") for column in columns) for it in series
    )
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _colours(panel: dict[str, Any], series: Sequence[Series]) -> list[str]:
    painted = {
        it["matcher"]["options"]: NAMED[it["properties"][0]["value"]["fixedColor"]]
        for it in panel["fieldConfig"]["overrides"]
    }
    return [painted.get(it.name, PALETTE[number % len(PALETTE)]) for number, it in enumerate(series)]


def _legend(series: Sequence[Series], colours: Sequence[str]) -> str:
    pairs = zip(series, colours, strict=True)
    return f'<div class="legend">{"".join(f"<i style=background:{c}></i>{escape(it.name)}" for it, c in pairs)}</div>'


def _chart(panel: dict[str, Any], series: list[Series], span: tuple[float, float], size: tuple[float, float]) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    is_stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    bases: dict[float, float] = {}
    lines: list[list[tuple[float, float, float]]] = []
    for it in series:
        lines.append([(at, bases.get(at, 0.0), bases.get(at, 0.0) + value) for at, value in it.points])
        if is_stacked:
            bases |= {at: top for at, _, top in lines[-1]}
    most = defaults.get("max") or max((top for line in lines for _, _, top in line), default=0.0) * 1.08 or 1.0
    width, height = size[0] - AXIS - 10, size[1] - 18

    def x(at: float) -> float:
        return AXIS + (at - span[0]) / (span[1] - span[0]) * width

    def y(value: float) -> float:
        return 4 + height * (1 - min(value, most) / most)

    drawn = [_grid(most, defaults["unit"], span, size)]
    gap_s = 2.5 * min((b[0] - a[0] for line in lines for a, b in pairwise(line)), default=1.0)
    for line, colour in zip(lines, _colours(panel, series), strict=True):
        for piece in _pieces(line, gap_s):
            top = " ".join(f"{x(at):.1f},{y(upper):.1f}" for at, _, upper in piece)
            below = " ".join(f"{x(at):.1f},{y(lower):.1f}" for at, lower, _ in reversed(piece))
            opacity = 0.75 if is_stacked else 0.08
            drawn.append(f'<polygon points="{top} {below}" fill="{colour}" opacity="{opacity}"/>')
            if not is_stacked:
                drawn.append(f'<polyline points="{top}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is not None and step["value"] <= most:
            at, colour = y(step["value"]), NAMED[step["color"]]
            drawn.append(f'<path d="M{AXIS} {at:.1f}h{width:.0f}" stroke="{colour}" stroke-dasharray="6 4"/>')
    return "".join(drawn)


def _pieces(line: list[tuple[float, float, float]], gap_s: float) -> Iterator[list[tuple[float, float, float]]]:
    """The line, cut where nothing was found for longer than that."""
    piece: list[tuple[float, float, float]] = []
    for point in line:
        if piece and point[0] - piece[-1][0] > gap_s:
            yield piece
            piece = []
        piece.append(point)
    if piece:
        yield piece


def _grid(most: float, unit: str, span: tuple[float, float], size: tuple[float, float]) -> str:
    width, height = size[0] - AXIS - 10, size[1] - 18
    drawn = []
    for part in range(5):
        at = 4 + height * (1 - part / 4)
        drawn.append(
            f'<path d="M{AXIS} {at:.1f}h{width:.0f}" stroke="#e6e8eb"/>'
            f'<text x="{AXIS - 6}" y="{at + 3:.1f}" text-anchor="end">{amount(most * part / 4, unit)}</text>'
        )
    return "".join(drawn) + _times(span, size)


def _times(span: tuple[float, float], size: tuple[float, float]) -> str:
    width = size[0] - AXIS - 10
    return "".join(
        f'<text x="{AXIS + width * part / 4:.0f}" y="{size[1] - 2:.0f}" text-anchor="middle">'
        f"{(part / 4 - 1) * (span[1] - span[0]):.0f} s</text>"
        for part in range(4)
    )


def _heatmap(_: dict[str, Any], series: list[Series], span: tuple[float, float], size: tuple[float, float]) -> str:
    ordered = sorted(series, key=lambda it: float(it.labels["le"]))
    values = [dict(it.points) for it in ordered]
    times = sorted(values[-1])
    width, height = size[0] - AXIS - 10, (size[1] - 18) / len(ordered)
    cells = [
        (number, at, values[number].get(at, 0.0) - (values[number - 1].get(at, 0.0) if number else 0.0))
        for number in range(len(ordered))
        for at in times
    ]
    most = max(count for _, _, count in cells) or 1.0
    wide = width / max(1, len(times))
    drawn = [_times(span, size)]
    for number, at, count in cells:
        if count > 0:
            left = AXIS + (at - span[0]) / (span[1] - span[0]) * width
            drawn.append(f'<rect x="{left - wide:.1f}" y="{4 + height * (len(ordered) - 1 - number):.1f}" '
                         f'width="{wide + 0.5:.1f}" height="{height:.1f}" fill="#c2500a" '
                         f'opacity="{(count / most) ** 0.5:.2f}"/>')  # fmt: skip
    for number in range(0, len(ordered) - 1, 3):
        middle = 4 + height * (len(ordered) - 1 - number) + 3
        bound = amount(float(ordered[number].labels["le"]), "s")
        drawn.append(f'<text x="{AXIS - 6}" y="{middle:.1f}" text-anchor="end">{bound}</text>')
    return "".join(drawn)


def _states(panel: dict[str, Any], series: list[Series], span: tuple[float, float], size: tuple[float, float]) -> str:
    words = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    width, height = size[0] - AXIS - 30, (size[1] - 18) / len(series)
    drawn = [_times(span, size)]
    for number, it in enumerate(series):
        top = 4 + number * height
        drawn.append(f'<text x="{AXIS + 14}" y="{top + height / 2 + 3:.1f}" text-anchor="end">{escape(it.name)}</text>')
        for (at, value), (until, _) in pairwise((*it.points, (span[1], 0.0))):
            left = AXIS + 20 + (at - span[0]) / (span[1] - span[0]) * width
            wide = (until - at) / (span[1] - span[0]) * width + 0.5
            drawn.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{height * 0.8:.1f}" '
                         f'fill="{NAMED[words[f"{value:.0f}"]["color"]]}"/>')  # fmt: skip
    told = (f"<i style=background:{NAMED[it['color']]}></i>{escape(it['text'])}" for it in words.values())
    return f'{"".join(drawn)}</svg><div class="legend">{"".join(told)}</div><svg width="0" height="0">'
