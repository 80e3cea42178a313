"""Loads what Needs names, inside the deadline; what cannot be had is named in the Facts, never raised.

Invariant: a store that hangs holds neither the request nor an unbounded number of tasks.
"""

import asyncio
import logging
from typing import Final

from evaluator.types import Context, Facts, Missing, Needs
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import Deadline, Person, PersonStore
from gateway.telemetry import Outage, log_event

MAX_ABANDONED: Final = 64
"""Loads given up that have not ended yet. With this many, the store is taken to be hanging and is not asked."""
CLOSE_TIMEOUT_S: Final = 1.0
"""How long closing waits for loads it cancelled; an adapter that does not react must not hold the process."""

_DESCRIPTIONS: Final = {
    StoreTimeout.missing_code: "Stored properties did not arrive in time",
    StoreUnavailable.missing_code: "The store of properties cannot be reached",
    StoreError.missing_code: "The store of properties failed",
}


def _missing(code: str) -> Missing:
    return Missing(code, _DESCRIPTIONS.get(code, _DESCRIPTIONS[StoreError.missing_code]))


class FactsService:
    """Use as an async context manager: it owns the loads it gave up on, and cancels them when closed."""

    def __init__(self, persons: PersonStore, reserve_s: float) -> None:
        self._persons = persons
        self._reserve_s = reserve_s
        self._abandoned: set[asyncio.Task[Person | None]] = set()
        self._outage = Outage("person_store")

    def __repr__(self) -> str:
        return f"<FactsService {len(self._abandoned)}/{MAX_ABANDONED} abandoned>"

    async def __aenter__(self) -> "FactsService":
        return self

    async def __aexit__(self, *_: object) -> None:
        for load in self._abandoned:
            load.cancel()
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=CLOSE_TIMEOUT_S)

    async def load(self, project_id: int, context: Context, needs: Needs, deadline: Deadline) -> Facts:
        """The facts in `needs`, as far as they came before the deadline less the time reserved for answering."""
        if not needs:
            return Facts()
        time_left_s = deadline.remaining_s() - self._reserve_s
        if time_left_s <= 0:
            return Facts(_missing(StoreTimeout.missing_code))
        try:
            person = await self._load_person(project_id, context.distinct_id, time_left_s)
        except StoreError as error:
            self._outage.failed(error)
            return Facts(_missing(error.missing_code))
        except Exception as error:  # A bug in an adapter costs the flags that need it, not the answer.
            log_event("facts_crashed", logging.ERROR, exception=error)
            return Facts(_missing(StoreError.missing_code))
        self._outage.succeeded()
        return Facts({} if person is None else person.properties)

    async def _load_person(self, project_id: int, distinct_id: str, time_left_s: float) -> Person | None:
        if len(self._abandoned) >= MAX_ABANDONED:
            raise StoreUnavailable("too many loads that were given up have not ended")
        load = asyncio.ensure_future(self._persons.load_person(project_id, distinct_id))
        try:
            await asyncio.wait({load}, timeout=time_left_s)
            if load.done():
                return load.result()
            raise StoreTimeout(f"no answer within {time_left_s * 1000:.0f} ms")
        finally:
            if not load.done():
                self._abandon(load)

    def _abandon(self, load: "asyncio.Task[Person | None]") -> None:
        """Cancel without waiting: an adapter that does not react must not hold the request."""
        load.cancel()
        self._abandoned.add(load)
        load.add_done_callback(self._reap)

    def _reap(self, load: "asyncio.Task[Person | None]") -> None:
        self._abandoned.discard(load)
        if not load.cancelled():
            load.exception()  # Taken, so that asyncio does not report it as never retrieved.
