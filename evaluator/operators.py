"""Property operators: a filter -> a predicate over the property's value and now.

What can be read from the filter is read once, here; the predicate does the rest. Invariant: a predicate never raises,
whatever JSON the property holds. What cannot be compared is no match, for a negative operator neither.
"""

import operator as compare
from collections.abc import Callable
from datetime import datetime
from math import isnan
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec
import re2

from evaluator.dates import moment_of_filter, moment_of_property
from evaluator.definitions import FilterDocument
from evaluator.semver import Version, parse_range, parse_version
from evaluator.types import UNSET
from evaluator.values import UNREADABLE, ascii_lower, is_boolean_like, is_truthy, number_of, text_of

Predicate = Callable[[object, datetime], bool]
"""(the property's value, or UNSET; now, aware) -> whether the filter matches."""

Check = Callable[[object, datetime], bool | None]
"""Asked only about values that are set. None when the value cannot be compared; it may raise what is UNREADABLE."""

Warn = Callable[[str], None]

MAX_PATTERN_CHARACTERS: Final = 1000
MAX_SUBJECT_CHARACTERS: Final = 4096
MAX_REGEX_BYTES: Final = 1 << 20
"""Bounds of one pattern and one search. RE2 takes time in proportion to pattern and subject: within these bounds the
worst search takes tens of milliseconds, and a usual one microseconds."""


class Options(msgspec.Struct, frozen=True):
    """What a project decides about comparing, and where to say that a filter can never match."""

    matching_version: Literal[1, 2]
    timezone: ZoneInfo
    warn: Warn


def compile_operator(
    filter: FilterDocument,  # noqa: A002 - the field's own word
    *,
    matching_version: Literal[1, 2],
    timezone: ZoneInfo,
    warn: Warn,
) -> Predicate:
    """The predicate of a property filter. `warn` is told why, when it can never match.

    A filter that can never match does not match what is unset either, though a negative operator otherwise does."""
    name = filter.operator or "exact"
    if name == "is_set":
        return lambda value, _: value is not UNSET
    if name == "is_not_set":
        return lambda value, _: value is UNSET
    if name not in _OPERATORS:
        warn(f"{name} does not compare properties")
        return _never
    if filter.value is msgspec.UNSET or filter.value is None:
        warn(f"{name} needs a value")
        return _never
    make, complete = _OPERATORS[name]
    try:
        check = make(name.removeprefix("not_"), filter.value, Options(matching_version, timezone, warn))
    except UNREADABLE:
        warn(f"{name} cannot read its value")
        return _never
    return _never if check is None else complete(check)


def _never(_: object, __: datetime) -> bool:
    return False


def _positive(check: Check) -> Predicate:
    """What is not set does not match."""

    def predicate(value: object, now: datetime) -> bool:
        try:
            return value is not UNSET and check(value, now) is True
        except UNREADABLE:
            return False

    return predicate


def _negative(check: Check) -> Predicate:
    """The complement: what is not set matches."""

    def predicate(value: object, now: datetime) -> bool:
        try:
            return value is UNSET or check(value, now) is False
        except UNREADABLE:
            return False

    return predicate


def _exact(_: str, wanted: object, options: Options) -> Check:
    """Equal lower-cased text; version 1 compares anything with a boolean-like filter by truthiness instead."""
    by_truth = is_boolean_like(wanted) if options.matching_version == 1 else wanted == []
    if by_truth:
        truth = is_truthy(wanted)
        return lambda value, _: is_truthy(value) is truth
    texts = frozenset(text_of(item).lower() for item in (wanted if isinstance(wanted, list) else [wanted]))

    def check(value: object, _: datetime) -> bool:
        return (value if value.__class__ is str else text_of(value)).lower() in texts

    return check


def _text(name: str, wanted: object, _: Options) -> Check:
    needle = ascii_lower(text_of(wanted))
    if name == "icontains":
        return lambda value, _: needle in ascii_lower(text_of(value))
    if name == "starts_with":
        return lambda value, _: ascii_lower(text_of(value)).startswith(needle)
    return lambda value, _: ascii_lower(text_of(value)).endswith(needle)


def _contains_any(_: str, wanted: object, __: Options) -> Check:
    needles = [ascii_lower(text_of(item)) for item in (wanted if isinstance(wanted, list) else [wanted])]

    def check(value: object, _: datetime) -> bool:
        text = ascii_lower(text_of(value))
        return any(needle in text for needle in needles)

    return check


def _regex(_: str, wanted: object, options: Options) -> Check | None:
    """A search with RE2, which has no pattern that takes exponential time, and so no look-around or back-references."""
    pattern = text_of(wanted)
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        options.warn(f"patterns may have {MAX_PATTERN_CHARACTERS} characters; this one has {len(pattern)}")
        return None
    settings = re2.Options()
    settings.log_errors = False
    settings.max_mem = MAX_REGEX_BYTES
    try:
        search = re2.compile(pattern, settings).search
    except re2.error as error:
        options.warn(f"RE2 cannot take the pattern {pattern[:100]!r}: {error.args[0].decode(errors='replace')}")
        return None

    def check(value: object, _: datetime) -> bool | None:
        text = text_of(value)
        return None if len(text) > MAX_SUBJECT_CHARACTERS else search(text) is not None

    return check


def _number(name: str, wanted: object, options: Options) -> Check | None:
    bound = number_of(wanted)
    if bound is None:
        options.warn(f"{name} needs a number")
        return None
    holds = {"gt": compare.gt, "gte": compare.ge, "lt": compare.lt, "lte": compare.le}[name]

    def check(value: object, _: datetime) -> bool:
        number = number_of(value)
        return number is not None and bool(holds(number, bound))

    return check


def _between(_: str, wanted: object, options: Options) -> Check | None:
    bounds = [number_of(item) for item in wanted] if isinstance(wanted, list) else []
    low, high = bounds if len(bounds) == 2 else (None, None)
    if low is None or high is None or not low <= high:  # Nan is not even equal to itself.
        options.warn("between needs a list of two numbers, the smaller one first")
        return None

    def check(value: object, _: datetime) -> bool | None:
        number = number_of(value)
        return None if number is None or isnan(number) else low <= number <= high

    return check


def _date(name: str, wanted: object, options: Options) -> Check | None:
    moment = moment_of_filter(wanted, options.timezone)
    if moment is None:
        options.warn(f"{name} needs a date, or a span such as -7d")
        return None
    holds = {"is_date_before": compare.lt, "is_date_after": compare.gt, "is_date_exact": compare.eq}[name]
    timezone = options.timezone

    def check(value: object, now: datetime) -> bool:
        bound, seen = moment(now), moment_of_property(value, now, timezone)
        return bound is not None and seen is not None and bool(holds(seen, bound))

    return check


def _semver(name: str, wanted: object, options: Options) -> Check | None:
    bound = parse_version(text_of(wanted))
    if bound is None:
        options.warn(f"{name} needs a version")
        return None
    kind = name.removeprefix("semver_")
    holds: Callable[[Version, Version], bool] = {
        "eq": compare.eq,
        "neq": compare.ne,
        "gt": compare.gt,
        "gte": compare.ge,
        "lt": compare.lt,
        "lte": compare.le,
    }[kind]

    def check(value: object, _: datetime) -> bool:
        version = parse_version(text_of(value))
        return version is not None and holds(version, bound)

    return check


def _semver_range(name: str, wanted: object, options: Options) -> Check | None:
    kinds: dict[str, Literal["tilde", "caret", "wildcard"]] = {
        "semver_tilde": "tilde",
        "semver_caret": "caret",
        "semver_wildcard": "wildcard",
    }
    contains = parse_range(kinds[name], text_of(wanted))
    if contains is None:
        options.warn(
            f"{name} needs a version" if name != "semver_wildcard" else f"{name} needs a pattern such as 1.2.*"
        )
        return None

    def check(value: object, _: datetime) -> bool:
        version = parse_version(text_of(value))
        return version is not None and contains(version)

    return check


Make = Callable[[str, object, Options], Check | None]

_OPERATORS: Final[dict[str, tuple[Make, Callable[[Check], Predicate]]]] = {
    "exact": (_exact, _positive),
    "is_not": (_exact, _negative),
    "icontains": (_text, _positive),
    "not_icontains": (_text, _negative),
    "starts_with": (_text, _positive),
    "not_starts_with": (_text, _negative),
    "ends_with": (_text, _positive),
    "not_ends_with": (_text, _negative),
    "icontains_multi": (_contains_any, _positive),
    "not_icontains_multi": (_contains_any, _negative),
    "regex": (_regex, _positive),
    "not_regex": (_regex, _negative),
    "between": (_between, _positive),
    "not_between": (_between, _negative),
    **dict.fromkeys(("gt", "gte", "lt", "lte"), (_number, _positive)),
    **dict.fromkeys(("is_date_before", "is_date_after", "is_date_exact"), (_date, _positive)),
    **dict.fromkeys([f"semver_{kind}" for kind in ("eq", "neq", "gt", "gte", "lt", "lte")], (_semver, _positive)),
    **dict.fromkeys([f"semver_{kind}" for kind in ("tilde", "caret", "wildcard")], (_semver_range, _positive)),
}
