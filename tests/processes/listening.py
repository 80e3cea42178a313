"""Clients that listen to streams of events, as raw connections: what they are answered, and what they are told.

They neither come back by themselves nor know of processes. Invariant: every wait ends.
"""

import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from tests.processes.clients import PATIENCE_S

REQUEST = b"GET /ofrep/v1/stream?token=phc_demo HTTP/1.1\r\nHost: flagstone\r\n%s\r\n"


class Listener:
    """One client. What came so far is in `received`, once somebody has read it."""

    def __init__(self, port: int, last_id: int | None = None, receive_bytes: int | None = None) -> None:
        self.connection = socket.socket()
        if receive_bytes is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.connection.settimeout(PATIENCE_S)
        self.connection.connect(("127.0.0.1", port))
        self.connection.sendall(REQUEST % (b"" if last_id is None else b"Last-Event-ID: %d\r\n" % last_id))
        self.received = b""
        self.is_open = True

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def read(self) -> None:
        """Take what is there, and wait for something if nothing is."""
        data = self.connection.recv(65_536)
        self.received += data
        self.is_open = bool(data)

    def wait_for(self, is_so: Callable[["Listener"], object]) -> "Listener":
        """The same, once it is so."""
        ends_at = time.monotonic() + PATIENCE_S
        while not is_so(self):
            assert self.is_open, self.received
            assert time.monotonic() < ends_at, self.received
            self.read()
        return self

    def begun(self) -> "Listener":
        """The same, once the first message is there, or a refusal."""
        return self.wait_for(lambda it: it.ids or it.is_turned_away or it.status not in (0, 200))

    @property
    def is_turned_away(self) -> bool:
        """Whether all it got is when to come back."""
        return re.search(rb"\r\nretry: [12]\d{4}\n\n", self.received) is not None

    @property
    def status(self) -> int:
        return int(self.received[9:12] or 0)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The data of each event."""
        return [json.loads(data) for data in re.findall(rb"\ndata: (.*)\n\n", self.received)]

    @property
    def ids(self) -> list[int]:
        return [int(number) for number in re.findall(rb"\nid: (\d+)\n", self.received)]

    @property
    def signs_of_life(self) -> int:
        return self.received.count(b":\n\n")

    @property
    def has_ended_well(self) -> bool:
        """Whether the answer is complete: no client takes that for an error."""
        return not self.is_open and self.received.endswith(b"0\r\n\r\n")


def read_to_the_end(listeners: Iterable[Listener]) -> None:
    """Returns once all of them have ended."""
    ends_at = time.monotonic() + PATIENCE_S
    with selectors.DefaultSelector() as selector:
        for listener in listeners:
            selector.register(listener.connection, selectors.EVENT_READ, listener)
        while selector.get_map():
            assert time.monotonic() < ends_at, f"{len(selector.get_map())} streams are still open"
            for key, _ in selector.select(PATIENCE_S):
                key.data.read()
                if not key.data.is_open:
                    selector.unregister(key.fileobj)
