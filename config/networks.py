"""Networks: a set of addresses, written as text like "10.0.0.0/8, fd00::/8, 192.0.2.7".

What the addresses mean is the setting's business. Invariant: an address is in the set in whichever form it is written,
an IPv4 address mapped into IPv6 included.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network


class Networks:
    """Parts that are no network are left out of the set; `problems` names them."""

    __slots__ = ("_networks", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(
            network for part in self._parts() if (network := _network(part)) is not None
        )

    def problems(self) -> Iterator[str]:
        """Why some parts of the text are no networks."""
        for part in self._parts():
            if _network(part) is None:
                yield f'"{part}" is no network such as 10.0.0.0/8, and no address'

    def _parts(self) -> list[str]:
        return [part.strip() for part in self._text.split(",") if part.strip()]

    def __contains__(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks if network.version == address.version)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Networks({self._text!r})"


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """The network, or an address as a network of one. Bits beyond the prefix are not held against anybody."""
    try:
        # A zone such as %eth0 means something on one machine only.
        network = ip_network(text.replace("%", "?"), strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((mapped, network.prefixlen - 96), strict=False)
    return network
