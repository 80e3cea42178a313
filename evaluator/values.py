"""How values of filters and properties are read: as text, as numbers, as truth.

The rules imitate PostHog's service, which is written in Rust; where they look odd, that is why.
Invariant: what cannot be read as a number is None; only `text_of` raises, for the few values that have no text.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

UNREADABLE: Final = (ValueError, OverflowError, RecursionError)
"""Raised by `text_of`: lone surrogates, integers of thousands of digits, arrays nested deeper than the stack."""

_TRUTH_OF_WORD: Final = {"true": True, "false": False}
_ASCII_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_NUMBER: Final = re.compile(
    r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE
)


def text_of(value: object) -> str:
    """A string as it is; anything else as compact JSON. msgspec writes floats as serde does: 1e16, 5.0."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def ascii_lower(text: str) -> str:
    """Lower case of A to Z alone; other letters stay."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)


def number_of(value: object) -> float | None:
    """A number, or text that Rust's float parser takes: no blanks, no underscores; infinities and nan as words."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return value
    if isinstance(value, int):
        return _float(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return None


def _float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def is_boolean_like(value: object) -> bool:
    """A bool, the words true and false in any case, or an array of nothing else (an empty one too)."""
    return all(_truth(leaf) is not None for leaf in _leaves(value))


def is_truthy(value: object) -> bool:
    """True, the word true in any case, or an array of nothing else (an empty one too); all else is false."""
    if not isinstance(value, list):
        return _truth(value) is True
    return all(_truth(leaf) is True for leaf in _leaves(value))


def _truth(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return _TRUTH_OF_WORD.get(value.lower()) if isinstance(value, str) else None


def _leaves(value: object) -> Iterator[object]:
    """What is in an array and in the arrays in it, without recursion: they may nest deeper than the stack."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        else:
            yield item
