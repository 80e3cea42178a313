"""What a load run sends, and when.

Sending it is generator.py's. Invariant: when a request is due depends on the plan alone, never on an answer.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`phases` are (seconds, requests per second); a rate of 0 only watches. Without bodies, requests are GET."""

    url: str
    phases: tuple[tuple[float, float], ...]
    bodies: tuple[bytes, ...] = ()
    headers: tuple[str, ...] = ()
    connections: int = 256
    sources: tuple[str, ...] = ()
    """Addresses of this machine that connections are made from in turn, as if each were somebody else."""
    max_waiting: int = 10_000
    timeout_s: float = 3.0
    retries: int = 0
    retry_delay_s: float = 0.1
    probe: str | None = None
    """A path to GET ten times a second on a connection of its own, to see whether health is served under load."""

    @property
    def seconds(self) -> float:
        return sum(seconds for seconds, _ in self.phases)

    def due(self) -> Iterator[float]:
        """When each request is due, in seconds from the start."""
        begins = 0.0
        for seconds, rate in self.phases:
            yield from (begins + number / rate for number in range(round(seconds * rate)))
            begins += seconds

    def messages(self) -> list[bytes]:
        """Each request that there is, ready to be written."""
        parts = urlsplit(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = "\r\n".join((f"Host: {parts.netloc}", *self.headers))
        if not self.bodies:
            return [f"GET {target} HTTP/1.1\r\n{lines}\r\n\r\n".encode()]
        head = f"POST {target} HTTP/1.1\r\n{lines}\r\nContent-Type: application/json\r\nContent-Length: "
        return [head.encode() + b"%d\r\n\r\n%s" % (len(body), body) for body in self.bodies]


def flags_bodies(token: str, people: int = 1000) -> tuple[bytes, ...]:
    """Requests for the flags of so many people."""
    bodies = ({"token": token, "distinct_id": f"u{it}", "person_properties": {"plan": "free"}} for it in range(people))
    return tuple(map(msgspec.json.encode, bodies))
