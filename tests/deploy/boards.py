"""The Grafana boards as tests read them: their panels, and every query in them with variables chosen as by default.

Nothing here knows a single panel. Invariant: no query of a board is left out, be it a panel's, a variable's or an
annotation's.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.deploy.rules import ROOT

FOLDER: Final = ROOT / "deploy" / "grafana"
BOARDS: Final = tuple(sorted(FOLDER.glob("*.json")))


@dataclass(frozen=True)
class Query:
    """One query as it is written in the board; `legend` names its series."""

    board: str
    where: str
    expr: str
    legend: str = ""

    def __str__(self) -> str:
        return f"{self.board}: {self.where}"

    @property
    def asked(self) -> str:
        """The query with everything chosen, as Grafana sends it to Prometheus that is asked every 15 s."""
        return self.expr.replace("$__rate_interval", "1m").replace("$job", "flagstone.*").replace("$instance", ".*")


def read(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Its panels without the heads of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: dict[str, Any]) -> list[Query]:
    """All that it asks of Prometheus."""
    title = board["title"]
    found = [
        Query(title, panel["title"], target["expr"], target["legendFormat"])
        for panel in panels(board)
        for target in panel["targets"]
    ]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            series = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert series is not None, variable
            found.append(Query(title, f"variable {variable['name']}", series[1]))
    return found + [Query(title, f"annotation {it['name']}", it["expr"]) for it in board["annotations"]["list"]]
