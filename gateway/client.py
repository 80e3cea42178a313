"""Client: who a request comes from, as everybody inside sees it.

How that is found out is in wire/forwarded.py. Invariant: an address is parsed once for each text that names it.
"""

from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct

Address = IPv4Address | IPv6Address


class Origin(Struct, frozen=True, eq=False):
    """An address with all that is ever asked of it, made once for each text that names it."""

    address: Address
    text: str
    bucket: str
    """What stands for the client in limits: an IPv6 client has a whole /64 to choose addresses from."""
    is_internal: bool


class Client(Struct, frozen=True):
    """Who a request comes from.

    `is_unproven` when an untrusted peer sent headers that were not believed; `is_trusted` when nobody was named behind
    a trusted proxy.
    """

    origin: Origin
    is_unproven: bool = False
    is_trusted: bool = False

    @property
    def address(self) -> Address:
        return self.origin.address

    @property
    def bucket(self) -> str:
        return self.origin.bucket
