"""Makes the Grafana boards of the descriptions beside this file: `python -m deploy.grafana.boards`.

flagstone.yaml and flagstone-detail.yaml say what is shown and why; here is how Grafana wants that said. Invariant: each
query is confined to the jobs and instances that are chosen, and panels flow from left to right, so that none overlap.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
SOURCES: Final = tuple(sorted(FOLDER.glob("*.yaml")))
COLUMNS: Final = 24
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN: Final = 'job=~"$job", instance=~"$instance"'
_METRIC: Final = re.compile(r"\b((?:flagstone_|up\b)\w*)(?:\{([^}]*)\})?")


def board(source: str) -> dict[str, Any]:
    """A board as Grafana imports it, of its description."""
    told = yaml.safe_load(source)
    terms = told.get("terms", {})
    panels: list[dict[str, Any]] = []
    top = 0
    for row in told["rows"]:
        panels.append({"type": "row", "title": row["row"], "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top}})  # fmt: skip
        top += 1
        left = height = 0
        for it in row["panels"]:
            width, tall = map(int, it.get("size", row.get("size", "8x8")).split("x"))
            if left + width > COLUMNS:
                left, top, height = 0, top + height, 0
            grid = {"h": tall, "w": width, "x": left, "y": top}
            panels.append(_panel(it, terms) | {"gridPos": grid})
            left, height = left + width, max(height, tall)
        top += height
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": told["uid"], "title": told["title"], "description": told["says"], "tags": ["flagstone"],
        "schemaVersion": 39, "editable": True, "graphTooltip": 1, "refresh": told["refresh"], "timezone": "browser",
        "time": {"from": told["since"], "to": "now"}, "links": [_LINKS], "panels": panels,
        "templating": {"list": [_SOURCE, _variable("job", 'up{job=~"flagstone.*"}', "flagstone.*"),
                                _variable("instance", 'up{job=~"$job"}', ".*")]},
        "annotations": {"list": [_annotation(it, terms) for it in told["annotations"]]},
    }  # fmt: skip


def confined(query: str, terms: dict[str, str]) -> str:
    """The query with its terms written out, asked of the chosen instances only."""
    for name, text in terms.items():
        query = query.replace(f"<{name}>", text)
    return _METRIC.sub(lambda it: f"{it[1]}{{{', '.join(filter(None, (CHOSEN, it[2])))}}}", query).strip()


_LINKS: Final = {
    "type": "dashboards", "title": "flagstone", "tags": ["flagstone"], "asDropdown": False, "icon": "external link",
    "includeVars": True, "keepTime": True, "targetBlank": False, "tooltip": "", "url": "",
}  # fmt: skip
_SOURCE: Final = {
    "type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "hide": 0,
    "includeAll": False, "multi": False, "refresh": 1, "regex": "", "skipUrlSync": False,
}  # fmt: skip


def _variable(name: str, series: str, everything: str) -> dict[str, Any]:
    query = f"label_values({series}, {name})"
    return {
        "type": "query", "name": name, "label": name.capitalize(), "datasource": DATASOURCE, "hide": 0,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "regex": "",
        "includeAll": True, "multi": True, "allValue": everything, "skipUrlSync": False,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _annotation(it: dict[str, str], terms: dict[str, str]) -> dict[str, Any]:
    return {
        "name": it["annotation"], "datasource": DATASOURCE, "enable": True, "iconColor": it["colour"],
        "expr": confined(it["ask"], terms), "step": "15s", "titleFormat": it["title"],
        "textFormat": it.get("text", ""),
    }  # fmt: skip


def _panel(it: dict[str, Any], terms: dict[str, str]) -> dict[str, Any]:
    kind, more, custom, instant = _KINDS[it["as"]]
    defaults: dict[str, Any] = {"unit": it["unit"], "custom": custom, "mappings": []}
    if "colours" in it:
        defaults |= {"thresholds": {"mode": "absolute", "steps": _steps(it["colours"])},
                     "color": {"mode": "palette-classic" if kind == "timeseries" else "thresholds"}}  # fmt: skip
        if kind == "timeseries":
            defaults["custom"] = custom | {"thresholdsStyle": {"mode": "dashed"}}
    if "words" in it:
        words = {str(value): {"text": text, "color": colour} for value, (text, colour) in it["words"].items()}
        defaults["mappings"] = [{"type": "value", "options": words}]
    defaults |= {key: it[name] for name, key in _PLAIN.items() if name in it}
    targets = [
        {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": confined(query, terms),
         "legendFormat": legend, "instant": instant, "range": not instant, "editorMode": "code",
         "format": {"table": "table", "heatmap": "heatmap"}.get(kind, "time_series")}
        for number, (legend, query) in enumerate(it["ask"].items())
    ]  # fmt: skip
    if kind == "stat":
        is_named = len(it["ask"]) > 1 or "{{" in "".join(it["ask"])
        more = more | {"textMode": "value_and_name" if is_named else "value"}
    return {
        "type": kind, "title": it["panel"], "description": it["says"].strip(), "datasource": DATASOURCE,
        "targets": targets, "options": more, "transformations": it.get("columns", []),
        "fieldConfig": {"defaults": defaults, "overrides": [_paint(*pair) for pair in it.get("paint", {}).items()]},
    }  # fmt: skip


def _steps(colours: str) -> list[dict[str, Any]]:
    """Those of `green 0.01 orange 0.05 red`: a colour, and the values from which another one is meant."""
    first, *rest = colours.split()
    return [{"color": first, "value": None}] + [
        {"color": colour, "value": float(value)} for value, colour in zip(rest[::2], rest[1::2], strict=True)
    ]


def _paint(name: str, colour: str) -> dict[str, Any]:
    value = {"mode": "fixed", "fixedColor": colour}
    return {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "color", "value": value}]}


_LEGEND: Final = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
_LINES: Final = {
    "drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never",
    "spanNulls": False, "stacking": {"mode": "none", "group": "A"},
}  # fmt: skip
_STACKED: Final = _LINES | {"fillOpacity": 70, "lineWidth": 0, "stacking": {"mode": "normal", "group": "A"}}
_SERIES: Final = {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}}
_PLAIN: Final = {"least": "min", "most": "max", "digits": "decimals", "empty": "noValue"}
# What each way of showing is in Grafana: the type of panel, its options, those of its fields, whether only now counts.
_KINDS: Final[dict[str, tuple[str, dict[str, Any], dict[str, Any], bool]]] = {
    "tile": ("stat", {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "background",
        "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "wideLayout": True,
    }, {}, True),
    "lines": ("timeseries", _SERIES, _LINES, False),
    "stacked": ("timeseries", _SERIES, _STACKED, False),
    "heatmap": ("heatmap", {
        "calculate": False, "cellGap": 1, "cellValues": {"unit": "reqps"}, "showValue": "never",
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"unit": "s", "axisPlacement": "left", "reverse": False}, "rowsFrame": {"layout": "auto"},
        "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "fill": "dark-orange", "reverse": False,
                  "steps": 64},
    }, {}, False),
    "states": ("state-timeline", {
        "legend": _LEGEND, "mergeValues": True, "rowHeight": 0.8, "showValue": "never",
        "tooltip": {"mode": "single", "sort": "none"},
    }, {"fillOpacity": 80, "lineWidth": 0}, False),
    "table": ("table", {"cellHeight": "sm", "showHeader": True}, {"align": "auto", "filterable": False}, True),
}  # fmt: skip


def text(source: Path) -> str:
    """The file that a description makes."""
    return json.dumps(board(source.read_text()), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in SOURCES:
        path.with_suffix(".json").write_text(text(path))
