"""Settings that change while the service runs: which ones can, what a new set would change, and what is in force.

Reading them anew is done by sources.py. Invariant: settings in force are replaced as a whole, in one assignment.
"""

from typing import Any, Final

import msgspec

from config.address import Address
from config.settings import FIELDS, Settings
from config.sources import custom

_SECTIONS: Final = (
    "requests", "keys", "bootstrap", "streams", "quota", "api", "proxies", "limits", "concurrency", "status",
    "log",
)  # fmt: skip
_SERVER: Final = (
    "max_connections", "max_requests_per_connection", "keep_alive_timeout_s", "header_timeout_s", "write_timeout_s",
    "lame_duck_s", "drain_timeout_s", "max_requests", "max_memory_bytes", "hang_timeout_s",
)  # fmt: skip
RELOADABLE: Final = frozenset(
    path for path in FIELDS if path.split(".")[0] in _SECTIONS or path in {f"server.{name}" for name in _SERVER}
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

    def __repr__(self) -> str:
        return f"<Live generation {self.generation}{', leaving' if self.is_leaving else ''}>"


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
    return value.reveal() if isinstance(value, Address) else str(value)
