"""Clients that ask for much and take little of it.

Invariant: an answer that nobody takes is given up within its bound, and what it occupied is free again.
"""

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.abuse.victim import BODY, REQUEST, Victim, head, read_all, send_quietly
from tests.builders import flag, project

FLAGS = 500
ASKED_AHEAD = 12
"""Times some hundred kilobytes: more than the system takes off the service's hands."""

LAST = head(b"Connection: close", b"Content-Length: %d" % len(BODY)) + BODY


@pytest.fixture
def large(tmp_path: Path) -> str:
    """Where a project is whose answers are large."""
    flags = [flag(f"flag-{n}", payloads={"true": "x" * 1500}) for n in range(FLAGS)]
    document = tmp_path / "large.json"
    document.write_text(json.dumps({"projects": [{**project(*flags), "token": "phc_demo"}]}))
    return f"store.url=file:{document}"


def slow_client(victim: Victim) -> socket.socket:
    """A connection on which much was asked for, and whose client takes little at a time."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", victim.server.port))
    send_quietly(connection, REQUEST * (ASKED_AHEAD - 1) + LAST)
    return connection


def test_answer__that_is_not_taken__is_given_up(start_victim: Callable[..., Victim], engine: str, large: str) -> None:
    """server.write_timeout_s: clients that read nothing, or next to nothing, are cut off."""
    victim = start_victim(f"server.engine={engine}", large, "server.write_timeout_s=1")
    with victim.withstands(), ExitStack() as stack:
        connections = [stack.enter_context(slow_client(victim)) for _ in range(20)]
        ends_at = time.monotonic() + 10
        while victim.metric("connections_ended_total", "overdue") < len(connections):
            assert time.monotonic() < ends_at
            for connection in connections[:10]:
                connection.recv(1)
            time.sleep(0.2)


def test_answer__that_is_taken_late__comes_whole(start_victim: Callable[..., Victim], engine: str, large: str) -> None:
    """server.write_timeout_s: a client that pauses for less than that gets all it asked for."""
    victim = start_victim(f"server.engine={engine}", large, "server.write_timeout_s=30")
    with slow_client(victim) as connection:
        time.sleep(3)
        assert read_all(connection).count(b"HTTP/1.1 200") == ASKED_AHEAD
