"""The books of connections: what is too slow ends, and a new one finds a place."""

from typing import Any

import pytest

from config.server import Server
from gateway.server.connections import Connection, Connections
from tests.fakes import FakeClock


class Transport:
    """As much of a transport as the books look at."""

    def __init__(self) -> None:
        self.unsent = 0
        self.end = ""

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Books:
    """Connections, their transports, and a clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ended: list[str] = []
        server = Server(header_timeout_s=10, keep_alive_timeout_s=75, write_timeout_s=30)
        self.connections = Connections(lambda: server, self.clock.monotonic, self.ended.append)

    def open(self) -> tuple[Connection, Any]:
        transport: Any = Transport()
        return self.connections.opened(transport), transport

    def after(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.connections.sweep()


@pytest.fixture
def books() -> Books:
    return Books()


def test_sweep__head_that_does_not_end__is_cut_off(books: Books) -> None:
    """server.header_timeout_s: counted from the first byte, whatever trickles in after it."""
    connection, transport = books.open()
    books.after(60)
    connection.head_began()
    books.after(9)
    connection.head_began()
    assert transport.end == ""
    books.after(1.1)
    assert transport.end == "closed"
    assert books.ended == ["overdue"]


def test_sweep__idle_connection__is_closed_in_its_time(books: Books) -> None:
    """server.keep_alive_timeout_s: counted from the last answer."""
    connection, transport = books.open()
    books.after(70)
    connection.request_began()
    books.after(70)
    connection.request_ended()
    books.after(74)
    assert transport.end == ""
    books.after(1.1)
    assert transport.end == "closed"
    assert len(books.connections) == 0


def test_sweep__answer_that_is_not_read__is_cut_off(books: Books) -> None:
    """server.write_timeout_s: a client that takes nothing, or too little, holds nothing for ever."""
    connection, transport = books.open()
    connection.request_began()
    transport.unsent = 1000
    books.after(0)
    books.after(20)
    transport.unsent = 900
    books.after(9)
    assert transport.end == ""
    books.after(1.1)
    assert transport.end == "aborted"


def test_sweep__answer_that_was_read__starts_anew(books: Books) -> None:
    """Time counts only while something waits to be read."""
    connection, transport = books.open()
    connection.request_began()
    transport.unsent = 1000
    books.after(20)
    transport.unsent = 0
    books.after(20)
    transport.unsent = 1000
    books.after(20)
    assert transport.end == ""


def test_sweep__request_under_way__is_not_its_business(books: Books) -> None:
    """However long an answer takes to be found, its connection is not what is slow."""
    connection, transport = books.open()
    connection.request_began()
    books.after(1000)
    assert transport.end == ""


def test_make_room__some_are_idle__closes_the_one_idle_for_longest(books: Books) -> None:
    """server.max_connections: at the bound an idle connection makes way, never one with a request."""
    first, first_transport = books.open()
    _, second_transport = books.open()
    _, third_transport = books.open()
    first.request_began()
    assert books.connections.make_room()
    assert (first_transport.end, second_transport.end, third_transport.end) == ("", "closed", "")
    first.request_ended()
    assert books.connections.make_room()
    assert (first_transport.end, third_transport.end) == ("", "closed")
    assert books.ended == ["evicted", "evicted"]


def test_make_room__none_is_idle__takes_the_head_that_takes_longest(books: Books) -> None:
    """server.max_connections: heads sent slowly in every place keep nobody out."""
    first, first_transport = books.open()
    second, second_transport = books.open()
    _, idle_transport = books.open()
    second.head_began()
    first.head_began()
    assert [books.connections.make_room() for _ in range(2)] == [True, True]
    assert (first_transport.end, second_transport.end, idle_transport.end) == ("", "closed", "closed")
    first.request_began()
    assert not books.connections.can_make_room


def test_make_room__all_have_requests__is_refused(books: Books) -> None:
    """Nobody with a request under way is sacrificed."""
    connection, transport = books.open()
    connection.head_began()
    connection.request_began()
    assert not books.connections.make_room()
    assert transport.end == ""


def test_head_began__connection_ended_already__does_not_come_back(books: Books) -> None:
    """Bytes that were on their way when it was ended change nothing."""
    connection, _ = books.open()
    assert books.connections.make_room()
    connection.head_began()
    assert not books.connections.can_make_room
    assert len(books.connections) == 0


def test_closed__room_is_told_of(books: Books) -> None:
    """Whoever stopped accepting learns that it can go on, and a connection that is gone stays gone."""
    told: list[None] = []
    books.connections.on_room = lambda: told.append(None)
    connection, _ = books.open()
    connection.request_began()
    connection.closed()
    connection.request_ended()
    assert told == [None]
    assert (len(books.connections), books.connections.idle) == (0, 0)


def test_close_idle__busy_ones__stay(books: Books) -> None:
    """At the end of a worker only connections with nothing under way are closed; the rest can be cut off."""
    busy, busy_transport = books.open()
    _, idle_transport = books.open()
    busy.request_began()
    books.connections.close_idle()
    assert (busy_transport.end, idle_transport.end) == ("", "closed")
    assert books.connections.abort() == 2
    assert busy_transport.end == "aborted"


def test_connection__in_a_log__says_what_it_is_doing(books: Books) -> None:
    """A dump of the books is readable."""
    connection, _ = books.open()
    connection.head_began()
    connection.request_began()
    assert repr(connection) == "<Connection request, 1 requests>"
    assert repr(books.connections) == "<Connections 1, 0 of them idle>"
    assert connection.is_used_up(1)
    assert not connection.is_used_up(2)
