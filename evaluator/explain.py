"""Why a flag said what it said: the walk of one compiled flag, told step by step.

The answer shown is the one `evaluate` gives, and each step asks the same compiled objects that it asked, so the two
cannot disagree.
"""

from datetime import datetime
from typing import Literal

import msgspec

from evaluator.evaluate import evaluate
from evaluator.hashing import Buckets, bucket
from evaluator.match import Condition, Filter, Frame
from evaluator.snapshot import Snapshot
from evaluator.types import Absence, Context, Facts, FlagResult, Runtime

Source = Literal["request", "store", "unset", "not_fetched"]


class FilterStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A filter: what it wanted, what it saw and where that came from. `holds` None: cannot be told."""

    key: str
    operator: str
    source: Source
    holds: bool | None
    wanted: object = None
    seen: object = None


class ConditionStep(msgspec.Struct, frozen=True, kw_only=True):
    """A condition: whether its filters hold, and whether the bucket is within the rollout. Both in [0, 1]."""

    index: int
    filters: tuple[FilterStep, ...]
    holds: bool | None
    bucket: float
    threshold: float
    admitted: bool


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered, and the conditions that were tried, in order, up to the one that decided."""

    flag: str
    distinct_id: str
    considered: bool
    value: str | bool
    result: FlagResult
    variant_bucket: float | None
    conditions: tuple[ConditionStep, ...]
    snapshot_version: int


def explain(snapshot: Snapshot, flag_key: str, context: Context, facts: Facts, now: datetime) -> Explanation | None:
    """The explanation of one flag; None when the snapshot has no such active flag."""
    flag = snapshot.flags.get(flag_key)
    if flag is None:
        return None
    asked = msgspec.structs.replace(context, flag_keys=frozenset({flag_key}))
    anywhere = msgspec.structs.replace(asked, runtime=Runtime.ALL, evaluation_contexts=frozenset(), only_surveys=False)
    result = evaluate(snapshot, anywhere, facts, now).outcomes[0].result
    frame = Frame(context, facts, now)
    steps: list[ConditionStep] = []
    for condition in flag.conditions:
        step = _condition_step(condition, context, frame, flag.buckets)
        steps.append(step)
        if step.holds and (step.admitted or flag.early_exit):
            break
    variant_bucket = bucket(flag.buckets.variant_digest(frame.identity)) if flag.buckets.thresholds else None
    return Explanation(
        flag=flag_key,
        distinct_id=context.distinct_id,
        considered=bool(snapshot.select(asked).flags),
        value=result.value,
        result=result,
        variant_bucket=variant_bucket,
        conditions=tuple(steps),
        snapshot_version=snapshot.version,
    )


def _condition_step(condition: Condition, context: Context, frame: Frame, buckets: Buckets) -> ConditionStep:
    return ConditionStep(
        index=condition.index,
        filters=tuple(_filter_step(filter_, context, frame) for filter_ in condition.filters),
        holds=condition.holds(frame),
        bucket=bucket(buckets.rollout_digest(frame.identity)),
        threshold=condition.percentage / 100,
        admitted=condition.admits(frame, buckets),
    )


def _filter_step(filter_: Filter, context: Context, frame: Frame) -> FilterStep:
    document = filter_.document
    seen = frame.properties.get(document.key, frame.absent)
    source: Source
    if isinstance(seen, Absence):
        source = seen.value
    else:
        source = "request" if document.key in context.person_properties else "store"
    return FilterStep(
        key=document.key,
        operator=document.operator or "exact",
        source=source,
        holds=filter_.test(frame),
        wanted=None if document.value is msgspec.UNSET else document.value,
        seen=None if isinstance(seen, Absence) else seen,
    )
