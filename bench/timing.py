"""Interleaved timing: every contender gets a turn in every round, so that a noisy machine is unfair to none."""

import gc
import time
from collections.abc import Callable, Mapping


def best_ns(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 15, round_s: float = 0.03
) -> dict[str, float]:
    """The least nanoseconds per call seen for each contender."""
    loops = {}
    for name, call in contenders.items():
        call()
        started = time.perf_counter()
        call()
        loops[name] = max(1, int(round_s / max(time.perf_counter() - started, 1e-7)))
    best = dict.fromkeys(contenders, float("inf"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in contenders.items():
                count = range(loops[name])
                started = time.perf_counter_ns()
                for _ in count:
                    call()
                best[name] = min(best[name], (time.perf_counter_ns() - started) / loops[name])
    finally:
        gc.enable()
    return best
