"""The runbooks: one for each alert, and nothing in them that does not exist.

What an expression or a setting does is tested where it lives. Invariant: every block of PromQL, TOML and commands in
them is one that Prometheus, the service and its command line take.
"""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Final

import pytest

from config.reload import RELOADABLE
from config.settings import FIELDS, SECTIONS
from config.sources import load
from gateway.__main__ import _parser
from tests.deploy.rules import PROCEDURES, RUNBOOKS, alerts, problems_of, promtool, rules

PAGES: Final = sorted(RUNBOOKS.glob("*.md"))
OF_ALERTS: Final = [page for page in PAGES if page.name not in PROCEDURES]
PARTS: Final = ("What users see", "First look", "Remedies, in this order", "Is it over?", "Back again")
LIVE: Final = "# in force after a reload"
RESTART: Final = "# needs a restart of the service"
_BLOCK: Final = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SETTING: Final = re.compile(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+)`")
_LINK: Final = re.compile(r"\]\(([^)#]+)[^)]*\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path, language: str) -> list[str]:
    return [body for _, found, body in _BLOCK.findall(page.read_text()) if found == language]


def test_runbooks__by_their_names__are_those_of_the_alerts() -> None:
    """Every alert has its page, and every page its alert."""
    named = {Path(alert.annotations["runbook_url"]) for alert in alerts()}
    assert named == {Path("docs/runbooks") / page.name for page in OF_ALERTS}
    assert all((RUNBOOKS / name).is_file() for name in PROCEDURES)


def test_index__of_the_runbooks__names_every_alert_with_its_page() -> None:
    """Whoever looks for an alert finds it in the index, with how urgent it is and what users notice."""
    index = (RUNBOOKS / "README.md").read_text()
    for alert in alerts():
        (row,) = [row for row in index.splitlines() if row.startswith(f"| [{alert.name}]")]
        assert f"]({Path(alert.annotations['runbook_url']).name})" in row
        assert alert.labels["severity"] in row


@pytest.mark.parametrize("page", OF_ALERTS, ids=lambda page: page.stem)
def test_runbook__of_an_alert__has_every_part_and_something_to_run(page: Path) -> None:
    """Each page says what it means, what users see, where to look, what to do, when it is over, and how to go back."""
    title, *parts = re.findall(r"^##? (.+)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    assert {Path(alert.annotations["runbook_url"]).name for alert in alerts() if alert.name == title} == {page.name}
    assert tuple(parts) == PARTS
    assert blocks(page, "promql")
    assert blocks(page, "sh")


@each_page
def test_runbook__of_any_name__asks_for_metrics_that_are_exported(page: Path) -> None:
    """No page sends anybody to look at a metric, a label or a value that does not exist."""
    assert list(problems_of(page.read_text())) == []
    recorded = {rule.get("record") for rule in rules()}
    assert set(re.findall(r"flagstone:\w+:\w+", page.read_text())) <= recorded


def test_runbooks__their_expressions__are_promql(tmp_path: Path) -> None:
    """Every expression can be pasted into Prometheus as it stands."""
    expressions = [expression for page in PAGES for expression in blocks(page, "promql")]
    indented = ["\n".join(f"        {line.strip()}" for line in it.splitlines()) for it in expressions]
    file = tmp_path / "rules.yml"
    file.write_text("groups:\n- name: runbooks\n  rules:\n" + "".join(
        f"    - record: runbook:{n}\n      expr: |\n{expression}\n" for n, expression in enumerate(indented)
    ))  # fmt: skip
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


@each_page
def test_runbook__of_any_name__mentions_settings_that_exist(page: Path) -> None:
    """A setting that a page names is one of the service's."""
    assert {path for path in _SETTING.findall(page.read_text()) if path not in FIELDS} == set()


@each_page
def test_runbook__of_any_name__changes_settings_as_it_says(page: Path, tmp_path: Path) -> None:
    """What a page has somebody set is valid, and takes effect by a reload where the page says so, and only there."""
    for block in blocks(page, "toml"):
        file = tmp_path / "flagstone.toml"
        file.write_text("\n".join(line.strip() for line in block.splitlines()))
        load(file, {}, ["store.url=postgresql://flagstone@database/flags"])
        paths = {f"{section}.{name}" for section, values in tomllib.loads(file.read_text()).items() for name in values}
        says = block.split("\n", 1)[0].strip()
        assert (paths <= RELOADABLE, paths.isdisjoint(RELOADABLE)) == {LIVE: (True, False), RESTART: (False, True)}[
            says
        ]


@each_page
def test_runbook__of_any_name__runs_commands_that_exist(page: Path) -> None:
    """Every flagstone command in a page, with its options, is one that the command line takes."""
    for line in "\n".join(blocks(page, "sh")).splitlines():
        if line.strip().startswith("flagstone "):
            _parser().parse_args(shlex.split(line)[1:])


@each_page
def test_runbook__of_any_name__links_to_pages_that_exist(page: Path) -> None:
    """No link of a page leads nowhere."""
    assert [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []
