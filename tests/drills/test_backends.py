"""What callers get while a backend fails: answers, in time, and everything back to normal when it is over."""

import time
from collections.abc import Callable
from statistics import median

import httpx
import pytest

from tests.drills.conftest import (
    BREAKER_S,
    BUDGET_S,
    GRACE_S,
    Stage,
    assert_answered,
    assert_nothing_left,
)

Start = Callable[..., Stage]
Break = Callable[[Stage], None]


def postgres_refused(stage: Stage) -> None:
    stage.postgres.set("refuse")


def postgres_hung(stage: Stage) -> None:
    stage.postgres.set("blackhole")


def postgres_slow(stage: Stage) -> None:
    stage.postgres.set("delay", seconds=2)


def postgres_reset(stage: Stage) -> None:
    stage.postgres.set("reset")


def postgres_thin(stage: Stage) -> None:
    stage.postgres.set("bandwidth", bytes_per_s=200)


def redis_refused(stage: Stage) -> None:
    stage.redis.set("refuse")


def redis_hung(stage: Stage) -> None:
    stage.redis.set("blackhole")


def redis_slow(stage: Stage) -> None:
    stage.redis.set("delay", seconds=2, jitter=1)


def both_refused(stage: Stage) -> None:
    stage.postgres.set("refuse")
    stage.redis.set("refuse")


def both_hung(stage: Stage) -> None:
    stage.postgres.set("blackhole")
    stage.redis.set("blackhole")


POSTGRES = [postgres_refused, postgres_hung, postgres_slow, postgres_reset, postgres_thin, both_refused, both_hung]
REDIS = [redis_refused, redis_hung, redis_slow]


@pytest.mark.parametrize("fault", POSTGRES, ids=lambda it: it.__name__)
def test_drill__database_fails_under_a_warm_service__costs_only_stored_facts(start: Start, fault: Break) -> None:
    """Flags that need nothing stored stay exact, the others fail as documented, and all is exact again soon after."""
    stage = start()
    healthy = stage.ask()
    assert healthy.is_exact
    time.sleep(0.3)
    tasks, memory_kb = stage.metric("tasks"), stage.memory_kb()
    fault(stage)
    for _ in range(3):
        run = stage.ask()
        assert_answered(run, healthy)
    assert not run.is_exact
    assert all("x-flagstone-degraded" in headers for headers in run.headers)
    stage.postgres.heal()
    stage.redis.heal()
    stage.until_exact(BREAKER_S + 5 * BUDGET_S)
    stage.until_as_before(healthy)
    assert_nothing_left(stage, tasks)
    assert stage.memory_kb() - memory_kb < 32_000


STALLED = 0.05
"""Of the answers, whose facts may come too late because the machine stalls."""


@pytest.mark.parametrize("fault", REDIS, ids=lambda it: it.__name__)
def test_drill__redis_fails__nobody_notices(start: Start, fault: Break) -> None:
    """The shared cache is never required: every answer stays exact, and as quick as before."""
    stage = start()
    healthy = stage.ask()
    fault(stage)
    for _ in range(3):
        run = stage.ask()
        assert_answered(run, healthy)
        assert run.inexact <= len(run.answers) * STALLED
    assert median(run.seconds) < 5 * median(healthy.seconds) + GRACE_S


@pytest.mark.parametrize("fault", REDIS, ids=lambda it: it.__name__)
def test_drill__redis_fails_before_the_start__the_store_serves(start: Start, fault: Break) -> None:
    """A cold service with a dead shared cache goes to the store, a bounded time later."""
    stage = start()
    fault(stage)
    run = stage.ask(8)
    assert set(run.statuses) == {200}
    assert run.is_exact
    assert "source=store" in run.headers[-1]["x-flagstone-snapshot"]


def test_drill__store_down_at_the_start__the_shared_cache_serves(start: Start) -> None:
    """What another process put into Redis lets a cold one answer without the store."""
    first = start()
    healthy = first.ask()
    time.sleep(0.3)
    first.postgres.set("refuse")
    second = start("disk.path=")
    run = second.ask()
    assert_answered(run, healthy)
    assert "source=redis" in run.headers[-1]["x-flagstone-snapshot"]


@pytest.mark.parametrize("fault", [both_refused, both_hung], ids=lambda it: it.__name__)
def test_drill__both_dead_at_the_start__the_disk_serves(start: Start, fault: Break) -> None:
    """A process that starts with everything down answers from the last definitions known to be good."""
    first = start()
    healthy = first.ask()
    time.sleep(0.3)
    fault(first)
    second = start()
    run = second.ask()
    assert_answered(run, healthy)
    assert "source=disk" in run.headers[0]["x-flagstone-snapshot"]
    second.postgres.heal()
    second.redis.heal()
    second.until_exact(BREAKER_S + 5 * BUDGET_S)


@pytest.mark.parametrize("fault", [both_refused, both_hung], ids=lambda it: it.__name__)
def test_drill__both_dead_at_the_start_without_a_disk__is_not_ready_and_never_wrong(start: Start, fault: Break) -> None:
    """With nothing to answer from the service says 503, not 401 and not flags, and answers once it can."""
    stage = start("disk.path=")
    fault(stage)
    assert httpx.get(f"{stage.server.url}/_readiness", timeout=5).status_code == 503
    assert set(stage.ask(8).statuses) == {503}
    stage.postgres.heal()
    stage.redis.heal()
    time.sleep(BREAKER_S + 1)
    assert httpx.get(f"{stage.server.url}/_readiness", timeout=5).status_code == 200
    assert set(stage.ask(8).statuses) == {200}


def test_drill__client_has_little_time__gets_what_is_ready_then(start: Start) -> None:
    """With the database hung, a client that waits 100 ms is answered by then, and others have their whole budget."""
    stage = start("breakers.min_calls=1000")
    healthy = stage.ask()
    stage.postgres.set("blackhole")
    hasty = stage.ask(headers={"x-request-timeout-ms": "100"})
    patient = stage.ask()
    for run in (hasty, patient):
        assert_answered(run, healthy)
        assert not run.is_exact
    assert median(hasty.seconds) < 0.1 + GRACE_S
    assert median(patient.seconds) > median(hasty.seconds)
