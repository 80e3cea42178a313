"""PostgreSQL: nothing waits for a server that hangs, every error is one of ours, and one call is one round trip."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from config.address import Address
from config.backends import DefinitionsPool, PersonsPool, WriterPool
from drills.faults import FaultProxy
from drills.servers import PgBouncer, Postgres, running
from gateway.document import read_document
from gateway.errors import StoreError, StoreTimeout, StoreUnavailable
from gateway.ports import FactsQuery
from gateway.stores import postgres_feed
from gateway.stores.postgres import PostgresStore
from gateway.stores.postgres_feed import PostgresFeed
from tests.publishing import publish

SOON_S = 5.0
QUERY = FactsQuery(1, ("u1",), properties=frozenset({"plan"}))
BOUNDS: dict[str, Any] = {"connect_timeout_ms": 200, "acquire_timeout_ms": 200, "statement_timeout_ms": 200}


def document(people: int = 1) -> bytes:
    persons = [{"distinct_ids": [f"u{n}"], "properties": {"plan": f"p{n}"}} for n in range(people)]
    return msgspec.json.encode({"projects": [{"id": 1, "token": "phc_one", "persons": persons}]})


def opened(url: str, **changes: Any) -> PostgresStore:
    options = {**BOUNDS, **changes}
    return PostgresStore(Address(url), DefinitionsPool(**options), PersonsPool(**options), WriterPool(**options))


@pytest.fixture
async def filled(postgres: Postgres, database: str) -> str:
    """A database with forty persons of one project."""
    async with opened(postgres.url(database), statement_timeout_ms=10_000, acquire_timeout_ms=5000) as store:
        await store.migrate()
        await store.import_projects(read_document(document(40)), lambda done, total: None)
        await publish(store)
    return database


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", postgres.port) as proxy:
        yield proxy


@pytest.fixture
async def store(postgres: Postgres, filled: str, proxy: FaultProxy) -> AsyncIterator[PostgresStore]:
    async with opened(postgres.url(filled, proxy.port)) as store:
        yield store


@pytest.mark.parametrize(
    ("mode", "error"), [("refuse", StoreUnavailable), ("blackhole", StoreTimeout), ("reset", StoreUnavailable)]
)
@pytest.mark.parametrize("is_warm", [True, False])
async def test_call__server_is_not_there__is_one_error_in_time_and_recovers(
    store: PostgresStore, proxy: FaultProxy, mode: Any, error: type[StoreError], *, is_warm: bool
) -> None:
    """Refused, hung or reset, before or after connecting, a call ends in time and the next one starts afresh."""
    if is_warm:
        await store.load_facts(QUERY)
    await asyncio.to_thread(proxy.set, mode)
    began = time.monotonic()
    with pytest.raises(error, match=r"^persons: "):
        await store.load_facts(QUERY)
    assert time.monotonic() - began < SOON_S
    await asyncio.to_thread(proxy.heal)
    assert (await store.load_facts(QUERY)).person_properties == {"plan": "p1"}


async def test_open_and_close__server_hangs__wait_for_nobody(
    postgres: Postgres, filled: str, proxy: FaultProxy
) -> None:
    """A service starts and stops whatever its database does, and leaves no task behind."""
    before = asyncio.all_tasks()
    began = time.monotonic()
    async with opened(postgres.url(filled, proxy.port)) as store:
        await store.load_facts(QUERY)
        await asyncio.to_thread(proxy.set, "blackhole")
        assert "PostgresStore" in repr(store)
    assert time.monotonic() - began < SOON_S
    for _ in range(100):
        if asyncio.all_tasks() == before:
            break
        await asyncio.sleep(0.02)
    assert asyncio.all_tasks() == before


async def test_call__cancelled_while_the_server_hangs__lets_go_at_once(store: PostgresStore, proxy: FaultProxy) -> None:
    """A caller that goes away is not held by the server, nor is the pool's place."""
    await store.load_facts(QUERY)
    await asyncio.to_thread(proxy.set, "blackhole")
    call = asyncio.ensure_future(store.load_facts(QUERY))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    call.cancel()
    await asyncio.wait({call})
    assert time.monotonic() - began < 0.1
    assert call.cancelled()
    assert store.pools[1].in_use == 0


async def test_calls__cancelled_at_random__mix_up_no_answers(store: PostgresStore) -> None:
    """Whoever is cancelled when, everybody else gets their own person."""
    chance = random.Random(7)

    async def one(number: int) -> bool | None:
        query = FactsQuery(1, (f"u{number}",), properties=frozenset({"plan"}))
        call = asyncio.ensure_future(store.load_facts(query))
        if chance.random() < 0.4:
            await asyncio.sleep(chance.random() * 0.004)
            call.cancel()
        try:
            return (await call).person_properties == {"plan": f"p{number}"}
        except (asyncio.CancelledError, StoreError):
            return None

    for _ in range(20):
        answers = await asyncio.gather(*(one(chance.randrange(40)) for _ in range(20)))
        assert False not in answers
    assert await one(3) is not False


async def test_calls__warm__take_one_round_trip_each(store: PostgresStore, proxy: FaultProxy) -> None:
    """Once prepared, a call is one message there and one back, over the connection that is there."""
    for _ in range(3):
        await store.load_facts(QUERY)
    before = proxy.pieces_up, proxy.pieces_down
    for _ in range(5):
        await store.load_facts(QUERY)
    assert (proxy.pieces_up - before[0], proxy.pieces_down - before[1]) == (5, 5)
    assert proxy.accepted == 1


async def test_statement__longer_than_its_time__is_ended_by_the_database_too(postgres: Postgres, filled: str) -> None:
    """A statement whose caller has gone does not go on for ever on the server."""
    async with opened(postgres.url(filled), statement_timeout_ms=100) as store:
        with pytest.raises(StoreTimeout):
            await store.pools[1].fetch("SELECT pg_sleep(5)")
        limit = await store.pools[1].fetch("SHOW statement_timeout")
        assert limit[0][0] == "100ms"
        found = await store.pools[1].fetch("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        assert found[0][0] == "flagstone"


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ("?sslmode=verify-full&sslrootcert=/nowhere", StoreUnavailable, "cannot be used|No such file"),
        ("_none", StoreUnavailable, "does not exist"),
    ],
)
async def test_call__wrong_address__is_told_without_its_password(
    postgres: Postgres, filled: str, change: str, error: type[StoreError], told: str
) -> None:
    """What an operator got wrong is in the error, and no secret is."""
    url = (postgres.url(filled) + change).replace("flagstone@", "flagstone:hunter2@")
    with pytest.raises(error, match=told) as caught:
        async with opened(url) as store:
            await store.load_facts(QUERY)
    assert "hunter2" not in str(caught.value)


async def test_call__schema_is_missing__says_what_to_do(postgres: Postgres, database: str) -> None:
    """An empty database names the command that fills it."""
    async with opened(postgres.url(database)) as store:
        with pytest.raises(StoreError, match="flagstone migrate"):
            await store.load_facts(QUERY)


async def test_call__connection_was_killed__the_next_one_connects_anew(
    store: PostgresStore, postgres: Postgres, filled: str
) -> None:
    """A failover costs the calls under way, not the pool."""
    await store.load_facts(QUERY)
    statement = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{filled}'"
    await asyncio.to_thread(postgres.execute, statement)
    for _ in range(3):
        try:
            await store.load_facts(QUERY)
            break
        except StoreUnavailable:
            continue
    else:
        pytest.fail("did not recover")


async def test_migrate__several_at_once_and_again__applies_everything_once(postgres: Postgres, database: str) -> None:
    """However many processes start with a new version, each migration runs once."""
    stores = [opened(postgres.url(database), connect_timeout_ms=5000) for _ in range(4)]
    applied = await asyncio.gather(*(store.migrate() for store in stores))
    assert sorted(map(len, applied)) == [0, 0, 0, 2]
    assert await stores[0].migrate() == []


async def test_transfer__pools_in_other_databases__is_refused(postgres: Postgres, database: str) -> None:
    """Persons must not end up where nobody looks for them."""
    persons = PersonsPool(url=Address(postgres.url("elsewhere")))
    store = PostgresStore(Address(postgres.url(database)), DefinitionsPool(), persons, WriterPool())
    with pytest.raises(StoreError, match="one database"):
        await store.export_projects()


async def test_pgbouncer__many_queries_over_few_connections__mixes_up_nothing(
    pgbouncer: PgBouncer, filled: str
) -> None:
    """In transaction mode, with two server connections for thirty clients, everybody gets their own answer."""
    pooled = {"transaction_pooling": True, "max_connections": 30, "statement_timeout_ms": 5000}
    async with opened(
        pgbouncer.url(filled), **{**pooled, "acquire_timeout_ms": 5000, "connect_timeout_ms": 5000}
    ) as store:

        async def one(number: int) -> bool:
            query = FactsQuery(1, (f"u{number}",), properties=frozenset({"plan"}))
            versions = await store.definitions_versions(["phc_one"])
            facts = await store.load_facts(query)
            await store.save_overrides(1, (f"u{number}",), {"flag": f"h{number}"})
            return facts.person_properties == {"plan": f"p{number}"} and versions.keys() == {"phc_one"}

        for _ in range(3):
            assert all(await asyncio.gather(*(one(number) for number in range(40))))


async def test_tls__verified__needs_the_right_authority(tmp_path: Path) -> None:
    """With verify-full a server is trusted only with a certificate of the authority that was named."""
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    issued = ours.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    server = await asyncio.to_thread(Postgres, certificate=chain, key=issued.private_key_pem.bytes())
    with running(server):
        url = server.url() + f"?sslmode=verify-full&sslrootcert={tmp_path}"
        async with opened(f"{url}/ours.pem", connect_timeout_ms=5000, acquire_timeout_ms=5000) as store:
            rows = await store.pools[0].fetch("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            assert rows[0][0] is True
        async with opened(f"{url}/other.pem", connect_timeout_ms=5000, acquire_timeout_ms=5000) as store:
            with pytest.raises(StoreUnavailable, match=r"[Cc]ertificate"):
                await store.pools[0].fetch("SELECT 1")


async def first(feed: PostgresFeed, changes: int, told: list[int | None]) -> None:
    async with aclosing(feed.changes()) as listening, asyncio.timeout(SOON_S):
        async for change in listening:
            told.append(change)
            if len(told) == changes:
                return


async def until(told: list[int | None], number: int) -> None:
    while len(told) < number:
        await asyncio.sleep(0.01)


async def test_feed__project_changes__is_told(postgres: Postgres, filled: str, store: PostgresStore) -> None:
    """Listening begins with "anything may have changed"; then each publication is told."""
    told: list[int | None] = []
    feed = PostgresFeed(Address(postgres.url(filled)), DefinitionsPool())
    listening = asyncio.ensure_future(first(feed, 2, told))
    await until(told, 1)
    await asyncio.to_thread(postgres.execute, "SELECT pg_notify('flagstone_changes', 'noise')", database=filled)
    await store.import_projects(read_document(document()), lambda done, total: None)
    await publish(store)
    await listening
    assert told == [None, 1]


@pytest.mark.parametrize("how", ["kill", "reset", "hang"])
async def test_feed__connection_is_lost__ends_with_an_error(
    postgres: Postgres, filled: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A lost connection never looks like silence, however it was lost; a quiet one is kept."""
    monkeypatch.setattr(postgres_feed, "KEEP_ALIVE_S", 0.1)
    told: list[int | None] = []
    before = asyncio.all_tasks()
    feed = PostgresFeed(Address(postgres.url(filled, proxy.port)), DefinitionsPool(connect_timeout_ms=500))
    listening = asyncio.ensure_future(first(feed, 99, told))
    await until(told, 1)
    await asyncio.sleep(0.3)
    assert not listening.done()
    match how:
        case "kill":
            statement = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{filled}'"
            await asyncio.to_thread(postgres.execute, statement)
        case "reset":
            await asyncio.to_thread(proxy.set, "reset")
        case _:
            await asyncio.to_thread(proxy.set, "blackhole")
    with pytest.raises(StoreError):
        await asyncio.wait_for(listening, SOON_S)
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == before


async def test_feed__more_changes_than_can_wait__ends_to_begin_anew(
    postgres: Postgres, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes told faster than they are read are not collected without bound."""
    monkeypatch.setattr(postgres_feed, "MAX_UNREAD", 5)
    feed = PostgresFeed(Address(postgres.url(filled)), DefinitionsPool())
    async with aclosing(feed.changes()) as listening:
        assert await anext(listening) is None
        many = "SELECT pg_notify('flagstone_changes', n::text) FROM generate_series(1, 50) AS n"
        await asyncio.to_thread(postgres.execute, many, database=filled)
        await asyncio.sleep(0.2)
        with pytest.raises(StoreError):
            await asyncio.wait_for(anext(listening), SOON_S)
    assert "PostgresFeed" in repr(feed)
