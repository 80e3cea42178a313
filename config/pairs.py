"""Pairs: names with values, written as text like "team=web, region=eu%2Cwest", as OpenTelemetry does in variables.

What the names mean is the setting's business. Invariant: no text made of secret ones shows a value.
"""

from collections.abc import Iterator
from urllib.parse import unquote


class Pairs:
    """Values may be percent-encoded. Parts that are no pair are left out; `problems` says which."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text as it was written."""
        return self._text

    def items(self) -> list[tuple[str, str]]:
        split = (part.partition("=") for part in self._parts())
        return [(name.strip(), unquote(value.strip())) for name, equals, value in split if name.strip() and equals]

    def problems(self) -> Iterator[str]:
        """What is wrong; values are not repeated, which may be secret."""
        for number, part in enumerate(self._parts(), 1):
            name, equals, _ = part.partition("=")
            if not (name.strip() and equals):
                yield f"part {number} is no pair such as name=value"

    def _parts(self) -> list[str]:
        return [part for part in self._text.split(",") if part.strip()]

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class SecretPairs(Pairs):
    """Shows itself with its values masked."""

    __slots__ = ()

    def __str__(self) -> str:
        return ",".join(f"{name}=***" for name, _ in self.items())
