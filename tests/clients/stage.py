"""A project in a store that can be lost, and a real server process over it: where server-side SDKs are tried."""

import contextlib
import io
import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from gateway.__main__ import main
from tests.builders import condition, flag, person, project
from tests.conftest import PATIENCE_S, ServerProcess

TOKEN = "phc_clients"
SECRET = "phs_clients_secret"
FACTS = ("distinct_ids", "groups")
EVERYTHING = ("published", "published_parts", "projects", "flags", "distinct_ids", "groups", "keys")
"""Tables without which the store answers nothing about persons, or nothing at all."""

ADA = {"distinct_ids": ["ada", "ada-phone"], "properties": {"plan": "pro"}}
EXPECTED = {"on": True, "off": False, "split": "blue", "paid": True, "in-team": False, "above": True}
"""What ada gets of `every_kind_of_flag()`."""
AT_ACME = {"plan": "pro", "email": "ada@acme.test"}
COHORTS = [
    {"id": 1, "filters": {"properties": {"type": "AND", "values": [person("email", "@acme.test", "icontains")]}}},
    {"id": 2, "is_static": True},
]
LOCAL = EXPECTED | {"inactive": False, "worker": True, "listed": False}
"""What an SDK with the definitions of these cohorts, too, concludes or is told of ada at Acme."""
WITHOUT_FACTS = {key: value for key, value in EXPECTED.items() if key != "paid"}
PAYLOADS = {"split": {"width": 3}}

Start = Callable[..., ServerProcess]


def every_kind_of_flag() -> list[dict[str, Any]]:
    """A flag for each way an answer can look."""
    above = {"key": "9001", "type": "flag", "value": True, "operator": "flag_evaluates_to"}
    return [
        flag("on", id=9001),
        flag("off", rollout=0),
        flag("split", variants={"blue": 100}, payloads={"blue": '{"width":3}'}),
        flag("paid", condition(person("plan", "pro"))),
        flag("in-team", condition(), filters={"aggregation_group_type_index": 0}),
        flag("above", condition(above)),
        flag("inactive", active=False),
    ]


def flags_of_cohorts() -> list[dict[str, Any]]:
    """A flag for a cohort with filters, and one for a cohort that is a list."""
    filters = [{"key": "id", "type": "cohort", "value": number, "operator": "in"} for number in (1, 2)]
    return [flag("worker", condition(filters[0])), flag("listed", condition(filters[1]))]


def typed_flag(key: str, value: Any) -> dict[str, Any]:
    """A flag of rules, that has this value for those whose plan is pro, and for half of the others."""
    for_pro = {"targeting": {"properties": [person("plan", "pro")]}}
    rules = [
        {"id": "r1", "rule_type": "targeted_release", "value": value, **for_pro},
        {"id": "r2", "rule_type": "percentage_rollout", "value": value, "seed": key, "rollout_percentage": 50.0},
    ]
    return flag(key, filters={"groups": [], "version": 2, "rules": rules})


def until(holds: Callable[[], object]) -> None:
    """Returns once this holds; fails if it does not come about."""
    ends_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.02)


class Stage:
    """A project with these flags and members, served with these settings beside what the tests need."""

    def __init__(
        self, folder: Path, start_server: Start, *flags: dict[str, Any], settings: tuple[str, ...], **fields: Any
    ) -> None:
        self._path = folder / "store.sqlite3"
        self._folder = folder
        self._lost: tuple[str, ...] = ()
        document = {"projects": [{**project(*flags, token=TOKEN, secret_tokens=[SECRET]), **fields}]}
        (folder / "definitions.json").write_text(json.dumps(document))
        self.command("import", str(folder / "definitions.json"))
        self.command("publish")
        wanted = (f"store.url=sqlite:{self._path}", "snapshots.refresh_s=0.05", "builder.poll_ms=20", *settings)
        self.server = start_server(*(it for setting in wanted for it in ("--set", setting))).wait_until_ready()
        self.url = self.server.url

    def command(self, *words: str) -> str:
        """What `flagstone ...` says, over the same store."""
        said, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            exit_code = main([*words, "--set", f"store.url=sqlite:{self._path}"])
        assert exit_code == 0, errors.getvalue()
        return said.getvalue()

    def key(self, scope: str = "feature_flag:read") -> tuple[str, str]:
        """A new personal key, and the number to revoke it by."""
        key = self.command("keys", "create", "sdk", "--scope", scope).strip()
        (number,) = (row.split()[0] for row in self.command("keys", "list").splitlines() if f" {key[-4:]} " in row)
        return key, number

    def put(self, document: dict[str, Any]) -> None:
        """Make or change a flag, as an operator would."""
        path = self._folder / "flag.json"
        path.write_text(json.dumps({name: value for name, value in document.items() if name not in ("id", "version")}))
        self.command("flags", "set", document["key"], "--file", str(path))

    def lose(self, *tables: str) -> None:
        """From now on the store fails whoever asks for these."""
        self._rename({table: f"lost_{table}" for table in tables})
        self._lost = tables

    def heal(self) -> None:
        self._rename({f"lost_{table}": table for table in self._lost})

    def _rename(self, tables: dict[str, str]) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=PATIENCE_S)) as connection, connection:
            connection.execute("PRAGMA legacy_alter_table = ON")  # References in other tables stay as they are.
            for old, new in tables.items():
                connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric's values whose labels include this text."""
        told = httpx.get(self.server.metrics_url, timeout=PATIENCE_S).text
        rows = re.findall(rf"^flagstone_{name}(?:\{{([^}}]*)\}})? (\S+)$", told, re.MULTILINE)
        return sum(float(value) for found, value in rows if labels in found)
