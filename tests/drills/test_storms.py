"""Many at once: a backend that flaps, a herd of first requests, a thousand projects that expire together."""

import asyncio
import threading
import time
from collections.abc import Callable

import httpx
import msgspec

from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, WriterPool
from drills.servers import Postgres
from gateway.document import read_document
from gateway.stores.postgres import PostgresStore
from tests.builders import flag, project
from tests.drills.conftest import (
    BREAKER_S,
    BUDGET_S,
    Stage,
    assert_answered,
    assert_nothing_left,
)
from tests.publishing import publish

Start = Callable[..., Stage]
FLAPPING_S = 60
PROJECTS = 1000


def test_drill__backends_flap_every_second__answers_go_on(start: Start) -> None:
    """A minute of hanging, refusing, resetting and healing by turns: every answer in time, nothing left afterwards."""
    stage = start()
    healthy = stage.ask()
    time.sleep(0.3)
    tasks, memory_kb = stage.metric("tasks"), stage.memory_kb()
    is_over = threading.Event()

    def flap() -> None:
        while True:
            for mode in ("blackhole", "refuse", "reset"):
                for proxy in (stage.postgres, stage.redis):
                    proxy.set(mode)  # type: ignore[arg-type]
                if is_over.wait(1):
                    return
                stage.postgres.heal()
                stage.redis.heal()
                if is_over.wait(1):
                    return

    flapping = threading.Thread(target=flap)
    flapping.start()
    try:
        ends_at = time.monotonic() + FLAPPING_S
        rounds = exact = 0
        while time.monotonic() < ends_at:
            run = stage.ask(40)
            assert_answered(run, healthy)
            rounds += 1
            exact += run.is_exact
    finally:
        is_over.set()
        flapping.join()
    assert 0 < exact < rounds
    stage.postgres.heal()
    stage.redis.heal()
    stage.until_exact(BREAKER_S + 5 * BUDGET_S)
    assert_nothing_left(stage, tasks)
    assert stage.memory_kb() - memory_kb < 32_000


def test_drill__five_hundred_first_requests_at_once__are_one_load(start: Start) -> None:
    """However many ask for a project that is not in memory, the store is asked once."""
    # Five hundred at once keep the process busy for a second, in which all answers wait their turn as well.
    waits = ("redis.timeout", "redis.connect_timeout", "persons_pool.connect_timeout", "persons_pool.acquire_timeout",
             "persons_pool.statement_timeout")  # fmt: skip
    patient = ("requests.budget_ms=10000", *(f"{it}_ms=5000" for it in waits))
    stage = start(*patient, "concurrency.mode=off")  # Or most would be refused before they ask for anything.
    run = stage.ask(500, at_once=500)
    assert set(run.statuses) == {200}
    assert run.is_exact
    assert stage.metric("snapshot_loads_total", 'outcome="hit",tier="store"') == 1
    assert stage.metric("snapshot_builds_total") == 1
    assert stage.metric("cache_fills_total", 'outcome="written"') == 1


def test_drill__a_thousand_projects_change_at_once__fills_keep_to_their_limit(start: Start, postgres: Postgres) -> None:
    """A storm of loads moves no more into Redis than allowed, holds to its bounds, and answers go on meanwhile."""
    stage = start(
        "redis.max_fills_per_s=20",
        "snapshots.max_loads=4",
        "snapshots.max_projects=2000",
        "disk.path=",
        "builder.is_embedded=false",
    )
    url = Address(postgres.url(stage.database))

    async def import_all(name: str) -> None:
        content = [{**project(flag(name, id=1)), "id": 1000 + n, "token": f"phc_{n}"} for n in range(PROJECTS)]
        async with PostgresStore(url, DefinitionsPool(), PersonsPool(), WriterPool()) as store:
            documents = read_document(msgspec.json.encode({"projects": content}))
            await store.import_projects(documents, lambda done, total: None)
            await publish(store)

    async def ask_all(name: str) -> int:
        """How many of the projects answer with this flag."""
        async with httpx.AsyncClient(base_url=stage.server.url, timeout=10) as client:
            slots = asyncio.Semaphore(32)

            async def one(number: int) -> bool:
                async with slots:
                    body = {"token": f"phc_{number}", "distinct_id": "u"}
                    answer = await client.post("/flags?v=2", json=body)
                    return answer.status_code == 200 and name in answer.json()["flags"]

            return sum(await asyncio.gather(*map(one, range(PROJECTS))))

    asyncio.run(import_all("before"))
    healthy = stage.ask()
    began = time.monotonic()
    asyncio.run(ask_all("before"))
    asyncio.run(import_all("after"))
    while asyncio.run(ask_all("after")) < PROJECTS:
        assert_answered(stage.ask(), healthy)
        assert time.monotonic() - began < 60
    fills = stage.metric("cache_fills_total", 'outcome="written"')
    assert fills <= 20 * (time.monotonic() - began + 2)
    assert stage.metric("cache_fills_total", 'outcome="limited"') > 0
    assert stage.metric("pool_connections", 'pool="definitions",state="max"') == 4
