"""Clients that open streams without end, or take nothing of what comes on them.

Invariant: what they occupy is bounded and free in the end, and whoever asks for flags does not notice.
"""

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.abuse.victim import Victim
from tests.processes.listening import Listener

PLACES = 100


@pytest.fixture
def small(start_victim: Callable[..., Victim], engine: str) -> Victim:
    """A server that has few places for streams, and ends them soon."""
    return start_victim(
        f"server.engine={engine}", f"concurrency.streams={PLACES}", "streams.heartbeat_s=0.1", "streams.max_age_s=3",
        "server.write_timeout_s=1", "server.keep_alive_timeout_s=2",
    )  # fmt: skip


def test_streams__three_times_as_many_as_there_are_places__are_refused_and_let_in_by_turns(small: Victim) -> None:
    """concurrency.streams: after a moment in which all clients come back at once, the rest is told to come later."""
    refused, served = 0, 0
    with small.withstands():
        for _ in range(2):
            with ExitStack() as stack:
                clients = [stack.enter_context(Listener(small.server.port)) for _ in range(3 * PLACES)]
                are_open = [bool(client.begun().ids) for client in clients]
                assert are_open.count(True) >= PLACES
                assert small.metric("streams") <= PLACES
                turned_away = [client for client, is_open in zip(clients, are_open, strict=True) if not is_open]
                assert turned_away
                assert all(client.is_turned_away or client.status == 503 for client in turned_away)
                refused, served = refused + len(turned_away), served + are_open.count(True)
    assert small.metric("shed_total", 'partition="streams"') == refused
    assert small.metric("requests_total", 'endpoint="streams",status_class="2xx"') >= served


def test_streams__opened_and_left_by_the_hundred__leave_nothing(small: Victim) -> None:
    """A client that goes in whatever way, at whatever moment, gives its place back."""
    with small.withstands():
        for n in range(5 * PLACES):
            with Listener(small.server.port) as client:
                if n % 3:
                    client.begun()
                if n % 2:
                    client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        small.waits_until(lambda: small.metric("streams") == 0)
    assert small.metric("concurrency", 'partition="streams",what="in_flight"') == 0


def test_stream__whose_client_never_reads__ends_at_its_age(small: Victim) -> None:
    """streams.max_age_s, server.write_timeout_s: what such a client holds is one connection, for a bounded time."""
    with small.withstands(), ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(Listener(small.server.port, receive_bytes=1024))
        small.waits_until(lambda: small.metric("streams") > 0)
        small.waits_until(lambda: small.metric("streams") == 0)
        small.waits_until(lambda: small.metric("connections") < PLACES)
