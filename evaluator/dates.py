"""Moments: what the text or number of a filter or a property names, and the calendar behind it.

Forms are tried in the order of PostHog's service, with the years 1 to 9999 that Python can tell. Invariant: nothing
here raises, whatever the text; what names no moment is None.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from evaluator.values import number_of

Moment = Callable[[datetime], datetime | None]
"""A moment that may depend on now (aware); None when it lies beyond the calendar, or in an hour the clocks skipped."""

_MAX_CHARACTERS: Final = 64
"""No date is longer, and trying every form on a novel takes time."""
_RELATIVE: Final = re.compile(r"-?0*(?P<number>\d{1,4})(?P<unit>[hdwmy])", re.ASCII)
_SPANS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_ISO: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:\d{2})?)?", re.ASCII | re.IGNORECASE
)

_TIME: Final = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d{1,9}))?)?(?:\s*(?P<half>[ap]m))?"
)
_ZONE: Final = r"(?P<zone>[+-]\d{2}(?::?\d{2})?|[a-z]+)"
_LENIENT: Final = tuple(
    re.compile(rf"{form}(?:(?:,?\s+|\s+at\s+){_TIME})?(?:\s*{_ZONE})?", re.ASCII | re.IGNORECASE)
    for form in (
        r"(?P<year>\d{4})-(?P<month>\d{2}|[a-z]{3,9})-(?P<day>\d{2})",  # 2021-05-01 1:42 PM UTC, 2021-May-01
        r"(?P<year>\d{4})(?P<_>[/.])(?P<month>\d{1,2})(?P=_)(?P<day>\d{1,2})",  # 2021/5/1, 2021.05.01
        r"(?P<month>\d{1,2})(?P<_>[/.])(?P<day>\d{1,2})(?P=_)(?P<year>\d{4}|\d{2})",  # 5/1/2021, 05.01.21
        r"(?P<month>[a-z]{3,9})\.?\s+(?P<day>\d{1,2}),?\s+(?P<year>\d{4}|\d{2})",  # May 1, 2021
        r"(?:[a-z]{3},\s+)?(?P<day>\d{1,2})\s+(?P<month>[a-z]{3,9})\s+(?P<year>\d{4}|\d{2})",  # Sat, 01 May 2021
    )
)
"""Forms tried last, in UTC unless they name a zone, and at midnight without a time: those in common use of what Rust's
dateparser crate takes. Left out are those that borrow a part from today, which would mean something else every day."""
_MONTHS: Final = {
    name: number
    for number, month in enumerate(
        ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
         "december"), start=1
    )
    for name in (month, month[:3], str(number), f"{number:02}")
}  # fmt: skip
_ZONE_HOURS: Final = {
    "utc": 0, "gmt": 0, "z": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7,
}  # fmt: skip
_EPOCH_UNITS: Final = {10: 1, 13: 1_000, 19: 1_000_000_000}
"""Digits of a timestamp of our days -> its units in a second."""


def moment_of_filter(value: object, zone: ZoneInfo) -> Moment | None:
    """The moment a date filter names: relative to now, or fixed. None when it names none."""
    if not isinstance(value, str) or len(value) > _MAX_CHARACTERS:
        return None
    relative = _RELATIVE.fullmatch(value)
    if relative is not None:
        number, unit = int(relative["number"]), relative["unit"]
        return lambda now: _back(now, number, unit, zone)
    try:
        fixed = _fixed(value, zone)
    except (ValueError, OverflowError):  # A day or an hour that no calendar has.
        return None
    return None if fixed is None else lambda _: fixed


def moment_of_property(value: object, now: datetime, zone: ZoneInfo) -> datetime | None:
    """The moment a property holds: seconds since 1970 as number or text, or else what a filter may say."""
    seconds = number_of(value)
    if seconds is not None:
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    moment = moment_of_filter(value, zone)
    return None if moment is None else moment(now)


def _back(now: datetime, number: int, unit: str, zone: ZoneInfo) -> datetime | None:
    """So many units before now, counted on the wall clock of the zone, whichever way the sign points."""
    try:
        local = now.astimezone(zone).replace(tzinfo=None, fold=0)
        if unit in _SPANS:
            return _in_utc(local - number * _SPANS[unit], zone)
        return _in_utc(_months_back(local, number) if unit == "m" else _years_back(local, number), zone)
    except (ValueError, OverflowError):
        return None


def _months_back(local: datetime, number: int) -> datetime:
    """Month by month, as PostHog's service goes, so that a day once cut to the end of a shorter month stays cut."""
    index, day = local.year * 12 + local.month - 1, local.day
    if day > 28:  # Two years of months are enough to have met the shortest.
        day = min([day, *(_days_of_month(index - back) for back in range(1, min(number, 24) + 1))])
    year, month = divmod(index - number, 12)
    return local.replace(year=year, month=month + 1, day=day)


def _days_of_month(index: int) -> int:
    """How long a month is, months being counted from the year 0."""
    year, month = divmod(index + 1, 12)
    return (date(year, month + 1, 1) - timedelta(days=1)).day


def _years_back(local: datetime, number: int) -> datetime:
    """Year by year, so that the 29th of February becomes the 28th for good."""
    leap_day = number and (local.month, local.day) == (2, 29)
    return local.replace(year=local.year - number, day=28 if leap_day else local.day)


def _in_utc(local: datetime, zone: ZoneInfo) -> datetime | None:
    """A local time as UTC: of one that occurs twice the first, and None for one that the clocks skipped.

    PostHog's service decides so too: a missing match is better than one that silently moved by an hour."""
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    return moment if moment.astimezone(zone).replace(tzinfo=None) == local else None


def _fixed(text: str, zone: ZoneInfo) -> datetime | None:
    """The moment of an absolute form; raises ValueError or OverflowError when its numbers make no date."""
    if _ISO.fullmatch(text):
        moment = datetime.fromisoformat(text.upper())
        return _in_utc(moment, zone) if moment.tzinfo is None else moment.astimezone(UTC)
    if text.isascii() and text.isdigit() and len(text) in _EPOCH_UNITS:
        return datetime.fromtimestamp(int(text) / _EPOCH_UNITS[len(text)], UTC)
    for form in _LENIENT:
        match = form.fullmatch(text)
        if match is not None:
            return _assembled(match.groupdict())
    return None


def _assembled(part: dict[str, str | None]) -> datetime:
    year, month, day = str(part["year"]), _MONTHS.get(str(part["month"]).lower(), 0), int(part["day"] or 0)
    if len(year) == 2:
        year = ("20" if year < "70" else "19") + year
    hour = int(part["hour"] or 0)
    if part["half"] is not None:
        if not 1 <= hour <= 12:
            raise ValueError("not an hour of half a day")
        hour = hour % 12 + (12 if part["half"].lower() == "pm" else 0)
    micros = int((part["fraction"] or "").ljust(6, "0")[:6])
    local = datetime(int(year), month, day, hour, int(part["minute"] or 0), int(part["second"] or 0), micros, UTC)
    return local - _offset(part["zone"] or "utc")


def _offset(zone: str) -> timedelta:
    if zone[0] in "+-":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        return -offset if zone[0] == "-" else offset
    hours = _ZONE_HOURS.get(zone.lower())
    if hours is None:
        raise ValueError("not a zone we know")
    return timedelta(hours=hours)
