"""Bodies that are too slow, too large, or worse inside than they look, and those that nobody wants to read.

Invariant: a body costs no more than its bounds, and a client that goes on sending is not waited for.
"""

import gzip
import time
from collections.abc import Callable

import pytest

from tests.abuse.victim import BODY, Victim, head, read_all, send_quietly

CHUNK = b"10000\r\n" + b"x" * 65_536 + b"\r\n"


def test_body__sent_a_byte_at_a_time__ends_at_its_bound(victim: Victim) -> None:
    """A body that trickles in is refused when its time is over."""
    with victim.withstands():
        connections = [victim.connect() for _ in range(50)]
        for connection in connections:
            connection.sendall(head(b"Content-Length: 1000"))
        ends_at = time.monotonic() + 2.5
        while time.monotonic() < ends_at:
            for connection in connections:
                send_quietly(connection, b" ")
            time.sleep(0.1)
        for connection in connections:
            with connection:
                assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_body__without_end__is_not_kept_and_not_read_for_ever(victim: Victim) -> None:
    """A body that never ends occupies nothing, and its sender is cut off."""
    with victim.withstands(), victim.connect() as chunked, victim.connect() as measured:
        chunked.sendall(head(b"Transfer-Encoding: chunked"))
        measured.sendall(head(b"Content-Length: 1000000000000"))
        taking = [chunked, measured]
        ends_at = time.monotonic() + 15
        while taking:
            assert time.monotonic() < ends_at
            taking = [connection for connection in taking if send_quietly(connection, CHUNK)]
            time.sleep(0.002)


@pytest.mark.parametrize("path", [b"/flags?v=2", b"/nowhere"], ids=["unauthorized", "not-found"])
def test_body__of_a_request_that_is_refused__leaves_nothing(victim: Victim, path: bytes) -> None:
    """Clients that send much, get a refusal and vanish, leave nothing behind."""
    with victim.withstands():
        for _ in range(30):
            with victim.connect() as connection:
                send_quietly(connection, head(b"Content-Length: 10000000", target=b"POST " + path))
                send_quietly(connection, b"x" * 2_000_000)


def test_body__of_a_request_beyond_its_rate__leaves_nothing(start_victim: Callable[..., Victim], engine: str) -> None:
    """A 429 is sent before the body is read; a body that keeps coming is neither kept nor waited for."""
    victim = start_victim(
        f"server.engine={engine}", "proxies.trusted=127.0.0.1", "limits.mode=enforce", "limits.address=1/hour",
        "server.keep_alive_timeout_s=2", "requests.body_timeout_s=1",
    )  # fmt: skip
    denied = head(b"Content-Length: 10000000", b"X-Forwarded-For: 203.0.113.9")
    before = victim.usage()
    connections = [victim.connect() for _ in range(31)]
    for connection in connections:
        send_quietly(connection, denied)
        connection.settimeout(1)
        try:
            connection.sendall(b"x" * 3_000_000)
        except OSError:
            continue
    for connection in connections:
        connection.close()
    victim.recovers_to(before)
    assert victim.metric("rate_limited_total", 'outcome="denied"') == 30


def test_body__that_unpacks_to_far_more__is_refused(victim: Victim) -> None:
    """A hundred megabytes in a hundred kilobytes are refused without ever being there."""
    bomb = gzip.compress(b"[" * (100 << 20), 9)
    with victim.withstands():
        for _ in range(20):
            sent = head(b"Content-Encoding: gzip", b"Connection: close", b"Content-Length: %d" % len(bomb)) + bomb
            assert victim.answers(sent).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"token":"phc_demo","distinct_id":"u","person_properties":' + b'{"a":' * 150_000,
    ],
    ids=["arrays", "objects", "properties"],
)
def test_body__nested_without_end__is_refused(victim: Victim, body: bytes) -> None:
    """JSON of any depth is answered like other nonsense."""
    with victim.withstands():
        for _ in range(20):
            sent = head(b"Connection: close", b"Content-Length: %d" % len(body)) + body
            assert victim.answers(sent).startswith(b"HTTP/1.1 400")


def test_body__nested_as_deep_as_it_is_valid__is_answered(victim: Victim) -> None:
    """JSON that closes all it opens crashes nothing either, whichever way it is judged."""
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    body = BODY[:-1] + b',"person_properties":' + deep + b"}"
    with victim.withstands():
        for _ in range(5):
            told = victim.answers(head(b"Connection: close", b"Content-Length: %d" % len(body)) + body)
            assert told.startswith((b"HTTP/1.1 400", b"HTTP/1.1 200"))
