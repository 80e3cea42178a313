"""Sockets that listen, and TLS: tried out in the supervisor, so that a failure is told before all else is opened.

Accepting is in acceptor.py. Invariant: a bound socket listens already; connections made before anybody accepts wait.
"""

import errno
import socket
import ssl
from typing import Final

from config.server import Server

_BIND_ERRORS: Final = {
    errno.EADDRINUSE: "another process is using this port",
    errno.EACCES: "this user may not use this port",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


class CannotServe(Exception):
    """The process cannot start serving; its text is one sentence for the operator."""


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket for the address. Raises CannotServe."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise CannotServe(f"Cannot listen on {host}: this machine knows no such host") from None
    try:
        # A restarted server must not wait for the old one's closed connections to expire.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Two sockets may be bound to one address until one listens, so only listening proves that the port is ours.
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        why = _BIND_ERRORS.get(error.errno or 0, error.strerror)
        raise CannotServe(f"Cannot listen on {host}:{port}: {why}") from None
    return listener


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """The address to reach the listener at; with port 0 configured, this has the real port."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"


def tls_context(server: Server) -> ssl.SSLContext | None:
    """What TLS is spoken with; None without. Raises CannotServe when its files are of no use."""
    if not server.tls_certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        # An encrypted key must not ask whoever sits at the terminal.
        context.load_cert_chain(server.tls_certificate, server.tls_key, lambda: "")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CannotServe(
            f"Cannot speak TLS with server.tls_certificate {server.tls_certificate} and its key: {why}"
        ) from None
    return context
