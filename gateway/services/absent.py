"""Tokens for which there is no snapshot: why, and until when that need not be asked again.

Apart from what is held, so that made-up tokens cannot push out a snapshot. Invariant: as bounded as the rest.
"""

from typing import Final

from cachetools import LRUCache
from msgspec import Struct

from gateway.errors import AuthenticationFailed, Unavailable

RECENTLY_S: Final = 60.0


class Absent(Struct, frozen=True):
    """Why there is no snapshot for a token, and until when this need not be asked again."""

    error: type[AuthenticationFailed | Unavailable]
    until: float


class AbsentTokens(LRUCache[str, Absent]):
    """Least recently used."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        # Every look into the cache itself, iteration included, would make what it looks at the most recently used.
        self._unavailable: dict[str, float] = {}

    def __setitem__(self, token: str, absent: Absent) -> None:
        super().__setitem__(token, absent)
        self._unavailable.pop(token, None)
        if absent.error is Unavailable:
            self._unavailable[token] = absent.until

    def __delitem__(self, token: str) -> None:
        super().__delitem__(token)
        self._unavailable.pop(token, None)

    def resized(self, most: int, latest: float) -> "AbsentTokens":
        """The same with room for so many, none remembered as unknown for longer than this; this one is empty then."""
        resized = AbsentTokens(most)
        while self:
            token, absent = self.popitem()
            until = absent.until if absent.error is Unavailable else min(absent.until, latest)
            resized[token] = Absent(absent.error, until)
        return resized

    def unavailable(self, now: float) -> int:
        """How many of them were asked for in vain lately, with nobody knowing whether they exist."""
        return sum(until + RECENTLY_S > now for until in self._unavailable.values())
