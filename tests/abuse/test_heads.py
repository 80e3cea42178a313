"""Heads of requests that never end: sent slowly, or without end.

Bodies are in test_bodies.py. Invariant: each ends by itself, within its bound in time or size.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.abuse.victim import BODY, LIVENESS, Victim, head, read_all, send_quietly


def test_head__sent_a_byte_at_a_time__ends_at_its_bound(victim: Victim) -> None:
    """server.header_timeout_s: who sends a head a byte at a time is cut off, the second on a connection too."""
    starts = [b"GET /_live", b"GET / HTTP/1.1\r\nHost: flagstone\r\nX-Slow: ", LIVENESS + b"GET /_live"]
    with victim.withstands(), ExitStack() as stack:
        connections = [stack.enter_context(victim.connect()) for _ in range(60)]
        for connection, start in zip(connections, starts * 20, strict=True):
            connection.sendall(start)
        ends_at = time.monotonic() + 2.5
        while time.monotonic() < ends_at:
            for connection in connections:
                send_quietly(connection, b"x")
            time.sleep(0.1)
        assert [read_all(connection).count(b"HTTP/1.1 ") for connection in connections] == [0, 0, 1] * 20
        assert time.monotonic() < ends_at + 5


def test_head__with_more_time__is_let_be(start_victim: Callable[..., Victim], engine: str) -> None:
    """server.header_timeout_s: with a longer bound, a slow client gets its answer."""
    patient = start_victim(f"server.engine={engine}", "server.header_timeout_s=30")
    with patient.connect() as connection:
        for part in (LIVENESS[:10], LIVENESS[10:-2], b"Connection: close\r\n\r\n"):
            connection.sendall(part)
            time.sleep(0.8)
        assert read_all(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("start", "part"),
    [(b"X-Endless: ", b"x" * 65_536), (b"", b"X-Header: x\r\n" * 5000)],
    ids=["one-header", "many-headers"],
)
def test_head__without_end__is_refused(victim: Victim, start: bytes, part: bytes) -> None:
    """A head that never ends is refused while it is small, and is not kept."""
    with victim.withstands():
        for _ in range(10):
            with victim.connect() as connection:
                send_quietly(connection, b"GET / HTTP/1.1\r\nHost: flagstone\r\n" + start)
                sent = sum(send_quietly(connection, part) for _ in range(400)) * len(part)
                assert sent < 20 << 20
                assert read_all(connection)[:12] in {b"", b"HTTP/1.1 431", b"HTTP/1.1 400"}


def test_trailers__without_end__are_refused(victim: Victim) -> None:
    """What may follow a chunked body is no way around the bound on heads."""
    with victim.withstands(), victim.connect() as connection:
        start = head(b"Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
        assert send_quietly(connection, start)
        part = b"X-Trailer: x\r\n" * 5000
        taken = 0
        while taken < 64 << 20 and send_quietly(connection, part):
            taken += len(part)
        assert taken < 64 << 20
