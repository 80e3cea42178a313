"""Settings that change while the service runs: which ones can, what a new set would change, and what is in force.

Reading them anew is done by sources.py. Invariant: settings in force are replaced as a whole, in one assignment.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from config.address import Address
from config.pairs import Pairs
from config.settings import FIELDS, Settings
from config.sources import custom

_SECTIONS: Final = (
    "requests", "keys", "bootstrap", "streams", "quota", "api", "proxies", "limits", "concurrency", "status",
    "log", "breakers", "snapshots", "overrides",
)  # fmt: skip
_POOL: Final = ("max_connections", "connect_timeout_ms", "acquire_timeout_ms", "statement_timeout_ms")
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "server": (
        "max_connections", "max_requests_per_connection", "keep_alive_timeout_s", "header_timeout_s",
        "write_timeout_s", "lame_duck_s", "drain_timeout_s", "max_requests", "max_memory_bytes", "hang_timeout_s",
    ),
    "definitions_pool": _POOL,
    "persons_pool": _POOL,
    "writer_pool": _POOL,
    "redis": (
        "timeout_ms", "connect_timeout_ms", "max_connections", "ttl_s", "compress_above_bytes", "max_fills_per_s",
        "max_fill_bytes_per_s",
    ),
    "builder": (
        "concurrency", "poll_ms", "min_rest_ms", "max_rest_ms", "max_builds_per_s", "max_document_bytes", "lease_s",
        "max_retry_s", "verify_s", "max_verifications_per_s",
    ),
    "traces": ("headers", "timeout_ms", "sample_ratio", "parents", "max_queued"),
}  # fmt: skip
RELOADABLE: Final = frozenset(
    path
    for path in FIELDS
    for section, name in (path.split("."),)
    if section in _SECTIONS or name in _PARTS.get(section, ())
)
"""Settings that a reload puts in force. All others are read once, when the service starts."""


class Plan(msgspec.Struct, frozen=True):
    """What a new set of settings changes at once, as `settings` has it, and what only with a restart."""

    settings: Settings
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def plan(old: Settings, new: Settings) -> Plan:
    """What becomes of `old` if `new` is loaded."""
    differing = [path for path in FIELDS if _value(old, path) != _value(new, path)]
    changed = tuple(path for path in differing if path in RELOADABLE)
    sections: dict[str, dict[str, object]] = {}
    for path in changed:
        section, name = path.split(".")
        sections.setdefault(section, {})[name] = _value(new, path)
    replaced = {
        section: msgspec.structs.replace(getattr(old, section), **values) for section, values in sections.items()
    }
    return Plan(
        msgspec.structs.replace(old, **replaced), changed, tuple(path for path in differing if path not in RELOADABLE)
    )


class Live:
    """The settings in force in this process, and whether it is about to leave."""

    def __init__(self, settings: Settings, generation: int = 0) -> None:
        self.settings = settings
        self.generation = generation
        self.is_leaving = False
        self._followers: list[Callable[[Settings], None]] = []

    def __repr__(self) -> str:
        return f"<Live generation {self.generation}{', leaving' if self.is_leaving else ''}>"

    def follow(self, adopt: Callable[[Settings], None]) -> None:
        """Have `adopt` called with whatever is put in force, for a part that keeps what it was made with."""
        self._followers.append(adopt)

    def put_in_force(self, settings: Settings, generation: int) -> None:
        self.settings, self.generation = settings, generation
        for adopt in self._followers:
            adopt(settings)


def dumps(settings: Settings) -> bytes:
    """Settings for another process, passwords included."""
    return msgspec.json.encode(settings, enc_hook=_plain)


def loads(raw: bytes) -> Settings:
    """The same settings."""
    return msgspec.json.decode(raw, type=Settings, dec_hook=custom)


def _value(settings: Settings, path: str) -> object:
    section, name = path.split(".")
    return getattr(getattr(settings, section), name)


def _plain(value: Any) -> object:
    return value.reveal() if isinstance(value, Address | Pairs) else str(value)
