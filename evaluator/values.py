"""How values of filters and properties are read: as text, as numbers, as moments, as truth.

The rules imitate PostHog's service, which is written in Rust; where they look odd, that is why.
Invariant: whatever JSON comes in, nothing here raises; what cannot be read is None.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

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
    if isinstance(value, list):
        return all(map(is_boolean_like, value))
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in {"true", "false"})


def is_truthy(value: object) -> bool:
    """True, the word true in any case, or an array of nothing else (an empty one too); all else is false."""
    if isinstance(value, list):
        return all(map(is_truthy, value))
    return value is True or (isinstance(value, str) and value.lower() == "true")


Moment = Callable[[datetime], datetime | None]
"""A moment that may depend on now (aware, UTC); None when it lies beyond what dates can tell."""

_RELATIVE: Final = re.compile(r"-?(?P<number>\d+)(?P<unit>[hdwmy])", re.ASCII)
_MAX_RELATIVE: Final = 10_000
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_LOCAL: Final = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?", re.ASCII)
_RFC3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_LENIENT: Final = (
    "%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M UTC", "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%dT%H:%M:%S%z",
    "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%m/%d/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S",
    "%m/%d/%y", "%d %B %Y", "%d %b %Y", "%d %B %Y %H:%M:%S", "%d %b %Y %H:%M:%S", "%B %d, %Y", "%b %d, %Y",
    "%B %d, %Y %I:%M %p", "%b %d, %Y %I:%M %p", "%B %d, %Y %I:%M:%S %p", "%b %d, %Y %I:%M:%S %p",
    "%B %d, %Y %H:%M:%S", "%b %d, %Y %H:%M:%S", "%Y-%b-%d", "%m.%d.%Y", "%Y.%m.%d",
)  # fmt: skip
"""Forms tried last, in UTC: those in common use of what Rust's dateparser takes. Month names are English."""


def moment_of_filter(value: object, timezone: ZoneInfo) -> Moment | None:
    """The moment a date filter names: relative to now, or fixed. None when it names none."""
    if not isinstance(value, str):
        return None
    relative = _RELATIVE.fullmatch(value)
    if relative is not None:
        number, unit = int(relative["number"]), relative["unit"]
        if number >= _MAX_RELATIVE:
            return None
        return lambda now: _before(now, number, unit, timezone)
    fixed = _parse_moment(value, timezone)
    return None if fixed is None else lambda _: fixed


def moment_of_property(value: object, timezone: ZoneInfo) -> datetime | None:
    """The moment a property holds: text as in filters but never relative; numbers are seconds since 1970."""
    seconds = number_of(value)
    if seconds is not None:
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    return _parse_moment(value, timezone) if isinstance(value, str) else None


def _before(now: datetime, number: int, unit: str, timezone: ZoneInfo) -> datetime | None:
    try:
        match unit:
            case "h":
                return now - timedelta(hours=number)
            case "d":
                return _as_utc(now.astimezone(timezone).replace(tzinfo=None) - timedelta(days=number), timezone)
            case "w":
                return _as_utc(now.astimezone(timezone).replace(tzinfo=None) - timedelta(weeks=number), timezone)
        months = number * 12 if unit == "y" else number
        local = now.astimezone(timezone).replace(tzinfo=None)
        year, month = divmod(local.year * 12 + local.month - 1 - months, 12)
        return _as_utc(local.replace(year=year, month=month + 1, day=_last_day(year, month + 1, local.day)), timezone)
    except (ValueError, OverflowError):
        return None


def _last_day(year: int, month: int, day: int) -> int:
    """The day, or the month's last where the month is shorter."""
    following = date(year + month // 12, month % 12 + 1, 1)
    return min(day, (following - timedelta(days=1)).day)


def _as_utc(local: datetime, timezone: ZoneInfo) -> datetime:
    """A local time as UTC. Of a time that occurs twice the first is meant; a skipped one counts on from before."""
    return local.replace(tzinfo=timezone).astimezone(UTC)


def _parse_moment(text: str, timezone: ZoneInfo) -> datetime | None:
    try:
        if _RFC3339.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        if _DATE.fullmatch(text):
            return _as_utc(datetime.combine(date.fromisoformat(text), time()), timezone)
        if _LOCAL.fullmatch(text):
            return _as_utc(datetime.fromisoformat(text), timezone)
    except (ValueError, OverflowError):
        return None
    return _parse_leniently(text)


def _parse_leniently(text: str) -> datetime | None:
    if len(text) > 64:  # No date is longer, and trying every form on a novel takes time.
        return None
    for form in _LENIENT:
        try:
            return _in_utc(datetime.strptime(text, form))  # noqa: DTZ007 - the zone is settled just below
        except (ValueError, OverflowError):
            continue
    try:
        return _in_utc(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
