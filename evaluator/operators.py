"""Property operators: a filter -> a predicate over the property's value and now.

What can be read from the filter is read once, here; the predicate does the rest. Invariant: a predicate never raises,
whatever JSON the property holds. What cannot be compared is not a match, also for most negative operators.
"""

import operator as compare
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec
import re2

from evaluator.definitions import FilterDocument
from evaluator.semver import Version, parse_range, parse_version
from evaluator.types import UNSET
from evaluator.values import (
    ascii_lower,
    is_boolean_like,
    is_truthy,
    moment_of_filter,
    moment_of_property,
    number_of,
    text_of,
)

Predicate = Callable[[object, datetime], bool]
"""(the property's value, or UNSET; now, aware) -> whether the filter matches."""

Check = Callable[[object, datetime], bool]
"""A predicate that is asked only about values that are set."""

Warn = Callable[[str], None]

MAX_PATTERN_CHARACTERS: Final = 1000
MAX_SUBJECT_CHARACTERS: Final = 100_000
MAX_REGEX_BYTES: Final = 1 << 20
"""Bounds of one pattern and one search; RE2 takes time in proportion to the product and never more."""


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
    """The predicate of a property filter. `warn` is told why, when it can never match."""
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
    check = make(name.removeprefix("not_"), filter.value, Options(matching_version, timezone, warn))
    return _never if check is None else complete(check)


def _never(_: object, __: datetime) -> bool:
    return False


def _present(check: Check) -> Predicate:
    """What is not set does not match."""
    return lambda value, now: value is not UNSET and check(value, now)


def _absent_or_not(check: Check) -> Predicate:
    """The complement: what is not set matches."""
    return lambda value, now: value is UNSET or not check(value, now)


def _absent_or(refused: Check) -> Predicate:
    """Like the complement, but the check has settled what cannot be compared, which is no match."""
    return lambda value, now: value is UNSET or refused(value, now)


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


def _contains_any(name: str, wanted: object, options: Options) -> Check | None:
    if not isinstance(wanted, list):
        options.warn(f"{name} needs a list")
        return None
    needles = [ascii_lower(text_of(item)) for item in wanted]

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
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        options.warn(f"RE2 cannot take the pattern {pattern[:100]!r}: {text}")
        return None
    return lambda value, _: search(text_of(value)[:MAX_SUBJECT_CHARACTERS]) is not None


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
    bounds = _bounds(wanted, options)
    if bounds is None:
        return None
    low, high = bounds

    def check(value: object, _: datetime) -> bool:
        number = number_of(value)
        return number is not None and low <= number <= high

    return check


def _not_between(_: str, wanted: object, options: Options) -> Check | None:
    """Outside the bounds; what is no number, or not a number by name, is neither within nor outside."""
    bounds = _bounds(wanted, options)
    if bounds is None:
        return None
    low, high = bounds

    def check(value: object, _: datetime) -> bool:
        number = number_of(value)
        return number is not None and (number < low or number > high)

    return check


def _bounds(wanted: object, options: Options) -> tuple[float, float] | None:
    bounds = [number_of(item) for item in wanted] if isinstance(wanted, list) else []
    if len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
        options.warn("between needs a list of two numbers")
        return None
    return bounds[0], bounds[1]


def _date(name: str, wanted: object, options: Options) -> Check | None:
    moment = moment_of_filter(wanted, options.timezone)
    if moment is None:
        options.warn(f"{name} needs a date, or a span such as -7d")
        return None
    holds = {"is_date_before": compare.lt, "is_date_after": compare.gt, "is_date_exact": compare.eq}[name]
    timezone = options.timezone

    def check(value: object, now: datetime) -> bool:
        bound, seen = moment(now), moment_of_property(value, timezone)
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
    "exact": (_exact, _present),
    "is_not": (_exact, _absent_or_not),
    "icontains": (_text, _present),
    "not_icontains": (_text, _absent_or_not),
    "starts_with": (_text, _present),
    "not_starts_with": (_text, _absent_or_not),
    "ends_with": (_text, _present),
    "not_ends_with": (_text, _absent_or_not),
    "icontains_multi": (_contains_any, _present),
    "not_icontains_multi": (_contains_any, _absent_or_not),
    "regex": (_regex, _present),
    "not_regex": (_regex, _absent_or_not),
    "between": (_between, _present),
    "not_between": (_not_between, _absent_or),
    **dict.fromkeys(("gt", "gte", "lt", "lte"), (_number, _present)),
    **dict.fromkeys(("is_date_before", "is_date_after", "is_date_exact"), (_date, _present)),
    **dict.fromkeys([f"semver_{kind}" for kind in ("eq", "neq", "gt", "gte", "lt", "lte")], (_semver, _present)),
    **dict.fromkeys([f"semver_{kind}" for kind in ("tilde", "caret", "wildcard")], (_semver_range, _present)),
}
