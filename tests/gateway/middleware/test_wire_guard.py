"""Requests that could be read in two ways, on a real server: refused, and their connections closed."""

import socket
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import pytest

from gateway.middleware.wire_guard import MAX_HEADER_BYTES, MAX_HEADERS
from tests.conftest import ServerProcess

BODY = b'{"token":"phc_demo","distinct_id":"alice"}'


@pytest.fixture
def server(start_server: Callable[..., ServerProcess], engine: str) -> ServerProcess:
    return start_server("--demo", "--set", f"server.engine={engine}").wait_until_ready()


def answers(server: ServerProcess, sent: bytes) -> bytes:
    """Everything that comes back until the server closes the connection."""
    with server.connect() as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def post(*headers: bytes, body: bytes = BODY) -> bytes:
    lines = (b"POST /flags?v=2 HTTP/1.1", b"Host: flagstone", b"Origin: https://example.com", *headers, b"", body)
    return b"\r\n".join(lines)


def test_guard__length_and_transfer_encoding__is_refused_and_nothing_smuggled(
    server: ServerProcess, engine: str
) -> None:
    """What one machine takes for a body and another for the next request is answered once, and the connection ends."""
    chunked = b"0\r\n\r\nGET /_liveness HTTP/1.1\r\nHost: flagstone\r\n\r\n"
    told = answers(server, post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=chunked))
    assert told.startswith(b"HTTP/1.1 400")
    assert told.count(b"HTTP/1.1") == 1
    if engine == "hypercorn":  # The other refuses it before it is a request.
        assert b"both Content-Length and Transfer-Encoding" in told
        assert b"access-control-allow-origin: https://example.com" in told


def test_guard__chunked_alone__is_served(server: ServerProcess) -> None:
    """A body without a length is a body like any other."""
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    told = answers(server, post(b"Transfer-Encoding: chunked", b"Connection: close", body=chunked))
    assert told.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([b"X-%d: x" % n for n in range(MAX_HEADERS + 1)], b"431"),
        ([b"X-Large: " + b"x" * (MAX_HEADER_BYTES + 1)], b"431"),
        ([b"X-%d: x" % n for n in range(MAX_HEADERS - 10)], b"200"),
    ],
)
def test_guard__headers_beyond_reason__are_refused(server: ServerProcess, headers: list[bytes], status: bytes) -> None:
    """Many headers or large ones are refused before anything looks at them."""
    told = answers(server, post(b"Content-Length: %d" % len(BODY), b"Connection: close", *headers))
    assert told.startswith(b"HTTP/1.1 " + status)


def test_guard__http2_without_tls__is_refused(server: ServerProcess, engine: str) -> None:
    """Prior knowledge is no way around a proxy."""
    http2 = h2.connection.H2Connection(h2.config.H2Configuration())
    http2.initiate_connection()
    pseudo = [(":method", "GET"), (":path", "/_liveness"), (":scheme", "http"), (":authority", "flagstone")]
    http2.send_headers(1, pseudo, end_stream=True)
    if engine == "uvicorn":
        assert answers(server, http2.data_to_send()).startswith(b"HTTP/1.1 400")
        return
    with server.connect() as connection:
        connection.sendall(http2.data_to_send())
        assert status_of(connection, http2) == "421"


def test_guard__upgrade_to_http2_without_tls__is_refused(server: ServerProcess, engine: str) -> None:
    """Nor is an upgrade, which a proxy might forward."""
    http2 = h2.connection.H2Connection(h2.config.H2Configuration())
    settings = http2.initiate_upgrade_connection()
    assert settings is not None
    with server.connect() as connection:
        connection.sendall(
            b"GET /_liveness HTTP/1.1\r\nHost: flagstone\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: " + settings + b"\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        if engine == "uvicorn":
            assert head.startswith(b"HTTP/1.1 421")
            return
        assert head.startswith(b"HTTP/1.1 101")
        connection.sendall(http2.data_to_send())
        assert status_of(connection, http2) == "421"


def status_of(connection: socket.socket, http2: h2.connection.H2Connection) -> str:
    while data := connection.recv(65_536):
        for event in http2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                assert event.headers is not None
                return next(bytes(value).decode() for name, value in event.headers if bytes(name) == b":status")
    raise AssertionError("the connection ended without an answer")
