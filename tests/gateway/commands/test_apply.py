"""`flagstone apply`, straight on a store: the plan that is shown, the yes that it needs, and what is done then.

How a plan is made is tested behind the API.
"""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import condition
from tests.gateway.commands.conftest import Run

BETA = {"key": "beta", "name": "New search", "filters": {"groups": [condition(rollout=5)]}}


def write(*flags: dict[str, Any], **more: Any) -> None:
    Path("flags.json").write_text(json.dumps({"flags": flags, **more}))


def stored(run: Run) -> dict[str, Any]:
    return {it["key"]: it for it in json.loads(run("flags", "list", "--json")[1])["results"]}


def test_apply__new_flags__are_shown_and_made(shop: Run) -> None:
    """A file becomes what is stored; the second time there is nothing to do."""
    write(BETA, {"key": "gamma"})
    exit_code, told, errors = shop("apply", "flags.json", "--yes")
    assert (exit_code, errors) == (0, "")
    assert told.splitlines() == [
        "+ flag beta",
        "+ flag gamma",
        "0 as in the file, 0 not in the file and left alone",
        "Applied",
    ]
    assert stored(shop)["beta"]["name"] == "New search"
    assert shop("apply", "flags.json") == (0, "2 as in the file, 0 not in the file and left alone\n", "")


def test_apply__dry_run__shows_changes_and_makes_none(shop: Run) -> None:
    """Every member that would change stands there with both sides, and the store stays as it is."""
    write(BETA)
    shop("apply", "flags.json", "--yes")
    before = stored(shop)
    write({**BETA, "filters": {"groups": [condition(rollout=25)]}})
    exit_code, told, _ = shop("apply", "flags.json", "--dry-run")
    assert exit_code == 0
    first, second, _ = told.splitlines()
    assert first == f"~ flag beta (id {before['beta']['id']})"
    assert second.strip().endswith("filters.groups[0].rollout_percentage: 5 -> 25")
    assert stored(shop) == before


def test_apply__what_is_not_in_the_file__goes_only_when_asked(shop: Run) -> None:
    """Flags that the file lacks are counted, and deleted with --delete."""
    shop("flags", "set", "old")
    write(BETA)
    assert shop("apply", "flags.json", "--yes")[1].splitlines()[1] == (
        "0 as in the file, 1 not in the file and left alone"
    )
    assert "old" in stored(shop)
    assert shop("apply", "flags.json", "--delete", "--yes")[1].startswith("- flag old (id ")
    assert list(stored(shop)) == ["beta"]


def test_apply__nobody_to_ask__changes_nothing(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, and without --yes, the plan is shown and that is all."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    write(BETA)
    exit_code, told, errors = shop("apply", "flags.json")
    assert exit_code == 1
    assert told.startswith("+ flag beta\n")
    assert "--yes" in errors
    assert not stored(shop)


def test_apply__edit_while_somebody_thinks__is_not_overrun(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was confirmed is what is done: after an edit by somebody else in between, nothing is."""
    write(BETA)

    def edit_elsewhere(*_: object) -> None:
        command = [sys.executable, "-m", "gateway", "flags", "set", "other"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    monkeypatch.setattr("gateway.commands.apply.confirm", edit_elsewhere)
    exit_code, told, errors = shop("apply", "flags.json")
    assert exit_code == 1
    assert "Applied" not in told
    assert list(stored(shop)) == ["other"]
    assert errors.startswith("flagstone: ")


def test_apply__toml__is_read_as_well(shop: Run) -> None:
    """A file ending in .toml says the same."""
    Path("flags.toml").write_text(
        '[[flags]]\nkey = "beta"\n[[flags.filters.groups]]\nproperties = []\nrollout_percentage = 25\n'
    )
    assert shop("apply", "flags.toml", "--yes")[0] == 0
    assert stored(shop)["beta"]["filters"]["groups"][0]["rollout_percentage"] == 25
    Path("flags.toml").write_text("[[flags")
    assert shop("apply", "flags.toml")[2].startswith("flagstone: flags.toml is not TOML: ")


def test_apply__problems__are_told_with_their_paths_in_the_file(shop: Run) -> None:
    """Everything wrong with a file stands there at once, and nothing of it is done."""
    bad = {"groups": [{"properties": [], "rollout_percentage": 101}]}
    write(BETA, {"key": "gamma", "filters": bad}, {"key": "delta", "filters": bad})
    exit_code, told, errors = shop("apply", "flags.json", "--yes")
    assert (exit_code, told) == (1, "")
    assert "\n  $.flags[1].filters.groups[0].rollout_percentage: " in errors
    assert "\n  $.flags[2].filters.groups[0].rollout_percentage: " in errors
    assert not stored(shop)


def test_apply__json__is_what_the_api_answered(shop: Run) -> None:
    """A program gets one JSON object, the plan that was carried out."""
    write(BETA)
    assert json.loads(shop("apply", "flags.json", "--dry-run", "--json")[1])["changes"][0]["action"] == "create"
    exit_code, told, _ = shop("apply", "flags.json", "--yes", "--json")
    assert exit_code == 0
    assert [it["name"] for it in json.loads(told)["changes"]] == ["beta"]
