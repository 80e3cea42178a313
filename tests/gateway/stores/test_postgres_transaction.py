"""Transactions of several statements: whatever happens inside, nothing stays locked, open, or taken from the pool."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from config.address import Address
from config.backends import WriterPool
from drills.faults import FaultProxy
from drills.servers import Postgres
from gateway.errors import StoreError, StoreTimeout
from gateway.stores.postgres_pool import MAX_TRIES, GivenUp, PostgresPool, Taken

SOON_S = 5.0


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", postgres.port) as proxy:
        yield proxy


@pytest.fixture
async def pool(postgres: Postgres, database: str, proxy: FaultProxy) -> AsyncIterator[PostgresPool]:
    """Two connections to a database with a table of one row; statements have 300 ms."""
    settings = WriterPool(max_connections=2, acquire_timeout_ms=300, statement_timeout_ms=300)
    async with PostgresPool("writer", Address(postgres.url(database, proxy.port)), settings) as pool:
        await pool.fetch("CREATE TABLE counters (id int PRIMARY KEY, count int)")
        await pool.fetch("INSERT INTO counters VALUES (1, 0)")
        yield pool


async def count_up(pool: PostgresPool, error: Exception | None = None) -> None:
    async with pool.transaction() as transaction:
        await transaction.fetch("UPDATE counters SET count = count + 1")
        if error is not None:
            raise error


async def counted(pool: PostgresPool) -> int:
    """What the counter says, once it can be changed; nobody has a connection meanwhile."""
    assert pool.in_use == 0
    await count_up(pool)
    ((count,),) = await pool.fetch("SELECT count FROM counters")
    return int(count) - 1


async def test_transaction__that_ends_well__is_committed(pool: PostgresPool) -> None:
    """All of it, and its connection is used again."""
    await count_up(pool)
    assert (await counted(pool), pool.idle) == (1, 1)


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("no"), StoreError("no")])
async def test_transaction__in_which_something_is_raised__is_rolled_back(pool: PostgresPool, error: Exception) -> None:
    """What was raised comes out as it is, and the connection is used again."""
    with pytest.raises(type(error)) as raised:
        await count_up(pool, error)
    assert raised.value is error
    assert (await counted(pool), pool.idle) == (0, 1)


async def test_transaction__with_a_statement_that_fails__is_rolled_back(pool: PostgresPool) -> None:
    """The driver's error is translated; what is not unique names the constraint."""
    with pytest.raises(Taken) as taken:
        async with pool.transaction() as transaction:
            await transaction.executemany("INSERT INTO counters VALUES ($1, $2)", [(2, 0), (1, 0)])
    assert taken.value.constraint == "counters_pkey"
    assert await counted(pool) == 0


async def test_transaction__waiting_for_a_lock__is_out_of_time(pool: PostgresPool) -> None:
    """It never waits longer than a statement may, and leaves nothing behind."""
    async with pool.transaction() as transaction:
        await transaction.fetch("UPDATE counters SET count = count + 1")
        with pytest.raises(StoreTimeout):
            await count_up(pool)
    assert await counted(pool) == 1


async def test_transaction__cancelled_midway__leaves_nothing_behind(pool: PostgresPool) -> None:
    """Its connection is cut at once, and with it the transaction."""
    async with pool.transaction() as transaction:
        await transaction.fetch("UPDATE counters SET count = count + 1")
        waiting = asyncio.create_task(count_up(pool))
        while pool.in_use < 2:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await counted(pool) == 1


@pytest.mark.parametrize("mode", ["blackhole", "reset"])
async def test_transaction__whose_server_is_gone__ends_in_time(
    pool: PostgresPool, proxy: FaultProxy, mode: Any
) -> None:
    """A body that raises is not held up by a server that no longer answers, nor is its error replaced."""
    began = time.monotonic()

    async def work() -> None:
        async with pool.transaction() as transaction:
            await transaction.fetch("SELECT 1")
            await asyncio.to_thread(proxy.set, mode)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await work()
    with pytest.raises(StoreError):
        await count_up(pool)
    assert time.monotonic() - began < SOON_S
    await asyncio.to_thread(proxy.heal)
    assert await counted(pool) == 0


@pytest.mark.parametrize(("failures", "is_given_up"), [(MAX_TRIES - 1, False), (MAX_TRIES, True)])
async def test_repeated__given_up_by_the_database__ends(
    pool: PostgresPool, failures: int, *, is_given_up: bool
) -> None:
    """It is tried again, but not for ever."""
    tries = []

    async def work() -> str:
        tries.append(1)
        if len(tries) <= failures:
            raise GivenUp("writer: deadlock")
        return "done"

    if is_given_up:
        with pytest.raises(GivenUp):
            await pool.repeated(work)
    else:
        assert await pool.repeated(work) == "done"
    assert len(tries) == MAX_TRIES


async def test_repeated__two_that_block_each_other__both_succeed(
    postgres: Postgres, pool: PostgresPool, database: str
) -> None:
    """PostgreSQL gives one of them up, and that one is tried again."""
    await pool.fetch("INSERT INTO counters VALUES (2, 0)")
    both = asyncio.Barrier(2)
    tries = []

    async def work(order: list[int]) -> None:
        is_first = order not in tries
        tries.append(order)
        async with patient.transaction() as transaction:
            for id_ in order:
                await transaction.fetch("UPDATE counters SET count = count + 1 WHERE id = $1", id_)
                if is_first and id_ == order[0]:
                    await both.wait()

    settings = WriterPool(max_connections=2, statement_timeout_ms=5000)
    async with PostgresPool("writer", Address(postgres.url(database)), settings) as patient:
        await asyncio.gather(*(patient.repeated(lambda order=order: work(order)) for order in ([1, 2], [2, 1])))  # type: ignore[misc]
    assert await pool.fetch("SELECT count FROM counters") == [(2,), (2,)]
    assert len(tries) == 3
