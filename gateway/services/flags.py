"""The pipeline behind every flag request: token -> snapshot -> evaluation -> facts -> evaluation.

No wire format and no store lives here. Invariant: the order of refusals is PostHog's - the token is judged before
anything else in the request.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from evaluator.evaluate import evaluate
from evaluator.snapshot import Snapshot
from evaluator.types import Context, Facts, Outcome
from gateway.errors import MissingDistinctId, NotAuthenticated
from gateway.metrics import Metrics, Phase
from gateway.ports import Clock, Deadline
from gateway.services.facts import FactsService
from gateway.services.held import Held
from gateway.services.overrides import OverrideService
from gateway.services.quota import QuotaService
from gateway.services.snapshots import SnapshotService


class Answer(Struct, frozen=True, kw_only=True):
    """What the flags say, and when that was. With `errors`, some of them are marked failed.

    `source` is where the snapshot's document came from, `age_s` the time since it was last known to be current, and
    `waited_s` the time that was spent waiting for stores. `is_stateless` says that no store was needed to tell.
    """

    snapshot: Snapshot
    source: str
    age_s: float
    evaluated_at: datetime
    outcomes: Sequence[Outcome] = ()
    errors: bool = False
    is_stateless: bool = True
    is_over_quota: bool = False
    waited_s: float = 0.0

    @property
    def missing(self) -> str | None:
        """The code of what a failed flag lacked; None when none failed."""
        if not self.errors:
            return None
        return next((outcome.result.reason.code for outcome in self.outcomes if outcome.result.failed), None)


class FlagService:
    def __init__(
        self,
        snapshots: SnapshotService,
        facts: FactsService,
        overrides: OverrideService,
        quota: QuotaService,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._snapshots = snapshots
        self._facts = facts
        self._overrides = overrides
        self._quota = quota
        self._clock = clock
        self._metrics = metrics

    async def find(self, token: str | None, deadline: Deadline) -> Held:
        """The snapshot of the project. Raises NotAuthenticated, AuthenticationFailed or Unavailable."""
        if not token:
            raise NotAuthenticated
        return await self._snapshots.get(token, deadline)

    async def answer(
        self, token: str | None, context: Context | None, deadline: Deadline, *, disable_flags: bool = False
    ) -> Answer:
        """The project's flags for this context; none when they are disabled, which counts for no quota.

        Raises NotAuthenticated, AuthenticationFailed, Unavailable or MissingDistinctId.
        """
        began = self._clock.monotonic()
        held = await self.find(token, deadline)
        waited_s = self._clock.monotonic() - began
        self._metrics.phase(Phase.SNAPSHOT, waited_s)
        if disable_flags:
            age_s, now = self._snapshots.age_s(held), self._clock.now()
            return Answer(snapshot=held.snapshot, source=held.source, age_s=age_s, evaluated_at=now, waited_s=waited_s)
        if context is None:
            raise MissingDistinctId
        return await self.answer_from(held, context, deadline, waited_s=waited_s)

    async def answer_from(
        self, held: Held, context: Context, deadline: Deadline, *, with_facts: bool = True, waited_s: float = 0.0
    ) -> Answer:
        """The flags of a snapshot for this context; without facts, those that need any are failed, and nobody waits."""
        monotonic, phase = self._clock.monotonic, self._metrics.phase
        snapshot, source, age_s = held.snapshot, held.source, self._snapshots.age_s(held)
        began = monotonic()
        now = self._clock.now()
        if not self._quota.spend(snapshot.token):
            return Answer(
                snapshot=snapshot,
                source=source,
                age_s=age_s,
                evaluated_at=now,
                is_over_quota=True,
                waited_s=waited_s,
            )
        evaluation = evaluate(snapshot, context, Facts(), now)
        phase(Phase.EVALUATE, monotonic() - began)
        is_stateless = not evaluation.needs
        if evaluation.needs and with_facts:
            began = monotonic()
            facts = await self._facts.load(snapshot.project_id, context, evaluation.needs, deadline)
            took_s = monotonic() - began
            waited_s += took_s
            phase(Phase.FACTS, took_s)
            evaluation = evaluation.with_facts(facts)
            if evaluation.write:
                self._overrides.keep(snapshot.project_id, evaluation.write)
        self._metrics.answered(source, is_partial=with_facts and evaluation.errors)
        return Answer(
            snapshot=snapshot,
            source=source,
            age_s=age_s,
            evaluated_at=now,
            outcomes=evaluation.outcomes,
            errors=evaluation.errors,
            is_stateless=is_stateless,
            waited_s=waited_s,
        )
