"""Who a request comes from, told from its connection and from what trusted proxies say in their headers.

Knows headers and addresses, no requests. Invariant: nothing that an untrusted machine wrote is believed, and no trusted
proxy is taken for a client as long as it names one.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, Literal

from config.networks import Networks
from gateway.client import Address, Client, Origin

Header = Literal["x-forwarded-for", "forwarded"]

MAX_HOPS: Final = 32
"""Hops that are looked at, from the right. Real chains have two or three; longer ones are somebody's experiment."""
MAX_HEADER_BYTES: Final = 4096
_MAX_CACHED_BYTES: Final = 64
_SUBSCRIBER_BITS: Final = 64
_NAMES: Final[dict[Header, bytes]] = {"x-forwarded-for": b"x-forwarded-for", "forwarded": b"forwarded"}
INTERNAL: Final = Networks(
    "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 127.0.0.0/8, 169.254.0.0/16, 100.64.0.0/10, ::1, fc00::/7, fe80::/10"
)
"""Networks that no client on the internet has an address in. Python's own idea of private includes others."""


def client_of(
    peer: str | None, headers: Iterable[tuple[bytes, bytes]], trusted: Networks, header: Header = "x-forwarded-for"
) -> Client:
    """The client behind a connection from `peer`: the nearest hop that is no trusted proxy.

    A hop that cannot be read ends the walk at the proxy that passed it on; hops beyond it are anybody's.
    """
    origin = origin_of(peer) if peer else None
    if origin is None:
        return Client(UNKNOWN)
    name = _NAMES[header]
    values = [value for key, value in headers if key == name]
    if not (trusted and _is_among(trusted, origin.text)):
        return Client(origin, is_unproven=bool(values))
    joined = b",".join(values)[-MAX_HEADER_BYTES:]
    # The same client asks again and again; a long chain is somebody's own.
    walk = _walk if len(joined) <= _MAX_CACHED_BYTES else _walk.__wrapped__
    return walk(origin, joined, trusted, header)


def is_trusted(peer: str | None, trusted: Networks) -> bool:
    """Whether a connection from `peer` is a trusted proxy's."""
    origin = origin_of(peer) if peer else None
    return origin is not None and _is_among(trusted, origin.text)


@lru_cache(8192)
def _walk(peer: Origin, joined: bytes, trusted: Networks, header: Header) -> Client:
    """From the trusted peer to the nearest hop that is not trusted."""
    origin = peer
    for hop in _hops_from_the_right(joined, header):
        named = origin_of(hop)
        if named is None:
            break
        origin = named
        if not _is_among(trusted, origin.text):
            return Client(origin)
    return Client(origin, is_trusted=True)


@lru_cache(8192)
def origin_of(text: str) -> Origin | None:
    """The same as `parse`, with what limits need to know."""
    address = parse(text)
    return None if address is None else _origin(address)


def _origin(address: Address) -> Origin:
    text = bucket = str(address)
    if address.version == 6:
        prefix = int(address) >> _SUBSCRIBER_BITS << _SUBSCRIBER_BITS
        bucket = f"{IPv6Address(prefix)}/{_SUBSCRIBER_BITS}"
    return Origin(address, text, bucket, address in INTERNAL)


@lru_cache(8192)
def _is_among(networks: Networks, text: str) -> bool:
    address = parse(text)
    return address is not None and address in networks


@lru_cache(8192)
def parse(text: str) -> Address | None:
    """The address in `1.2.3.4`, `1.2.3.4:567`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:567`; else None."""
    text = text.strip()
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not (port.startswith(":") and _is_port(port[1:]))):
            return None
        if ":" not in text:
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(port):
            return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None  # Means something on that machine only.
        return address.ipv4_mapped or address
    return address


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:6]) <= 65_535


def _hops_from_the_right(joined: bytes, header: Header) -> Iterator[str]:
    """Hops from the nearest to the farthest. Several headers of one name are one list, in their order."""
    text = joined.decode("latin-1")
    hops = text.split(",") if header == "x-forwarded-for" else _split_quoted(text, ",")
    for hop in reversed(hops[-MAX_HOPS:]):
        yield hop if header == "x-forwarded-for" else _for_of(hop)


def _for_of(element: str) -> str:
    """The node of `for=` in one element of Forwarded; empty when there is none, or more than one."""
    nodes = []
    for pair in _split_quoted(element, ";"):
        name, equals, value = pair.partition("=")
        if equals and name.strip().lower() == "for":
            nodes.append(value.strip())
    if len(nodes) != 1:
        return ""
    (node,) = nodes
    return node[1:-1] if len(node) > 1 and node[0] == node[-1] == '"' else node


def _split_quoted(text: str, separator: str) -> list[str]:
    """Parts between separators that stand outside of quotes. An open quote runs to the end."""
    parts, start, is_quoted, is_escaped = [], 0, False, False
    for at, character in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif is_quoted and character == "\\":
            is_escaped = True
        elif character == '"':
            is_quoted = not is_quoted
        elif character == separator and not is_quoted:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


UNKNOWN: Final = _origin(ip_address("0.0.0.0"))  # noqa: S104 - a peer without an address, as on a Unix socket
