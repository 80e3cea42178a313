"""What boards and alerts ask for is what running processes export: a service with everything switched on, a builder.

Elsewhere the same is held against what is declared. Invariant: names and labels come from scrapes of real processes;
what these do not say is not exported.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

from drills.servers import Postgres, Redis, free_port
from gateway.__main__ import DEMO
from tests.conftest import PATIENCE_S, ServerProcess
from tests.deploy.boards import BOARDS, Query, queries, read
from tests.deploy.rules import FROM_SCRAPES, grouping_labels, problems_of, rules, selectors

Exported = Mapping[str, set[str]]
"""The labels of each series that was scraped."""

_FLAGSTONE: Final = (sys.executable, "-m", "gateway")
_RECORDED: Final = frozenset({"outcome"})
_OF_ALERTS: Final = frozenset({"severity", "alertname"})
_NOT_EVERYWHERE: Final = re.compile(
    # Where the control group tells, where TLS is spoken, and after half a minute of many checks.
    r"flagstone_container_\w+|flagstone_certificate_expires_timestamp_seconds|flagstone_limit_top_key_share"
)


def _asked() -> list[Query]:
    of_rules = [Query("alerts.yml", rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    return of_rules + [query for path in BOARDS for query in queries(read(path))]


def _series(scraped: str) -> Exported:
    found: dict[str, set[str]] = {}
    for line in scraped.splitlines():
        if sample := re.match(r"(flagstone_\w+)(?:\{(.*)\})? \S+$", line):
            found.setdefault(sample[1], set()).update(re.findall(r'(\w+)="', sample[2] or ""))
        elif (declared := re.match(r"# TYPE (\w+) ", line)) and _NOT_EVERYWHERE.fullmatch(declared[1]):
            found.setdefault(declared[1], {"limit"} if "limit_top" in declared[1] else set())
    return found


@pytest.fixture(scope="module")
def exported(postgres: Postgres, one_redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """What is scraped of `flagstone serve` and `flagstone worker` that have all kinds of dependencies."""
    folder, name = tmp_path_factory.mktemp("exported"), f"exported_{os.urandom(6).hex()}"
    backends = _settings(store__url=postgres.url(name), redis__url=one_redis.url())
    serving = _settings(
        disk__path=folder / "disk", builder__is_embedded="false", limits__is_fleet_wide="true",
        quota__project="1000000/day", capture__upstream="http://127.0.0.1:9", capture__persons="true",
        server__control_path="",
    )  # fmt: skip
    with ExitStack() as opened:
        postgres.execute(f"CREATE DATABASE {name}")
        opened.callback(postgres.execute, f"DROP DATABASE {name} WITH (FORCE)")
        for words in (["migrate"], ["import", str(DEMO)]):
            command = [*_FLAGSTONE, *words, *backends]
            subprocess.run(command, cwd=folder, timeout=PATIENCE_S, check=True, capture_output=True)
        told = opened.enter_context((folder / "builder.txt").open("w"))
        command = [*_FLAGSTONE, "worker", *backends, *_settings(metrics__port=(port := free_port()))]
        builder = subprocess.Popen(command, cwd=folder, stdout=told, stderr=told)
        opened.callback(builder.wait, PATIENCE_S)
        opened.callback(builder.terminate)
        server = ServerProcess(folder, *backends, *serving)
        opened.callback(server.end)
        server.wait_until_ready()
        yield _all_of(server.url, (server.metrics_url, f"http://127.0.0.1:{port}/metrics"))


def _settings(**values: object) -> list[str]:
    return [it for name, value in values.items() for it in ("--set", f"{name.replace('__', '.')}={value}")]


def _all_of(url: str, addresses: tuple[str, ...]) -> Exported:
    """What is exported, once that is all that is asked for; in the end, whatever there is."""
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        found: Exported = {}
        with suppress(httpx.TransportError):  # One of them is not listening yet.
            httpx.post(f"{url}/flags?v=2", json={"token": "phc_demo", "distinct_id": "alice"}, timeout=PATIENCE_S)
            found = _series("\n".join(httpx.get(it, timeout=PATIENCE_S).text for it in addresses))
        if time.monotonic() > ends_at or all(not list(problems_of(it.asked, found)) for it in _asked()):
            return found
        time.sleep(0.2)


@pytest.mark.parametrize("query", _asked(), ids=str)
def test_query__of_an_alert_or_a_board__asks_for_what_processes_export(query: Query, exported: Exported) -> None:
    """No alert is silent and no panel is empty because a name or a label is not what a running process says."""
    assert list(problems_of(query.asked, exported)) == []
    known = set[str]().union(*(exported[it.metric] for it in selectors(query.asked)))
    recorded = _RECORDED if "flagstone:" in query.asked else _OF_ALERTS if "ALERTS" in query.asked else frozenset()
    assert grouping_labels(query.asked) - {"le"} <= known | recorded | FROM_SCRAPES


def test_board__with_a_metric_that_no_process_exports__is_found(exported: Exported, tmp_path: Path) -> None:
    """A board that asks for what is gone fails the check above: a metric, and a label."""
    broken = tmp_path / "broken.json"
    for right, wrong in (("flagstone_loop_lag_seconds", "flagstone_gone_seconds"), ("partition=", "pool=")):
        broken.write_text(BOARDS[0].read_text().replace(right, wrong))
        assert broken.read_text() != BOARDS[0].read_text()
        problems = [problem for query in queries(read(broken)) for problem in problems_of(query.asked, exported)]
        assert any(wrong.strip("=") in problem for problem in problems)


def test_scrape__of_which_a_metric_is_gone__is_no_longer_enough(exported: Exported) -> None:
    """It is the scrape that counts, and not what is declared: without a series in it, alerts that ask for it fail."""
    fewer = {name: labels for name, labels in exported.items() if name != "flagstone_workers"}
    assert "there is no flagstone_workers" in [it for query in _asked() for it in problems_of(query.asked, fewer)]
