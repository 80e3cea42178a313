"""What callers get when a backend works but has no room: an exhausted pool, a full queue before it, a dead writer."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import asyncpg

from drills.faults import FaultProxy
from drills.servers import PgBouncer, Postgres, running
from tests.drills.conftest import (
    BREAKER_S,
    BUDGET_S,
    WITH_FACTS,
    Stage,
    assert_answered,
    assert_nothing_left,
)

Start = Callable[..., Stage]


@contextmanager
def holding(url: str, statement: str) -> Iterator[None]:
    """A transaction of somebody else's that has run this statement and goes on until the context is left."""
    is_held, is_over = threading.Event(), threading.Event()

    async def hold() -> None:
        connection = await asyncpg.connect(url, statement_cache_size=0)
        try:
            async with connection.transaction():
                await connection.execute(statement)
                is_held.set()
                await asyncio.to_thread(is_over.wait, 30)
        finally:
            await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert is_held.wait(10)
        yield
    finally:
        is_over.set()
        thread.join()


def test_drill__pool_exhausted__skips_the_reading_and_recovers(start: Start, postgres: Postgres) -> None:
    """When every connection waits for a lock, further reads are skipped, and flags without stored facts are exact."""
    stage = start()
    healthy = stage.ask()
    time.sleep(0.3)
    tasks = stage.metric("tasks")
    with holding(postgres.url(stage.database), "LOCK TABLE flagstone.persons IN ACCESS EXCLUSIVE MODE"):
        for _ in range(3):
            run = stage.ask(at_once=20)
            assert_answered(run, healthy)
        assert not run.is_exact
        assert stage.metric("pool_connections", 'pool="persons",state="in_use"') <= 4
        # Definitions have connections of their own, which nobody holds.
        assert stage.metric("snapshot_age_seconds") < 2
    stage.until_exact(BREAKER_S + 5 * BUDGET_S)
    assert_nothing_left(stage, tasks)


def test_drill__writer_down__is_noticed_by_nobody_who_reads(start: Start, postgres: Postgres) -> None:
    """Overrides that cannot be written are counted; every answer, overrides read included, stays exact and quick."""
    with FaultProxy("127.0.0.1", postgres.port) as before_writer:
        # The same server for all three, but another address for what writes.
        stage = start()
        stage.server.end()
        stage = start(f"writer_pool.url={postgres.url(stage.database, before_writer.port)}")
        healthy = stage.ask()
        before_writer.set("blackhole")
        for number in range(3):
            run = stage.ask(**{"$anon_distinct_id": f"anon-{number}"})
            assert run.is_exact
            assert median(run.seconds) < BUDGET_S / 2
        deadline = time.monotonic() + 10
        while not stage.metric("override_writes_total", 'outcome="failed"') and time.monotonic() < deadline:
            time.sleep(0.1)
        assert stage.metric("override_writes_total", 'outcome="failed"') > 0
        assert stage.metric("breaker_transitions_total", 'dependency="persons"') == 0
        before_writer.heal()
        # What still waits in the queue is written once the writer is back, and from then on read.
        deadline = time.monotonic() + 10
        while not stage.metric("override_writes_total", 'outcome="written"') and time.monotonic() < deadline:
            time.sleep(0.1)
        assert stage.metric("override_writes_total", 'outcome="written"') > 0
        assert healthy.is_exact


def test_drill__pgbouncer_queue_full__is_an_exhausted_pool(start: Start, postgres: Postgres) -> None:
    """Behind a PgBouncer whose one server connection is taken, requests degrade within their budget, and recover."""
    first = start()
    healthy = first.ask()
    first.server.end()
    with running(PgBouncer("127.0.0.1", postgres.port, "default_pool_size = 1", "max_client_conn = 40")) as bouncer:
        assert isinstance(bouncer, PgBouncer)
        url = bouncer.url(first.database)
        pooled = [f"{pool}.transaction_pooling=true" for pool in ("definitions_pool", "persons_pool", "writer_pool")]
        stage = start(f"store.url={url}", *pooled)
        run = stage.ask()
        assert run.is_exact
        assert run.flags(WITH_FACTS) == healthy.flags(WITH_FACTS)
        with holding(url, "SELECT 1"):
            for _ in range(3):
                run = stage.ask(at_once=20)
                assert_answered(run, healthy)
            assert not run.is_exact
        stage.until_exact(BREAKER_S + 5 * BUDGET_S)
