"""The settings that claim to be live, as a whole: each is read anew once a reload has put it in force.

What each of them does then is tested where it lives. Invariant: a worker in this process, over a real PostgreSQL and
Redis, runs under settings that note who reads them; a setting kept from its beginning is never read of the new ones.
"""

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import httpx
import msgspec
import pytest

from config.reload import RELOADABLE, dumps, loads
from config.settings import SECTIONS, Settings
from drills.faults import FaultProxy
from drills.servers import Postgres
from drills.servers import Redis as RedisServer
from gateway.document import read_document
from gateway.ports import SystemClock
from gateway.server import worker
from gateway.server.channel import (
    Begin,
    Commit,
    Committed,
    Drain,
    Gather,
    Gathered,
    Go,
    Opened,
    Prepare,
    Prepared,
    Ready,
    SupervisorEnd,
    supervisor_end,
)
from gateway.services.keys import KeyService
from gateway.stores.postgres import PostgresStore
from tests.builders import condition, flag, person, project

T = TypeVar("T")

TOKEN: Final = "phc_live"
PATIENCE_S: Final = 30.0
SETTLE_S: Final = 2.0
"""In which everything that goes round by itself has gone round."""
OF_THE_SUPERVISOR: Final = {"server.lame_duck_s"}
"""Read by the process that owns them: tests/processes/ shows that these are live."""


def noting(settings: Settings, seen: set[str]) -> Settings:
    """The same settings, which put into `seen` whatever is read of them."""

    def spy(section: str, shape: Any) -> Any:
        class Noting(shape):  # type: ignore[misc]
            def __getattribute__(self, name: str) -> Any:
                seen.add(f"{section}.{name}")
                return super().__getattribute__(name)

        return Noting(**msgspec.structs.asdict(getattr(settings, section)))

    return msgspec.structs.replace(settings, **{name: spy(name, shape) for name, shape in SECTIONS.items()})


def whole_project() -> dict[str, Any]:
    flags = [
        flag("on", id=1),
        flag("paid", condition(person("tier", "gold")), id=2),
        flag("sticky", rollout=50, id=3, ensure_experience_continuity=True),
    ]
    people = [{"distinct_ids": ["u1"], "properties": {"tier": "gold"}}]
    return {**project(*flags, secret_tokens=["phs_live"]), "token": TOKEN, "persons": people}


class Stage:
    """A store with one project, an empty Redis, and ways to both that can be cut; `key` may do everything."""

    def __init__(self, settings: Settings, key: str, postgres: FaultProxy, redis: FaultProxy) -> None:
        self.settings = settings
        self.key = key
        self.postgres = postgres
        self.redis = redis


@pytest.fixture
async def stage(postgres: Postgres, redis_server: RedisServer, database: str, tmp_path: Path) -> AsyncIterator[Stage]:
    with (
        FaultProxy("127.0.0.1", postgres.port) as before_postgres,
        FaultProxy("127.0.0.1", redis_server.port) as before_redis,
    ):
        sections = {
            "store": {"url": postgres.url(database, before_postgres.port)},
            "redis": {"url": redis_server.url(before_redis.port), "timeout_ms": 5000, "connect_timeout_ms": 5000},
            "disk": {"path": str(tmp_path)},
            "limits": {"is_fleet_wide": True, "routes": {"capture": "1/hour"}},
            "keys": {"ttl_s": 0},
            "quota": {"project": "1000000/day"},
            "api": {"is_enabled": True},
            "builder": {"poll_ms": 20},
            "log": {"sample_ratio": 0},
            "traces": {"url": "http://127.0.0.1:9", "sample_ratio": 1},
        }
        settings = loads(msgspec.json.encode(sections))
        pools = settings.definitions_pool, settings.persons_pool, settings.writer_pool
        async with PostgresStore(settings.store.url, *pools) as store:
            await store.migrate()
            document = read_document(msgspec.json.encode({"projects": [whole_project()]}))
            await store.import_projects(document, lambda done, total: None)
            key, _ = await KeyService(store.managed, SystemClock()).create("all", ("*",), None, "test")
        yield Stage(settings, key, before_postgres, before_redis)


class Running:
    """A worker in this process, and its supervisor's end of the channel."""

    def __init__(self, port: int, aside_port: int, channel: SupervisorEnd) -> None:
        self.port = port
        self.aside_port = aside_port
        self.channel = channel

    async def put(self, settings: Settings) -> None:
        """Returns once these are in force."""
        self.channel.send(Prepare(1, dumps(settings)))
        await self.told(Prepared)
        self.channel.send(Commit(1))
        await self.told(Committed)

    async def told(self, kind: type[T]) -> T:
        """What the worker says, once it does."""
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(message := await self.channel.receive(), kind):
                assert message is not None
        return message

    async def scrape(self) -> None:
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            scraping = asyncio.ensure_future(client.get(f"http://127.0.0.1:{self.aside_port}/metrics"))
            self.channel.send(Gathered((await self.told(Gather)).query, {}))
            assert (await scraping).status_code == 200


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """The worker, until it has left in order."""
    ours, theirs = socket.socketpair()
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for listener in listeners:
        listener.setblocking(False)
    working = asyncio.ensure_future(worker._work(theirs, *listeners))
    channel = await supervisor_end(ours)
    try:
        channel.send(Begin(0, dumps(settings)))
        running = Running(*(listener.getsockname()[1] for listener in listeners), channel)
        await running.told(Opened)
        channel.send(Go(0, dumps(settings)))
        await running.told(Ready)
        yield running
        channel.send(Drain())
        await asyncio.wait_for(asyncio.shield(working), PATIENCE_S)
    finally:
        working.cancel()
        channel.close()


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a worker does to its process is undone."""
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers, root.level = before


async def published(client: httpx.AsyncClient) -> None:
    """Returns once the project is served."""
    async with asyncio.timeout(PATIENCE_S):
        while (await client.post("/flags?v=2", json={"token": TOKEN, "distinct_id": "u1"})).status_code != 200:
            await asyncio.sleep(0.05)


async def ask(client: httpx.AsyncClient) -> None:
    """Ask in every way there is."""
    traced = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    for number in range(3):
        body = {"token": TOKEN, "distinct_id": f"u{number}", "$anon_distinct_id": "a1"}
        assert (await client.post("/flags?v=2", json=body, headers=traced)).status_code == 200
        await client.post("/e", json={"token": TOKEN, "event": "x", "distinct_id": "u1"})
    await client.post("/flags?v=2", json={"token": "phc_unknown", "distinct_id": "u1"})
    await client.post("/bootstrap", json={"token": TOKEN, "distinct_id": "u1"})
    context = {"context": {"targetingKey": "u1"}}
    await client.post("/ofrep/v1/evaluate/flags", json=context, headers={"x-api-key": TOKEN})
    await client.get("/_status")
    await client.get("/_ready")


async def manage(client: httpx.AsyncClient, key: str) -> None:
    """Do what takes a key: edit, upload, and read definitions and payloads."""
    client.headers["authorization"] = f"Bearer {key}"
    for headers in ({}, {"if-none-match": '"x"'}):
        await client.get("/flags/definitions", params={"token": TOKEN}, headers=headers)
    await client.get("/api/projects/1/feature_flags/on/remote_config", params={"token": TOKEN})
    for number in range(3):
        edited = await client.post("/api/projects/1/feature_flags", json={"key": f"new-{number}"})
        assert edited.status_code == 201, edited.text
        await asyncio.sleep(0.2)
    await client.post("/api/projects/1/persons", content=b'{"distinct_ids": ["u9"]}')


async def test_live_settings__put_in_force__are_all_read_anew(
    stage: Stage, postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that a reload claims to have put in force is not one that was kept from the beginning."""
    seen: set[str] = set()
    async with running(stage.settings) as working:
        url = f"http://127.0.0.1:{working.port}"
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
            await published(client)
            await ask(client)
            monkeypatch.setattr(worker, "loads", lambda raw: noting(loads(raw), seen))
            await working.put(stage.settings)
            stage.postgres.set("reset")  # So that connections are opened under the new settings.
            stage.postgres.heal()
            await asyncio.sleep(SETTLE_S)
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
            with (
                socket.create_connection(("127.0.0.1", working.port)) as half,
                socket.create_connection(("127.0.0.1", working.port)) as listening,
            ):
                # One that never says what it wants, and one that wants to be told of changes.
                half.sendall(b"GET / HT")
                listening.sendall(f"GET /ofrep/v1/stream?token={TOKEN} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await ask(client)
                await manage(client, stage.key)
                await working.scrape()
                await break_project(postgres.url(database))
                await asyncio.sleep(SETTLE_S)
            stage.redis.set("refuse")
            stage.postgres.set("refuse")
            await ask(client)
            await client.get("/flags/definitions", params={"token": TOKEN})
    unread = sorted(RELOADABLE - seen - OF_THE_SUPERVISOR)
    assert not unread, ", ".join(unread)


async def break_project(url: str) -> None:
    """Edit the project into something of which nothing can be built."""
    connection: Any = await asyncpg.connect(url)
    try:
        await connection.execute(
            "UPDATE flagstone.projects SET document = '[]', version = flagstone.next_version(version)"
        )
    finally:
        await connection.close()
