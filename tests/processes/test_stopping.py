"""Stopping under load: what was accepted is answered, and nothing is left, whoever is told and however."""

import signal
import socket

import pytest

from tests.processes.clients import BODY, REQUEST, Load
from tests.processes.conftest import Serve, is_alive, wait_until

MAX_RESET = 2
"""New connections between the last look into the backlog and its closing. The kernel resets those nobody accepted."""


def assert_none_lost(load: Load) -> None:
    """All that was accepted was answered, and no kept connection was closed without a last answer that told of it."""
    assert set(load.statuses) == {200}, load
    assert not load.lost, load
    assert not load.reopened, load
    assert load.reset <= MAX_RESET, load


@pytest.mark.parametrize("lame_duck_s", [0, 1])
def test_sigterm__under_load__loses_no_request(serve: Serve, engine: str, workers: int, lame_duck_s: int) -> None:
    """server.lame_duck_s, server.engine, server.workers: answered for so long, then refused; none is lost."""
    service = serve(f"server.engine={engine}", f"server.workers={workers}", f"server.lame_duck_s={lame_duck_s}")
    processes = list(service.workers().values())
    assert len(processes) == workers
    with service.load() as load:
        service.server.tell(signal.SIGTERM)
        if lame_duck_s:
            load.goes_on(50)
            assert not load.refused
        assert service.server.exit_code() == 0
    assert_none_lost(load)
    assert load.refused
    wait_until(lambda: not any(map(is_alive, processes)), "all workers gone")


def test_supervisor__killed_under_load__takes_its_workers_along_in_order(serve: Serve, engine: str) -> None:
    """server.workers: without a supervisor they finish what is in flight, and leave; the port is free afterwards."""
    service = serve(f"server.engine={engine}", "server.workers=2")
    processes = list(service.workers().values())
    with service.server.connect() as begun, service.load() as load:
        begun.sendall((REQUEST % (len(BODY), b"Expect: 100-continue\r\n"))[: -len(BODY)])
        assert begun.recv(65_536).startswith(b"HTTP/1.1 100")
        service.server.end()
        wait_until(lambda: load.refused, "new connections are refused")
        begun.sendall(BODY)
        assert b"".join(iter(lambda: begun.recv(65_536), b"")).startswith(b"HTTP/1.1 200")
        wait_until(lambda: not any(map(is_alive, processes)), "all workers gone")
    assert_none_lost(load)
    socket.create_server(("127.0.0.1", service.server.port)).close()
