"""Loads what Needs names, inside the deadline; what cannot be had is named in the Facts, never raised.

How a store that fails is spared lives in the guard. Invariant: a store that hangs never holds a request beyond its
deadline less the time kept back to answer.
"""

import logging
from collections.abc import Callable
from typing import Final

from evaluator.types import NEVER_ASKED, Context, Facts, Missing, Needs
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline, FactsQuery, FactsStore, StoredFacts
from gateway.resilience.guard import Guard
from gateway.telemetry import Outage, log_event

NO_OVERRIDES: Final = Missing("hash_key_override_error", "The stored identifier to hash could not be fetched")

_DESCRIPTIONS: Final = {
    StoreTimeout.missing_code: "Stored properties did not arrive in time",
    StoreUnavailable.missing_code: "The store of properties cannot be reached",
    StoreError.missing_code: "The store of properties failed",
}
_MISSING: Final = {code: Missing(code, description) for code, description in _DESCRIPTIONS.items()}


class FactsService:
    def __init__(self, store: FactsStore, guard: Guard, metrics: Metrics, *, reserve_s: Callable[[], float]) -> None:
        self._store = store
        self._guard = guard
        self._metrics = metrics
        self._reserve_s = reserve_s
        self._outage = Outage("facts_store")

    def __repr__(self) -> str:
        return f"<FactsService {self._guard!r}>"

    async def load(self, project_id: int, context: Context, needs: Needs, deadline: Deadline) -> Facts:
        """The facts in `needs`, if they came before the deadline less the time reserved for answering.

        One round trip, which identical requests at the same time share; nothing is kept beyond that.
        """
        query = _query(project_id, context, needs)
        # A page may wait for no longer than what is kept back of other requests.
        reserve_s = min(self._reserve_s(), deadline.budget_s / 2)
        try:
            stored = await self._guard.call(
                lambda: self._store.load_facts(query), deadline.remaining_s() - reserve_s, query
            )
        except StoreError as error:
            self._outage.failed(error)
            return self._without(needs, _MISSING[error.missing_code])
        except Exception as error:  # A bug in an adapter costs the flags that need it, not the answer.
            log_event("facts_crashed", logging.ERROR, exception=error)
            return self._without(needs, _MISSING[StoreError.missing_code])
        self._outage.succeeded()
        return _facts(needs, stored)

    def _without(self, needs: Needs, missing: Missing) -> Facts:
        """What is known when nothing came."""
        wants_person = bool(needs.person_properties or needs.cohorts)
        for part, is_wanted, what in (
            ("person", wants_person, missing),
            ("group", needs.groups, missing),
            ("override", needs.overrides, NO_OVERRIDES),
        ):
            if is_wanted:
                self._metrics.fact_missing(part, what.code)
        return Facts(
            person_properties=missing if wants_person else NEVER_ASKED,
            cohorts=missing if wants_person else NEVER_ASKED,
            groups=dict.fromkeys(needs.groups, missing),
            overrides=NO_OVERRIDES if needs.overrides else NEVER_ASKED,
        )


def _query(project_id: int, context: Context, needs: Needs) -> FactsQuery:
    ids = (context.distinct_id, context.anon_distinct_id) if needs.overrides and context.anon_distinct_id else None
    return FactsQuery(
        project_id,
        ids or (context.distinct_id,),
        properties=needs.person_properties,
        cohorts=needs.cohorts,
        groups=frozenset((kind, context.groups[kind]) for kind in needs.groups),
        group_properties=frozenset().union(*needs.groups.values()),
        wants_overrides=bool(needs.overrides),
    )


def _facts(needs: Needs, stored: StoredFacts) -> Facts:
    """What was asked for, and NEVER_ASKED for the rest: that a query was shared or partial must not look like unset."""
    wants_person = bool(needs.person_properties or needs.cohorts)
    return Facts(
        person_properties=stored.person_properties if wants_person else NEVER_ASKED,
        cohorts=stored.cohorts if wants_person else NEVER_ASKED,
        groups={kind: stored.groups.get(kind, {}) for kind in needs.groups},
        overrides=stored.overrides if needs.overrides else NEVER_ASKED,
    )
