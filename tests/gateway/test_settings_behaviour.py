"""Each setting of the gateway, shown to change what the gateway does."""

import asyncio
import gzip
import logging
from typing import Any

import httpx
import pytest

from config.address import Address
from config.edge import Proxies
from config.networks import Networks
from config.operating import Log
from config.settings import Requests, Settings, Snapshots
from config.settings import Store as StoreSettings
from gateway.ports import StoredFacts
from gateway.stores.file import FileStore
from gateway.stores.sqlite import SqliteStore
from gateway.telemetry import log_event, set_up_logging
from gateway.wiring import open_store
from tests.builders import project
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, MemoryStore, one_project, serving, settle


@pytest.mark.parametrize(("url", "kind"), [("file:x.json", FileStore), ("sqlite:x.sqlite3", SqliteStore)])
def test_store_url__scheme__chooses_the_store(url: str, kind: type) -> None:
    """store.url: its scheme chooses the adapter."""
    assert isinstance(open_store(Settings(store=StoreSettings(url=Address(url)))), kind)


@pytest.mark.parametrize(("refresh_s", "version"), [(2.0, 1), (1.0, 2)])
async def test_snapshots_refresh_s__decides_when_a_change_is_seen(refresh_s: float, version: int) -> None:
    """snapshots.refresh_s: a change is looked for after this time and not before."""
    store, clock = one_project(), FakeClock()
    async with serving(store, Settings(snapshots=Snapshots(refresh_s=refresh_s)), clock) as client:
        await client.ask()
        store.put(TOKEN, project(), version=2)
        clock.advance(1.5)
        await client.ask()
        await settle()
        flags = (await client.ask()).json()["flags"]
    assert (not flags) == (version == 2)


@pytest.mark.parametrize(("ttl_s", "status"), [(10.0, 401), (1.0, 200)])
async def test_snapshots_unknown_token_ttl_s__decides_when_a_new_project_is_found(ttl_s: float, status: int) -> None:
    """snapshots.unknown_token_ttl_s: a token once unknown is looked up again after this time."""
    store, clock = one_project(), FakeClock()
    async with serving(store, Settings(snapshots=Snapshots(unknown_token_ttl_s=ttl_s)), clock) as client:
        assert (await client.ask(token="phc_later")).status_code == 401
        store.put("phc_later", project())
        clock.advance(5)
        assert (await client.ask(token="phc_later")).status_code == status


async def loads(settings: Settings, *tokens: str) -> int:
    """How often the store is asked for definitions by requests with these tokens, one after the other."""
    store = one_project()
    store.put("phc_two", project())
    async with serving(store, settings) as client:
        for token in tokens:
            await client.ask(token=token)
    return store.calls.count("load_definitions")


@pytest.mark.parametrize(("max_projects", "expected"), [(1, 3), (2, 2)])
async def test_snapshots_max_projects__decides_how_many_are_held(max_projects: int, expected: int) -> None:
    """snapshots.max_projects: with room for one, two projects push each other out."""
    settings = Settings(snapshots=Snapshots(max_projects=max_projects))
    assert await loads(settings, TOKEN, "phc_two", TOKEN) == expected


@pytest.mark.parametrize(("max_unknown_tokens", "expected"), [(1, 3), (2, 2)])
async def test_snapshots_max_unknown_tokens__decides_how_many_are_remembered(
    max_unknown_tokens: int, expected: int
) -> None:
    """snapshots.max_unknown_tokens: with room for one, two wrong tokens push each other out."""
    settings = Settings(snapshots=Snapshots(max_unknown_tokens=max_unknown_tokens))
    assert await loads(settings, "phc_a", "phc_b", "phc_a") == expected


class SlowStore(MemoryStore):
    """Takes 0.5 s of the clock to load definitions."""

    clock: FakeClock

    async def load_definitions(self, token: str) -> Any:
        self.clock.advance(0.5)
        return await super().load_definitions(token)


async def failed(requests: Requests) -> bool:
    """Whether a flag that needs a stored property fails after half a second was spent."""
    store, clock = SlowStore(), FakeClock()
    store.clock = clock
    store.definitions = one_project().definitions
    store.persons["u1"] = StoredFacts({"plan": "paid"})
    async with serving(store, Settings(requests=requests), clock) as client:
        return "failed" in (await client.ask()).json()["flags"]["paid"]


@pytest.mark.parametrize(("budget_ms", "fails"), [(500, True), (1000, False)])
async def test_requests_budget_ms__bounds_the_loading(budget_ms: int, fails: bool) -> None:
    """requests.budget_ms: what is not loaded within it is missing."""
    assert await failed(Requests(budget_ms=budget_ms, answer_reserve_ms=0)) is fails


@pytest.mark.parametrize(("answer_reserve_ms", "fails"), [(600, True), (100, False)])
async def test_requests_answer_reserve_ms__is_kept_from_the_loading(answer_reserve_ms: int, fails: bool) -> None:
    """requests.answer_reserve_ms: this part of the budget is not spent on loading."""
    assert await failed(Requests(budget_ms=1000, answer_reserve_ms=answer_reserve_ms)) is fails


async def status_of(content: bytes, requests: Requests) -> int:
    async with serving(one_project(), Settings(requests=requests)) as client:
        answer: httpx.Response = await client.post("/flags", content=content)
    return answer.status_code


BODY = b'{"token":"%s","distinct_id":"u1"}' % TOKEN.encode()


@pytest.mark.parametrize(("room", "status"), [(-1, 413), (0, 200)])
async def test_requests_max_body_bytes__bounds_what_is_received(room: int, status: int) -> None:
    """requests.max_body_bytes: a longer body is refused."""
    assert await status_of(BODY, Requests(max_body_bytes=len(BODY) + room)) == status


@pytest.mark.parametrize(("room", "status"), [(-1, 413), (0, 200)])
async def test_requests_max_decoded_bytes__bounds_what_is_inflated(room: int, status: int) -> None:
    """requests.max_decoded_bytes: a body that inflates beyond it is refused."""
    content = BODY + b" " * 1000
    requests = Requests(max_body_bytes=500, max_decoded_bytes=len(content) + room)
    assert await status_of(gzip.compress(content), requests) == status


async def test_requests_body_timeout_s__bounds_how_long_a_body_takes() -> None:
    """requests.body_timeout_s: a body that stops coming is given up after this time."""
    async with serving(one_project(), Settings(requests=Requests(body_timeout_s=0.01))) as client:

        async def half_a_body() -> Any:
            yield BODY[:9]
            await asyncio.Event().wait()

        answer = await client.post("/flags", content=half_a_body())
    assert answer.status_code == 408


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Any:
    """Sets up logging and gives what a debug event and an error event then write."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers = []

    def write(log: Log) -> str:
        set_up_logging(log)
        log_event("small", logging.DEBUG)
        log_event("big", logging.ERROR)
        return capsys.readouterr().err

    yield write
    root.handlers, root.level = before


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("error", 1)])
def test_log_level__leaves_out_what_is_less_severe(written: Any, level: Any, lines: int) -> None:
    """log.level: less severe lines are not written."""
    assert written(Log(level=level)).count("\n") == lines


@pytest.mark.parametrize(("style", "opening"), [("json", "{"), ("text", "2")])
def test_log_format__decides_how_a_line_looks(written: Any, style: Any, opening: str) -> None:
    """log.format: a line is a JSON object or text."""
    assert written(Log(level="error", format=style)).startswith(opening)


@pytest.mark.parametrize(
    ("trusted", "header", "client"),
    [
        ("", "x-forwarded-for", "127.0.0.1"),
        ("127.0.0.0/8", "x-forwarded-for", "203.0.113.9"),
        ("127.0.0.0/8", "forwarded", "203.0.113.8"),
    ],
)
async def test_proxies__decide_whose_word_counts(
    trusted: str, header: Any, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    """proxies.trusted, proxies.header: only the proxies named are believed, in the header they set."""
    caplog.set_level(logging.INFO)
    headers = {"x-forwarded-for": "1.1.1.1, 203.0.113.9", "forwarded": "for=1.1.1.1, for=203.0.113.8"}
    settings = Settings(proxies=Proxies(trusted=Networks(trusted), header=header))
    async with serving(one_project(), settings) as asking:
        await asking.get("/", headers=headers)
    line = next(vars(record)["fields"] for record in caplog.records if record.message == "request")
    assert line["client"] == client
