"""The Grafana boards: complete, readable, provisioned, and made of fields and queries that Grafana and Prometheus take.

That what they ask for is exported is shown in test_exported.py. Invariant: no panel without words on what to do.
"""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards import SOURCES, board, text
from tests.deploy.boards import BOARDS, FOLDER, Query, panels, queries, read
from tests.deploy.rules import ROOT, grouping_labels, promtool

# The data source's own part of annotations, which the general schema does not know.
_OF_PROMETHEUS = frozenset({"expr", "step", "titleFormat", "textFormat"})


def _unknown(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Where a field of ours is lost on the way through the types of Grafana."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from _unknown(value, theirs[key], f"{where}.{key}")
            elif not (where.startswith(".annotations") and key in _OF_PROMETHEUS):
                yield f"{where}.{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _unknown(*pair, f"{where}[{number}]")
    elif ours != theirs:
        yield f"{where}: {ours!r} becomes {theirs!r}"


def _through_grafana(written: dict[str, Any]) -> dict[str, Any]:
    register_default_plugins()
    through: dict[str, Any] = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))
    return through


def test_boards__as_they_stand__are_what_their_descriptions_make() -> None:
    """Whoever edits a description makes the board anew: `python -m deploy.grafana.boards`."""
    assert {path.with_suffix(".json") for path in SOURCES} == set(BOARDS)
    for source in SOURCES:
        assert source.with_suffix(".json").read_text() == text(source), source.name


@pytest.mark.parametrize("path", BOARDS, ids=lambda it: it.stem)
def test_board__of_any_name__has_only_fields_that_grafana_knows(path: Path) -> None:
    """No option is misspelt: all of them come through the types of Grafana itself."""
    written = read(path)
    assert list(_unknown(written, _through_grafana(written))) == []


def test_board__with_an_option_that_is_misspelt__is_found() -> None:
    """The check above is one that notices."""
    broken = read(BOARDS[0])
    panels(broken)[0]["options"]["colourMode"] = "background"
    assert [it.rpartition(".")[2] for it in _unknown(broken, _through_grafana(broken))] == ["colourMode"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda it: it.stem)
def test_panels__of_any_board__say_what_they_show_and_what_to_do(path: Path) -> None:
    """A title, a unit, a query, the chosen data source, and words; pages that the words name are there."""
    for panel in panels(read(path)):
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["targets"]
        for asking in (panel, *panel["targets"]):
            assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for page in re.findall(r"docs/[\w/-]+\.md", panel["description"]):
            assert (ROOT / page).is_file(), (panel["title"], page)


@pytest.mark.parametrize("path", BOARDS, ids=lambda it: it.stem)
def test_panels__of_any_board__have_places_and_numbers_of_their_own(path: Path) -> None:
    """None covers another one or leaves the grid; ids, titles in a row, and names of queries are unique."""
    written = read(path)
    places = [(it["title"], it["gridPos"]) for it in written["panels"]]
    for (one, a), (other, b) in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one, other)
    assert all(it["x"] >= 0 and it["x"] + it["w"] <= 24 for _, it in places)
    ids = [it["id"] for it in written["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(written):
        names = [it["refId"] for it in panel["targets"]]
        assert len(set(names)) == len(names)


def test_boards__of_one_grafana__have_names_and_variables_to_go_from_one_to_the_other() -> None:
    """Each has an identity of its own, the link to the others, and the same choices of what is shown."""
    written = [read(path) for path in BOARDS]
    assert len({it["uid"] for it in written}) == len({it["title"] for it in written}) == len(written)
    for it in written:
        assert [variable["name"] for variable in it["templating"]["list"]] == ["datasource", "job", "instance"]
        assert [link["tags"] for link in it["links"]] == [it["tags"]]


@pytest.mark.parametrize("path", BOARDS, ids=lambda it: it.stem)
def test_queries__of_any_board__are_what_prometheus_takes(path: Path, tmp_path: Path) -> None:
    """Prometheus itself parses every query."""
    rules = [{"record": f"of:board:{number}", "expr": it.asked} for number, it in enumerate(queries(read(path)))]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": path.stem, "rules": rules}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text(file.read_text().replace("sum by (", "sum buy (", 1))
    assert promtool("check", "rules", file).returncode != 0


def _all_queries() -> list[Query]:
    return [query for path in BOARDS for query in queries(read(path))]


@pytest.mark.parametrize("query", _all_queries(), ids=str)
def test_query__of_any_panel__is_confined_and_named(query: Query) -> None:
    """Each asks only for what was chosen, and legends name labels that the result still has."""
    for matchers in re.findall(r"\bflagstone_\w+(\{[^}]*\})?", query.expr):
        assert matchers.startswith('{job=~"$job", instance=~"$instance"')
    if "by (" in query.expr:
        assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= grouping_labels(query.expr)


def test_description__with_panels_of_many_sizes__makes_a_board_without_overlaps() -> None:
    """Panels flow from left to right, and a row begins below the tallest panel before it."""
    sizes = ("12x8", "12x4", "8x4", "24x2")
    shown = "".join(f"  - {{panel: p, as: lines, unit: s, says: s, size: {size}, ask: {{a: up}}}}\n" for size in sizes)
    head = "{uid: u, title: t, says: s, refresh: 1m, since: now-1h, annotations: [], rows: [{row: r, panels: [\n"
    made = board(head + shown.replace("  - ", "").replace("}}\n", "}},\n") + "]}]}")
    places = [tuple(it["gridPos"][side] for side in "xywh") for it in made["panels"][1:]]
    assert places == [(0, 1, 12, 8), (12, 1, 12, 4), (0, 9, 8, 4), (0, 13, 24, 2)]


def test_compose__with_its_grafana__shows_the_boards_from_its_prometheus() -> None:
    """The folder of the boards is what Grafana is told to read, and the data source is one that they can choose."""
    compose = ROOT / "deploy" / "compose"
    grafana = yaml.safe_load((compose / "compose.yaml").read_text())["services"]["grafana"]
    [mounted] = [it for it in grafana["volumes"] if isinstance(it, dict)]
    assert (compose / mounted["source"]).resolve() == FOLDER
    [provider] = yaml.safe_load((compose / "grafana/dashboards.yaml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", mounted["target"])
    [source] = yaml.safe_load((compose / "grafana/datasource.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (FOLDER / Path(home).relative_to(mounted["target"])).is_file()


def test_pictures__of_boards_and_status__are_shown_and_small() -> None:
    """Each picture is in a page of the documentation, and none makes the repository heavy."""
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    pictures = [*(ROOT / "docs/images").glob("board*.png"), *(ROOT / "docs/images").glob("status*.png")]
    assert len(pictures) == 7
    for picture in pictures:
        assert f"(images/{picture.name})" in pages, picture.name
        assert picture.stat().st_size < 200 * 1024, picture.name
