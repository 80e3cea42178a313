"""A flagstone is stopped behind the load balancers, with the shipped files: under many requests, no client notices.

How balancers treat backends that die or misbehave is in tests/balancers. Invariant: no client repeats a request.
"""

import asyncio
import signal
from collections.abc import Callable

from drills.load.generator import run
from drills.load.plan import LoadPlan, flags_bodies
from tests.balancers.conftest import Balance, balance, haproxy, nginx  # noqa: F401
from tests.conftest import ServerProcess

Start = Callable[..., ServerProcess]

RATE = 600.0
SECONDS = 4.5
LAME_DUCK_S = 3
SETTINGS = (
    f"server.lame_duck_s={LAME_DUCK_S}",
    "server.engine=uvicorn",
    "concurrency.mode=off",  # What a crowded machine makes it refuse is no matter of stopping.
    "log.level=error",
)


async def test_backend__stopped_under_load__is_noticed_by_no_client(
    balance: Balance,  # noqa: F811
    start_server: Start,
) -> None:
    """server.lame_duck_s, server.engine: with some health checks' time, none of thousands of requests fails."""
    options = [it for setting in SETTINGS for it in ("--set", setting)]
    leaving, staying = (start_server("--demo", *options).wait_until_ready() for _ in range(2))
    plan = LoadPlan(
        url=f"{balance([leaving, staying]).url}/flags?v=2", phases=((SECONDS, RATE),), bodies=flags_bodies("phc_demo"),
        connections=64, timeout_s=5.0,
    )  # fmt: skip
    asyncio.get_running_loop().call_later(0.5, leaving.tell, signal.SIGTERM)
    report = await run(plan)
    assert leaving.exit_code() == 0
    assert set(report.statuses) == {200}, report.statuses
    assert {outcome for outcome, seen in report.first.items() if seen.count} <= {"ok", "partial"}, report.first
    assert sum(report.statuses.values()) == RATE * SECONDS
