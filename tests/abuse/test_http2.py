"""HTTP/2 and TLS: that they work at all, and what may be done to them.

Only hypercorn speaks them. Invariant: streams that are reset, and handshakes that never end, leave nothing behind.
"""

import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trustme

from tests.abuse.victim import BODY, LIVENESS, Victim, read_all, send_quietly

HEADERS = [(":method", "POST"), (":path", "/flags?v=2"), (":scheme", "https"), (":authority", "localhost")]
LISTEN = [(":method", "GET"), (":path", "/ofrep/v1/stream?token=phc_demo"), *HEADERS[2:]]
SHORT = ("server.keep_alive_timeout_s=2", "server.write_timeout_s=1", "requests.body_timeout_s=1")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def connect(authority: trustme.CA) -> Callable[[Victim], "Http2Client"]:
    """Makes HTTP/2 connections to a server."""
    trusting = ssl.create_default_context()
    trusting.set_alpn_protocols(["h2"])
    authority.configure_trust(trusting)
    return lambda victim: Http2Client(trusting.wrap_socket(victim.server.connect(), server_hostname="localhost"))


@pytest.fixture
def start_secure(tmp_path: Path, authority: trustme.CA, start_victim: Callable[..., Victim]) -> Callable[..., Victim]:
    """Starts a server that speaks TLS, with a certificate that its clients trust."""
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    def start(*settings: str) -> Victim:
        files = (f"server.tls_certificate={tmp_path / 'server.pem'}", f"server.tls_key={tmp_path / 'server.key'}")
        return start_victim(*files, *SHORT, *settings, tls=trusting)

    return start


class Http2Client:
    """One HTTP/2 connection, over TLS."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        assert connection.selected_alpn_protocol() == "h2"
        self.connection = connection
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration())
        self.http2.initiate_connection()

    def flush(self) -> bool:
        return send_quietly(self.connection, self.http2.data_to_send())

    def begin(self, *, with_body: bool = False) -> int:
        """The number of a new stream, on which a request has begun."""
        stream: int = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, HEADERS)
        if with_body:
            self.http2.send_data(stream, BODY, end_stream=True)
        return stream

    def listen(self) -> None:
        """Ask for a stream of events."""
        self.http2.send_headers(self.http2.get_next_available_stream_id(), LISTEN, end_stream=True)

    def statuses(self, streams: int) -> list[str]:
        """What came back on so many streams."""
        found: list[str] = []
        self.flush()
        ended = 0
        while ended < streams and (data := self.connection.recv(65_536)):
            for event in self.http2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    found.append(dict(event.headers or ())[b":status"].decode())
                elif isinstance(event, h2.events.DataReceived):
                    self.http2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                elif isinstance(event, h2.events.StreamEnded):
                    ended += 1
            self.flush()
        return found


def test_tls__with_a_certificate__speaks_both_versions(
    start_secure: Callable[..., Victim], connect: Callable[[Victim], Http2Client]
) -> None:
    """server.tls_certificate: with it, and its key, clients are served over TLS, in HTTP/1.1 or HTTP/2.

    server.tls_key: the private key of that certificate.
    """
    victim = start_secure()
    assert victim.ask() == 200
    client = connect(victim)
    with client.connection:
        for _ in range(20):
            client.begin(with_body=True)
        assert client.statuses(20) == ["200"] * 20


def test_tls__asked_in_cleartext__answers_nothing(start_secure: Callable[..., Victim]) -> None:
    """Who speaks no TLS learns nothing."""
    victim = start_secure()
    with victim.withstands():
        for _ in range(50):
            with victim.server.connect() as connection:
                connection.sendall(LIVENESS)
                assert b"HTTP/1.1" not in read_all(connection)


def test_http2__streams_reset_as_soon_as_opened__leave_nothing(
    start_secure: Callable[..., Victim], connect: Callable[[Victim], Http2Client]
) -> None:
    """A client that opens and resets streams without end costs a bounded amount of work, and no memory."""
    victim = start_secure()
    with victim.withstands():
        for _ in range(5):
            client = connect(victim)
            with client.connection:
                for _ in range(4000):
                    client.http2.reset_stream(client.begin())
                    if not client.flush():
                        break
    assert "Traceback" not in victim.server.errors


def test_http2__a_window_that_never_opens__is_not_waited_for(
    start_secure: Callable[..., Victim], connect: Callable[[Victim], Http2Client]
) -> None:
    """Streams whose client allows no data to be sent end with their requests, and then their connection."""
    victim = start_secure()
    with victim.withstands(), ExitStack() as stack:
        for _ in range(2):
            client = connect(victim)
            stack.enter_context(client.connection)
            client.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
            for _ in range(30):
                client.begin(with_body=True)
            client.flush()
        victim.waits_until(lambda: victim.metric("connections") <= 2)


def test_http2__streams_that_never_end__are_ended(
    start_secure: Callable[..., Victim], connect: Callable[[Victim], Http2Client]
) -> None:
    """Requests whose bodies never come occupy their streams for no longer than other bodies may take."""
    victim = start_secure()
    with victim.withstands(), ExitStack() as stack:
        client = connect(victim)
        stack.enter_context(client.connection)
        for _ in range(50):
            client.begin()
        client.flush()
        victim.waits_until(lambda: victim.metric("connections") <= 2)


def test_handshakes__that_never_end__keep_nobody_out(start_secure: Callable[..., Victim]) -> None:
    """Whoever occupies every place with a handshake that does not go on gives way to those who do."""
    victim = start_secure("server.max_connections=200")
    before = victim.usage()
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(victim.server.connect())
        began = time.monotonic()
        assert victim.ask() == 200
        assert time.monotonic() - began < 5
    victim.recovers_to(before)


def test_tls__idle_connections_that_are_never_closed__give_up_their_descriptors(
    start_secure: Callable[..., Victim],
) -> None:
    """A client that does not say goodbye is not waited for."""
    victim = start_secure("server.max_connections=30")
    before = victim.usage()
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(victim.connect())
        victim.waits_until(lambda: victim.usage().descriptors <= before.descriptors + 60)
        victim.recovers_to(before)


def test_http2__events_on_several_streams__come_on_one_connection(
    start_secure: Callable[..., Victim], connect: Callable[[Victim], Http2Client]
) -> None:
    """Whoever listens to several projects at once needs one connection, which goes on when all of them have ended."""
    victim = start_secure("streams.max_age_s=2", "streams.heartbeat_s=0.1")
    client = connect(victim)
    with client.connection:
        for _ in range(5):
            client.listen()
        assert client.statuses(5) == ["200"] * 5
        client.begin(with_body=True)
        assert client.statuses(1) == ["200"]


def test_http2__events_on_streams_whose_window_stays_closed__are_given_up(
    start_secure: Callable[..., Victim], connect: Callable[[Victim], Http2Client]
) -> None:
    """server.write_timeout_s: a client that lets nothing be sent to it keeps no stream for longer than that."""
    victim = start_secure("streams.max_age_s=2", "streams.heartbeat_s=0.1")
    with victim.withstands():
        client = connect(victim)
        with client.connection:
            client.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
            for _ in range(50):
                client.listen()
            assert client.flush()
            victim.waits_until(lambda: victim.metric("streams_ended_total") == 50)
            victim.waits_until(lambda: victim.metric("connections") == 0)
    assert not victim.server.errors
