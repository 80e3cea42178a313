"""HAProxy as it is deployed, before small servers: requests go to those that say that they are ready."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from drills.balancer import HAProxy, addressed
from drills.servers import running
from tests.processes.conftest import wait_until


class Backend(BaseHTTPRequestHandler):
    """Answers 200 to everything but what is in `broken`."""

    protocol_version = "HTTP/1.1"
    broken: frozenset[str] = frozenset()

    def do_GET(self) -> None:
        self.send_response(503 if self.path in self.broken else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def backend(*broken: str) -> Iterator[int]:
    """The port of a server that is ill at these paths."""
    handler = type("Ill", (Backend,), {"broken": frozenset(broken)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(10)


def status(url: str, path: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_haproxy__one_backend_is_not_ready__is_not_asked() -> None:
    """Requests go to the backend that answers the check; a broken answer never reaches a client."""
    with backend("/_readiness", "/flags") as ill, backend() as well, running(HAProxy([ill, well])) as balancer:
        assert isinstance(balancer, HAProxy)
        balancer.start()
        wait_until(lambda: {status(balancer.url, "/flags") for _ in range(4)} == {200}, "the ill one is out")


def test_haproxy__another_check__decides_who_is_ready() -> None:
    """The path of the check is the drill's: with one that says nothing, an ill backend goes on being asked."""
    with backend("/_readiness") as ill:
        with running(HAProxy([ill], "/_liveness")) as lenient:
            assert isinstance(lenient, HAProxy)
            lenient.start()
            assert status(lenient.url, "/flags") == 200
        with running(HAProxy([ill])) as strict:
            assert isinstance(strict, HAProxy)
            strict.start()
            wait_until(lambda: status(strict.url, "/flags") == 503, "nobody is ready")


@pytest.mark.parametrize("text", ["", "bind :8080  # CHANGE\nserver one 192.0.2.11:8000  # CHANGE\n"])
def test_addressed__line_is_missing__is_refused(text: str) -> None:
    """A file that is no longer the one which is deployed starts nothing."""
    with pytest.raises(ValueError, match="must stand on one line, marked CHANGE"):
        addressed(text, "bind :8080", ["127.0.0.1:1"], [2])
