"""A server under attack: what it occupies, an honest client beside the attacker, and pieces of raw HTTP.

No attack lives here. Invariant: whoever leaves `withstands` has seen the honest client served all the time, and
memory, descriptors, tasks and connections back where they were.
"""

import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PATIENCE_S, ServerProcess

BODY = b'{"token":"phc_demo","distinct_id":"alice"}'
RECOVERY_S = 10.0
MOMENT_S = 2.0
SPARE_BYTES = 24 << 20
"""An allocator keeps some of what it once needed. Every attack would leave far more if it left anything."""
TLS_SPARE_BYTES = 48 << 20
"""Closed TLS connections wait for the collector of cycles: thousands of honest ones settle at 26 MiB."""
SPARE = 4
"""Descriptors, tasks and connections that come and go by themselves, as those of the measuring do."""


def head(*lines: bytes, target: bytes = b"POST /flags?v=2") -> bytes:
    """The head of a request."""
    return b"\r\n".join((target + b" HTTP/1.1", b"Host: flagstone", *lines, b"", b""))


LIVENESS = head(target=b"GET /_liveness")
REQUEST = head(b"Content-Length: %d" % len(BODY)) + BODY


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def send_quietly(connection: socket.socket, data: bytes) -> bool:
    """Whether the server still took it."""
    try:
        connection.sendall(data)
    except (ConnectionError, ssl.SSLError):
        return False
    return True


@dataclass(frozen=True)
class Usage:
    resident_bytes: float
    descriptors: int
    tasks: float
    connections: float

    def is_back_at(self, before: "Usage", spare_bytes: int) -> bool:
        return (
            self.resident_bytes <= before.resident_bytes + spare_bytes
            and self.descriptors <= before.descriptors + SPARE
            and self.tasks <= before.tasks + SPARE
            and self.connections <= before.connections + SPARE
        )


class Victim:
    """`flagstone serve` with one worker, seen from outside."""

    def __init__(self, folder: Path, *settings: str, tls: ssl.SSLContext | None = None) -> None:
        chosen = ("limits.mode=off", "log.level=error", *settings)
        arguments = [it for setting in chosen for it in ("--set", setting)]
        is_demo = not any(setting.startswith("store.url=") for setting in settings)
        self.tls = tls
        self.server = ServerProcess(folder, *(["--demo"] if is_demo else []), *arguments)
        try:
            self.server.wait_until_ready()
            self.pid = _worker_of(folder)
            for _ in range(20):  # What is made once stands before anything is measured.
                self.ask()
        except BaseException:
            self.server.end()
            raise

    def connect(self) -> socket.socket:
        """A connection, with TLS where the server wants it."""
        connection = self.server.connect()
        if self.tls is None:
            return connection
        return self.tls.wrap_socket(connection, server_hostname="localhost")

    def answers(self, sent: bytes) -> bytes:
        """What comes back to this until the server closes the connection."""
        with self.connect() as connection:
            send_quietly(connection, sent)
            return read_all(connection)

    def ask(self) -> int:
        """The status of one honest request, on a connection of its own."""
        port = self.server.port
        client = (
            http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            if self.tls is None
            else http.client.HTTPSConnection("localhost", port, timeout=PATIENCE_S, context=self.tls)
        )
        try:
            client.request("POST", "/flags?v=2", BODY)
            answer = client.getresponse()
            answer.read()
            return answer.status
        finally:
            client.close()

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric's values whose labels include this text."""
        host, _, port = self.server.metrics_url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
        client = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        try:
            client.request("GET", "/metrics")
            told = client.getresponse().read().decode()
        finally:
            client.close()
        rows = re.findall(rf"^flagstone_{name}(?:\{{([^}}]*)\}})? (\S+)$", told, re.MULTILINE)
        return sum(float(value) for found, value in rows if labels in found)

    def usage(self) -> Usage:
        descriptors = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        return Usage(self.metric("resident_bytes"), descriptors, self.metric("tasks"), self.metric("connections"))

    def waits_until(self, is_so: Callable[[], bool]) -> None:
        """Returns once it is."""
        ends_at = time.monotonic() + RECOVERY_S
        while not is_so():
            assert time.monotonic() < ends_at, self.server.errors[-3000:]
            time.sleep(0.1)

    @contextmanager
    def withstands(self, spare_bytes: int | None = None) -> Iterator[None]:
        """An attack goes on inside; an honest client is served meanwhile, and afterwards nothing is left of it."""
        before = self.usage()
        with self.serves_others():
            yield
        self.recovers_to(before, spare_bytes)

    def recovers_to(self, before: Usage, spare_bytes: int | None = None) -> None:
        """Returns once no more is occupied than before."""
        spare_bytes = spare_bytes or (TLS_SPARE_BYTES if self.tls else SPARE_BYTES)
        ends_at = time.monotonic() + RECOVERY_S
        while not (now := self.usage()).is_back_at(before, spare_bytes):
            assert time.monotonic() < ends_at, f"before: {before}\nnow: {now}\n{self.server.errors[-3000:]}"
            time.sleep(0.2)

    @contextmanager
    def serves_others(self) -> Iterator[None]:
        """A client asks again and again meanwhile, on a new connection each time, and gets its answer.

        A worker that has more to do than it can may ask the client to come back: for a moment only.
        """
        is_over = threading.Event()
        seen: list[object] = []
        last_answered_at = time.monotonic()
        longest_wait_s = 0.0

        def ask_once() -> None:
            nonlocal last_answered_at, longest_wait_s
            try:
                seen.append(self.ask())
            except (OSError, http.client.HTTPException) as error:
                seen.append(error)
            if seen[-1] == 503:
                longest_wait_s = max(longest_wait_s, time.monotonic() - last_answered_at)
            else:
                last_answered_at = time.monotonic()

        def ask_on() -> None:
            while not is_over.wait(0.02):
                ask_once()

        honest = threading.Thread(target=ask_on)
        honest.start()
        try:
            yield
        finally:
            is_over.set()
            honest.join(2 * PATIENCE_S)
        for _ in range(int(MOMENT_S / 0.1)):
            ask_once()
            if seen[-1] == 200:
                break
            time.sleep(0.1)
        refused = [status for status in seen if status != 200]
        assert set(refused) <= {503}, refused
        assert seen[-1] == 200
        assert longest_wait_s < MOMENT_S, f"{len(refused)} of {len(seen)} refused, for {longest_wait_s:.1f} s"


def _worker_of(folder: Path) -> int:
    """The process that does the work."""
    told = subprocess.run(
        [sys.executable, "-m", "gateway", "status", "--json"],
        cwd=folder, capture_output=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    (worker,) = json.loads(told.stdout)["workers"]
    return int(worker["pid"])
