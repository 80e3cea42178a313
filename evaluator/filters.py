"""Filters of conditions and cohorts, compiled: a test with three values, and what it wants when it cannot tell.

Which source a filter reads is settled here: person or group properties, cohorts, results of other flags. Properties
that follow from others (`$os`, `$initial_...`) are derived, once it is known that they are not stored.
"""

from collections.abc import Callable
from typing import Any, Final

from evaluator.definitions import FilterDocument
from evaluator.frame import Frame, Wanted
from evaluator.operators import Predicate
from evaluator.types import NOT_FETCHED, UNSET

Test = Callable[[Frame], bool | None]
"""None says that it cannot be told without facts that are not there."""

Want = Callable[[Frame, Wanted], None]
"""Called only where the test gave None: says which facts would let it tell."""

SeenAs = Callable[[Frame], object]
"""The value a filter looks at, for whoever explains it; UNSET or NOT_FETCHED where there is none."""

PERSON_METADATA_PREFIX: Final = "__posthog_person_metadata__"

_INITIAL: Final = frozenset({
    "$app_build", "$app_name", "$app_namespace", "$app_version", "$browser", "$browser_version", "$current_url",
    "$device_type", "$os", "$os_version", "$pathname", "$raw_user_agent", "$referrer", "$referring_domain",
    "$screen_height", "$screen_width", "$viewport_height", "$viewport_width", "_kx", "dclid", "epik", "fbclid",
    "gad_source", "gbraid", "gclid", "gclsrc", "igshid", "irclid", "li_fat_id", "mc_cid", "msclkid", "qclid",
    "rdt_cid", "sccid", "ttclid", "twclid", "utm_campaign", "utm_content", "utm_medium", "utm_source", "utm_term",
    "wbraid",
})  # fmt: skip
"""Properties of which people keep the first value as `$initial_...`; until it is stored, the current one stands in."""
_TWINS: Final = {"$os": "$os_name", "$os_name": "$os"}


class Filter:
    """A compiled filter. Negation is inside `test` already; `parts` are what a cohort is made of."""

    __slots__ = ("document", "parts", "path", "seen", "test", "want")

    def __init__(
        self, document: FilterDocument, path: str, test: Test, want: Want, seen: SeenAs, *, parts: tuple[Any, ...] = ()
    ) -> None:
        self.document = document
        self.parts = parts
        self.path = path
        self.test = test
        self.want = want
        self.seen = seen


def substitutes(key: str) -> tuple[str, ...]:
    """The properties that stand in, in this order, for one that is not set."""
    if key.startswith("$initial_"):
        name = key.removeprefix("$initial_")
        for current in (f"${name}", name):
            if current in _INITIAL:
                return (current, *substitutes(current))
    twin = _TWINS.get(key)
    return () if twin is None else (twin,)


def person_filter(document: FilterDocument, path: str, predicate: Predicate) -> Filter:
    """A filter on a person's property, or on metadata of the person, which is stored among the properties."""
    key = document.key
    if document.type == "person_metadata":
        key = f"{PERSON_METADATA_PREFIX}{key}"
    if key == "distinct_id":
        return _distinct_id_filter(document, path, predicate)
    others = substitutes(key)

    def seen(frame: Frame) -> object:
        value = frame.properties.get(key, frame.absent)
        for other in others:
            if value is not UNSET:
                break
            value = frame.properties.get(other, UNSET)
        return value

    def test(frame: Frame) -> bool | None:  # What most filters do, without the call to `seen`.
        value = frame.properties.get(key, frame.absent)
        if value is NOT_FETCHED:
            frame.in_doubt = True
            return None
        return predicate(value, frame.now)

    def want(frame: Frame, wanted: Wanted) -> None:
        wanted.person_property(key, frame.facts)
        for other in others:
            if other not in frame.properties:
                wanted.person_property(other, frame.facts)

    return Filter(document, path, _test_of(seen, predicate) if others else test, want, seen)


def _test_of(seen: SeenAs, predicate: Predicate) -> Test:
    """The predicate on the value that is seen, if that is known."""

    def test(frame: Frame) -> bool | None:
        value = seen(frame)
        if value is NOT_FETCHED:
            frame.in_doubt = True
            return None
        return predicate(value, frame.now)

    return test


def _distinct_id_filter(document: FilterDocument, path: str, predicate: Predicate) -> Filter:
    def seen(frame: Frame) -> object:
        return frame.context.person_properties.get("distinct_id", frame.context.distinct_id)

    return Filter(document, path, lambda frame: predicate(seen(frame), frame.now), _nothing, seen)


def group_filter(document: FilterDocument, path: str, predicate: Predicate, kind: str | None) -> Filter:
    """A filter on a property of the request's group of this type; None is a type the project does not have."""
    key = document.key
    if kind is None:
        return Filter(document, path, lambda frame: predicate(UNSET, frame.now), _nothing, lambda _: UNSET)

    def seen(frame: Frame) -> object:
        view = frame.group(kind)
        if key == "$group_key":
            return view.properties.get(key, UNSET if view.key is None else view.key)
        return view.properties.get(key, view.absent)

    def want(frame: Frame, wanted: Wanted) -> None:
        wanted.group_property(kind, key, frame.facts)

    return Filter(document, path, _test_of(seen, predicate), want, seen)


def flag_filter(document: FilterDocument, path: str, flag_id: int) -> Filter:
    """A filter on what another flag says: true for any answer but false, false, or exactly that variant.

    A flag that the request does not consider says false. One that is undecided wants its facts itself.
    """
    expected = document.value

    def seen(frame: Frame) -> object:
        if flag_id not in frame.results:
            return False
        outcome = frame.results[flag_id]
        return NOT_FETCHED if outcome is None else outcome.result.value

    def test(frame: Frame) -> bool | None:
        if flag_id not in frame.results:
            return expected is False
        outcome = frame.results[flag_id]
        if outcome is None:
            return None
        result = outcome.result
        if isinstance(expected, bool):
            return result.enabled is expected
        return result.variant is not None and result.variant == expected

    def want(frame: Frame, wanted: Wanted) -> None:
        wanted.lacks(frame.lacking.get(flag_id))

    return Filter(document, path, test, want, seen)


def never_filter(document: FilterDocument, path: str) -> Filter:
    """A filter that no context can satisfy."""
    return Filter(document, path, lambda _: False, _nothing, lambda _: UNSET)


def _nothing(_: Frame, __: Wanted) -> None:
    """Nothing is wanted by what can always tell."""
