"""Builders of definitions and contexts: `flag("beta", rollout=50)`. Plain data, so that a test reads as its case."""

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from evaluator.evaluate import Evaluation, evaluate
from evaluator.snapshot import Snapshot, build_snapshot
from evaluator.types import Context, Facts, FlagResult, Fragments, Missing

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
TIMEOUT = Missing("timeout", "The store took too long")
_ids = itertools.count(1)

GROUP_TYPES = ("organization", "team")
NO_GROUPS: Mapping[str, Mapping[str, object]] = {kind: {} for kind in GROUP_TYPES}
NOTHING_STORED = Facts({}, frozenset(), NO_GROUPS, {})
UNKNOWN_FACTS = Facts()


def person(key: str, value: Any = None, operator: str = "exact", **extra: Any) -> dict[str, Any]:
    """A filter on a person property; the operators that take no value ignore it."""
    return {"key": key, "type": "person", "value": value, "operator": operator, **extra}


def condition(*filters: dict[str, Any], rollout: float | None = 100, variant: str | None = None) -> dict[str, Any]:
    """One condition set."""
    return {"properties": list(filters), "rollout_percentage": rollout, "variant": variant}


def flag(
    key: str,
    *conditions: dict[str, Any],
    rollout: float | None = 100,
    variants: dict[str, float] | None = None,
    payloads: dict[str, Any] | None = None,
    filters: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A flag document; without conditions it has one, for everyone within `rollout`."""
    document: dict[str, Any] = {"groups": list(conditions) or [condition(rollout=rollout)], **(filters or {})}
    if variants is not None:
        shares = [{"key": name, "rollout_percentage": share} for name, share in variants.items()]
        document["multivariate"] = {"variants": shares}
    if payloads is not None:
        document["payloads"] = payloads
    return {"id": next(_ids), "key": key, "active": True, "version": 1, "filters": document, **fields}


def project(*flags: Any, **fields: Any) -> dict[str, Any]:
    """A project's definitions document."""
    return {"id": 1, "name": "Test", "token": "phc_test", "flags": list(flags), **fields}


def fragments(result: FlagResult) -> Fragments:
    """An encoder for tests of the evaluator: the whole result as JSON."""
    return (msgspec.json.encode(result),)


def snapshot(*flags: Any, **fields: Any) -> Snapshot:
    """The compiled snapshot of such a document, at version 1; its project has GROUP_TYPES."""
    fields = {"group_types": GROUP_TYPES, **fields}
    return build_snapshot(msgspec.json.encode(project(*flags, **fields)), 1, fragments)


def context(distinct_id: str = "u1", /, *, flag_keys: Sequence[str] | None = None, **fields: Any) -> Context:
    """A request's context."""
    return Context(distinct_id=distinct_id, flag_keys=None if flag_keys is None else frozenset(flag_keys), **fields)


def known(properties: Mapping[str, object] | None = None, **parts: Any) -> Facts:
    """Facts of which every part is known, and empty unless given."""
    return msgspec.structs.replace(NOTHING_STORED, person_properties=properties or {}, **parts)


def ask(snapshot: Snapshot, asked: Context | None = None, facts: Facts | None = None) -> Evaluation:
    """Evaluate at NOW with every stored fact known, and nothing stored, unless told otherwise."""
    return evaluate(snapshot, asked or context(), facts or NOTHING_STORED, NOW)


def results(evaluation: Evaluation) -> dict[str, FlagResult]:
    """What each flag says, by its key."""
    return {outcome.result.key: outcome.result for outcome in evaluation.outcomes}


def answer(document: dict[str, Any], asked: Context | None = None, facts: Facts | None = None) -> FlagResult:
    """What the only flag of a project says."""
    (outcome,) = ask(snapshot(document), asked, facts).outcomes
    return outcome.result
