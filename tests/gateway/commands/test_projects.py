"""Projects, keys and publication from the command line, straight on a store."""

import json
import re

import pytest

from gateway.__main__ import DEMO
from tests.gateway.commands.conftest import Run


def test_create__project__is_told_with_its_token(run: Run) -> None:
    """A new project has the token that SDKs need, and everything asked for."""
    exit_code, told, errors = run(
        "projects", "create", "Shop", "--timezone", "Europe/Berlin", "--group-type", "company"
    )
    project = json.loads(run("projects", "show", "--json")[1])
    assert (exit_code, errors) == (0, "")
    assert told == f"Created project {project['id']} 'Shop' with the token {project['token']}\n"
    assert (project["timezone"], project["group_types"]) == ("Europe/Berlin", ["company"])
    assert re.fullmatch("phc_[A-Za-z0-9_-]{43}", project["token"])


def test_set__project__changes_what_is_given(shop: Run) -> None:
    """What is not given stays."""
    number = str(json.loads(shop("projects", "show", "--json")[1])["id"])
    assert shop("projects", "set", number, "--name", "Store")[0] == 0
    shown = shop("projects", "show", number)[1]
    assert re.search(r"^name +Store$", shown, re.MULTILINE)
    assert re.search(r'^group_types +\["company"\]$', shown, re.MULTILINE)


def test_delete__project__needs_a_yes(shop: Run) -> None:
    """Nothing is taken away for good by a command that nobody was asked about."""
    number = str(json.loads(shop("projects", "show", "--json")[1])["id"])
    exit_code, told, errors = shop("projects", "delete", number)
    assert (exit_code, told) == (1, "")
    assert "--yes" in errors
    assert shop("projects", "delete", number, "--yes") == (0, f"Deleted project {number}\n", "")
    assert shop("projects", "list")[1].splitlines() == ["ID  NAME  TOKEN  VERSION"]


@pytest.mark.parametrize("projects", [0, 2])
def test_project__not_exactly_one__must_be_named(run: Run, projects: int) -> None:
    """Without a name only the one project there is can be meant."""
    for number in range(projects):
        run("projects", "create", f"Shop {number}")
    for command in (("flags", "list"), ("flags", "set", "beta"), ("projects", "show"), ("publication",)):
        exit_code, told, errors = run(*command)
        assert (exit_code, told) == (1, "")
        assert errors == "flagstone: There is not exactly one project; name one with --project ID.\n"


def test_project__named__is_the_one(run: Run) -> None:
    """--project says which of several, and a number that none has is refused."""
    for name in ("One", "Two"):
        run("projects", "create", name)
    first, second = (it["id"] for it in json.loads(run("projects", "list", "--json")[1])["results"])
    assert run("flags", "set", "beta", "--project", str(second))[0] == 0
    assert json.loads(run("flags", "list", "--project", str(first), "--json")[1])["count"] == 0
    assert json.loads(run("flags", "list", "--project", str(second), "--json")[1])["count"] == 1
    assert run("flags", "list", "--project", "999")[0] == 1


def test_publication__after_an_edit__is_up_to_date(shop: Run) -> None:
    """What was written straight on the store is published by the time the command ends, without a service running."""
    shop("flags", "set", "beta")
    exit_code, told, _ = shop("publication", "--json")
    publication = json.loads(told)
    assert exit_code == 0
    assert publication["published_version"] == publication["stored_version"]
    assert publication["flags"] == 1
    assert publication["dirty_since"] is None


def test_keys__created__are_shown_once_and_revoked(shop: Run) -> None:
    """A key goes to stdout alone, for a file; a list has only its end; and it can be taken back."""
    exit_code, key, told = shop("keys", "create", "deploy", "--scope", "feature_flag:write", "--project", "1")
    assert exit_code == 0
    assert re.fullmatch("phx_[A-Za-z0-9_-]{43}\n", key)
    number = re.findall(r"Key (\d+) is shown this once", told)[0]
    heading, row = shop("keys", "list")[1].splitlines()
    assert heading.split()[:3] == ["ID", "NAME", "ENDS"]
    assert row.split()[:5] == [number, "deploy", key.strip()[-4:], "feature_flag:write", "1"]
    assert key.strip() not in row
    assert shop("keys", "revoke", number) == (0, f"Revoked key {number}; it is worthless from now on\n", "")
    assert len(shop("keys", "list")[1].splitlines()) == 1
    assert shop("keys", "revoke", number)[0] == 1


def test_keys__unknown_scope__is_refused(shop: Run) -> None:
    """A scope with a typing error makes no key, and the refusal says which there are."""
    exit_code, told, errors = shop("keys", "create", "deploy", "--scope", "flags:write")
    assert (exit_code, told) == (1, "")
    assert "feature_flag:write" in errors


def test_store__that_is_only_read__says_so(run: Run) -> None:
    """A file of definitions is nothing that could be edited here."""
    exit_code, _, errors = run("flags", "list", "--set", f"store.url=file:{DEMO}")
    assert exit_code == 1
    assert "a file, which is edited by hand" in errors


@pytest.mark.parametrize("url", ["sqlite:/no/such/folder/flagstone.sqlite3", "postgresql://flagstone@127.0.0.1:9/x"])
def test_store__that_cannot_be_reached__says_why(run: Run, url: str) -> None:
    """The reason stands there, instead of a service being called unavailable and that is all."""
    exit_code, told, errors = run("flags", "list", "--set", f"store.url={url}")
    assert (exit_code, told) == (1, "")
    assert "/no/such/folder" in errors or "Connect call failed" in errors
