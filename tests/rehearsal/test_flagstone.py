"""Flagstone as drills start it: real processes, whose ends are as certain as their starts."""

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drills import contents
from drills.flagstone import Builder, Instance, command, over
from drills.model import Contents
from drills.servers import CannotStart, Postgres
from tests.processes.conftest import wait_until

PATIENCE_S = 30.0
SMALL = Contents(projects=1, flags=3, persons=1)
QUICK = {"server": {"lame_duck_s": 0}}
LEFT_BEHIND = """
import sys
from pathlib import Path
from drills.flagstone import Instance

instance = Instance("left", {"store": {"url": sys.argv[1]}}, Path(sys.argv[2]))
instance.start()
instance.wait_until_ready(30)
print(instance.port, flush=True)
raise SystemExit("The drill breaks off.")
"""


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The address of a store with one project."""
    (tmp_path / "contents.json").write_bytes(contents.document(SMALL))
    return f"file:{tmp_path / 'contents.json'}"


@pytest.fixture
def instance(store: str, tmp_path: Path) -> Iterator[Instance]:
    """One that is ready."""
    instance = Instance("one", over(QUICK, {"store": {"url": store}}), tmp_path / "one")
    instance.start()
    assert instance.wait_until_ready(PATIENCE_S) > 0
    yield instance
    instance.end()


def posted(instance: Instance, body: bytes) -> int:
    """The status of an answer to a request for flags."""
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/flags?v=2", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, number = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # It ended meanwhile.
            continue
        if int(number) == session and state not in "ZX":
            found.append(int(folder.name))
    return found


def test_instance__stopped_and_started__is_where_it_was(instance: Instance) -> None:
    """It answers while it runs, ends in order, and comes back at the same address."""
    body = contents.bodies(SMALL)[0]
    assert posted(instance, body) == 200
    assert instance.stop() == 0
    assert not instance.is_ready()
    instance.start()
    instance.wait_until_ready(PATIENCE_S)
    assert posted(instance, body) == 200


def test_instance__killed__leaves_no_process(instance: Instance) -> None:
    """The supervisor and its workers are gone at once, and whoever ends it again does no harm."""
    assert instance._process is not None
    session = instance._process.pid
    instance.kill()
    wait_until(lambda: not members(session), "all processes are gone")
    assert not instance.is_ready()
    instance.end()
    assert instance.stop() == 0


def test_instance__reloaded__has_the_settings_in_force(instance: Instance) -> None:
    """New settings come on top of those it had, and outlive a restart."""
    body = b" " * 3000
    assert posted(instance, body) == 400
    instance.reload({"requests": {"max_body_bytes": 2000}})
    wait_until(lambda: posted(instance, body) == 413, "the smaller bound")
    instance.kill()
    instance.start()
    instance.wait_until_ready(PATIENCE_S)
    assert posted(instance, body) == 413


def test_instance__environment_has_settings__takes_none(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the shell of whoever drills has for flagstone is not for the drill."""
    monkeypatch.setenv("FLAGSTONE__STORE__URL", "file:/nowhere")
    monkeypatch.setenv("FLAGSTONE__SERVER__PORT", "1")
    instance = Instance("one", over(QUICK, {"store": {"url": store}}), tmp_path / "one")
    try:
        instance.start()
        instance.wait_until_ready(PATIENCE_S)
    finally:
        instance.end()


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"server": {"port": -1}}, "has ended(.|\n)*server.port"), ({"store": {"url": "file:/nowhere"}}, "nowhere")],
)
def test_instance__cannot_start__tells_what_it_wrote(settings: dict[str, Any], why: str, tmp_path: Path) -> None:
    """Whoever waits for it has the end of its log, and no process."""
    instance = Instance("one", over(QUICK, settings), tmp_path / "one")
    instance.start()
    try:
        with pytest.raises(CannotStart, match=why):
            instance.wait_until_ready(3)
    finally:
        instance.end()


def test_instance__the_drill_breaks_off__ends_with_it(store: str, tmp_path: Path) -> None:
    """No flagstone outlives the interpreter that started it."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND, store, str(tmp_path / "left")], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "The drill breaks off." in done.stderr
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", int(done.stdout), timeout=1).connect()


def test_builder__of_its_own__publishes_for_instances(postgres: Postgres, tmp_path: Path) -> None:
    """Contents that were put in by commands are answered from, with a builder that is nobody's part."""
    database = f"drill_{os.getpid()}"
    postgres.execute(f"CREATE DATABASE {database}")
    settings = over(QUICK, {"store": {"url": postgres.url(database)}, "builder": {"is_embedded": False}})
    (tmp_path / "contents.json").write_bytes(contents.document(SMALL))
    command(settings, tmp_path, "migrate")
    assert "persons: 1" in command(settings, tmp_path, "import", str(tmp_path / "contents.json"))
    builder, instance = Builder("builder", settings, tmp_path / "b"), Instance("one", settings, tmp_path / "one")
    try:
        for started in (builder, instance):
            started.start()
            started.wait_until_ready(PATIENCE_S)
        body = contents.bodies(SMALL)[0]
        assert posted(instance, body) == 200
        assert [builder.stop(), instance.stop()] == [0, 0]
    finally:
        builder.end()
        instance.end()


def test_command__fails__tells_what_it_wrote(tmp_path: Path) -> None:
    """A step of setting up that fails is not passed over."""
    with pytest.raises(CannotStart, match=r"flagstone import(.|\n)*no-such-file"):
        command({"store": {"url": f"sqlite:{tmp_path / 'db'}"}}, tmp_path, "import", str(tmp_path / "no-such-file"))


def test_over__both_say_something__above_holds() -> None:
    """Settings of one section are put together, value by value."""
    below = {"redis": {"timeout_ms": 1, "ttl_s": 2}, "log": {"level": "info"}}
    assert over(below, {"redis": {"ttl_s": 3}}) == {"redis": {"timeout_ms": 1, "ttl_s": 3}, "log": {"level": "info"}}
