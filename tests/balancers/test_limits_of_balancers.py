"""What HAProxy and nginx let through to flagstone, and what they keep from it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.balancers.backends import Backend
from tests.balancers.conftest import Balance, Balancer
from tests.conftest import ServerProcess

MAX_BODY_BYTES = 1_048_576
"""The default of `requests.max_body_bytes`."""


@contextmanager
def sending(balancer: Balancer, request: bytes) -> Iterator[socket.socket]:
    """A connection on which this was sent."""
    with socket.create_connection(("127.0.0.1", balancer.port), timeout=5) as connection:
        connection.sendall(request)
        yield connection


def statuses(balancer: Balancer, request: bytes) -> list[int]:
    """The status of each answer until the balancer closes the connection, or says nothing for a while."""
    received = b""
    with sending(balancer, request) as connection:
        connection.settimeout(0.5)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            pass
    return [int(line[9:12]) for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def test_balancer__asked_for_http2_without_tls__answers_without_becoming_a_tunnel(before_flagstone: Balancer) -> None:
    """The upgrade is not passed on, so every request is one that the balancer has seen."""
    request = (
        b"GET /_liveness HTTP/1.1\r\nHost: flags\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    assert statuses(before_flagstone, request) == [200]


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding : chunked",
        b"Content-Length: 5\r\nTransfer-Encoding: xchunked",
        b"Content-Length: +5",
    ],
)
def test_balancer__a_body_of_two_lengths__ends_its_connection(
    before_flagstone: Balancer, flagstone: ServerProcess, headers: bytes
) -> None:
    """No request hides in the body of another: it is refused or read in one way, and nothing after it is read."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: flags\r\n\r\n"
    request = b"POST /flags HTTP/1.1\r\nHost: flags\r\n" + headers + b"\r\n\r\n0\r\n\r\n" + hidden
    (status,) = statuses(before_flagstone, request)
    assert status in {400, 501}
    assert "/hidden" not in flagstone.errors


def test_balancer__a_body_beyond_flagstones_limit__is_refused(before_flagstone: Balancer) -> None:
    """What flagstone would refuse for its size does not get as far; what it would read does."""
    url = f"{before_flagstone.url}/flags"
    refusal = httpx.post(url, content=b" " * (MAX_BODY_BYTES + 1))
    assert (refusal.status_code, "x-request-id" in refusal.headers) == (413, False)
    answer = httpx.post(url, content=b" " * MAX_BODY_BYTES)
    assert answer.status_code == 400
    assert "x-request-id" in answer.headers


def test_balancer__a_body_that_is_slow_to_come__is_not_passed_on_before_it_is_whole(
    balance: Balance, backends: list[Backend]
) -> None:
    """A slow sender holds a connection of the balancer and nothing of flagstone's."""
    balancer = balance(backends[:1])
    with sending(balancer, b"POST /flags HTTP/1.1\r\nHost: flags\r\nContent-Length: 8\r\n\r\nhalf") as connection:
        with sending(balancer, b"POST /flags HTTP/1.1\r\nHost: flags\r\nContent-Length: 5\r\n\r\nwhole") as other:
            assert other.recv(12) == b"HTTP/1.1 200"
        assert backends[0].requests == 1
        connection.sendall(b"half")
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert backends[0].requests == 2
