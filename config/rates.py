"""Rates: how much in how long, written as text like "50/second; 1000/minute"; and tables of them by name.

Who is held to them, and how that is counted, is not known here. Invariant: rates with anything wrong about them limit
nobody, and `problems` says why.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from limits import RateLimitItem

MAX_ITEMS: Final = 4
MAX_ENTRIES: Final = 1000
_MAX_PART_CHARACTERS: Final = 40
_SHOWN_CHARACTERS: Final = 4
_EXAMPLE: Final = "50/second"

_SEPARATOR: Final = re.compile("[;,]")
_NO_TIME: Final = re.compile(r"\D0+(?!\d)")
"""A window of 0 minutes, which the grammar would take for one of 1."""


class Rates:
    """Amounts over windows of time, of which all hold at once. Empty text: no limit."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def items(self) -> "tuple[RateLimitItem, ...]":
        """Each rate in the terms of `limits`; none when there are problems."""
        found = (_item(part) for part in self._parts())
        return () if any(self.problems()) else tuple(item for item in found if item is not None)

    @cached_property
    def windows(self) -> tuple[tuple[int, float], ...]:
        """The amount and the seconds of each item, for whoever has no time to ask them."""
        return tuple((item.amount, float(item.get_expiry())) for item in self.items)

    def problems(self) -> Iterator[str]:
        """Why the text limits nobody although it is not empty."""
        parts = self._parts()
        if len(parts) > MAX_ITEMS:
            yield f"has {len(parts)} rates, of which {MAX_ITEMS} are the most"
            return
        seen: dict[int, str] = {}
        for part in parts:
            item = _item(part)
            if item is None:
                yield f'"{part[:_MAX_PART_CHARACTERS]}" is no rate such as {_EXAMPLE}'
            elif item.amount == 0:
                yield f'"{part}" lets nobody in; for no limit, leave it empty'
            elif item.get_expiry() in seen:
                yield f'"{part}" is over the same time as "{seen[item.get_expiry()]}"'
            else:
                seen[item.get_expiry()] = part

    def _parts(self) -> list[str]:
        return [part.strip() for part in _SEPARATOR.split(self._text) if part.strip()]

    def __bool__(self) -> bool:
        return bool(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rates) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Rates({self._text!r})"


class RateTable:
    """Rates by name, from a table, or from text that is the same table as a JSON object.

    Raises TypeError for anything else, and ValueError for text that is no such object. Names may be tokens: nothing
    here shows more than the end of one, except `str`.
    """

    __slots__ = ("_rates",)

    def __init__(self, value: object) -> None:
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value, type=dict[str, str])
            except msgspec.DecodeError as error:
                raise ValueError(f"no JSON object of rates: {error}") from None
        if not isinstance(value, Mapping):
            raise TypeError("expected a table of rates by name")
        self._rates: dict[str, Rates] = {}
        for name, text in value.items():
            if not (isinstance(name, str) and isinstance(text, str)):
                raise TypeError("expected rates as text by name")
            self._rates[name] = Rates(text)

    def get(self, name: str) -> Rates | None:
        """The rates under this name; empty ones are an entry too, which says that there is no limit."""
        return self._rates.get(name)

    def problems(self) -> Iterator[str]:
        """What is wrong with entries, or with how many there are."""
        if len(self._rates) > MAX_ENTRIES:
            yield f"has {len(self._rates)} entries, of which {MAX_ENTRIES} are the most"
            return
        for name, rates in self._rates.items():
            for problem in rates.problems():
                yield f"entry {_masked(name)}: {problem}"

    def __bool__(self) -> bool:
        return bool(self._rates)

    def __len__(self) -> int:
        return len(self._rates)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rates)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RateTable) and self._rates == other._rates

    def __hash__(self) -> int:
        return hash(frozenset(self._rates.items()))

    def __str__(self) -> str:
        return msgspec.json.encode({name: str(rates) for name, rates in self._rates.items()}).decode()

    def __repr__(self) -> str:
        return f"<RateTable {len(self._rates)} entries>"


def _masked(name: str) -> str:
    is_long = len(name) > 2 * _SHOWN_CHARACTERS
    return f'"...{name[-_SHOWN_CHARACTERS:]}"' if is_long else f'"{name}"'


def _item(part: str) -> "RateLimitItem | None":
    """The one rate in this part of the text; None when it is something else."""
    # Here, not above: the package imports all of its storages, which takes longer than the rest of the settings.
    from limits import parse_many

    if len(part) > _MAX_PART_CHARACTERS or _NO_TIME.search(part):
        return None
    try:
        (item,) = parse_many(part)
    except ValueError:
        return None
    return item
