"""The way to the management API over HTTP, against a server that answers what it is told to.

The way straight to the store is taken by the tests of the commands. Every connection here ends after one answer.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from gateway.commands import CommandFailed
from gateway.commands.transports import HttpTransport

Serve = Callable[[socket.socket], None]
PATIENCE_S = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def serving(serve: Serve) -> Iterator[str]:
    """The URL of a server that does this with its only connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE_S)
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join(PATIENCE_S)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data and (part := connection.recv(65536)):
        data += part
    return data


def wait_for_end(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def answering(answer: bytes, seen: list[bytes], end: bytes = b"\r\n\r\n") -> Serve:
    def serve(connection: socket.socket) -> None:
        seen.append(read_until(connection, end))
        connection.sendall(answer)

    return serve


def test_http__call__carries_key_path_and_body() -> None:
    """A call is one request with the key, below the path of the URL, whose answer comes back as it is."""
    seen: list[bytes] = []
    with serving(answering(OK, seen, b'{"a":1}')) as url:
        answer = HttpTransport(f"{url}/flags/", "phx_key", PATIENCE_S).call("POST", "/api/projects?x=1", b'{"a":1}')
    assert (answer.status, answer.value(), answer.headers["content-type"]) == (200, {}, "application/json")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /flags/api/projects?x=1 HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer phx_key" in head
    assert b"\r\nContent-Length: 7" in head
    assert body == b'{"a":1}'


def test_http__upload__is_sent_in_chunks_as_it_is_read() -> None:
    """A body of parts is sent without its length being known, a part at a time."""
    seen: list[bytes] = []
    with serving(answering(OK, seen, b"0\r\n\r\n")) as url:
        HttpTransport(url, "phx_key", PATIENCE_S).call("DELETE", "/api/x", iter([b"alice\n", b"bob\n"]), "text/plain")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert b"\r\nContent-Type: text/plain" in head
    assert body == b"6\r\nalice\n\r\n4\r\nbob\n\r\n0\r\n\r\n"


def test_http__answer_before_the_end_of_an_upload__is_read() -> None:
    """A service that refuses an upload half way and hangs up is still understood."""
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    is_over = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(refusal)
        connection.shutdown(socket.SHUT_WR)
        is_over.set()
        wait_for_end(connection)

    def parts() -> Iterator[bytes]:
        yield b"alice\n"
        assert is_over.wait(PATIENCE_S)
        yield b"bob\n"

    with serving(serve) as url:
        answer = HttpTransport(url, "phx_key", PATIENCE_S).call("POST", "/api/x", parts())
    assert (answer.status, answer.body) == (403, b"no")


def test_http__redirect__is_not_followed() -> None:
    """The key goes nowhere but to the URL that was given."""
    seen: list[bytes] = []
    redirect = b"HTTP/1.1 307 Elsewhere\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(redirect, seen)) as url:
        assert HttpTransport(url, "phx_key", PATIENCE_S).call("GET", "/api/x").status == 307


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-server\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
def test_http__something_else_than_an_answer__is_told(answer: bytes) -> None:
    """A connection that ends early, or speaks something else, is one sentence."""
    with serving(answering(answer, [])) as url, pytest.raises(CommandFailed, match="broke off"):
        HttpTransport(url, "phx_key", PATIENCE_S).call("GET", "/api/x")


def test_http__page_of_somebody_else__is_told() -> None:
    """An answer that is not JSON is not one of ours."""
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"
    with serving(answering(page, [])) as url:
        answer = HttpTransport(url, "phx_key", PATIENCE_S).call("GET", "/api/x")
    with pytest.raises(CommandFailed, match="not one of flagstone's"):
        answer.value()


@pytest.mark.parametrize("is_trusted", [True, False])
def test_http__tls__needs_an_authority_that_is_known(
    is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is sent to nobody whose certificate does not hold; SSL_CERT_FILE names an authority of one's own."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    (tmp_path / "authority.pem").write_bytes((authority if is_trusted else trustme.CA()).cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with suppress(ssl.SSLError), server.wrap_socket(connection, server_side=True) as secured:
            answering(OK, seen)(secured)

    with serving(serve) as url:
        transport = HttpTransport(url.replace("http:", "https:"), "phx_key", PATIENCE_S)
        if is_trusted:
            assert transport.call("GET", "/api/x").status == 200
        else:
            with pytest.raises(CommandFailed, match="certificate verify failed"):
                transport.call("GET", "/api/x")
    assert bool(seen) is is_trusted


def test_http__no_answer__ends_after_the_timeout() -> None:
    """A service that accepts and says nothing is not waited for any longer than asked."""
    with serving(wait_for_end) as url:
        transport = HttpTransport(url, "phx_key", 0.05)
        with pytest.raises(CommandFailed, match=r"did not answer within 0\.05 s"):
            transport.call("GET", "/api/x")


def test_http__nobody_there__is_told() -> None:
    """A service that does not listen is named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CommandFailed, match=f"http://127.0.0.1:{port} cannot be reached: Connection refused"):
        HttpTransport(f"http://127.0.0.1:{port}", "phx_key", PATIENCE_S).call("GET", "/api/x")


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x", "http://", "http://me:pw@x", "http://x?y", "http://x:p", "http://[x"]
)
def test_http__url_that_cannot_be_one__is_refused(url: str) -> None:
    """What is no URL of a service is refused before anything is sent, and a password in it is not used."""
    with pytest.raises(CommandFailed, match="The URL of the API"):
        HttpTransport(url, "phx_key", PATIENCE_S)


@pytest.mark.parametrize("key", ["", "phx_a b", "phx_a\r\nX: y", "phx_é"])
def test_http__key_that_cannot_be_one__is_refused(key: str) -> None:
    """A file that holds something else than a key cannot write headers, and is not sent anywhere."""
    with pytest.raises(CommandFailed, match="The key has characters"):
        HttpTransport("http://127.0.0.1", key, PATIENCE_S)
