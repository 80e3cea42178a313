"""The same commands through a running service: with a key, and with uploads over HTTP.

One service per test, a process of its own.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.commands.managing import KEY_VARIABLE, URL_VARIABLE
from tests.conftest import ServerProcess
from tests.gateway.commands.conftest import Run


def test_commands__through_a_service__do_the_same(
    shop: Run, start_server: Callable[..., ServerProcess], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a URL and a key in the environment, the commands work on a service elsewhere, on either engine."""
    key = shop("keys", "create", "all", "--scope", "*")[1].strip()
    store = f"store.url=sqlite:{Path.cwd()}/flagstone.sqlite3"
    server = start_server("--set", store, "--set", f"server.engine={engine}").wait_until_ready()
    monkeypatch.setenv(URL_VARIABLE, server.url)
    monkeypatch.setenv(KEY_VARIABLE, key)
    assert shop("flags", "set", "beta", "--name", "New search")[0] == 0
    assert json.loads(shop("flags", "show", "beta", "--json")[1])["last_modified_by"].startswith("key 1 (all)")
    Path("people").write_text("".join(json.dumps({"distinct_id": f"u{n}"}) + "\n" for n in range(5000)) + "{\n")
    exit_code, told, errors = shop("persons", "import", "people")
    assert (exit_code, told) == (1, "5000 new, 0 known before, 1 refused\n"), errors
    number = json.loads(shop("cohorts", "set", "--name", "Testers", "--static", "--json")[1])["id"]
    Path("ids").write_text("u1\nu2\n")
    assert shop("cohorts", "members", "add", str(number), "ids")[1] == "2 put in, 0 in it before, 0 refused\n"
    assert shop("cohorts", "members", "remove", str(number), "ids")[1] == "2 taken out, 0 not in it before, 0 refused\n"
    Path("flags.json").write_text(json.dumps({"flags": [{"key": "gamma"}]}))
    assert shop("apply", "flags.json", "--yes")[1].startswith("+ flag gamma\n")
    assert shop("keys", "revoke", "1")[0] == 0
    exit_code, told, errors = shop("flags", "list")
    assert (exit_code, told) == (1, "")
    assert "API key is invalid" in errors


def test_commands__key_without_the_scope__are_refused_by_name(
    shop: Run, start_server: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that may only read says so when something is to be written, also half way into an upload."""
    Path("key").write_text(shop("keys", "create", "reader", "--scope", "feature_flag:read", "--project", "1")[1])
    server = start_server("--set", f"store.url=sqlite:{Path.cwd()}/flagstone.sqlite3").wait_until_ready()
    remote = ("--api", server.url, "--key-file", "key")
    assert shop("flags", "list", *remote)[0] == 0
    assert "feature_flag:write" in shop("flags", "set", "beta", *remote)[2]
    Path("people").write_text("".join(json.dumps({"distinct_id": f"u{n}"}) + "\n" for n in range(50_000)))
    exit_code, told, errors = shop("persons", "import", "people", *remote)
    assert (exit_code, told) == (1, "")
    assert "person:write" in errors
