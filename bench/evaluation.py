"""What evaluating costs: nanoseconds per flag, answer bytes included, beside the released SDK on the same flags.

The mix is 70 % plain rollouts, 20 % flags for those with a property, 10 % splits of everyone in three variants.
"""

import hashlib
import logging
import sys
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from posthog import Posthog

from bench.timing import best_ns
from drills.machine import machine
from evaluator.evaluate import evaluate
from evaluator.snapshot import Snapshot, build_snapshot
from evaluator.types import Context, Facts
from gateway.wire.flags import RECORD, encode_result

DISTINCT_ID = "0190a7c2-6f1e-7d30-8a11-000000000001"
PROPERTIES: dict[str, object] = {"plan": "pro", "email": "ada@example.com", "country": "DE"}
NOW = datetime(2026, 1, 15, tzinfo=UTC)


def flag(position: int) -> dict[str, Any]:
    """The flag at a position of the mix, in PostHog's form."""
    condition: dict[str, Any] = {"properties": [], "rollout_percentage": 100}
    filters: dict[str, Any] = {"groups": [condition]}
    kind = position % 10
    if kind < 7:
        condition["rollout_percentage"] = (position * 37) % 100
    elif kind < 9:
        condition["properties"] = [
            {"key": "plan", "type": "person", "operator": "exact", "value": ["pro", "enterprise"]}
        ]
    else:
        shares = (("control", 34), ("blue", 33), ("green", 33))
        filters["multivariate"] = {"variants": [{"key": key, "rollout_percentage": share} for key, share in shares]}
        filters["payloads"] = {"blue": '{"width":3}'}
    return {"id": position + 1, "key": f"flag-{position}", "name": "", "active": True, "version": 1, "filters": filters}


def project(count: int, make: Callable[[int], dict[str, Any]] = flag, **fields: object) -> bytes:
    """A definitions document with that many flags, of the mix unless they are made otherwise."""
    flags = [make(position) for position in range(count)]
    shared = {"group_types": ["organization"], "cohorts": [COHORT]}
    return msgspec.json.encode({"id": 1, "token": "phc_bench", "flags": flags, **shared, **fields})


def snapshot_of(count: int) -> Snapshot:
    """The compiled snapshot of such a document."""
    return build_snapshot(project(count), 1, encode_result)


def with_filters(**filters: Any) -> Callable[[int], dict[str, Any]]:
    """Flags with a rollout and these filters besides."""

    def make(position: int) -> dict[str, Any]:
        document = flag(position - position % 10)
        document["filters"] |= filters
        return {**document, "id": position + 1, "key": f"flag-{position}"}

    return make


def with_condition(*properties: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """Flags for those who satisfy these property filters."""
    return with_filters(groups=[{"properties": list(properties), "rollout_percentage": 100}])


def depending(position: int) -> dict[str, Any]:
    """Flags of which each but the first needs the one before."""
    if position == 0:
        return flag(0)
    before = {"key": str(position), "type": "flag", "operator": "flag_evaluates_to", "value": False}
    return with_condition(before)(position)


COHORT: dict[str, Any] = {
    "id": 1,
    "filters": {
        "properties": {
            "type": "OR",
            "values": [
                {"key": "email", "type": "person", "operator": "icontains", "value": "@example.org"},
                {"key": "plan", "type": "person", "operator": "exact", "value": "pro"},
            ],
        }
    },
}
KINDS: dict[str, tuple[Callable[[int], dict[str, Any]], dict[str, Any]]] = {
    "mix": (flag, {}),
    "mix, murmur3": (flag, {"bucketing": "murmur3"}),
    "group rollouts": (with_filters(aggregation_group_type_index=0), {}),
    "one cohort, shared by all": (with_condition({"key": "id", "type": "cohort", "value": 1}), {}),
    "each depends on the one before": (depending, {}),
    "holdout and rollout": (with_filters(holdout={"id": 1, "exclusion_percentage": 10}), {}),
}


def answering(snapshot: Snapshot) -> Callable[[], bytes]:
    """Evaluating everything and joining the answer's flags."""
    context = Context(distinct_id=DISTINCT_ID, person_properties=PROPERTIES, groups={"organization": "acme"})

    def answer() -> bytes:
        evaluation = evaluate(snapshot, context, Facts(), NOW)
        return b",".join([outcome.fragments[RECORD] for outcome in evaluation.outcomes])  # type: ignore[misc]

    return answer


def hashing(count: int) -> Callable[[], object]:
    """Only the one digest per flag that no evaluator can do without."""
    copies = [hashlib.sha1(f"flag-{position}.".encode(), usedforsecurity=False).copy for position in range(count)]
    identity = DISTINCT_ID.encode()

    def hash_all() -> None:
        for copy in copies:
            hashed = copy()
            hashed.update(identity)
            hashed.digest()

    return hash_all


def sdk_answering(count: int) -> Callable[[], object]:
    """The posthog SDK's own local evaluation of the same flags. It stops at objects; no JSON is written."""
    client = Posthog(
        "phc_bench", host="http://127.0.0.1:9", personal_api_key="phx_bench", enable_local_evaluation=False
    )
    client.feature_flags = [flag(position) for position in range(count)]

    def answer() -> object:
        return client.get_all_flags_and_payloads(DISTINCT_ID, person_properties=PROPERTIES, only_evaluate_locally=True)

    return answer


def main() -> None:
    """Print the tables."""
    logging.disable(logging.CRITICAL)
    write = sys.stdout.write
    write(f"# Evaluation, answer bytes included ({machine()})\n\n")
    write("| flags | flagstone ns/flag | bare sha1 ns/flag | posthog-python ns/flag | posthog-python / flagstone |\n")
    write("|---|---|---|---|---|\n")
    for count in (1, 10, 100, 500):
        best = best_ns(
            {"flagstone": answering(snapshot_of(count)), "sha1": hashing(count), "sdk": sdk_answering(count)}
        )
        ours, bare, sdk = (best[name] / count for name in ("flagstone", "sha1", "sdk"))
        write(f"| {count} | {ours:.0f} | {bare:.0f} | {sdk:.0f} | {sdk / ours:.1f} |\n")
    write("\n| 100 flags of a kind | ns/flag | beside the mix |\n|---|---|---|\n")
    kinds = {name: project(100, make, **fields) for name, (make, fields) in KINDS.items()}
    best = best_ns({name: answering(build_snapshot(kind, 1, encode_result)) for name, kind in kinds.items()})
    for name, taken in best.items():
        write(f"| {name} | {taken / 100:.0f} | {taken / best['mix']:.2f} |\n")
    write("\n| flags of the mix | ns/flag |\n|---|---|\n")
    best = best_ns({str(count): answering(snapshot_of(count)) for count in (100, 500, 1000, 2000)})
    for count, taken in best.items():
        write(f"| {count} | {taken / int(count):.0f} |\n")
    document = project(1000)
    built = best_ns({"build": lambda: build_snapshot(document, 1, encode_result)}, rounds=5, round_s=0.2)["build"]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    snapshot = build_snapshot(document, 1, encode_result)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    write(
        f"\nSnapshot of 1,000 flags: built in {built / 1e6:.1f} ms, {held / len(snapshot.flags):.0f} bytes per flag\n"
    )


if __name__ == "__main__":
    main()
