"""Address: where a backend is, as SCHEME:PATH or SCHEME://..., and the one way it is shown.

No connecting here. Invariant: no text made of an address holds its password.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

POSTGRES_SCHEMES: Final = ("postgresql", "postgres")
REDIS_SCHEMES: Final = ("redis", "rediss", "redis+sentinel", "redis+cluster")


class Address:
    """An empty one says that there is no such backend. Shows itself with any password masked."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def scheme(self) -> str:
        return self._text.partition(":")[0]

    @property
    def path(self) -> str:
        return self._text.partition(":")[2]

    @property
    def is_postgres(self) -> bool:
        return self.scheme in POSTGRES_SCHEMES

    def reveal(self) -> str:
        """The whole text with its password, for the driver that connects and for nothing else."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        # Up to the last "@", for a password may hold one that nobody escaped.
        return re.sub(r"(://[^:/@]*:).*(?=@)", r"\1***", self._text, flags=re.DOTALL)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"


NOWHERE: Final = Address("")


def store_problems(address: Address) -> Iterator[str]:
    """Why no store can be opened there. The value is not repeated: it may have a password anywhere in it."""
    if address.is_postgres:
        yield from _url_problems(address)
    elif address.scheme not in ("file", "sqlite"):
        yield "starts with none of file:, sqlite: and postgresql://"
    elif not address.path:
        yield f"names no path after {address.scheme}:"
    elif address.path == ":memory:":
        yield "names no file: several connections are to share what is stored"
    elif address.path.startswith("//"):
        # Elsewhere sqlite:///x is relative to the working directory; taken literally it would be a new file in /.
        yield f"the path follows {address.scheme}: directly, without //"


def pool_problems(address: Address) -> Iterator[str]:
    """Why a pool of connections cannot have this address of its own."""
    if address and not address.is_postgres:
        yield "starts with neither postgresql:// nor postgres://"
    elif address:
        yield from _url_problems(address)


def redis_problems(address: Address) -> Iterator[str]:
    """Why no Redis can be there."""
    if address and address.scheme not in REDIS_SCHEMES:
        yield f"starts with none of {', '.join(f'{scheme}://' for scheme in REDIS_SCHEMES)}"
    elif address:
        yield from _url_problems(address)


def upstream_problems(address: Address) -> Iterator[str]:
    """Why nothing can be sent there."""
    text = address.reveal()
    if not address:
        return
    if address.scheme not in ("http", "https"):
        yield "starts with neither http:// nor https://"
        return
    try:
        url = urlsplit(text)
        is_host = bool(url.hostname) and url.port != 0
    except ValueError:
        is_host = False
    if not is_host or re.search(r"[^!-~]", text):
        yield f"names nothing after {address.scheme}:// that a request can go to"
    elif "@" in url.netloc:
        yield "has a user or a password, which would not be sent"
    elif "?" in text or "#" in text:
        yield "has more than a host, a port and a path"


def _url_problems(address: Address) -> Iterator[str]:
    if not address.path.startswith("//") or address.path == "//":
        yield f"names nothing after {address.scheme}://"
