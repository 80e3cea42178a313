"""The released posthog SDK for Python, unmodified, against a real server process on a real port."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from posthog import Posthog

from gateway.__main__ import main
from tests.builders import condition, flag, person, project
from tests.conftest import ServerProcess

pytestmark = [
    pytest.mark.client,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:posthog"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

TOKEN = "phc_clients"
ADA = {"distinct_ids": ["ada", "ada-phone"], "properties": {"plan": "pro"}}
EXPECTED = {"on": True, "off": False, "split": "blue", "paid": True, "in-team": False, "above": True}
PAYLOADS = {"split": {"width": 3}}

Start = Callable[..., ServerProcess]
Connect = Callable[..., Posthog]


def definitions() -> dict[str, Any]:
    """A project with a flag for each way an answer can look."""
    grouped = flag("in-team", condition(), filters={"aggregation_group_type_index": 0})
    above = {"key": "9001", "type": "flag", "value": True, "operator": "flag_evaluates_to"}
    flags = [
        flag("on", id=9001),
        flag("off", rollout=0),
        flag("split", variants={"blue": 100}, payloads={"blue": '{"width":3}'}),
        flag("paid", condition(person("plan", "pro"))),
        grouped,
        flag("above", condition(above)),
        flag("inactive", active=False),
    ]
    return {"projects": [{**project(*flags, token=TOKEN, group_types=["team"]), "persons": [ADA]}]}


@pytest.fixture
def server(start_server: Start, tmp_path: Path) -> ServerProcess:
    """A server over the definitions in a file."""
    path = tmp_path / "definitions.json"
    path.write_text(json.dumps(definitions()))
    return start_server("--set", f"store.url=file:{path}").wait_until_ready()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients that send no events, and ends them."""
    clients: list[Posthog] = []

    def make(server: ServerProcess, token: str = TOKEN, **options: Any) -> Posthog:
        client = Posthog(token, host=server.url, send=False, **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.shutdown()


@pytest.mark.parametrize("version", [4, 3, 2, 1])
def test_all_flags__in_any_shape_the_sdk_reads__are_what_was_defined(
    server: ServerProcess, connect: Connect, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Typed records, enabled/variant records and the legacy maps give the SDK the same flags and payloads."""
    send = requests.Session.request

    def other_version(self: requests.Session, method: str, url: str, *args: Any, **options: Any) -> requests.Response:
        return send(self, method, url.replace("v=4", f"v={version}"), *args, **options)

    monkeypatch.setattr(requests.Session, "request", other_version)
    found = connect(server).get_all_flags_and_payloads("ada")
    assert found["featureFlags"] == EXPECTED
    payloads = {key: json.loads(payload) for key, payload in (found["featureFlagPayloads"] or {}).items()}
    assert payloads == PAYLOADS


def test_one_flag__with_its_payload__is_read_by_every_getter(server: ServerProcess, connect: Connect) -> None:
    """A flag, its result and its payload come out of the SDK as they were put in, whichever way is asked."""
    client = connect(server)
    assert client.get_feature_flag("split", "ada") == "blue"
    assert client.get_feature_flag_payload("split", "ada") == {"width": 3}
    assert client.feature_enabled("off", "ada") is False
    assert client.get_feature_flag("inactive", "ada") is None
    result = client.get_feature_flag_result("split", "ada")
    assert result is not None
    assert (result.enabled, result.variant, result.payload) == (True, "blue", {"width": 3})
    flags = client.evaluate_flags("ada")
    assert flags.is_enabled("on")
    assert flags.get_flag("split") == "blue"


def test_properties__of_store_and_request__decide_together(server: ServerProcess, connect: Connect) -> None:
    """Stored properties count under any id of the person, and what the request says wins."""
    client = connect(server)
    assert client.get_all_flags("ada-phone")["paid"] is True
    assert client.get_all_flags("stranger")["paid"] is False
    assert client.get_all_flags("stranger", person_properties={"plan": "pro"})["paid"] is True
    assert client.get_all_flags("ada", person_properties={"plan": "free"})["paid"] is False
    assert client.get_all_flags("ada", groups={"team": "t1"})["in-team"] is True


def test_flag_keys__asked_for__bring_their_dependencies(server: ServerProcess, connect: Connect) -> None:
    """Only the flags asked for are answered, with those that they depend on."""
    found = connect(server).get_all_flags("ada", flag_keys_to_evaluate=["above"])
    assert found == {"above": True, "on": True}


def test_gzip__from_the_client__is_understood(server: ServerProcess, connect: Connect) -> None:
    """A client that compresses its requests gets the same flags."""
    assert connect(server, gzip=True).get_all_flags("ada") == EXPECTED


def test_token__that_no_project_has__gives_no_flags_and_the_reason(
    server: ServerProcess, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong token is told as such, and the SDK answers with nothing rather than with wrong values."""
    client = connect(server, token="phc_wrong")
    assert not client.get_all_flags("ada")
    assert client.get_feature_flag("on", "ada") is None
    assert "The provided API key is invalid or has expired" in caplog.text


def test_store__that_fails__costs_only_the_flags_that_need_it(
    start_server: Start, connect: Connect, tmp_path: Path
) -> None:
    """With the persons gone, flags without stored properties are exact, and the others are left out, not guessed."""
    path = tmp_path / "store.sqlite3"
    document = tmp_path / "definitions.json"
    document.write_text(json.dumps(definitions()))
    url = f"store.url=sqlite:{path}"
    assert main(["import", str(document), "--set", url]) == 0
    client = connect(start_server("--set", url).wait_until_ready())
    assert client.get_all_flags("ada") == EXPECTED
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE distinct_ids RENAME TO lost")
    connection.close()
    exact = {key: value for key, value in EXPECTED.items() if key != "paid"}
    assert client.get_all_flags("ada") == exact
    assert client.get_feature_flag("paid", "ada") is None
    assert client.get_all_flags("ada", person_properties={"plan": "pro"}) == EXPECTED
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE lost RENAME TO distinct_ids")
    connection.close()
    assert client.get_all_flags("ada") == EXPECTED
