"""The route of streams: who gets one, what it looks like, and what ends it. Real connections are in tests/processes.

Nothing listens here: a client is a pair of functions, as an engine would pass them to the app.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp, Message

from config.clients import Streams
from config.edge import Concurrency, Limits
from config.rates import Rates, RateTable
from config.reload import Live
from config.server import Server
from config.settings import Settings
from gateway.app import create_app
from gateway.errors import StoreUnavailable
from gateway.metrics import Metrics
from gateway.middleware.paths import STREAM
from gateway.services import streams
from tests.builders import flag, project
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, MemoryStore, one_project, running, serving, settle


class Listener:
    """A client of a stream: what it got so far. It may stop reading, and it may go."""

    def __init__(self, app: ASGIApp, query: str = f"token={TOKEN}", **headers: str) -> None:
        self.head: Message = {}
        self.body = b""
        self.has_ended = False
        self.reads = asyncio.Event()
        self.reads.set()
        self._gone = asyncio.Event()
        self._body: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": STREAM,
            "query_string": query.encode(), "client": ("192.0.2.1", 1234),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))  # type: ignore[arg-type]

    def go(self) -> None:
        self._gone.set()

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.head["headers"])

    async def _receive(self) -> Message:
        if self._body:
            return self._body.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.head = message
        else:
            self.body += message["body"]
            self.has_ended = not message.get("more_body", False)


class Served:
    """The app over a store, with its clock and its metrics."""

    def __init__(self, live: Live, store: MemoryStore) -> None:
        self.live, self.store, self.clock, self.metrics = live, store, FakeClock(), Metrics()
        self.app: ASGIApp = create_app(live, self.clock, lambda _: nullcontext(store), self.metrics)

    def metric(self, name: str) -> float:
        rows = self.metrics.render().decode().splitlines()
        return sum(float(row.split()[1]) for row in rows if row.startswith("flagstone_" + name))

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settle()


@pytest.fixture(autouse=True)
def _restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "TICK_S", 0)


@asynccontextmanager
async def served(**sections: Any) -> AsyncIterator[Served]:
    it = Served(Live(Settings(**sections)), one_project())
    async with running(it.app) as it.app:
        yield it


async def test_stream__token_of_a_project__begins_at_once() -> None:
    """A client gets a head that no proxy keeps or changes, and a first message, before anything has happened."""
    async with served() as it:
        client = Listener(it.app, origin="https://shop.example")
        await settle()
        assert client.head["status"] == 200
        assert (
            client.headers.items()
            >= {
                b"content-type": b"text/event-stream",
                b"cache-control": b"no-store, no-transform",
                b"x-accel-buffering": b"no",
                b"access-control-allow-origin": b"https://shop.example",
            }.items()
        )
        comment, retry, last_id = client.body.strip().split(b"\n")
        assert comment.startswith(b":")
        assert 1000 <= int(retry.removeprefix(b"retry: ")) <= 5000
        assert last_id == b"id: 1"
        assert not client.has_ended
        client.go()
        await client.task


async def test_stream__another_version__brings_an_event() -> None:
    """A change in the store reaches whoever listens, with the tag of the new definitions."""
    async with served() as it:
        client = Listener(it.app)
        await settle()
        it.store.put(TOKEN, project(flag("new")), 2000)
        await it.pass_time(6)
        Listener(it.app).go()  # Somebody asks, so that it is looked for now.
        await settle()
        await it.pass_time(1)
        event = msgspec.json.decode(client.body[client.body.index(b"data: ") + 6 :].split(b"\n")[0])
        assert b"event: message\nid: 2000\n" in client.body
        assert event["type"] == "refetchEvaluation"
        assert len(event["etag"]) == 32
        assert event["lastModified"] == 2
        client.go()
        await client.task


async def test_stream__client_comes_back_with_an_older_id__is_told_what_it_missed() -> None:
    """Last-Event-ID of another version brings an event at once, without any change."""
    async with served() as it:
        missed, knows = Listener(it.app, last_event_id="0"), Listener(it.app, last_event_id="1")
        await settle()
        assert (missed.body.count(b"data: "), knows.body.count(b"data: ")) == (1, 0)
        for client in (missed, knows):
            client.go()
            await client.task


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 401, "not_authenticated"),
        ("token=", 401, "not_authenticated"),
        ("token=phc_x", 401, "authentication_failed"),
    ],
)
async def test_stream__no_project__is_refused(query: str, status: int, code: str) -> None:
    """Without a token, or with one that no project has, there is nothing to listen to."""
    async with serving(one_project()) as client:
        answer = await client.get(f"{STREAM}?{query}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_stream__store_is_down__is_unavailable_or_served_from_memory() -> None:
    """An outage is a 503 only for a project that nobody asked for before, and never a 401."""
    async with served() as it:
        it.store.error = StoreUnavailable("down")
        refused = Listener(it.app)
        await refused.task
        assert refused.head["status"] == 503
        it.store.error = None
        await it.pass_time(2)
        first = Listener(it.app)
        await settle()
        it.store.error = StoreUnavailable("down")
        second = Listener(it.app)
        await it.pass_time(100)
        assert (first.head["status"], second.head["status"]) == (200, 200)
        assert [first.has_ended, second.has_ended] == [False, False]
        for client in (first, second):
            client.go()
            await client.task


async def test_stream__switched_off__is_not_there() -> None:
    """streams.is_enabled: without it the path is a 404, whoever asks."""
    async with serving(one_project(), Settings(streams=Streams(is_enabled=False))) as client:
        for query in (f"token={TOKEN}", "token=phc_x"):
            assert (await client.get(f"{STREAM}?{query}")).status_code == 404


@pytest.mark.parametrize("path", [STREAM, STREAM + "/"])
async def test_stream__other_methods__open_none(path: str) -> None:
    """HEAD has the headers alone, OPTIONS the methods, and nothing can be sent."""
    async with serving(one_project()) as client:
        head = await client.head(path)
        assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/event-stream", b"")
        assert (await client.options(path)).headers["allow"] == "GET, OPTIONS, HEAD"
        assert (await client.post(path)).status_code == 405


async def test_stream__too_often__is_denied() -> None:
    """limits.routes, limits.token: opening streams is limited by address and by project, as every request is."""
    by_route = Limits(routes=RateTable({"streams": "1/minute"}))
    for limits in (by_route, Limits(token=Rates("1/minute"))):
        async with served(limits=limits) as it:
            first, second = Listener(it.app), Listener(it.app)
            await settle()
            assert (first.head["status"], second.head["status"]) == (200, 429)
            first.go()
            await first.task


async def test_stream__client_goes__is_over_at_once() -> None:
    """What a stream occupied is free as soon as its client has gone."""
    async with served() as it:
        client = Listener(it.app)
        await settle()
        assert it.metric("streams ") == 1
        assert it.metric('concurrency{partition="streams",what="in_flight"}') == 1
        client.go()
        await settle()
        assert client.task.done()
        assert it.metric("streams ") == 0
        assert it.metric('concurrency{partition="streams",what="in_flight"}') == 0
        assert it.metric('streams_ended_total{reason="gone"}') == 1


async def test_stream__at_its_age__ends_as_answers_do() -> None:
    """streams.max_age_s: the answer comes to its end, so that the client knows that nothing is wrong."""
    async with served(streams=Streams(max_age_s=100)) as it:
        client = Listener(it.app)
        await settle()
        await it.pass_time(100)
        assert client.has_ended
        assert client.task.done()


async def test_stream__client_takes_nothing__is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """server.write_timeout_s: a write that does not end in time ends the stream."""
    async with served(server=Server(write_timeout_s=0.1), streams=Streams(heartbeat_s=1)) as it:
        client = Listener(it.app)
        await settle()
        client.reads.clear()
        await it.pass_time(1)
        async with asyncio.timeout(10):
            await client.task
        assert not client.has_ended
        assert it.metric('streams_ended_total{reason="slow"}') == 1


async def test_stream__cut_off__lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is cancelled leaves its place, and nothing of it goes on."""
    async with served() as it:
        before = len(asyncio.all_tasks())
        client = Listener(it.app)
        await settle()
        client.task.cancel()
        with suppress(asyncio.CancelledError):
            await client.task
        await settle()
        assert len(asyncio.all_tasks()) == before
        assert it.metric("streams ") == 0


async def test_stream__in_the_metrics__is_answered_once_it_began() -> None:
    """How long a stream lasts is nobody's latency, and it is no request in flight."""
    async with served() as it:
        client = Listener(it.app)
        await settle()
        assert it.metric("requests_in_flight") == 0
        assert it.metric('requests_total{endpoint="streams",status_class="2xx"}') == 1
        await it.pass_time(100)
        client.go()
        await client.task
        assert it.metric("requests_in_flight") == 0
        assert it.metric('request_duration_seconds_count{endpoint="streams"}') == 1
        assert it.metric('request_duration_seconds_sum{endpoint="streams"}') < 1


async def test_stream__no_room__is_shed_in_the_metrics_though_its_status_is_good() -> None:
    """A client that is told to come later got no stream, whatever the status that makes it come back."""
    async with served(concurrency=Concurrency(streams=1)) as it:
        listening, refused = Listener(it.app), Listener(it.app)
        await settle()
        assert (refused.head["status"], refused.has_ended) == (200, True)
        assert it.metric('outcomes_total{endpoint="streams",outcome="whole"}') == 1
        assert it.metric('outcomes_total{endpoint="streams",outcome="shed"}') == 1
        listening.go()
        await listening.task


async def test_stream__in_the_log__does_not_show_the_token(caplog: pytest.LogCaptureFixture) -> None:
    """The token stands in the address, and no line of the log has more than its end."""
    caplog.set_level(logging.INFO)
    async with served() as it:
        client = Listener(it.app)
        await settle()
        client.go()
        await client.task
    lines = [vars(record)["fields"] for record in caplog.records if record.message == "request"]
    assert [(line["path"], line["token"], line["project_id"]) for line in lines] == [(STREAM, "..._one", 1)]
    assert TOKEN not in caplog.text
