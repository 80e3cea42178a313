"""The alert rules: each fires when it should and not otherwise, and asks only for what the service exports.

That the metrics follow what happens is shown where they are counted. Invariant: no alert without severity, impact,
runbook, and cases of both kinds.
"""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.server.tally import Tally
from tests.deploy.rules import (
    CASES,
    FROM_SCRAPES,
    ROOT,
    RULES,
    alerts,
    exported,
    grouping_labels,
    problems_of,
    promtool,
    rules,
    selectors,
)

_QUERIED: Final = re.compile(r'alertname=\\?"(\w+)')


def cases_of(alert: str) -> list[dict[str, Any]]:
    tests = yaml.safe_load(CASES.read_text())["tests"]
    return [case for test in tests for case in test["promql_expr_test"] if alert in _QUERIED.findall(case["expr"])]


def test_rules__by_their_cases__fire_and_are_silent_as_they_should() -> None:
    """Prometheus itself finds each alert firing, and silent, exactly where the cases say so."""
    done = promtool("test", "rules", CASES.name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cases__with_an_alert_that_is_broken__fail(tmp_path: Path) -> None:
    """The cases would notice: with no rules at all, every alert that should fire is missed."""
    (tmp_path / RULES.name).write_text("groups: []\n")
    cases = tmp_path / CASES.name
    cases.write_text(CASES.read_text())
    done = promtool("test", "rules", cases)
    assert done.returncode != 0
    assert {alert.name for alert in alerts()} <= set(_QUERIED.findall(done.stdout + done.stderr))


@pytest.mark.parametrize("alert", alerts(), ids=str)
def test_alert__of_any_name__has_cases_that_fire_and_that_do_not(alert: Any) -> None:
    """Every alert has a case in which it fires with its severity, and one in which it does not."""
    fires = [sample["labels"] for case in cases_of(alert.name) for sample in case["exp_samples"]]
    assert any(f'severity="{alert.labels["severity"]}"' in labels for labels in fires)
    assert any(not case["exp_samples"] for case in cases_of(alert.name))


@pytest.mark.parametrize("alert", alerts(), ids=str)
def test_alert__of_any_name__says_who_is_woken_and_what_users_notice(alert: Any) -> None:
    """Whoever is woken reads what it is, what users notice, and which page to open."""
    assert alert.labels["severity"] in {"page", "ticket"}
    assert set(alert.annotations) == {"summary", "impact", "runbook_url"}
    assert all(alert.annotations.values())
    assert (ROOT / alert.annotations["runbook_url"]).is_file()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule__of_any_name__asks_for_what_is_exported(rule: dict[str, Any]) -> None:
    """A metric, a label or a value that is renamed in the service takes no alert out of action unnoticed."""
    assert list(problems_of(rule["expr"])) == []
    known = {label for it in selectors(rule["expr"]) for label in exported().get(it.metric, ())}
    recorded = {"outcome"} if "flagstone:" in rule["expr"] else set()
    assert grouping_labels(rule["expr"]) <= known | recorded | FROM_SCRAPES
    assert set(re.findall(r"flagstone:\w+:\w+", rule["expr"])) <= {it.get("record") for it in rules()}


@pytest.mark.parametrize(
    ("expr", "problem"),
    [
        ("rate(flagstone_gone_total[5m])", "there is no flagstone_gone_total"),
        ('flagstone_workers{mood="good"}', "flagstone_workers has no label mood"),
        ('flagstone_workers{state=~"ready|tired"}', "flagstone_workers has no state tired"),
    ],
)
def test_rule__that_asks_for_what_is_not_exported__is_found(expr: str, problem: str) -> None:
    """The check above is one that notices a name, a label or a value that does not exist."""
    assert problem in list(problems_of(expr))


def test_example_of_prometheus__as_it_stands__is_one_that_prometheus_takes() -> None:
    """The configuration in deploy/prometheus is complete, and finds the rules."""
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_tally__before_anything_happened__has_the_series_that_alerts_watch() -> None:
    """A first exit of a worker is a rise from zero, not a new series that no rate can see."""
    text = Tally().render_with([]).decode()
    assert 'flagstone_worker_exits_total{cause="killed"} 0.0\n' in text
    assert 'flagstone_worker_replacements_total{reason="roll",result="given_up"} 0.0\n' in text
