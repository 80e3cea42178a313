"""Why a flag said what it said: the walk of one compiled flag, told step by step.

The answer shown is the one `evaluate` gives, and each step asks the same compiled objects that it asked, so the two
cannot disagree.
"""

from datetime import datetime
from typing import Literal

import msgspec

from evaluator.cohorts import Node
from evaluator.definitions import FilterDocument
from evaluator.evaluate import evaluate
from evaluator.filters import Filter
from evaluator.flag import Flag
from evaluator.frame import Frame
from evaluator.gates import Holdout
from evaluator.hashing import bucket
from evaluator.match import MATCHED, MISSED, Condition
from evaluator.rules import CONTINUE
from evaluator.snapshot import Snapshot
from evaluator.types import Absence, Context, Facts, FlagResult, Missing, Runtime

Source = Literal["request", "store", "derived", "unset", "not_fetched", "cohort", "flag"]


class FilterStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A filter: what it wanted, what it saw and where that came from. `holds` None: cannot be told.

    `within` are the parts of a cohort, or the answer of another flag.
    """

    key: str
    operator: str
    source: Source
    holds: bool | None
    wanted: object = None
    seen: object = None
    within: "tuple[FilterStep | TreeStep, ...]" = ()


class TreeStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """A part of a cohort that combines others."""

    label: str
    holds: bool | None
    within: tuple["FilterStep | TreeStep", ...] = ()


class ConditionStep(msgspec.Struct, frozen=True, kw_only=True):
    """A condition or rule: what it came to, whether its filters hold, and its bucket beside its rollout, in [0, 1].

    `bucket` and `admitted` are None where the request names nobody to hash, or an override was not fetched.
    """

    index: int
    verdict: str
    filters: tuple[FilterStep, ...]
    holds: bool | None
    identity: str | None
    bucket: float | None
    threshold: float
    admitted: bool | None


class HoldoutStep(msgspec.Struct, frozen=True, kw_only=True):
    """A holdout: its bucket beside the share that is held out."""

    bucket: float | None
    threshold: float
    held_out: bool | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered, and what was tried, in order, up to what decided."""

    flag: str
    distinct_id: str
    considered: bool
    value: object
    result: FlagResult
    override: str | None
    enrollment: FilterStep | None
    holdout: HoldoutStep | None
    variant_bucket: float | None
    conditions: tuple[ConditionStep, ...]
    snapshot_version: int


def explain(snapshot: Snapshot, flag_key: str, context: Context, facts: Facts, now: datetime) -> Explanation | None:
    """The explanation of one flag; None when the snapshot has no such active flag."""
    flag = snapshot.flags.get(flag_key)
    if flag is None:
        return None
    asked = msgspec.structs.replace(context, flag_keys=frozenset({flag_key}))
    considered = flag in snapshot.select(asked).flags
    if not considered:
        asked = msgspec.structs.replace(asked, runtime=Runtime.ALL, evaluation_contexts=frozenset(), only_surveys=False)
    evaluation = evaluate(snapshot, asked, facts, now)
    result = next(outcome.result for outcome in evaluation.outcomes if outcome.result.key == flag_key)
    frame = evaluation.frame
    enrollment = _filter_step(flag.enrollment.filter, frame) if flag.enrollment else None
    holdout = _holdout_step(flag.holdout, frame) if flag.holdout else None
    is_settled = (enrollment and enrollment.source != "unset") or (holdout and holdout.held_out)
    steps = () if is_settled else _rule_steps(flag, frame) if flag.rules else _condition_steps(flag, frame)
    overrides = facts.overrides
    return Explanation(
        flag=flag_key,
        distinct_id=context.distinct_id,
        considered=considered,
        value=result.rule.value if result.rule else result.value,
        result=result,
        override=None if isinstance(overrides, Missing) or not flag.has_continuity else overrides.get(flag_key),
        enrollment=enrollment,
        holdout=holdout,
        variant_bucket=_variant_bucket(flag, steps, frame),
        conditions=steps,
        snapshot_version=snapshot.version,
    )


def _condition_steps(flag: Flag, frame: Frame) -> tuple[ConditionStep, ...]:
    steps: list[ConditionStep] = []
    for condition in flag.conditions:
        steps.append(_condition_step(condition, frame))
        verdict = condition.judge(frame)
        if verdict is MATCHED or (verdict is MISSED and flag.early_exit):
            break
    return tuple(steps)


def _rule_steps(flag: Flag, frame: Frame) -> tuple[ConditionStep, ...]:
    """The rules that were tried; the verdict is what the rule came to."""
    steps: list[ConditionStep] = []
    for rule in flag.rules:
        step = _condition_step(rule.condition, frame)
        outcome = rule.settle(frame)
        if step.holds is False:
            verdict = "unmatched"
        elif outcome is CONTINUE:
            verdict = CONTINUE.value
        else:
            verdict = outcome.result.reason.code if step.holds else "in_doubt"
        steps.append(msgspec.structs.replace(step, verdict=verdict))
        if step.holds and outcome is not CONTINUE:
            break
    return tuple(steps)


def _condition_step(condition: Condition, frame: Frame) -> ConditionStep:
    identity = condition.identify(frame)
    known = None if isinstance(identity, Absence) else identity
    return ConditionStep(
        index=condition.index,
        verdict=condition.judge(frame).value,
        filters=tuple(_filter_step(filter_, frame) for filter_ in condition.filters),
        holds=condition.holds(frame),
        identity=None if known is None else known.decode(),
        bucket=None if known is None else bucket(condition.buckets.rollout_digest(known)),
        threshold=condition.percentage / 100,
        admitted=None if known is None else condition.admits(known),
    )


def _variant_bucket(flag: Flag, steps: tuple[ConditionStep, ...], frame: Frame) -> float | None:
    """The bucket that chose a variant, of the last condition tried, which is the one that decided."""
    if not steps:
        return None
    index = steps[-1].index
    condition = flag.rules[index].condition if flag.rules else flag.conditions[index]
    identity = condition.identify(frame)
    if isinstance(identity, Absence) or not condition.buckets.thresholds:
        return None
    return bucket(condition.buckets.variant_digest(identity))


def _holdout_step(holdout: Holdout, frame: Frame) -> HoldoutStep:
    identity = holdout.identify(frame)
    return HoldoutStep(
        bucket=None if isinstance(identity, Absence) else bucket(holdout.digest(identity)),
        threshold=holdout.percentage / 100,
        held_out=holdout.holds_out(frame),
    )


def _filter_step(filter_: Filter, frame: Frame) -> FilterStep:
    document, seen = filter_.document, filter_.seen(frame)
    return FilterStep(
        key=document.key,
        operator=document.operator or ("in" if document.type == "cohort" else "exact"),
        source=_source(filter_, frame, seen),
        holds=filter_.test(frame),
        wanted=None if document.value is msgspec.UNSET else document.value,
        seen=None if isinstance(seen, Absence) else seen,
        within=(_dependency(document, frame),)
        if document.type == "flag"
        else tuple(_part(part, frame) for part in filter_.parts),
    )


def _dependency(document: FilterDocument, frame: Frame) -> TreeStep:
    """What the other flag said and why; to go further down, explain that flag."""
    outcome = frame.results.get(int(document.key)) if document.key.isdecimal() else None
    if outcome is None:
        return TreeStep(label=f"flag {document.key} is not considered, or cannot be told", holds=None)
    result = outcome.result
    return TreeStep(label=f"{result.key}: {result.reason.description}", holds=result.enabled)


def _part(part: Node | Filter, frame: Frame) -> FilterStep | TreeStep:
    if isinstance(part, Filter):
        return _filter_step(part, frame)
    within = tuple(_part(child, frame) for child in part.children)
    return TreeStep(label=part.label, holds=part.test(frame), within=within)


def _source(filter_: Filter, frame: Frame, seen: object) -> Source:
    document = filter_.document
    if isinstance(seen, Absence):
        return seen.value
    if document.type == "cohort":
        return "cohort"
    if document.type == "flag":
        return "flag"
    if document.type == "group":
        asked = [properties for properties in frame.context.group_properties.values() if document.key in properties]
        is_asked, is_stored = bool(asked), document.key != "$group_key"
    else:
        is_asked = document.key in frame.context.person_properties
        is_stored = document.key in frame.properties
    return "request" if is_asked else "store" if is_stored else "derived"
