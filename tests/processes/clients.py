"""Clients that never stop asking, on connections they keep and on connections made anew, and count what became of it.

They know nothing of processes. Invariant: each request that was written has exactly one outcome, and only one that met
a connection closed since its last answer, before a single byte of an answer, is written again.
"""

import json
import re
import socket
import threading
import time
from collections import Counter
from types import TracebackType

PATIENCE_S = 20.0
KEPT = 6
ANEW = 3
PAUSE_S = 0.02
"""Between two requests of a client: with all of them, some hundred requests per second."""

BODY = json.dumps({"token": "phc_demo", "distinct_id": "alice"}).encode()
REQUEST = b"POST /flags?v=2 HTTP/1.1\r\nHost: flagstone\r\nContent-Length: %d\r\n%s\r\n" + BODY


class Load:
    """`with Load(port) as load:` asks until its end; `load.goes_on(n)` waits until n more requests are answered."""

    def __init__(self, port: int, *, kept: int = KEPT, anew: int = ANEW) -> None:
        self._port = port
        self._change = threading.Condition()
        self._is_over = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.lost: dict[int, str] = {}
        """Requests that were written to a new connection, or answered in part, and got no whole answer; by the port."""
        self.reset = 0
        """New connections that the kernel ended without an answer, as it does with those nobody has accepted."""
        self.reopened: set[int] = set()
        """The clients' own ports of kept connections that were found closed when a request was written to them."""
        self.refused = 0
        self._clients = [threading.Thread(target=self._keep) for _ in range(kept)]
        self._clients += [threading.Thread(target=self._connect_anew) for _ in range(anew)]

    def __repr__(self) -> str:
        failed = f"{self.lost}, {self.reset} reset, {len(self.reopened)} reopened, {self.refused} refused"
        return f"<Load {dict(self.statuses)}, {failed}>"

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self.goes_on()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        for client in self._clients:
            client.join(PATIENCE_S)
            assert not client.is_alive()

    @property
    def is_perfect(self) -> bool:
        """Whether every request was answered well, none was refused, and none had to be written again."""
        return set(self.statuses) == {200} and not (self.lost or self.reset or self.reopened or self.refused)

    def goes_on(self, requests: int = 100) -> "Load":
        """The same, once so many more requests were answered."""
        with self._change:
            until = self.statuses.total() + requests
            assert self._change.wait_for(lambda: self.statuses.total() >= until, PATIENCE_S), self
        return self

    def _connect_anew(self) -> None:
        message = REQUEST % (len(BODY), b"Connection: close\r\n")
        while not self._is_over.wait(PAUSE_S):
            if (connection := self._connected()) is not None:
                self._ask(connection, message, is_new=True)
                connection.close()

    def _keep(self) -> None:
        message = REQUEST % (len(BODY), b"")
        connection: socket.socket | None = None
        is_new = True
        while not self._is_over.wait(PAUSE_S):
            if connection is None:
                connection, is_new = self._connected(), True
            if connection is not None:
                if self._ask(connection, message, is_new=is_new):
                    is_new = False
                else:
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()

    def _connected(self) -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", self._port), PATIENCE_S)
        except ConnectionRefusedError:
            self.refused += 1
        except ConnectionResetError:
            self.reset += 1
        return None

    def _ask(self, connection: socket.socket, message: bytes, *, is_new: bool) -> bool:
        """Whether the connection can be used again."""
        answer, port, failure = b"", connection.getsockname()[1], "closed"
        began_at = time.monotonic()
        try:
            connection.sendall(message)
            while not is_whole(answer) and (received := connection.recv(65_536)):
                answer += received
        except OSError as error:
            failure = type(error).__name__
        with self._change:
            self._change.notify_all()
            if is_whole(answer):
                self.statuses[int(answer[9:12])] += 1
                return b"\r\nconnection: close" not in answer.lower()
            if not (answer or is_new or failure == "TimeoutError"):
                self.reopened.add(port)
            elif not answer and failure == "ConnectionResetError":
                self.reset += 1
            else:
                seconds = time.monotonic() - began_at
                self.lost[port] = f"after {seconds:.3f} s: {failure}, {len(answer)} bytes"
        return False


def is_whole(answer: bytes) -> bool:
    """Whether this is all of an answer."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
    return bool(end) and length is not None and len(body) == int(length[1])
