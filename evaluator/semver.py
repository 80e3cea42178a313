"""Versions and version ranges, ordered as Rust's semver crate orders them.

Versions are read leniently (a leading v, missing parts, leading zeros). A prerelease sorts before its release; build
metadata, unlike in the semver text, takes part in the order. In ranges a prerelease satisfies only a range that names
a prerelease of the same three numbers.
"""

import re
from collections.abc import Callable
from typing import Final, Literal

import msgspec

_VERSION: Final = re.compile(
    r"(?P<numbers>\d+(?:\.\d+){0,2})"
    # Leading zeros are forgiven in the three numbers, but not in the numbers of a prerelease.
    r"(?:-(?P<pre>(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)
_WILDCARD: Final = re.compile(r"\*|(?P<major>\d+)\.\*(?:\.\*)?|(?P<numbers>\d+\.\d+)\.\*", re.ASCII)
_MAX_CHARACTERS: Final = 256
_MAX_NUMBER: Final = 2**64 - 1

Identifiers = tuple[tuple[int, int, str], ...]
"""Dotted identifiers as sort keys: numeric ones sort by value, then by leading zeros, and before words."""


class Version(msgspec.Struct, frozen=True, order=True):
    """Sort order is field order. `release` is 0 for a prerelease and 1 for none, so that a prerelease is earlier."""

    numbers: tuple[int, int, int]
    release: int
    pre: Identifiers
    build: Identifiers


Range = Callable[[Version], bool]


def parse_version(text: str) -> Version | None:
    """The version a text names, or None."""
    if len(text) > _MAX_CHARACTERS:
        return None
    match = _VERSION.fullmatch(_stripped(text))
    if match is None:
        return None
    numbers = [int(number) for number in match["numbers"].split(".")]
    if max(numbers) > _MAX_NUMBER:
        return None
    major, minor, patch = (*numbers, 0, 0)[:3]
    pre = _identifiers(match["pre"])
    return Version((major, minor, patch), 0 if pre else 1, pre, _identifiers(match["build"]))


def _stripped(text: str) -> str:
    return text.removeprefix("v").strip()


def _identifiers(text: str | None) -> Identifiers:
    if text is None:
        return ()
    return tuple(
        (0, int(part), part.removesuffix(part.lstrip("0"))) if part.isdigit() else (1, 0, part)
        for part in text.split(".")
    )


def parse_range(kind: Literal["tilde", "caret", "wildcard"], text: str) -> Range | None:
    """Whether a version lies in `~text`, `^text`, or a pattern such as `1.2.*`; None when the text is no such thing."""
    if kind == "wildcard":
        return _wildcard(text)
    low = parse_version(text)
    if low is None:
        return None
    major, minor, patch = low.numbers
    if kind == "tilde":
        high = (major, minor + 1, 0)
    elif major:
        high = (major + 1, 0, 0)
    elif minor:
        high = (0, minor + 1, 0)
    else:
        high = (0, 0, patch + 1)
    # Build metadata has no part in ranges.
    floor = (low.numbers, low.release, low.pre)

    def contains(version: Version) -> bool:
        if not version.release and (low.release or version.numbers != low.numbers):
            return False
        return floor <= (version.numbers, version.release, version.pre) and version.numbers < high

    return contains


def _wildcard(text: str) -> Range | None:
    match = _WILDCARD.fullmatch(_stripped(text)) if len(text) <= _MAX_CHARACTERS else None
    if match is None:
        return None
    named = match["numbers"] or match["major"]
    prefix = tuple(map(int, named.split("."))) if named else ()

    def contains(version: Version) -> bool:
        return bool(version.release) and version.numbers[: len(prefix)] == prefix

    return contains
