"""What one evaluation looks at, and what it finds lacking.

A frame lays the request over the facts: per key the request wins, also with a null. Invariant: a property that neither
has is UNSET only when the facts are there to say so; until then it is NOT_FETCHED.
"""

from collections.abc import Mapping
from datetime import datetime

from evaluator.types import (
    NEVER_ASKED,
    NOT_FETCHED,
    UNSET,
    Absence,
    Context,
    Facts,
    Missing,
    Needs,
    Outcome,
)

Properties = Mapping[str, object]


class Frame:
    """The request over the facts.

    `identity` is what a person is hashed by. `cohorts` keeps memberships found on the way, `results` the outcomes
    (None: undecided) of flags that others depend on, and `lacking` why those are undecided. `in_doubt` turns true with
    the first fact that was wanted and is not there.
    """

    __slots__ = (
        "_groups",
        "absent",
        "cohorts",
        "context",
        "facts",
        "identity",
        "in_doubt",
        "lacking",
        "now",
        "properties",
        "results",
    )

    def __init__(self, context: Context, facts: Facts, now: datetime) -> None:
        self.context = context
        self.facts = facts
        self.now = now
        self.in_doubt = False
        self.identity = context.distinct_id.encode(errors="replace")
        self.properties, self.absent = _overlay(context.person_properties, facts.person_properties)
        self.cohorts: dict[int, bool | None] = {}
        self.results: dict[int, Outcome | None] = {}
        self.lacking: dict[int, Missing] = {}
        self._groups: dict[str, GroupView] = {}

    def group(self, kind: str) -> "GroupView":
        """The group of this type that the request names, whether it names one or not."""
        view = self._groups.get(kind)
        if view is None:
            view = self._groups[kind] = GroupView(self.context, self.facts, kind)
        return view


class GroupView:
    """One group as an evaluation sees it. Without a key there is nothing stored to look for."""

    __slots__ = ("absent", "identity", "key", "properties")

    def __init__(self, context: Context, facts: Facts, kind: str) -> None:
        self.key = context.groups.get(kind)
        self.identity = UNSET if self.key is None else self.key.encode(errors="replace")
        stored = {} if self.key is None else facts.groups.get(kind, NEVER_ASKED)
        self.properties, self.absent = _overlay(context.group_properties.get(kind, {}), stored)


def _overlay(asked: Properties, stored: Properties | Missing) -> tuple[Properties, Absence]:
    if isinstance(stored, Missing):
        return asked, NOT_FETCHED
    return ({**stored, **asked} if stored else asked), UNSET


class Wanted:
    """Collects what undecided flags want, and of the first thing wanted why it is not there."""

    __slots__ = ("_cohorts", "_groups", "_overrides", "_properties", "missing")

    def __init__(self) -> None:
        self._properties: set[str] = set()
        self._cohorts: set[int] = set()
        self._groups: dict[str, set[str]] = {}
        self._overrides: set[str] = set()
        self.missing: Missing | None = None

    def person_property(self, key: str, facts: Facts) -> None:
        self._properties.add(key)
        self.lacks(facts.person_properties)

    def cohort(self, cohort_id: int, facts: Facts) -> None:
        self._cohorts.add(cohort_id)
        self.lacks(facts.cohorts)

    def group_property(self, kind: str, key: str, facts: Facts) -> None:
        self._groups.setdefault(kind, set()).add(key)
        self.lacks(facts.groups.get(kind, NEVER_ASKED))

    def override(self, flag_key: str, facts: Facts) -> None:
        self._overrides.add(flag_key)
        self.lacks(facts.overrides)

    def lacks(self, part: object) -> None:
        """Note why a part is missing; the first reason is the one that is told."""
        if self.missing is None and isinstance(part, Missing):
            self.missing = part

    def needs(self) -> Needs:
        return Needs(
            person_properties=frozenset(self._properties),
            cohorts=frozenset(self._cohorts),
            groups={kind: frozenset(keys) for kind, keys in self._groups.items()},
            overrides=frozenset(self._overrides),
        )
