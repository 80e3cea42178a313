"""Whom a flag or a condition hashes: the person, their device, or a group.

Invariant: UNSET says that the request names no such identity; NOT_FETCHED that it depends on an override which was not
fetched. Both are never hashed.
"""

from collections.abc import Callable

from evaluator.frame import Frame
from evaluator.types import NOT_FETCHED, UNSET, Absence, Missing

Identify = Callable[[Frame], bytes | Absence]


def person(frame: Frame) -> bytes | Absence:
    """The distinct id."""
    return frame.identity


def device(frame: Frame) -> bytes | Absence:
    """The device id."""
    device_id = frame.context.device_id
    return device_id.encode(errors="replace") if device_id else UNSET


def group(kind: str | None) -> Identify:
    """The key of the request's group of a type; None is a type the project does not have."""
    if kind is None:
        return lambda _: UNSET
    return lambda frame: frame.group(kind).identity


def continuous(flag_key: str) -> Identify:
    """The stored override, else the anonymous id that the request came with, else the distinct id."""

    def identify(frame: Frame) -> bytes | Absence:
        overrides = frame.facts.overrides
        if isinstance(overrides, Missing):
            frame.in_doubt = True
            return NOT_FETCHED
        override = overrides.get(flag_key) or frame.context.anon_distinct_id
        return override.encode(errors="replace") if override else frame.identity

    return identify
