"""What the shared cache and the disk promise, held against fakes and the real adapters."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.backends import Disk, Redis
from drills.servers import Redis as RedisServer
from gateway.ports import Definitions
from gateway.stores.disk import DiskStore
from gateway.stores.redis import RedisCache
from tests.fake_caches import FakeLastGood, FakeSharedCache
from tests.fakes import FakeClock


def definitions(token: str, version: int = 1, project_id: int = 1, size: int = 0) -> Definitions:
    """A document of this token; a larger one compresses."""
    document = {"id": project_id, "token": token, "name": f"v{version}" + "x" * size}
    return Definitions(project_id, version, msgspec.json.encode(document))


@pytest.fixture(params=["fake", "redis", "redis-sentinel", "redis-cluster"])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Each shared cache, empty."""
    if request.param == "fake":
        yield FakeSharedCache()
        return
    name = {"redis": "redis_server", "redis-sentinel": "sentinel_url", "redis-cluster": "cluster_url"}[request.param]
    server = request.getfixturevalue(name)
    url = server.url() if isinstance(server, RedisServer) else server
    async with RedisCache(Redis(url=Address(url), timeout_ms=2000, connect_timeout_ms=2000)) as cache:
        yield cache


@pytest.fixture(params=["fake", "disk"])
async def disk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Each disk, empty."""
    clock = FakeClock()
    opened: Any = FakeLastGood(clock) if request.param == "fake" else DiskStore(Disk(path=str(tmp_path / "x")), clock)
    async with opened as store:
        yield store


@pytest.mark.parametrize("size", [0, 100_000])
async def test_shared__kept__is_found_as_it_was(shared: Any, size: int) -> None:
    """An entry comes back byte for byte, compressed or not."""
    kept = definitions("phc_a", 3, 7, size)
    written = await shared.keep_definitions("phc_a", kept)
    assert written > 0
    assert await shared.load_definitions("phc_a") == kept
    assert await shared.definitions_versions(["phc_a", "phc_b"]) == {"phc_a": 3}


async def test_shared__nothing_kept__is_none(shared: Any) -> None:
    """That there is no entry is an answer, not an error."""
    assert await shared.load_definitions("phc_none") is None
    assert await shared.definitions_versions([]) == {}
    await shared.forget_definitions("phc_none")


async def test_shared__newer_and_older__the_newest_stays(shared: Any) -> None:
    """A process that lags behind does not put back what was replaced."""
    for version in (2, 5, 4):
        await shared.keep_definitions("phc_c", definitions("phc_c", version))
    assert (await shared.load_definitions("phc_c")).version == 5


async def test_shared__kept_twice__moves_nothing_the_second_time(shared: Any) -> None:
    """Many processes that offer the same entry write it once."""
    kept = definitions("phc_d", 2)
    assert await shared.keep_definitions("phc_d", kept) > 0
    assert await shared.keep_definitions("phc_d", kept) == 0


async def test_shared__forgotten__is_gone(shared: Any) -> None:
    """A token that no project has any more leaves no entry."""
    await shared.keep_definitions("phc_e", definitions("phc_e"))
    await shared.forget_definitions("phc_e")
    assert await shared.load_definitions("phc_e") is None


async def test_shared__claimed__by_one_until_it_is_filled(shared: Any) -> None:
    """Of many processes one loads a project from the store; once its entry is there, it can be claimed anew."""
    assert [await shared.claim("phc_f", 30) for _ in range(3)] == [True, False, False]
    assert await shared.claim("phc_g", 30)
    await shared.keep_definitions("phc_f", definitions("phc_f"))
    assert await shared.claim("phc_f", 30)


async def test_shared__many_at_once_and_some_cancelled__goes_on_working(shared: Any) -> None:
    """Callers that go away get nobody else's answer, and leave the cache as it was."""
    tokens = [f"phc_{number}" for number in range(8)]
    for number, token in enumerate(tokens):
        await shared.keep_definitions(token, definitions(token, number + 1, number + 1))
    for _ in range(10):
        loads = [asyncio.ensure_future(shared.load_definitions(token)) for token in tokens]
        await asyncio.sleep(0)
        for load in loads[::2]:
            load.cancel()
        found = await asyncio.gather(*loads, return_exceptions=True)
        assert [it.project_id for it in found[1::2] if isinstance(it, Definitions)] == [2, 4, 6, 8]


async def eventually(disk: Any, token: str, version: int | None) -> None:
    """Waits until the disk has this version of the token."""
    for _ in range(500):
        found = await disk.load_definitions(token)
        if (found.definitions.version if found else None) == version:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"never had version {version}")


@pytest.mark.parametrize("size", [0, 100_000])
async def test_disk__kept__is_found_as_it_was(disk: Any, size: int) -> None:
    """What was kept comes back byte for byte, and says when that was."""
    kept = definitions("phc_a", 3, 7, size)
    disk.keep_definitions("phc_a", kept)
    await eventually(disk, "phc_a", 3)
    found = await disk.load_definitions("phc_a")
    assert found.definitions == kept
    assert found.kept_at.tzinfo is not None
    assert await disk.has_any()


async def test_disk__nothing_kept__is_none(disk: Any) -> None:
    """A token never kept is no error."""
    assert await disk.load_definitions("phc_none") is None
    assert not await disk.has_any()


async def test_disk__kept_again_and_forgotten__has_the_last(disk: Any) -> None:
    """The newest is kept - an older one too, for the store may have been put back - and what is forgotten is gone."""
    for version in (1, 5, 4):
        disk.keep_definitions("phc_b", definitions("phc_b", version))
    await eventually(disk, "phc_b", 4)
    disk.forget_definitions("phc_b")
    await eventually(disk, "phc_b", None)
