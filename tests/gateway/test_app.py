"""The app as a whole: what holds for every answer, wherever it comes from."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import nullcontext

import httpx
import pytest

from config.reload import Live
from config.settings import Requests, Settings
from gateway.app import create_app
from gateway.errors import StoreUnavailable
from gateway.services.flags import FlagService
from gateway.telemetry import set_up_logging
from tests.gateway.middleware.test_record import Sent, lines
from tests.gateway.serving import TOKEN, Client, MemoryStore, one_project, receiving, running, serving, settle

ORIGIN = "https://shop.example"


@pytest.fixture
def store() -> MemoryStore:
    return one_project()


@pytest.fixture
async def client(store: MemoryStore) -> AsyncIterator[Client]:
    settings = Settings(requests=Requests(max_body_bytes=1000, max_decoded_bytes=1000))
    async with serving(store, settings) as client:
        client.headers["origin"] = ORIGIN
        yield client


async def crash(*_: object, **__: object) -> None:
    raise RuntimeError("a bug")


async def provoke(status: int, client: Client, store: MemoryStore, patch: pytest.MonkeyPatch) -> httpx.Response:
    """A request that is answered with this status."""
    match status:
        case 400:
            return await client.post("/flags", content=b"{")
        case 401:
            return await client.ask(token="phc_wrong")
        case 404:
            return await client.get("/nowhere")
        case 405:
            return await client.put("/flags")
        case 413:
            return await client.post("/flags", content=b"x" * 1001)
        case 500:
            patch.setattr(FlagService, "answer", crash)
        case 503:
            store.error = StoreUnavailable("x")
    return await client.ask()


STATUSES = [200, 400, 401, 404, 405, 413, 500, 503]


@pytest.mark.parametrize("status", STATUSES)
async def test_app__any_answer__can_be_read_by_a_browser(
    client: Client, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Whatever the status, a browser on another origin may read the answer and the headers meant for it."""
    answer = await provoke(status, client, store, monkeypatch)
    assert answer.status_code == status
    cors = {name: value for name, value in answer.headers.items() if name.startswith("access-control")}
    assert cors == {
        "access-control-allow-origin": ORIGIN,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "x-posthog-rate-limit-warning, x-request-id, "
        "x-flagstone-snapshot, x-flagstone-degraded, retry-after, etag, "
        "ratelimit-limit, ratelimit-remaining, ratelimit-reset",
    }
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("status", STATUSES)
async def test_app__any_answer__is_one_line_in_the_log_under_its_id(
    client: Client,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    """Whatever the status, there is exactly one line, and the answer tells the id that the line has."""
    caplog.set_level(logging.INFO)
    answer = await provoke(status, client, store, monkeypatch)
    (line,) = lines(caplog)
    assert (line["status"], line["request_id"]) == (status, answer.headers["x-request-id"])
    assert (line["error"] is None) == (status == 200)


async def test_app__request_cancelled__is_one_line(
    client: Client, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that is cancelled while it waits for a store is logged as cancelled."""
    caplog.set_level(logging.INFO)
    store.gate.clear()
    request = asyncio.ensure_future(client.ask())
    await settle()
    request.cancel()
    await settle()
    store.gate.set()
    (line,) = lines(caplog)
    assert (line["status"], line["is_cancelled"]) == (None, True)


@pytest.mark.parametrize("path", ["/flags", "/decide/", "/_readiness", "/nowhere"])
async def test_app__preflight__mirrors_what_is_asked(client: Client, store: MemoryStore, path: str) -> None:
    """A preflight is answered on every route, allowing the methods there are and any header asked for."""
    answer = await client.options(
        path, headers={"access-control-request-method": "POST", "access-control-request-headers": "x-one, x-two"}
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-methods"] == "GET, POST, OPTIONS, HEAD"
    assert answer.headers["access-control-allow-headers"] == "x-one, x-two"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert store.calls == []


async def test_app__no_origin__has_no_cors_headers_but_varies(client: Client) -> None:
    """A client that is no browser is spared the headers, and a cache is told that a browser is not."""
    del client.headers["origin"]
    answer = await client.ask()
    assert not [name for name in answer.headers if name.startswith("access-control-allow")]
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("path", ["/flags//", "/_liveness/", "//evil.example/flags", "/flags/nowhere"])
async def test_app__unknown_path__is_404_and_never_a_redirect(client: Client, path: str) -> None:
    """A path that is not there is not guessed at: a redirect would take its target from a header of the client."""
    answer = await client.get(httpx.URL("http://evil.example").copy_with(raw_path=path.encode()))
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


async def test_app__full_token__stands_in_no_log_line(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a token only the end is ever written."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        root.handlers = []
        set_up_logging(Settings().log)
        await client.ask()
        await client.ask(token="phc_somebody_elses")
    finally:
        root.handlers, root.level = before
    written = capsys.readouterr().err
    assert TOKEN[-4:] in written
    assert TOKEN not in written
    assert "phc_somebody_elses" not in written


async def test_app__request_line__has_what_was_learnt(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The one line of a request tells the project, the snapshot, the shape and how many flags were answered."""
    caplog.set_level(logging.INFO)
    await client.ask("v=4")
    (line,) = lines(caplog)
    told = ("token", "project_id", "snapshot_version", "shape", "flags", "missing", "error")
    assert {name: line[name] for name in told} == {
        "token": f"...{TOKEN[-4:]}",
        "project_id": 1,
        "snapshot_version": 1,
        "shape": "typed",
        "flags": 2,
        "missing": None,
        "error": None,
    }


async def test_app__store_hangs__answers_within_the_budget(store: MemoryStore) -> None:
    """A store that never answers costs the flags that need it, and no more time than the budget."""
    async with serving(store, Settings(requests=Requests(budget_ms=30, answer_reserve_ms=10))) as client:
        await client.ask()
        store.gate.clear()
        answer = (await client.ask()).json()
        store.gate.set()
    assert answer["flags"]["on"]["enabled"] is True
    assert answer["flags"]["paid"]["reason"]["code"] == "timeout"


async def test_app__websocket__is_closed(store: MemoryStore) -> None:
    """There is nothing to talk to over a websocket, which is said and not crashed over."""
    sent = Sent()
    async with running(create_app(Live(Settings()), open_store=lambda _: nullcontext(store))) as app:
        await app({"type": "websocket", "path": "/flags", "headers": []}, receiving(), sent)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_app__closed__closes_its_store() -> None:
    """The store is open from the beginning of the lifespan to its end."""

    class Opened(MemoryStore):
        is_open = False

        async def __aenter__(self) -> "Opened":
            self.is_open = True
            return self

        async def __aexit__(self, *_: object) -> None:
            self.is_open = False

    store = Opened()
    async with running(create_app(Live(Settings()), open_store=lambda _: store)):
        assert store.is_open
    assert not store.is_open
