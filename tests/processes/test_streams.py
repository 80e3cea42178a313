"""Streams of events on real connections, on both engines: what reaches a client, and what each stream costs the others.

When somebody is told is tested where it is decided. Invariant: no test waits for a moment, only for what is to happen.
"""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from gateway.__main__ import DEMO
from tests.processes.clients import PATIENCE_S
from tests.processes.conftest import Serve, Service, wait_until
from tests.processes.listening import Listener, read_to_the_end

MANY = 200


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def version(service: Service) -> int:
    """The version of the demo's definitions that flags are answered from."""
    body = {"token": "phc_demo", "distinct_id": "alice"}
    answer = httpx.post(f"{service.server.url}/flags?v=2", json=body, timeout=PATIENCE_S)
    return int(answer.headers["x-flagstone-snapshot"].partition(";")[0])


def change(service: Service, name: str) -> int:
    """Put other definitions into the store; their version, once it is in force in some worker."""
    before = version(service)
    document = json.loads(DEMO.read_text())
    document["projects"][0]["name"] = name
    (service.folder / "next.json").write_text(json.dumps(document))
    (service.folder / "next.json").rename(service.folder / "definitions.json")
    after: set[int] = set()
    wait_until(lambda: after.update({version(service)} - {before}) or after, "the change is in force")
    return after.pop()


def test_stream__definitions_change__every_worker_tells_its_clients(serve: Serve, engine: str, workers: int) -> None:
    """streams.spread_ms: a change in the store reaches every client that listens, wherever it is connected."""
    service = serve(
        f"server.engine={engine}", f"server.workers={workers}", "streams.spread_ms=200", "snapshots.refresh_s=0.5"
    )
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(service.server.port)).begun() for _ in range(12)]
        newest = change(service, "changed")
        for listener in listeners:
            listener.wait_for(lambda it: it.events and it.ids[-1] == newest)
        assert {listener.events[-1]["type"] for listener in listeners} == {"refetchEvaluation"}
        assert len({listener.events[-1]["etag"] for listener in listeners}) == 1
        with Listener(service.server.port, last_id=newest - 1) as missed:
            missed.wait_for(lambda it: it.events and it.ids[-1] == newest)


def test_stream__many_changes__are_told_as_few(serve: Serve, engine: str, stack: ExitStack) -> None:
    """streams.spread_ms: a client hears at most once in that time, and of the newest version last."""
    spread_s = 4
    service = serve(f"server.engine={engine}", f"streams.spread_ms={spread_s * 1000}", "snapshots.refresh_s=0.2")
    listeners = [stack.enter_context(Listener(service.server.port)).begun() for _ in range(5)]
    began_at = time.monotonic()
    newest = [change(service, f"change {n}") for n in range(4)][-1]
    for listener in listeners:
        listener.wait_for(lambda it: it.ids[-1] == newest)
        assert len(listener.events) <= 2 + (time.monotonic() - began_at) / spread_s  # One was told as it came.


def test_stream__nothing_happens__lives_until_its_age(serve: Serve, engine: str, stack: ExitStack) -> None:
    """streams.heartbeat_s, streams.max_age_s: signs of life until then, and then an end that is none by mistake."""
    service = serve(f"server.engine={engine}", "streams.heartbeat_s=0.2", "streams.max_age_s=3")
    listener = stack.enter_context(Listener(service.server.port))
    read_to_the_end([listener])
    assert listener.has_ended_well
    assert listener.signs_of_life > 2
    assert b"\r\nconnection: close" in listener.received.lower()
    wait_until(lambda: service.metric("streams_ended_total", 'reason="age"') == 1, "the end is counted")


def test_stream__edited_from_the_command_line__is_told(
    serve: Serve, engine: str, tmp_path: Path, stack: ExitStack
) -> None:
    """What somebody edits in a database is built, published and told, within the time that this takes anyhow."""
    store = f"store.url=sqlite:{tmp_path / 'flagstone.sqlite3'}"
    service = serve(f"server.engine={engine}", store, "streams.spread_ms=0")
    assert service.command("import", str(DEMO), "--set", store)[0] == 0
    listener = stack.enter_context(Listener(service.server.port)).begun()
    told_before = len(listener.events)
    code, told = service.command("flags", "disable", "beta-search", "--set", store)
    assert code == 0, told
    listener.wait_for(lambda it: len(it.events) > told_before)
    assert listener.events[-1]["lastModified"] > 1_700_000_000


def test_stream__its_client_goes__makes_room(serve: Serve, engine: str, stack: ExitStack) -> None:
    """concurrency.streams: beyond it clients are told to come later, until one of those who listen goes."""
    service = serve(f"server.engine={engine}", "concurrency.streams=2")
    first, _ = [stack.enter_context(Listener(service.server.port)).begun() for _ in range(2)]
    refused = stack.enter_context(Listener(service.server.port)).begun()
    assert refused.is_turned_away
    first.connection.close()
    wait_until(lambda: stack.enter_context(Listener(service.server.port)).begun().ids, "its place is free")
    assert service.metric("streams_ended_total", 'reason="gone"') >= 1


def test_sigterm__many_streams_open__does_not_wait_for_them(serve: Serve, engine: str, stack: ExitStack) -> None:
    """server.drain_timeout_s: streams end by themselves, well, and cost nothing of the time to finish requests."""
    service = serve(f"server.engine={engine}", "server.drain_timeout_s=600")
    listeners = [stack.enter_context(Listener(service.server.port)).begun() for _ in range(MANY)]
    assert service.metric("streams") == MANY
    assert service.metric("requests_in_flight") == 0
    with service.load() as load:
        service.server.tell(signal.SIGTERM)
        read_to_the_end(listeners)
        assert service.server.exit_code() == 0
    assert sum(listener.has_ended_well for listener in listeners) == MANY
    assert not load.lost


def test_sigterm__answered_on_for_a_while__streams_end_at_once(serve: Serve, engine: str, stack: ExitStack) -> None:
    """server.lame_duck_s: clients have that long to go elsewhere; one that comes back here is told to retry."""
    service = serve(f"server.engine={engine}", "server.lame_duck_s=600")
    listener = stack.enter_context(Listener(service.server.port)).begun()
    service.server.tell(signal.SIGTERM)
    read_to_the_end([listener])
    again = stack.enter_context(Listener(service.server.port))
    read_to_the_end([again])
    for it in (listener, again):
        assert it.status == 200
        assert it.has_ended_well
        assert b"\nretry: " in it.received
    assert version(service)


def test_worker__replaced__sends_its_clients_to_others(serve: Serve, engine: str, stack: ExitStack) -> None:
    """A worker that is replaced ends its streams, and whoever comes back finds the next one."""
    service = serve(f"server.engine={engine}", "server.drain_timeout_s=600")
    listeners = [stack.enter_context(Listener(service.server.port)).begun() for _ in range(10)]
    code, told = service.command("restart", "--wait")
    assert code == 0, told
    read_to_the_end(listeners)
    assert all(listener.has_ended_well for listener in listeners)
    assert stack.enter_context(Listener(service.server.port)).begun().status == 200


def test_reload__streams_switched_off__ends_them(serve: Serve, engine: str, stack: ExitStack) -> None:
    """streams.is_enabled: a reload ends those that are open, and the next one finds no such path."""
    service = serve(f"server.engine={engine}")
    listener = stack.enter_context(Listener(service.server.port)).begun()
    service.settings(streams={"is_enabled": False})
    assert service.command("reload", "--wait")[0] == 0
    read_to_the_end([listener])
    answer = httpx.get(f"{service.server.url}/ofrep/v1/stream?token=phc_demo", timeout=PATIENCE_S)
    assert (listener.has_ended_well, answer.status_code) == (True, 404)
    assert "phc_demo" not in service.server.errors


def test_streams__connections_run_out__are_not_taken_for_idle(serve: Serve, engine: str, stack: ExitStack) -> None:
    """server.max_connections: a stream on which nothing happens is in use, and idle connections go instead of it."""
    service = serve(f"server.engine={engine}", "server.max_connections=6", "streams.heartbeat_s=0.2")
    listeners = [stack.enter_context(Listener(service.server.port)).begun() for _ in range(4)]
    for _ in range(10):  # Each leaves a connection that is kept.
        client = stack.enter_context(httpx.Client(timeout=PATIENCE_S, verify=False))
        assert client.get(f"{service.server.url}/_liveness").status_code == 200
    assert service.metric("connections_ended_total", "evicted") >= 8
    for listener in listeners:
        seen = listener.signs_of_life
        listener.wait_for(lambda it, seen=seen: it.signs_of_life > seen + 10)
