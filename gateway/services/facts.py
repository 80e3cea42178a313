"""Loads what Needs names, inside the deadline; what cannot be had is named in the Facts, never raised.

Invariant: a store that hangs holds neither the request nor an unbounded number of tasks.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from evaluator.types import NEVER_ASKED, Context, Facts, Missing, Needs, OverrideWrite
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import Deadline, GroupStore, OverrideStore, Person, PersonStore
from gateway.telemetry import Outage, log_event

MAX_ABANDONED: Final = 64
"""Loads given up that have not ended yet. With this many, the store is taken to be hanging and is not asked."""
MAX_WRITES: Final = 64
"""Writes of overrides under way. They are made once per person and flag, so more than this is a store in trouble."""
WRITE_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 1.0
"""How long closing waits for loads it cancelled; an adapter that does not react must not hold the process."""

NOBODY: Final = Person({})
NO_OVERRIDES: Final = Missing("hash_key_override_error", "The stored identifier to hash could not be fetched")

T = TypeVar("T")

_DESCRIPTIONS: Final = {
    StoreTimeout.missing_code: "Stored properties did not arrive in time",
    StoreUnavailable.missing_code: "The store of properties cannot be reached",
    StoreError.missing_code: "The store of properties failed",
}


def _missing(code: str) -> Missing:
    return Missing(code, _DESCRIPTIONS.get(code, _DESCRIPTIONS[StoreError.missing_code]))


class FactsService:
    """Use as an async context manager: it owns the loads it gave up on, and cancels them when closed."""

    def __init__(self, persons: PersonStore, groups: GroupStore, overrides: OverrideStore, *, reserve_s: float) -> None:
        self._persons = persons
        self._groups = groups
        self._overrides = overrides
        self._reserve_s = reserve_s
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._writes: set[asyncio.Task[None]] = set()
        self._outages = {part: Outage(f"{part}_store") for part in ("person", "group", "override")}

    def __repr__(self) -> str:
        return f"<FactsService {len(self._abandoned)}/{MAX_ABANDONED} abandoned, {len(self._writes)} writes>"

    async def __aenter__(self) -> "FactsService":
        return self

    async def __aexit__(self, *_: object) -> None:
        for load in self._abandoned:
            load.cancel()
        if pending := self._abandoned | self._writes:
            await asyncio.wait(pending, timeout=CLOSE_TIMEOUT_S)

    async def load(self, project_id: int, context: Context, needs: Needs, deadline: Deadline) -> Facts:
        """The facts in `needs`, as far as they came before the deadline less the time reserved for answering.

        The parts are loaded at the same time; what fails one leaves the others.
        """
        if not needs:
            return Facts()
        time_left_s = deadline.remaining_s() - self._reserve_s
        keys = {kind: context.groups[kind] for kind in needs.groups}
        ids = (context.distinct_id, *([context.anon_distinct_id] if context.anon_distinct_id else []))
        wants_person = bool(needs.person_properties or needs.cohorts)
        person, groups, overrides = await asyncio.gather(
            self._part("person", wants_person, lambda: self._person(project_id, context.distinct_id), time_left_s),
            self._part("group", bool(keys), lambda: self._groups.load_groups(project_id, keys), time_left_s),
            self._part(
                "override",
                bool(needs.overrides),
                lambda: self._overrides.load_overrides(project_id, ids),
                time_left_s,
            ),
        )
        return Facts(
            person_properties=person if isinstance(person, Missing) else person.properties,
            cohorts=person if isinstance(person, Missing) else person.cohorts,
            groups={kind: groups if isinstance(groups, Missing) else groups.get(kind, {}) for kind in keys},
            overrides=NO_OVERRIDES if isinstance(overrides, Missing) and needs.overrides else overrides,
        )

    def keep(self, project_id: int, write: OverrideWrite) -> None:
        """Keep overrides, after the answer and without anybody waiting; dropped when too many are under way."""
        if len(self._writes) >= MAX_WRITES:
            log_event("override_write_dropped", logging.WARNING, project_id=project_id)
            return
        task = asyncio.ensure_future(self._keep(project_id, write))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _keep(self, project_id: int, write: OverrideWrite) -> None:
        saving = self._overrides.save_overrides(project_id, write.distinct_ids, write.hash_keys)
        try:
            await asyncio.wait_for(saving, WRITE_TIMEOUT_S)
        except (StoreError, TimeoutError) as error:
            self._outages["override"].failed(error)
        except Exception as error:  # A bug in an adapter must not pass unseen because nobody waits.
            log_event("override_write_crashed", logging.ERROR, exception=error)

    async def _person(self, project_id: int, distinct_id: str) -> Person:
        return await self._persons.load_person(project_id, distinct_id) or NOBODY

    async def _part(
        self, part: str, is_wanted: bool, load: Callable[[], Coroutine[Any, Any, T]], time_left_s: float
    ) -> T | Missing:
        """What the load gives, or why it cannot be had."""
        if not is_wanted:
            return NEVER_ASKED
        if time_left_s <= 0:
            return _missing(StoreTimeout.missing_code)
        try:
            loaded = await self._bounded(load, time_left_s)
        except StoreError as error:
            self._outages[part].failed(error)
            return _missing(error.missing_code)
        except Exception as error:  # A bug in an adapter costs the flags that need it, not the answer.
            log_event("facts_crashed", logging.ERROR, exception=error)
            return _missing(StoreError.missing_code)
        self._outages[part].succeeded()
        return loaded

    async def _bounded(self, load: Callable[[], Coroutine[Any, Any, T]], time_left_s: float) -> T:
        if len(self._abandoned) >= MAX_ABANDONED:
            raise StoreUnavailable("too many loads that were given up have not ended")
        loading = asyncio.ensure_future(load())
        try:
            await asyncio.wait({loading}, timeout=time_left_s)
            if loading.done():
                return loading.result()
            raise StoreTimeout(f"no answer within {time_left_s * 1000:.0f} ms")
        finally:
            if not loading.done():
                self._abandon(loading)

    def _abandon(self, load: "asyncio.Task[Any]") -> None:
        """Cancel without waiting: an adapter that does not react must not hold the request."""
        load.cancel()
        self._abandoned.add(load)
        load.add_done_callback(self._reap)

    def _reap(self, load: "asyncio.Task[Any]") -> None:
        self._abandoned.discard(load)
        if not load.cancelled():
            load.exception()  # Taken, so that asyncio does not report it as never retrieved.
