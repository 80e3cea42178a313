"""`flagstone explain`: evaluate one flag for one person as a request would, and tell each step.

It reads the store that `serve` would read, and the same evaluator decides; nothing here knows a rule of its own.
"""

import asyncio
from argparse import Namespace
from collections.abc import Iterator

import msgspec

from config.settings import Settings
from config.sources import Loaded
from evaluator.explain import ConditionStep, Explanation, FilterStep, TreeStep, explain
from evaluator.snapshot import build_snapshot
from evaluator.types import Context, Facts
from gateway.commands import CommandFailed
from gateway.ports import FactsQuery, SystemClock, TransferStore
from gateway.wiring import open_store


def run(loaded: Loaded, args: Namespace) -> int:
    properties = {key: value for given in args.person_property for key, value in given.items()}
    context = Context(
        distinct_id=args.distinct_id,
        person_properties=properties,
        groups=dict(args.group),
        device_id=args.device_id,
        anon_distinct_id=args.anon_distinct_id,
    )
    explanation = asyncio.run(_explanation(loaded.settings, args.project, args.flag, context))
    print(_json(explanation) if args.json else "\n".join(_lines(explanation)))
    return 0


async def _explanation(settings: Settings, token: str | None, flag: str, context: Context) -> Explanation:
    now = SystemClock().now()
    async with open_store(settings) as store:
        if token is None:
            token = await _only_token(store)
        definitions = await store.load_definitions(token)
        if definitions is None:
            raise CommandFailed(f"No project in the store has the token {token}")
        snapshot = build_snapshot(definitions.document, definitions.version, lambda _: ())
        # A request would load these only if they mattered; they change no answer, and each step can then be told.
        query = FactsQuery(
            snapshot.project_id,
            tuple(filter(None, (context.distinct_id, context.anon_distinct_id))),
            properties=None,
            cohorts=None,
            groups=frozenset(context.groups.items()),
            group_properties=None,
            wants_overrides=True,
        )
        stored = await store.load_facts(query)
    groups = {kind: stored.groups.get(kind, {}) for kind in context.groups}
    facts = Facts(stored.person_properties, stored.cohorts, groups, stored.overrides)
    explanation = explain(snapshot, flag, context, facts, now)
    if explanation is None:
        problems = [problem for problem in snapshot.problems if problem.flag == flag]
        raise CommandFailed(f"The project {snapshot.name!r} has no active flag {flag}", *problems)
    return explanation


async def _only_token(store: TransferStore) -> str:
    tokens = [project.token for project in await store.export_projects()]
    if len(tokens) != 1:
        raise CommandFailed(f"The store has {len(tokens)} projects; name one with --project", *tokens)
    return tokens[0]


def _lines(explanation: Explanation) -> Iterator[str]:
    """The explanation for people. Condition sets are counted from 1, as reasons do."""
    result = explanation.result
    yield f"{explanation.flag} = {_json(explanation.value)} for {explanation.distinct_id}"
    yield f"  reason: {result.reason.description} ({result.reason.code})"
    if result.payload is not None:
        yield f"  payload: {result.payload}"
    if explanation.variant_bucket is not None:
        yield f"  variant bucket: {explanation.variant_bucket:.6f}"
    if explanation.override is not None:
        yield f"  hashed as: {explanation.override} (a stored override)"
    if explanation.enrollment is not None:
        yield f"  enrollment: {_seen(explanation.enrollment)}"
    if (holdout := explanation.holdout) is not None:
        bucket = "nobody to hash" if holdout.bucket is None else f"bucket {holdout.bucket:.6f}"
        yield f"  holdout of {holdout.threshold:g}: {bucket}, {_claim(holdout.held_out, 'held out', 'let through')}"
    for condition in explanation.conditions:
        yield ""
        yield from _condition_lines(condition)


def _condition_lines(condition: ConditionStep) -> Iterator[str]:
    yield f"condition set {condition.index + 1}: {_claim(condition.holds, 'its filters hold', 'its filters fail')}"
    for step in condition.filters:
        yield from _filter_lines(step, "  ")
    if condition.bucket is None:
        yield "  there is nobody to hash"
        return
    within = (
        f"within the rollout of {condition.threshold:g}" if condition.admitted else f"beyond {condition.threshold:g}"
    )
    yield f"  bucket {condition.bucket:.6f} is {within}"


def _filter_lines(step: FilterStep, indent: str) -> Iterator[str]:
    yield f"{indent}{_claim(step.holds, '+', '-', '?')} {step.key} {step.operator}{_wanted(step)}; {_seen(step)}"
    for part in step.within:
        yield from _part_lines(part, f"{indent}  ")


def _part_lines(part: FilterStep | TreeStep, indent: str) -> Iterator[str]:
    if isinstance(part, FilterStep):
        yield from _filter_lines(part, indent)
        return
    yield f"{indent}{_claim(part.holds, '+', '-', '?')} {part.label}"
    for inner in part.within:
        yield from _part_lines(inner, f"{indent}  ")


def _claim(holds: bool | None, yes: str, no: str, unknown: str = "cannot be told") -> str:
    return unknown if holds is None else yes if holds else no


def _wanted(step: FilterStep) -> str:
    return "" if step.wanted is None else f" {_json(step.wanted)}"


def _seen(step: FilterStep) -> str:
    match step.source:
        case "unset":
            return "not set"
        case "not_fetched":
            return "not known"
        case "derived":
            return f"{_json(step.seen)}, which follows from the request or from another property"
        case source:
            return f"{_json(step.seen)} from the {source}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
