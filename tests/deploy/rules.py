"""The alert rules and runbooks as tests read them: what promtool says of them, and what they name.

Nothing here knows a single alert. Invariant: names of metrics and labels are found in any text with PromQL in it, so
that no rule, runbook or example can name what is not exported.
"""

import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from drills.servers import found
from gateway.builder_metrics import BuilderMetrics
from gateway.metrics import Metrics
from gateway.server.tally import Tally

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy/prometheus/alerts.yml"
CASES: Final = ROOT / "deploy/prometheus/alerts.test.yml"
RUNBOOKS: Final = ROOT / "docs/runbooks"
PROCEDURES: Final = ("README.md", "rolling-deploy.md", "rollback.md")
"""Pages that are no alert's."""

FROM_SCRAPES: Final = frozenset({"job", "instance", "worker"})
_METRIC: Final = re.compile(r"(?<![\w:/.-])flagstone_[a-z0-9_]+(?:\{[^}]*\})?")
_MATCHER: Final = re.compile(r"(\w+)\s*[=!]~?\s*\"([^\"]*)\"")
_GROUPING: Final = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Alert:
    name: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name}-{self.labels.get('severity')}"


@dataclass(frozen=True)
class Selector:
    """A metric with the values of labels that are asked of it."""

    metric: str
    matchers: tuple[tuple[str, str], ...]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[Alert]:
    alerting = [rule for rule in rules() if "alert" in rule]
    return [Alert(rule["alert"], rule["expr"], rule["labels"], rule["annotations"]) for rule in alerting]


def selectors(text: str) -> list[Selector]:
    """The metrics of the service that a text names, with their matchers."""
    selected = []
    for match in _METRIC.findall(text):
        name, _, matchers = match.partition("{")
        selected.append(Selector(name, tuple(_MATCHER.findall(matchers))))
    return selected


def grouping_labels(text: str) -> set[str]:
    """The labels that `by (...)` and its like name."""
    return {label.strip() for labels in _GROUPING.findall(text) for label in labels.split(",") if label.strip()}


@cache
def exported() -> dict[str, tuple[str, ...]]:
    """The labels of each series that the processes export, by its name."""
    series = {}
    for source in (Metrics(), Tally(), BuilderMetrics()):
        for name, (kind, labels) in source.families().items():
            if kind == "histogram":
                series |= {f"{name}_{end}": labels for end in ("count", "sum")} | {f"{name}_bucket": (*labels, "le")}
            else:
                series[name + "_total" * (kind == "counter")] = labels
    return series


@cache
def values_from_the_start() -> set[tuple[str, str]]:
    """Labels with the values that some series has before anything happened."""
    texts = [Metrics().render(), BuilderMetrics().render(), Tally().render_with([])]
    return {pair for text in texts for pair in _MATCHER.findall(text.decode())}


@cache
def documented() -> dict[str, str]:
    """What docs/metrics.md says of each family, by the name of the family."""
    rows = (ROOT / "docs/metrics.md").read_text().splitlines()
    return {row.split("`")[1]: row for row in rows if row.startswith("| `flagstone_")}


def problems_of(text: str, known: Mapping[str, Collection[str]] | None = None) -> Iterator[str]:
    """What a text with PromQL names and the service does not export: metrics, labels, values of labels.

    `known` are the labels of each series; without, what is declared.
    """
    says, values = documented(), values_from_the_start()
    known = exported() if known is None else known
    for it in selectors(text):
        if it.metric not in known:
            yield f"there is no {it.metric}"
            continue
        row = says[re.sub(r"(?<=_seconds)_(bucket|count|sum)$|(?<=_bytes)_(bucket|count|sum)$", "", it.metric)]
        for label, pattern in it.matchers:
            if label in FROM_SCRAPES:
                continue
            if label not in known[it.metric]:
                yield f"{it.metric} has no label {label}"
            for value in pattern.split("|"):
                if (label, value) not in values and not re.search(rf"\b{re.escape(value)}\b", row):
                    yield f"{it.metric} has no {label} {value}"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What promtool says; the test is skipped where there is none, and fails in CI."""
    command = [found("promtool"), *arguments]
    return subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, timeout=120, check=False)
