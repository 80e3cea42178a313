"""Each setting of the shared cache and of the disk, shown to change what the service does with them."""

import asyncio
import contextlib
import socket
import time
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.backends import Disk, Redis
from config.reload import Live
from config.settings import Settings
from drills.faults import FaultProxy
from drills.servers import Postgres
from drills.servers import Redis as RedisServer
from gateway import wiring
from gateway.errors import StoreError, StoreUnavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline, Definitions
from gateway.services.status import StatusService
from gateway.stores.redis import RedisCache
from tests.builders import flag, project
from tests.fakes import FakeClock
from tests.gateway.assembly import services
from tests.gateway.serving import TOKEN, MemoryStore, one_project


def redis_settings(server: RedisServer, port: int | None = None, **changes: Any) -> Settings:
    return Settings(redis=Redis(url=Address(server.url(port)), **changes))


async def test_redis_url__decides_whether_there_is_a_shared_cache(redis_server: RedisServer) -> None:
    """redis.url: with it, what the store gives is shared; without it, nothing is."""
    for settings, entries in ((Settings(), 0), (redis_settings(redis_server), 1)):
        async with services(settings, one_project()) as opened:
            await opened["snapshots"].get(TOKEN, Deadline(FakeClock(), 5))
            await asyncio.sleep(0.1)
        with redis_server.client() as client:
            assert len(client.keys("flagstone:1:token:*")) == entries


async def seconds_until_error(url: str, **bounds: int) -> float:
    """How long a call takes to fail."""
    async with RedisCache(Redis(url=Address(url), **bounds)) as cache:  # type: ignore[arg-type]
        began = time.monotonic()
        with pytest.raises(StoreError):
            await cache.load_definitions("x")
        return time.monotonic() - began


async def test_redis_timeout_ms__bounds_a_call(redis_server: RedisServer) -> None:
    """redis.timeout_ms: a Redis that takes connections and does not answer costs no more than this."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        await asyncio.to_thread(proxy.set, "blackhole")
        url = redis_server.url(proxy.port)
        took = [await seconds_until_error(url, timeout_ms=ms, connect_timeout_ms=2000) for ms in (30, 600)]
    assert took[0] < 0.3 < took[1]


async def test_redis_connect_timeout_ms__bounds_the_connecting() -> None:
    """redis.connect_timeout_ms: a machine that does not take connections costs no more than this."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as waiting:
        for _ in range(3):  # With its queue full, the kernel answers nobody.
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        took = [await seconds_until_error(url, timeout_ms=30, connect_timeout_ms=ms) for ms in (30, 600)]
    assert took[0] < 0.3 < took[1]


@pytest.mark.parametrize(("connections", "refused"), [(1, 3), (4, 0)])
async def test_redis_max_connections__bounds_what_runs_at_once(
    redis_server: RedisServer, connections: int, refused: int
) -> None:
    """redis.max_connections: the driver opens no more, and queues nothing."""
    settings = Redis(
        url=Address(redis_server.url()), max_connections=connections, timeout_ms=2000, connect_timeout_ms=2000
    )
    async with RedisCache(settings) as cache:
        calls = [cache.definitions_versions(["x"]) for _ in range(4)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, StoreUnavailable) for outcome in outcomes) == refused


@pytest.mark.parametrize("ttl_s", [100, 1000])
async def test_redis_ttl_s__decides_when_an_entry_expires(redis_server: RedisServer, ttl_s: int) -> None:
    """redis.ttl_s: an entry goes after this time, less a tenth at most."""
    async with RedisCache(Redis(url=Address(redis_server.url()), ttl_s=ttl_s, timeout_ms=2000)) as cache:
        await cache.keep_definitions("phc_x", Definitions(1, 1, b"{}"))
    with redis_server.client() as client:
        left = [client.ttl(key) for key in client.keys("*")]
    assert all(0.9 * ttl_s - 2 <= it <= ttl_s for it in left)


@pytest.mark.parametrize(("above", "is_small"), [(10, True), (100_000, False)])
async def test_redis_compress_above_bytes__decides_what_is_compressed(
    redis_server: RedisServer, above: int, *, is_small: bool
) -> None:
    """redis.compress_above_bytes: a larger document is stored compressed."""
    settings = Redis(url=Address(redis_server.url()), compress_above_bytes=above, timeout_ms=2000)
    async with RedisCache(settings) as cache:
        written = await cache.keep_definitions("phc_x", Definitions(1, 1, b"x" * 50_000))
    assert (written < 5000) is is_small


@pytest.mark.parametrize(
    ("limit", "filled"),
    [({"max_fills_per_s": 2.0}, 2), ({"max_fills_per_s": 100.0}, 6), ({"max_fill_bytes_per_s": 3000}, 2)],
)
async def test_redis_fills__keep_to_their_limits(redis_server: RedisServer, limit: dict[str, Any], filled: int) -> None:
    """redis.max_fills_per_s, redis.max_fill_bytes_per_s: what is beyond them is served and not written."""
    settings = redis_settings(redis_server, timeout_ms=2000, compress_above_bytes=1 << 20, **limit)
    store = MemoryStore()
    for number in range(6):
        store.put(f"phc_{number}", {**project(flag("x", name="n" * 2000)), "id": number})
    async with services(settings, store) as opened:
        for number in range(6):
            await opened["snapshots"].get(f"phc_{number}", Deadline(FakeClock(), 5))
            await asyncio.sleep(0.05)
    with redis_server.client() as client:
        assert len(client.keys("flagstone:1:token:*")) == filled


async def test_disk_path__decides_where_or_whether_anything_is_kept(
    postgres: Postgres, database: str, tmp_path: Any
) -> None:
    """disk.path: beside PostgreSQL the last good definitions are kept there; empty, or beside a file, nothing is."""
    folder = tmp_path / "kept"
    stores = {"postgres": Address(postgres.url(database)), "sqlite": Address("sqlite:x")}
    for store, path, is_open in (
        ("postgres", str(folder), True),
        ("postgres", "", False),
        ("sqlite", str(folder), False),
    ):
        sections = {"store": {"url": stores[store]}, "disk": {"path": path}}
        async with AsyncExitStack() as opened:
            settings = msgspec.convert(sections, Settings)
            status = StatusService(Live(settings), FakeClock())
            metrics = Metrics()
            disk = await wiring._open_disk(opened, settings, FakeClock(), metrics, status)
            assert (disk is not None) is is_open
            assert (b"\nflagstone_disk_writable 1.0\n" in metrics.render()) is is_open
            assert (b"\nflagstone_disk_writable " in metrics.render()) is is_open
            assert ["disk" for it in status.report().standings if it.name == "disk"] == ["disk"] * is_open
    assert folder.is_dir()


@pytest.mark.parametrize(("max_bytes", "kept"), [(3000, 1), (100_000, 3)])
async def test_disk_max_bytes__bounds_what_is_kept(tmp_path: Any, max_bytes: int, kept: int) -> None:
    """disk.max_bytes: beyond it the oldest go."""
    from gateway.stores.disk import DiskStore

    folder = tmp_path / "kept"
    async with DiskStore(Disk(path=str(folder), max_bytes=max_bytes), FakeClock()) as disk:
        for number in range(3):
            content = msgspec.json.encode({"token": f"phc_{number}", "name": "x" * 2000})
            disk.keep_definitions(f"phc_{number}", Definitions(1, 1, content))
            await asyncio.sleep(0.05)
    assert len(list(folder.iterdir())) == kept
