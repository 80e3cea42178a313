"""The settings of the service: read anew on demand, and put in force in all workers or in none.

Which workers there are is the supervisor's. Invariant: what a worker runs under was checked once, here, and no two run
under different settings for longer than it takes to tell them.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from config.reload import Live, Plan, dumps, plan
from config.settings import Settings
from config.sources import InvalidConfiguration, Loaded
from gateway.ports import SystemClock
from gateway.server.channel import Commit, Go, Prepare
from gateway.server.child import Child, State
from gateway.server.tally import Tally
from gateway.standing import Reloaded
from gateway.telemetry import log_event, set_up_logging

ANSWER_TIMEOUT_S: Final = 5.0
"""How long workers may take to answer a message."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a reload: `changed`, `unchanged`, `refused` for what was read, or `failed` for the workers."""

    result: str
    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return not self.problems


def reload_alone(live: Live, load: Callable[[], Loaded]) -> Outcome:
    """Read the settings anew and put in force what can be, in a process that has no workers."""
    outcome = _read(live.settings, load)
    if isinstance(outcome, Plan):
        live.put_in_force(outcome.settings, live.generation + 1)
        set_up_logging(live.settings.log)
        outcome = Outcome("changed", outcome.changed, outcome.needs_restart)
    _tell(outcome, live.generation)
    return outcome


def _read(settings: Settings, load: Callable[[], Loaded]) -> Plan | Outcome:
    """What is to be put in force; or what has become of the reload already, if nothing is."""
    try:
        loaded = load()
    except InvalidConfiguration as error:
        return Outcome("refused", problems=tuple(map(str, error.problems)))
    planned = plan(settings, loaded.settings)
    return planned if planned.changed else Outcome("unchanged", needs_restart=planned.needs_restart)


def _tell(outcome: Outcome, generation: int) -> None:
    for problem in outcome.problems:  # A line each: together they would be cut at the bound on values.
        log_event("settings_problem", logging.ERROR, problem=problem)
    log_event("settings_reloaded", logging.INFO if outcome.is_good else logging.ERROR, result=outcome.result,
              generation=generation, changed=outcome.changed, needs_restart=outcome.needs_restart)  # fmt: skip


class InForce:
    """What is in force, and how often that has changed. `load` reads the settings anew."""

    def __init__(
        self, settings: Settings, load: Callable[[], Loaded], children: Mapping[int, Child], tally: Tally
    ) -> None:
        self.settings = settings
        self.generation = 0
        self.last: Reloaded | None = None
        self._load = load
        self._children = children
        self._tally = tally

    def __repr__(self) -> str:
        return f"<InForce generation {self.generation}>"

    async def reload(self) -> Outcome:
        """Read the settings anew and put in force what can be. Not to be called while workers are being replaced."""
        outcome = await self._reload()
        self._tally.reloaded(outcome.result, self.generation)
        self.last = Reloaded(result=outcome.result, at=SystemClock().now(), problems=outcome.problems)
        _tell(outcome, self.generation)
        return outcome

    async def _reload(self) -> Outcome:
        planned = _read(self.settings, self._load)
        return planned if isinstance(planned, Outcome) else await self._put_in_force(planned)

    async def _put_in_force(self, planned: Plan) -> Outcome:
        generation, raw = self.generation + 1, dumps(planned.settings)
        workers = [child for child in self._children.values() if child.state in (State.ACCEPTING, State.READY)]
        answers = await self._ask(workers, Prepare(generation, raw))
        problems = tuple(
            f"worker {child.index}: {'no answer' if answer is None else answer.problem}"
            for child, answer in zip(workers, answers, strict=True)
            if self._children.get(child.index) is child and (answer is None or answer.problem)
        )
        if problems:
            return Outcome("failed", problems=problems)
        self.settings, self.generation = planned.settings, generation
        # One on its way may have been let go under the old ones meanwhile; told again, it catches up.
        for child in self._children.values():
            if child not in workers and child.state is not State.LEAVING:
                child.send(Go(generation, raw))
        await self._ask(workers, Commit(generation))
        set_up_logging(self.settings.log)
        return Outcome("changed", planned.changed, planned.needs_restart)

    @staticmethod
    async def _ask(workers: list[Child], message: Prepare | Commit) -> list[Any]:
        """The answers of all; None of those that gave none in time."""
        return await asyncio.gather(*(child.ask(message, ANSWER_TIMEOUT_S) for child in workers))
