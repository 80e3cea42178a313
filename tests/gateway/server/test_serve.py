"""The server as an operator meets it: real processes, real signals, real sockets."""

import contextlib
import json
import signal
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from gateway.server.listener import CannotServe, bind, url_of
from tests.conftest import PATIENCE_S, ServerProcess

Start = Callable[..., ServerProcess]

BODY = json.dumps({"token": "phc_demo", "distinct_id": "alice"}).encode()
HEAD = (
    b"POST /flags?v=2 HTTP/1.1\r\nHost: flagstone\r\nContent-Type: application/json\r\n"
    b"Origin: https://example.com\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.fixture
def begun(start_server: Start, engine: str) -> Iterator[tuple[ServerProcess, socket.socket]]:
    """A server that drains for a minute at most, and a connection whose request has begun but lacks half its body."""
    patient = (
        f"server.engine={engine}",
        "server.drain_timeout_s=60",
        "requests.body_timeout_s=60",
        "requests.budget_ms=60000",
    )
    server = start_server("--demo", *(it for setting in patient for it in ("--set", setting)))
    with server.wait_until_ready().connect() as connection:
        # Asking to continue makes the server confirm that it has the request in hand.
        connection.sendall(HEAD[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 100")
        connection.sendall(BODY[:10])
        yield server, connection


def wait_until_refused(server: ServerProcess) -> None:
    """Returns once no new connection is accepted, which is when the server has begun to stop."""
    while True:
        try:
            server.connect().close()
        except ConnectionResetError:
            continue  # It was closing just then.
        except ConnectionRefusedError:
            return


def test_serve__port_0__announces_the_port_it_answers_on(start_server: Start, engine: str) -> None:
    """Whoever starts the server with port 0 reads from its announcement where it answers."""
    server = start_server("--demo", "--set", f"server.engine={engine}").wait_until_ready()
    with server.connect() as connection:
        connection.sendall(b"GET /_liveness HTTP/1.1\r\nHost: flagstone\r\nConnection: close\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nserver:" not in answer.lower()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve__told_to_stop_while_idle__exits_with_0(start_server: Start, engine: str, number: signal.Signals) -> None:
    """An idle server, even one with an idle connection, stops at once and in order."""
    server = start_server("--demo", "--set", f"server.engine={engine}").wait_until_ready()
    with server.connect():
        server.tell(number)
        assert server.exit_code() == 0


def test_serve__told_to_stop_with_a_request_in_flight__answers_it_first(
    begun: tuple[ServerProcess, socket.socket],
) -> None:
    """A request in flight is answered in full while new connections are refused already."""
    server, connection = begun
    server.tell(signal.SIGTERM)
    wait_until_refused(server)
    connection.sendall(BODY[10:])
    head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"\r\nconnection: close" in head
    assert json.loads(body)["errorsWhileComputingFlags"] is False
    assert server.exit_code() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_serve__told_twice_to_stop__cuts_requests_off(
    begun: tuple[ServerProcess, socket.socket], second: signal.Signals
) -> None:
    """Somebody who insists is obeyed: what is in flight gets a 503 that says when to try again."""
    server, connection = begun
    server.tell(signal.SIGTERM)
    wait_until_refused(server)
    server.tell(second)
    head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: 1" in head
    assert b"\r\naccess-control-allow-origin: https://example.com" in head
    assert body == b"The server is stopping. Please try again."
    assert server.exit_code() == 0


def test_serve__drain_timeout__ends_a_request_that_does_not(start_server: Start, engine: str) -> None:
    """server.drain_timeout_s: one client that never finishes cannot keep the process alive."""
    server = start_server(
        "--demo",
        "--set",
        f"server.engine={engine}",
        "--set",
        "server.drain_timeout_s=0",
        "--set",
        "requests.body_timeout_s=60",
    )
    with server.wait_until_ready().connect() as connection:
        connection.sendall(HEAD[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 100")
        server.tell(signal.SIGTERM)
        assert read_all(connection).startswith(b"HTTP/1.1 503")
    assert server.exit_code() == 0


def test_serve__port_in_use__says_so_and_exits_with_1(start_server: Start) -> None:
    """The most common failure to start is told in one sentence, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start_server("--demo", "--set", f"server.port={port}")
        assert server.exit_code() == 1
    assert server.errors == f"flagstone: Cannot listen on 127.0.0.1:{port}: another process is using this port\n"


def test_serve__bad_configuration__lists_every_problem(start_server: Start) -> None:
    """All problems of the configuration are told at once, and nothing is served."""
    server = start_server("--set", "server.backlog=none", "--set", "server.colour=red")
    assert server.exit_code() == 1
    assert "server.backlog" in server.errors
    assert "server.colour" in server.errors


def test_serve__store_that_cannot_be_opened__is_told_in_a_sentence(start_server: Start) -> None:
    """A store that is not there stops the start, without a traceback."""
    server = start_server("--set", "store.url=file:/nowhere/definitions.json")
    assert server.exit_code() == 1
    assert server.errors.startswith("flagstone: ")
    assert "/nowhere/definitions.json" in server.errors
    assert "Traceback" not in server.errors


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "this machine has no such address"),
        ("x" * 300, "this machine knows no such host"),
    ],
)
def test_bind__bad_host__is_told_in_a_sentence(host: str, why: str) -> None:
    """A host that cannot be bound is named, with the reason."""
    with pytest.raises(CannotServe, match=why):
        bind(host, 0, 10)


def test_url_of__ipv6__has_brackets() -> None:
    """The announced address can be pasted into a browser, whatever its family."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listener = bind("::1", 0, 10)
    except CannotServe:
        pytest.skip("no IPv6 loopback here")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")


def test_bind__listener__accepts_at_once() -> None:
    """A connection made during startup waits in the backlog instead of being refused."""
    with bind("127.0.0.1", 0, 10) as listener, socket.create_connection(listener.getsockname()[:2], PATIENCE_S) as made:
        assert made.getpeername() == listener.getsockname()


def test_serve__host_and_port__are_where_it_listens(start_server: Start) -> None:
    """server.host, server.port: the server answers there, and not at another of the machine's addresses."""
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    server = start_server("--demo", "--set", "server.host=127.0.0.2", "--set", f"server.port={port}")
    server.wait_until_ready()
    assert server.url == f"http://127.0.0.2:{port}"
    socket.create_connection(("127.0.0.2", port), PATIENCE_S).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE_S)


@pytest.mark.parametrize(("keep_alive_s", "is_open"), [(1, False), (60, True)])
def test_serve__idle_connection__is_closed_in_its_time(
    start_server: Start, keep_alive_s: int, *, is_open: bool
) -> None:
    """server.keep_alive_timeout_s: an idle connection is closed after it, and kept until then."""
    server = start_server("--demo", "--set", f"server.keep_alive_timeout_s={keep_alive_s}").wait_until_ready()
    with server.connect() as connection:
        connection.sendall(b"GET /_liveness HTTP/1.1\r\nHost: flagstone\r\n\r\n")
        answer = b""
        while not answer.endswith(b"ok"):
            answer += connection.recv(65_536)
        connection.settimeout(2.5)
        try:
            assert (connection.recv(65_536) != b"") is is_open
        except TimeoutError:
            assert is_open


def test_serve__connections_closed_by_their_clients__leave_nothing(start_server: Start, engine: str) -> None:
    """Clients that connect anew for each request do not pile up until the keep-alive timeout."""
    server = start_server("--demo", "--set", f"server.engine={engine}").wait_until_ready()

    def tasks() -> float:
        rows = httpx.get(server.metrics_url).text.splitlines()
        return next(float(row.split()[1]) for row in rows if row.startswith("flagstone_tasks{"))

    tasks()
    before = tasks()
    for _ in range(100):
        assert httpx.post(f"{server.url}/flags?v=2", content=BODY).status_code == 200
    assert tasks() <= before + 10


@pytest.mark.parametrize(("backlog", "waiting"), [(1, 2), (50, 20)])
def test_bind__backlog__is_how_many_connections_wait(backlog: int, waiting: int) -> None:
    """server.backlog: so many connections, and one, are made before anybody accepts them; further ones hang."""
    with bind("127.0.0.1", 0, backlog) as listener, contextlib.ExitStack() as made:
        accepted = 0
        for _ in range(20):
            try:
                made.enter_context(socket.create_connection(listener.getsockname(), timeout=0.1))
            except TimeoutError:
                break
            accepted += 1
        assert accepted == waiting


def test_metrics__served_apart__until_the_server_has_stopped(start_server: Start) -> None:
    """Prometheus reads at an address of its own, which says what was answered at the other."""
    server = start_server("--demo").wait_until_ready()
    assert httpx.post(f"{server.url}/flags?v=2", content=BODY).status_code == 200
    told = httpx.get(server.metrics_url).text
    assert 'flagstone_requests_total{worker="0",endpoint="flags",status_class="2xx"} 1.0' in told
    assert httpx.get(f"{server.url}/metrics").status_code == 404
    server.tell(signal.SIGTERM)
    assert server.exit_code() == 0


def test_metrics__port_is_taken__is_told_with_the_setting(start_server: Start) -> None:
    """Who starts a second server on one machine learns which setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start_server("--demo", "--set", f"metrics.port={taken.getsockname()[1]}")
        assert server.exit_code() == 1
    assert "metrics.port" in server.errors
    assert "Traceback" not in server.errors
