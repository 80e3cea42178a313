"""Events: answered at once, whatever there is behind, and brought to where the settings say."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx
import pytest

from config.address import Address
from config.clients import Capture
from config.reload import Live
from config.settings import Settings
from gateway.app import create_app
from gateway.metrics import Metrics
from gateway.middleware.paths import CAPTURES
from gateway.services import learning
from gateway.wire.capture import MARK
from tests.contracts.managed import new_project
from tests.fake_editing import FakeManagedStore
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, Client, one_project, running
from tests.gateway.stores.test_http_upstream import OK, Peer, upstream_to

PATHS = [path + slash for path in CAPTURES for slash in ("", "/")]
IDENTIFY = {"event": "$identify", "distinct_id": "u1", "properties": {"$set": {"plan": "pro"}}}
BATCH = {"api_key": TOKEN, "batch": [IDENTIFY]}


class World:
    """A client of the app, and what became of its events."""

    def __init__(self, client: Client, metrics: Metrics, people: FakeManagedStore) -> None:
        self.client = client
        self.people = people
        self._metrics = metrics

    def counted(self, name: str) -> dict[str, float]:
        """The values of a metric that are not zero, by their label."""
        rows = [row.removeprefix(f"flagstone_{name}") for row in self._metrics.render().decode().splitlines()
                if row.startswith((f"flagstone_{name}{{", f"flagstone_{name} "))]  # fmt: skip
        return {
            label.strip('{}"').rpartition('="')[2]: float(value)
            for label, value in (row.rsplit(" ", 1) for row in rows)
            if float(value)
        }

    async def until(self, name: str, outcome: str, number: float = 1) -> None:
        async with asyncio.timeout(30):
            while self.counted(name).get(outcome, 0) < number:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def world_of(**capture: Any) -> AsyncIterator[World]:
    metrics, people, store = Metrics(), FakeManagedStore(), one_project()
    await new_project(people, TOKEN)
    store.managed = people
    app = create_app(Live(Settings(capture=Capture(**capture))), FakeClock(), lambda _: nullcontext(store), metrics)
    async with running(app) as serving_app:
        transport = httpx.ASGITransport(serving_app, client=("192.0.2.7", 1))
        async with Client(transport=transport, base_url="http://flagstone") as client:
            yield World(client, metrics, people)


@asynccontextmanager
async def forwarding_world(**capture: Any) -> AsyncIterator[tuple[World, Peer]]:
    async with (
        upstream_to(OK) as (peer, _),
        world_of(upstream=Address(f"http://127.0.0.1:{peer.port}"), **capture) as world,
    ):
        yield world, peer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "REST_S", 0.0)


@pytest.mark.parametrize("path", PATHS)
async def test_capture__nobody_wants_the_events__are_counted_and_dropped(path: str) -> None:
    """capture.upstream: without one, and without capture.persons, a body is not even looked at."""
    async with world_of() as world:
        for method in ("POST", "GET"):
            answer = await world.client.request(
                method, path, content=b"\x1f\x8bnonsense", headers={"origin": "http://x"}
            )
            assert (answer.status_code, answer.json()) == (200, {"status": "Ok"})
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["access-control-allow-origin"] == "http://x"
        assert (await world.client.head(path)).status_code == 200
        assert world.counted("event_requests_total") == {"discarded": 2}
        assert world.counted("event_bytes_total") == {"": 20}
        assert world.people.calls == ["create_project"]


async def test_capture__any_other_method__is_refused_with_what_there_is() -> None:
    """As everywhere."""
    async with world_of() as world:
        refused = await world.client.put("/e/")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST, OPTIONS, HEAD")


async def test_capture__body_is_too_large__is_refused_before_it_is_taken() -> None:
    """SDKs cut a batch in two when they are told that it was too large."""
    async with world_of() as world:
        assert (await world.client.post("/batch/", content=bytes((1 << 20) + 1))).status_code == 413
        assert world.counted("event_requests_total") == {}


async def test_forward__request__reaches_the_upstream_as_it_came() -> None:
    """capture.upstream: path, query and bytes, and the address that was found here; nothing that could be a secret."""
    body = gzip.compress(json.dumps(BATCH).encode())
    sent = {
        "content-type": "text/plain", "user-agent": "posthog-js/1", "x-forwarded-for": "1.2.3.4", "cookie": "a=b",
        "authorization": "Bearer x", "x-request-id": "3b0f3c1e-0d54-4b2a-9c59-2f1b6a7d9e10",
    }  # fmt: skip
    async with forwarding_world() as (world, peer):
        answer = await world.client.post("/i/v0/e/?ip=1&_=1%2B", content=body, headers=sent)
        assert answer.json() == {"status": "Ok"}
        await world.until("event_requests_total", "forwarded")
        await world.client.get("/e?data=eyJ9")
        await world.until("event_requests_total", "forwarded", 2)
        assert world.counted("event_bytes_buffered") == {}
    assert peer.bodies == [body, b""]
    first, second = (head.decode().split("\r\n") for head in peer.heads)
    assert (first[0], second[0]) == ("POST /i/v0/e/?ip=1&_=1%2B HTTP/1.1", "GET /e?data=eyJ9 HTTP/1.1")
    assert {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in first[1:-2]} == {
        "host": f"127.0.0.1:{peer.port}",
        "content-type": "text/plain",
        "user-agent": "posthog-js/1",
        "x-forwarded-for": "192.0.2.7",
        "x-request-id": "3b0f3c1e-0d54-4b2a-9c59-2f1b6a7d9e10",
        MARK.decode(): "1",
        "content-length": str(len(body)),
    }


async def test_forward__request_of_our_own__is_not_sent_round_in_circles() -> None:
    """Two services that are each other's upstream, or one that is its own, do not keep an event for ever."""
    async with forwarding_world() as (world, peer):
        answer = await world.client.post("/e/", content=b"{}", headers={MARK.decode(): "1"})
        assert answer.status_code == 200
        assert world.counted("event_requests_total") == {"looped": 1}
    assert peer.connections == 0


async def test_forward__upstream_is_gone__changes_no_answer() -> None:
    """Clients are answered as ever, and learn nothing of it."""
    async with upstream_to(OK) as (peer, _):
        pass
    async with world_of(upstream=Address(f"http://127.0.0.1:{peer.port}")) as world:
        answers = [await world.client.post("/e/", json=BATCH) for _ in range(3)]
        await world.until("event_requests_total", "failed", 3)
        assert [answer.json() for answer in answers] == [{"status": "Ok"}] * 3


async def test_learn__persons_are_wanted__are_stored() -> None:
    """capture.persons: what events say of somebody is in the store soon, beside what goes upstream."""
    async with forwarding_world(persons=True) as (world, _):
        assert (await world.client.post("/batch/", json=BATCH)).status_code == 200
        assert (await world.client.post("/e/", content=b"nonsense")).status_code == 200
        await world.until("learned_total", "stored")
        await world.until("event_requests_total", "forwarded", 2)
        (person,) = await world.people.sample_persons(1, 9)
        assert (person.distinct_ids, person.properties) == (["u1"], {"plan": "pro"})
        assert world.counted("learned_total") == {"stored": 1, "undecodable": 1}
        assert world.counted("learning_waiting") == {}
    async with world_of() as world:
        await world.client.post("/batch/", json=BATCH)
        assert await world.people.sample_persons(1, 9) == []


async def test_learn__recording__is_not_looked_at() -> None:
    """Sessions are large and identify nobody."""
    async with world_of(persons=True) as world:
        for path in ("/s", "/s/"):
            assert (await world.client.post(path, json=BATCH)).status_code == 200
        assert world.counted("learned_total") == {}


async def test_learn__store_hangs__changes_no_answer() -> None:
    """Nobody waits for what is stored behind them."""
    async with world_of(persons=True) as world:
        world.people.hang = asyncio.Event()
        assert (await world.client.post("/batch/", json=BATCH)).json() == {"status": "Ok"}
        assert world.counted("learning_waiting") == {"": 1}
        world.people.hang.set()
        await world.until("learned_total", "stored")
