"""Rates that hold for several services together, while their Redis works, hangs, is gone, and is back."""

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from tests.drills.conftest import BREAKER_S, BUDGET_S, GRACE_S, Run, Stage

Start = Callable[..., Stage]

RATE = 10
PATIENCE_S = 10
FLEET = (
    "limits.is_fleet_wide=true", f"limits.address={RATE}/hour", "proxies.trusted=127.0.0.1",
    "redis.timeout_ms=250", "redis.connect_timeout_ms=250",
)  # fmt: skip


def flood(stage: Stage, client: str, times: int = 2 * RATE) -> Run:
    """What becomes of so many requests of this client, who is somewhere on the internet."""
    return stage.ask(times, headers={"x-forwarded-for": client})


def let_in(*runs: Run) -> int:
    return sum(run.statuses.count(200) for run in runs)


def test_drill__two_services_share_a_rate__one_client_gets_it_once(start: Start) -> None:
    """limits.is_fleet_wide: spreading requests over services gains a flooder nothing, and costs others nothing."""
    one, two = start(*FLEET), start(*FLEET)
    runs = [flood(stage, "203.0.113.9", RATE // 2 - 1) for stage in (one, two, one, two)]
    assert let_in(*runs) == RATE
    assert {status for run in runs for status in run.statuses} == {200, 429}
    refused = next(headers for headers in runs[-1].headers if "retry-after" in headers)
    assert refused["ratelimit-limit"] == str(RATE)
    assert 1 <= int(refused["retry-after"]) <= 7200
    assert let_in(flood(one, "198.51.100.7", RATE)) == RATE
    assert one.metric("fleet_limit_fallbacks_total") == two.metric("fleet_limit_fallbacks_total") == 0


def test_drill__rates_not_shared__each_service_counts_for_itself(start: Start) -> None:
    """limits.is_fleet_wide: without it a client gets its rate from each service."""
    alone = ("limits.is_fleet_wide=false", *FLEET[1:])
    assert let_in(*(flood(start(*alone), "203.0.113.9") for _ in range(2))) == 2 * RATE


@pytest.mark.parametrize("mode", ["blackhole", "refuse"])
@pytest.mark.parametrize(("on_failure", "expected"), [("local", RATE), ("allow", 2 * RATE), ("deny", 0)])
def test_drill__redis_fails_under_shared_rates__is_done_without(
    start: Start, mode: Any, on_failure: str, expected: int
) -> None:
    """limits.on_failure: with Redis hung or gone it decides, in time; once Redis is back, that does again."""
    stage = start(*FLEET, f"limits.on_failure={on_failure}")
    assert let_in(flood(stage, "203.0.113.1")) == RATE
    stage.redis.set(mode)
    run = flood(stage, "203.0.113.2")
    assert let_in(run) == expected
    assert max(run.seconds) < 5 * (BUDGET_S + GRACE_S)
    assert stage.metric("fleet_limit_fallbacks_total") > 0
    assert stage.metric("breaker_transitions_total", 'dependency="limits",to="open"') >= 1
    stage.redis.heal()
    ends_at = time.monotonic() + BREAKER_S + PATIENCE_S
    for number in count(3):
        fallbacks = stage.metric("fleet_limit_fallbacks_total")
        is_exact = let_in(flood(stage, f"203.0.113.{number}")) == RATE
        if is_exact and stage.metric("fleet_limit_fallbacks_total") == fallbacks:
            break
        assert time.monotonic() < ends_at
        time.sleep(0.1)
