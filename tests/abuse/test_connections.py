"""Connections by the thousand: idle, half open, abandoned, or opened and closed without a pause.

Invariant: none of them keeps an honest client out, and those that nobody uses end.
"""

import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.abuse.victim import LIVENESS, REQUEST, Victim, head, read_all, send_quietly

WANTED = 10_000
FRAGMENTED_BYTES = 64 << 20
"""What so many connections may leave in an allocator; had they not ended, they would occupy several times as much."""
RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing sends a reset."""


@pytest.fixture
def number() -> Iterator[int]:
    """How many connections this process may have; at most those wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard - 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def occupy(victim: Victim, number: int) -> None:
    """Open so many connections and leave them be, until the service has ended them all."""
    before = victim.metric("connections_ended_total")
    with ExitStack() as stack:
        for n in range(number):
            connection = stack.enter_context(victim.connect())
            if n % 10 == 0:
                send_quietly(connection, LIVENESS)
        victim.waits_until(lambda: victim.metric("connections_ended_total") - before >= number)


def test_connections__idle_by_the_thousand__keep_nobody_out(
    start_victim: Callable[..., Victim], engine: str, number: int
) -> None:
    """server.max_connections: beyond it, the one that is idle for longest gives way, and new clients are let in.

    server.keep_alive_timeout_s: it ends those that remain.
    """
    victim = start_victim(
        f"server.engine={engine}", "server.max_connections=2000", "server.keep_alive_timeout_s=2",
        "server.backlog=4096",
    )  # fmt: skip
    occupy(victim, 2500)  # From here on, memory has been in use as it will be.
    evicted = victim.metric("connections_ended_total", "evicted")
    assert evicted >= 500
    with victim.withstands(FRAGMENTED_BYTES):
        occupy(victim, number)
    assert victim.metric("connections_ended_total", "evicted") - evicted > (number - 2000) / 2


def test_connections__all_with_half_a_head__keep_others_waiting_no_longer_than_the_bound(
    start_victim: Callable[..., Victim], engine: str
) -> None:
    """server.header_timeout_s: whoever occupies every place with a head that does not end holds it for that long."""
    victim = start_victim(f"server.engine={engine}", "server.max_connections=50", "server.header_timeout_s=1")
    before = victim.usage()
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(victim.connect()).sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert victim.ask() == 200
        victim.recovers_to(before)


def test_connections__all_busy_and_then_idle__keep_nobody_out(start_victim: Callable[..., Victim], engine: str) -> None:
    """server.max_connections: a client that waits to be let in is, as soon as one of the others is idle."""
    victim = start_victim(f"server.engine={engine}", "server.max_connections=2")
    victim.waits_until(lambda: victim.metric("connections") == 0)
    with ExitStack() as stack:
        busy = [stack.enter_context(victim.connect()) for _ in range(2)]
        for connection in busy:
            connection.sendall(REQUEST[:-10])
        victim.waits_until(lambda: victim.metric("connections", "active") == 2)
        waiting = stack.enter_context(victim.connect())
        waiting.sendall(LIVENESS)
        time.sleep(0.3)
        for connection in busy:
            connection.sendall(REQUEST[-10:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        assert waiting.recv(65_536).startswith(b"HTTP/1.1 200")


def test_connections__fewer_than_the_bound__stay(start_victim: Callable[..., Victim], engine: str) -> None:
    """server.max_connections: as long as there is room, nobody is sent away."""
    victim = start_victim(f"server.engine={engine}", "server.max_connections=1000")
    with ExitStack() as stack:
        connections = [stack.enter_context(victim.connect()) for _ in range(300)]
        for connection in connections:
            connection.sendall(LIVENESS)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        assert victim.metric("connections_ended_total") == 0


def test_connections__half_open__end(victim: Victim) -> None:
    """Clients that send no more, before, within or after a request, and never close, are not kept."""
    with victim.withstands(), ExitStack() as stack:
        for sent in (b"", LIVENESS[:20], REQUEST[:-10], REQUEST, LIVENESS) * 40:
            connection = stack.enter_context(victim.connect())
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        victim.waits_until(lambda: victim.metric("connections") <= 3)


@pytest.mark.parametrize("sent", [b"", LIVENESS[:20], REQUEST[:-10], REQUEST])
def test_connections__reset_midway__leave_nothing(victim: Victim, sent: bytes) -> None:
    """Clients that vanish in the middle of something leave nothing behind."""
    with victim.withstands():
        for _ in range(300):
            with victim.connect() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.sendall(sent)


def test_connections__opened_and_closed_at_once__leave_nothing(victim: Victim) -> None:
    """A storm of connections that want nothing is no hindrance."""
    with victim.withstands():
        for _ in range(3000):
            victim.connect().close()


def test_connection__with_its_last_request__is_told_and_closed(
    start_victim: Callable[..., Victim], engine: str
) -> None:
    """server.max_requests_per_connection: the last answer says so, and nothing follows it."""
    victim = start_victim(f"server.engine={engine}", "server.max_requests_per_connection=3")
    for sent in (LIVENESS * 3, LIVENESS * 5):
        *answers, last = victim.answers(sent).split(b"HTTP/1.1 200")[1:]
        assert len(answers) == 2
        assert b"connection: close" in last.lower()
        assert not any(b"connection: close" in answer.lower() for answer in answers)


def test_pipelining__within_reason__is_answered_in_order(victim: Victim) -> None:
    """A client that sends some requests ahead gets an answer for each, in their order."""
    paths = [b"/_liveness", b"/nowhere"] * 8
    sent = b"".join(head(target=b"GET " + path) for path in paths[:-1]) + head(
        b"Connection: close", target=b"GET " + paths[-1]
    )
    with victim.withstands():
        told = victim.answers(sent).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in told] == [b"200", b"404"] * 8


def test_pipelining__beyond_reason__is_not_kept(victim: Victim) -> None:
    """Requests sent ahead by the thousand are not collected; who sends them and reads nothing is nobody's burden."""
    with victim.withstands(), ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(victim.connect())
            connection.settimeout(0.2)
            with suppress(OSError):
                connection.sendall(REQUEST * 10_000)


def test_pipelining__one_too_many__brings_no_more_answers_than_requests(victim: Victim) -> None:
    """Each request sent ahead is answered once, or the connection is closed."""
    with victim.connect() as connection:
        send_quietly(connection, REQUEST * 40)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).count(b"HTTP/1.1 ") <= 40
