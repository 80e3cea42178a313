"""One worker with a core of its own beside four that share one: what is answered in time near the limit of that core.

Printed as a part of bench.sizing. Invariant: both are offered the same, whatever they answer, and the generator has
another core wherever there is one.
"""

from typing import Final, NamedTuple

from bench.kit import children, processor_s
from bench.overload import Target, computing

STARVED: Final = 4
PARTS: Final = (0.5, 0.7, 0.8, 0.9, 1.0, 1.2)
"""Of what the core can do."""
NEEDED: Final = sum(min(1.0, part) for part in PARTS) / len(PARTS)
PHASE_S: Final = 4.0
PROBE: Final = (3.0, 200.0)
"""Seconds and requests per second from which it is told what a request takes: many, as few take more each."""
_ENGINE: Final = "uvicorn"


class Answered(NamedTuple):
    """The part of what was due that was answered with flags, and from when it was due; milliseconds."""

    part: float
    p50_ms: float
    p99_ms: float


class Kept(NamedTuple):
    """How workers did at each of `PARTS`, and what they occupied together."""

    workers: int
    answered: list[Answered]
    resident_bytes: float
    had: float
    """Of the core. Much less than `NEEDED`, and not all answered: something else ran on it, and nothing follows."""


def compare() -> tuple[float, list[Kept]]:
    """What the core can do at most, in requests per second, and what became of it."""
    found = []
    capacity = 0.0
    for workers in (1, STARVED):
        with computing(_ENGINE, f"server.workers={workers}", "server.lame_duck_s=0") as target:
            if not capacity:
                capacity = _capacity(target)
            pids = children(target.serving.pid)
            used_s = sum(map(processor_s, pids))
            report = target.offer(*((PHASE_S, capacity * part) for part in PARTS))
            had = (sum(map(processor_s, pids)) - used_s) / (PHASE_S * len(PARTS))
            answered = []
            for part, phase in zip(PARTS, report.due_by_phase, strict=True):
                good = phase.get("good")
                due = capacity * part * PHASE_S
                answered.append(Answered(good.count / due, good.p50_ms, good.p99_ms) if good else Answered(0, 0, 0))
            found.append(Kept(workers, answered, target.serving.metric("resident_bytes"), had))
    return capacity, found


def _capacity(target: Target) -> float:
    (worker,) = children(target.serving.pid)
    used_s = processor_s(worker)
    report = target.offer(PROBE)
    return report.by_phase[0]["ok"].count / (processor_s(worker) - used_s)


def table() -> str:
    capacity, found = compare()
    names = [f"{kept.workers} worker{'s'[: kept.workers > 1]}" for kept in found]
    head = " | ".join(f"{name}: answered | p50, p99 ms" for name in names)
    lines = [f"The core can do {capacity:.0f} of these per second.\n", f"| offered | {head} |", "|---" * 5 + "|"]
    for at, part in enumerate(PARTS):
        cells = (f"{it.part:.0%} | {it.p50_ms:.0f}, {it.p99_ms:.0f}" for it in (kept.answered[at] for kept in found))
        lines.append(f"| {part:.0%} | {' | '.join(cells)} |")
    occupied = ", ".join(
        f"{kept.resident_bytes / (1 << 20):.0f} MiB by {name}" for kept, name in zip(found, names, strict=True)
    )
    lines.append(f"\nOccupied: {occupied}.")
    if any(kept.had < 0.9 * NEEDED and min(it.part for it in kept.answered[:-2]) < 0.95 for kept in found):
        had = ", ".join(f"{kept.had:.0%} by {name}" for kept, name in zip(found, names, strict=True))
        lines.append(f"WARNING: {had} of the core, where {NEEDED:.0%} are needed: something else ran on it")
    return "\n".join(lines)
