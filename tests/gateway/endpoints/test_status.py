"""What callers are told of how the service stands."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from config.edge import Concurrency, Limits
from config.operating import Status
from config.rates import Rates
from config.reload import Live
from config.settings import Settings
from gateway.app import create_app
from gateway.errors import StoreUnavailable
from gateway.middleware.paths import STATUS
from gateway.server import lifespan
from gateway.services.status import StatusService
from gateway.standing import EFFECTS
from tests.fakes import FakeClock
from tests.gateway.serving import Client, MemoryStore, one_project, serving, settle

PAGE = {"Accept": "text/html"}


@asynccontextmanager
async def looked_at(
    store: MemoryStore, settings: Settings | None = None
) -> AsyncIterator[tuple[Client, StatusService, Live]]:
    """A client of the whole app, the status that it finds out, and the settings in force."""
    live = Live(settings or Settings())
    app = create_app(live, FakeClock(), lambda _: nullcontext(store))
    async with lifespan.running(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(with_state, client=("203.0.113.9", 1))
        async with Client(transport=transport, base_url="http://flagstone") as client:
            yield client, state["status"], live


async def test_status__store_down__is_told_without_asking_it() -> None:
    """What callers get is known from the requests that went before; asking for it costs no backend anything."""
    store = one_project()
    async with looked_at(store) as (client, status, _):
        answers = [await client.get(STATUS)]
        await client.ask()
        store.error = StoreUnavailable("password is hunter2")
        for person in ("a", "b"):
            await client.ask(distinct_id=person)
        status.look()
        calls = list(store.calls)
        answers += [await client.get(STATUS), await client.get(STATUS, headers=PAGE)]
    assert store.calls == calls
    well, degraded, page = answers
    assert (well.json()["status"], well.json()["callers_see"]) == ("ok", [])
    assert degraded.json()["status"] == "degraded"
    assert EFFECTS["persons"].text in degraded.json()["callers_see"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert EFFECTS["persons"].text in page.text
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=5"
        assert answer.headers.get_list("vary") == ["Accept", "Origin"]
        assert "hunter2" not in answer.text


async def test_status__requests_are_refused__says_so_and_is_not() -> None:
    """While there is no room for anybody, this is answered, and tells of it."""
    store = one_project()
    store.gate.clear()
    settings = Settings(concurrency=Concurrency(mode="fixed", limit=1, max_queued=0))
    async with looked_at(store, settings) as (client, status, _):
        inside = asyncio.create_task(client.ask())
        await settle()
        refused = await client.ask()
        status.look()
        answer = await client.get(STATUS)
        store.gate.set()
        assert (await inside).status_code == 200
    assert refused.status_code == 503
    assert (answer.status_code, answer.json()["callers_see"]) == (200, [EFFECTS["overload"].text])


@pytest.mark.parametrize(("is_public", "status"), [(True, 200), (False, 404)])
async def test_status__not_public__is_not_there(is_public: bool, status: int) -> None:
    """status.is_public: whether anybody but operators can ask, from the moment of a reload on."""
    async with looked_at(one_project()) as (client, _, live):
        live.settings = Settings(status=Status(is_public=is_public))
        assert (await client.get(STATUS)).status_code == status


async def test_status__asked_too_often__is_refused_as_everywhere() -> None:
    """Unlike health, it is no probe's: an address has its rate for it."""
    settings = Settings(limits=Limits(address=Rates("2/minute")))
    async with looked_at(one_project(), settings) as (client, _, _):
        codes = [(await client.get(STATUS)).status_code for _ in range(4)]
    assert (codes[0], codes[-1]) == (200, 429)


async def test_status__methods__are_those_that_only_read() -> None:
    """Nobody changes anything there."""
    async with serving(one_project()) as client:
        assert (await client.head(STATUS)).status_code == 200
        assert (await client.post(STATUS)).status_code == 405
