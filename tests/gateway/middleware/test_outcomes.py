"""What each request came to, in one word: counted once, wherever it ended."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from config.edge import Limits
from config.rates import Rates
from config.reload import Live
from config.settings import Settings, Snapshots
from gateway.app import create_app
from gateway.errors import StoreUnavailable
from gateway.metrics import Metrics
from gateway.middleware.record import RecordRequests, outcome_of
from gateway.telemetry import RequestRecord
from tests.fakes import FakeClock
from tests.gateway.middleware.door import Door, asked, door
from tests.gateway.middleware.test_record import Sent, nothing, request
from tests.gateway.serving import Client, MemoryStore, one_project, running


def counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Every outcome that was counted, by its endpoint and its name."""
    rows = re.findall(
        r'^flagstone_outcomes_total\{endpoint="(\w+)",outcome="(\w+)"\} (\S+)$', metrics.render().decode(), re.MULTILINE
    )
    return {(endpoint, outcome): float(times) for endpoint, outcome, times in rows if float(times)}


class Served:
    """The app over a store that may fail, on a clock that is moved."""

    def __init__(self, **sections: Any) -> None:
        self.clock, self.metrics, self.store = FakeClock(), Metrics(), one_project()
        self.live = Live(Settings(**sections))

    def _open(self, _: Settings) -> Any:
        return nullcontext[MemoryStore](self.store)

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[Client]:
        app = create_app(self.live, self.clock, self._open, self.metrics)
        async with running(app) as it, Client(transport=httpx.ASGITransport(it), base_url="http://flagstone") as client:
            yield client


async def test_outcome__answers_of_all_kinds__are_told_apart() -> None:
    """An answer is whole, lacks stored facts, or is of definitions that nobody could confirm; a refusal is the
    client's fault, and a failure ours."""
    served = Served()
    async with served.clients() as client:
        await client.ask(person_properties={"plan": "paid"})
        assert counted(served.metrics) == {("flags", "whole"): 1}
        served.store.error = StoreUnavailable("down")
        await client.ask()
        await client.ask(token="")
        await client.ask(token="phc_never_seen")
        served.clock.advance(11)
        await client.ask(person_properties={"plan": "paid"})
        await client.get("/_liveness")
    assert counted(served.metrics) == {
        ("flags", "whole"): 1,
        ("flags", "partial"): 1,
        ("flags", "refused"): 1,
        ("flags", "failed"): 1,
        ("flags", "stale"): 1,
        ("liveness", "whole"): 1,
    }


async def test_outcome__more_than_the_rate__is_limited() -> None:
    """Whoever is told to come later is no failure, and no bad request either."""
    served = Served(limits=Limits(token=Rates("1/minute")))
    async with served.clients() as client:
        await client.ask(person_properties={"plan": "paid"})
        await client.ask()
    assert counted(served.metrics) == {("flags", "whole"): 1, ("flags", "limited"): 1}


@pytest.mark.parametrize(
    ("refresh_s", "age_s", "outcome"), [(1, 9, "whole"), (1, 11, "stale"), (10, 99, "whole"), (0.1, 4, "whole")]
)
async def test_outcome__age_of_the_snapshot__is_stale_after_ten_refreshes(
    refresh_s: float, age_s: float, outcome: str
) -> None:
    """snapshots.refresh_s: an answer is stale when ten of them, and five seconds, passed without a word of a store."""
    served = Served(snapshots=Snapshots(refresh_s=refresh_s))
    async with served.clients() as client:
        await client.ask(person_properties={"plan": "paid"})
        served.store.error = StoreUnavailable("down")
        served.clock.advance(age_s)
        before = counted(served.metrics)
        await client.ask(person_properties={"plan": "paid"})
        after = counted(served.metrics)
    assert {name: times for name, times in after.items() if before.get(name) != times} == {
        ("flags", outcome): 1 + (outcome == "whole")
    }


async def test_outcome__refreshes_set_anew__are_those_that_staleness_is_counted_in() -> None:
    """snapshots.refresh_s: a reload that has snapshots compared less often has them called stale later."""
    live = Live(Settings(snapshots=Snapshots(refresh_s=1)))
    metrics = Metrics()

    async def eleven_seconds_old(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["record"].snapshot_age_ms = 11_000
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = RecordRequests(eleven_seconds_old, live, FakeClock(), metrics)
    await app(request(), nothing, Sent())
    live.put_in_force(Settings(snapshots=Snapshots(refresh_s=2)), 1)
    await app(request(), nothing, Sent())
    assert sorted(outcome for _, outcome in counted(metrics)) == ["stale", "whole"]


async def test_outcome__client_that_left__is_gone() -> None:
    """Nobody got anything, so there is nothing that it came to."""
    metrics = Metrics()

    async def left(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await RecordRequests(left, Live(Settings()), FakeClock(), metrics)(request(), nothing, Sent())
    assert counted(metrics) == {("other", "gone"): 1}


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [(200, "internal_error", "failed"), (200, "overloaded", "shed"), (503, "overloaded", "shed"), (304, None, "whole")],
)
def test_outcome__status_alone__does_not_decide(status: int, error: str | None, outcome: str) -> None:
    """An answer that broke off after its head failed, and a stream for which there was no room was shed."""
    settings = Settings()
    record = RequestRecord(FakeClock(), settings, 1, request_id="", method="", path="/flags", user_agent="")
    record.status, record.error = status, error
    assert outcome_of(record, 1000) == outcome


async def test_outcome__no_room__is_shed_once_wherever_that_shows(doors: list[Door]) -> None:
    """Who is refused before anything is read counts as well: by the engine, on arrival, or after waiting in vain."""
    metrics = Metrics()
    at = door(doors, metrics=metrics, mode="fixed", limit=1, max_queued=1, max_wait_ms=1, ceiling=3, floor=1)
    queued = asked()
    assert [at.admission.refuse(scope) for scope in (asked(), queued)] == [None, None]
    assert at.admission.refuse(asked("/decide")) is not None
    assert counted(metrics) == {("decide", "shed"): 1}
    waiting = asyncio.create_task(at.admission(queued, nothing, Sent()))
    async with asyncio.timeout(30):
        await waiting
    assert counted(metrics) == {("decide", "shed"): 1, ("flags", "shed"): 1}
    at.has_body.clear()
    await at.come(times=4)
    assert counted(metrics) == {("decide", "shed"): 1, ("flags", "shed"): 2}
