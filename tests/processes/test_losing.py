"""Workers that die under load, cannot start any more, or are stuck: others take their place while there is hope.

How they are replaced in order is in test_replacing.py.
"""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.processes.clients import KEPT
from tests.processes.conftest import Serve, Service, is_alive, wait_until

STUCK = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))
"""
"""Python runs this at its start, so that a signal makes a worker stick in one step."""


def clients_of(pid: int, server_port: int) -> set[int]:
    """The clients' own ports of the connections that a process holds."""
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
            held.add(found[1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = f":{server_port:04X}"
    return {int(row[2].rpartition(":")[2], 16) for row in rows if row[1].endswith(own) and row[9] in held} - {0}


def test_worker__killed_under_load__takes_only_its_own_connections(serve: Serve, engine: str) -> None:
    """server.workers: clients of the other one notice nothing; a new one comes, and metrics say why."""
    service = serve(f"server.engine={engine}", "server.workers=2")
    with service.load(kept=KEPT, anew=0) as load:
        victim = max(service.workers().values(), key=lambda pid: len(clients_of(pid, service.server.port)))
        clients = clients_of(victim, service.server.port)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(service.workers()) == 2 and victim not in service.workers().values(), "a new worker")
        load.goes_on()
    assert set(load.statuses) == {200}, load
    assert load.reopened, load
    assert load.reopened | set(load.lost) <= clients, load  # Lost is what the dead one was in the midst of answering.
    assert not load.refused, load
    assert service.metric("worker_exits_total", 'cause="killed"') == 1
    assert service.stopped() == 0


def test_only_worker__killed_under_load__is_replaced(serve: Serve, engine: str) -> None:
    """server.workers: with one alone, new connections wait for the next one rather than being refused."""
    service = serve(f"server.engine={engine}", "server.workers=1")
    (victim,) = service.workers().values()
    with service.load() as load:
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: set(service.workers().values()) - {victim}, "a new worker")
        load.goes_on()
    assert set(load.statuses) == {200}, load
    assert not load.refused, load
    assert service.metric("worker_exits_total", 'cause="killed"') == 1


def failed_starts(service: Service) -> int:
    """How many workers ended by themselves."""
    return sum(event["code"] == 1 for event in service.events("worker_exited"))


def test_worker__that_cannot_start_any_more__is_tried_while_another_answers(serve: Serve) -> None:
    """server.workers: a broken file of definitions costs no answers, and once mended there are as many as asked for."""
    service = serve("server.workers=2")
    definitions = service.folder / "definitions.json"
    whole = definitions.read_bytes()
    staying, victim = service.workers().values()
    definitions.write_text("{")
    with service.load(kept=2, anew=2) as load:
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: failed_starts(service) >= 2, "two failed starts")
        assert set(service.workers().values()) == {staying}
        definitions.write_bytes(whole)
        wait_until(lambda: len(service.workers()) == 2, "two workers")
    assert set(load.statuses) == {200}, load
    assert not load.refused, load


def test_service__whose_last_worker_cannot_be_replaced__gives_up_in_the_end(serve: Serve) -> None:
    """server.workers: five starts that fail, with pauses that grow, and nobody left to answer: exit code 1."""
    service = serve("server.workers=1")
    (victim,) = service.workers().values()
    (service.folder / "definitions.json").write_text("{")
    os.kill(victim, signal.SIGKILL)
    assert service.server.exit_code() == 1
    assert failed_starts(service) == 5
    assert len(service.events("gave_up")) == 1


def test_worker__stuck_in_one_step__ends_itself_and_is_replaced(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """server.hang_timeout_s: it says where it was stuck, and ends; one that is not stuck is left alone at the least."""
    (tmp_path / "sitecustomize.py").write_text(STUCK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    service = serve("server.workers=2", "server.hang_timeout_s=1")
    old = service.workers()
    with service.load(kept=2, anew=0) as load:
        # Longer than the timeout: with nobody stuck, nobody ends.
        wait_until(lambda: min(it["age_s"] for it in service.status()) > 2.5, "workers some seconds old")
        assert service.workers() == old
        assert not load.reopened, load
    stuck = old[0]
    os.kill(stuck, signal.SIGUSR1)
    wait_until(lambda: not is_alive(stuck), "the end of what was stuck")
    wait_until(lambda: len(service.workers()) == 2, "two workers")
    assert service.metric("worker_exits_total", 'cause="exit"') == 1
    assert "Timeout" in service.server.errors
    assert "sitecustomize.py" in service.server.errors
