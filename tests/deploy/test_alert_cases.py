"""The cases of the alert rules would notice a rule that is changed: another threshold, another time to wait.

All alerts are changed at once, as each has cases of its own. Invariant: no case is known here, only what promtool says.
"""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from drills.rules import seconds
from tests.deploy.rules import CASES, RULES, promtool

Rule = dict[str, Any]

_QUERIED: Final = re.compile(r'alertname="(\w+)"')
_FAILED: Final = re.compile(r'alertname=\\?"(\w+)\\?"')
_THRESHOLD: Final = re.compile(r"(?<=[<>]) *(?:0?\.\d+|[1-9]\d*)(?:\.\d+)?")


def _thresholds_times(factor: float, index: int) -> Callable[[Rule], None]:
    """Changes the threshold of a rule that is at this place in it, if there is one."""

    def change(rule: Rule) -> None:
        found = list(_THRESHOLD.finditer(rule["expr"]))
        if index < len(found):
            begin, end = found[index].span()
            rule["expr"] = f"{rule['expr'][:begin]} {float(found[index][0]) * factor:g}{rule['expr'][end:]}"

    return change


def _twice_as_long(rule: Rule) -> None:
    if "for" in rule:
        rule["for"] = f"{2 * seconds(rule['for']):.0f}s"


def _at_once(rule: Rule) -> None:
    rule.pop("for", None)


CHANGES: Final = {
    "for-doubled": _twice_as_long,
    "for-removed": _at_once,
    "threshold-doubled": _thresholds_times(2, 0),
    "threshold-halved": _thresholds_times(0.5, 0),
    "second-threshold-doubled": _thresholds_times(2, 1),
    "second-threshold-halved": _thresholds_times(0.5, 1),
}


def changed(change: Callable[[Rule], None], severity: str) -> tuple[dict[str, Any], set[str]]:
    """The rules with all alerts of a severity changed, and the names of those that then are others."""
    document = yaml.safe_load(RULES.read_text())
    names = set()
    for group in document["groups"]:
        for rule in group["rules"]:
            before = copy.deepcopy(rule)
            if rule.get("labels", {}).get("severity") == severity:
                change(rule)
            if rule != before:
                names.add(rule["alert"])
    return document, names


def noticed(document: dict[str, Any], names: set[str], folder: Path) -> set[str]:
    """The alerts, of those that are asked for, of which some case fails with these rules."""
    (folder / RULES.name).write_text(yaml.safe_dump(document))
    cases = yaml.safe_load(CASES.read_text())
    cases["tests"] = [test for test in cases["tests"] if names & set(_QUERIED.findall(str(test)))]
    (folder / CASES.name).write_text(yaml.safe_dump(cases))
    done = promtool("test", "rules", folder / CASES.name)
    return names & set(_FAILED.findall(done.stdout + done.stderr))


@pytest.mark.parametrize("severity", ["page", "ticket"])
@pytest.mark.parametrize("change", CHANGES)
def test_cases__with_rules_that_are_changed__fail_for_each(change: str, severity: str, tmp_path: Path) -> None:
    """A threshold twice or half as high, a `for` twice as long or none: for each alert some case fails."""
    document, names = changed(CHANGES[change], severity)
    assert names or change.startswith("second")
    assert names - noticed(document, names, tmp_path) == set()
