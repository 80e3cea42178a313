"""What the shared cache promises the builder: the whole document of the newest version, or what was there before."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from config.address import Address
from config.backends import Redis
from drills.servers import Redis as RedisServer
from gateway.building_ports import PART_BYTES, Published
from gateway.errors import StoreError
from gateway.ports import Definitions
from gateway.stores.redis import RedisCache
from gateway.stores.redis_shelf import RedisShelf
from tests.fake_builds import FakeShelf

SERVERS = {"redis": "redis_server", "redis-sentinel": "sentinel_url", "redis-cluster": "cluster_url"}


def document(version: int = 1, size: int = 0) -> tuple[Published, bytes]:
    """A published document, and its bytes; a larger one has several parts."""
    content = msgspec.json.encode({"id": 7, "token": "phc_a", "name": f"v{version}" + "x" * size})
    etag = Definitions(7, version, content).etag
    return Published(project_id=7, token="phc_a", build="b", version=version, etag=etag, bytes=len(content)), content


async def in_parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PART_BYTES):
        yield content[start : start + PART_BYTES]


class Bench:
    """A shelf, and what gateways find there."""

    def __init__(self, shelf: Any, cache: RedisCache | None) -> None:
        self.shelf = shelf
        self._cache = cache

    async def keep(self, version: int, size: int = 0) -> bool:
        published, content = document(version, size)
        kept: bool = await self.shelf.keep(published, in_parts(content))
        return kept

    async def found(self) -> tuple[int, bytes] | None:
        """Version and document as a gateway finds them."""
        if self._cache is None:
            entry = self.shelf.entries.get("phc_a")
            return None if entry is None else entry[1:]
        found = await self._cache.load_definitions("phc_a")
        return None if found is None else (found.version, found.document)


@pytest.fixture(params=["fake", *SERVERS])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Each shelf, empty."""
    if request.param == "fake":
        yield Bench(FakeShelf(), None)
        return
    server = request.getfixturevalue(SERVERS[request.param])
    url = server.url() if isinstance(server, RedisServer) else server
    settings = Redis(url=Address(url), timeout_ms=2000, connect_timeout_ms=2000)
    async with RedisShelf(settings) as shelf, RedisCache(settings) as cache:
        yield Bench(shelf, cache)


@pytest.mark.parametrize("size", [0, 100_000, 3 * PART_BYTES])
async def test_shelf__kept__is_what_gateways_find(bench: Bench, size: int) -> None:
    """A document comes out as it went in, of one part or of many, compressed or not."""
    published, content = document(3, size)
    assert not await bench.shelf.holds(published)
    assert await bench.found() is None
    assert await bench.keep(3, size)
    assert await bench.found() == (3, content)
    assert await bench.shelf.holds(published)


async def test_shelf__newer_and_older__the_newest_stays(bench: Bench) -> None:
    """A builder that lags behind puts nothing back, and takes the newer one for good."""
    assert await bench.keep(5)
    assert not await bench.keep(4)
    assert await bench.found() == (5, document(5)[1])
    assert await bench.shelf.holds(document(4)[0])
    assert not await bench.shelf.holds(document(6)[0])
    assert await bench.keep(6)
    assert await bench.found() == (6, document(6)[1])


async def test_shelf__kept_twice__is_the_same(bench: Bench) -> None:
    """Putting it there again repairs whatever was wrong, and changes nothing otherwise."""
    for _ in range(2):
        assert await bench.keep(2)
    assert await bench.found() == (2, document(2)[1])


@pytest.mark.parametrize("others", [{"project_id": 8}, {"etag": "0" * 32}])
async def test_shelf__has_another_document__does_not_hold_this_one(bench: Bench, others: dict[str, Any]) -> None:
    """The token's entry must be of this project and have this content."""
    await bench.keep(2)
    assert not await bench.shelf.holds(msgspec.structs.replace(document(2)[0], **others))


async def test_shelf__token_that_changed_hands__follows(bench: Bench) -> None:
    """Versions of different projects do not compare: the one that has the token now is kept."""
    await bench.keep(9)
    published, _ = document(3)
    content = b'{"id":8,"token":"phc_a"}'
    taken = msgspec.structs.replace(published, project_id=8, bytes=len(content), etag=Definitions(8, 3, content).etag)
    assert await bench.shelf.keep(taken, in_parts(content))
    assert await bench.found() == (3, content)


@pytest.mark.parametrize("parts", [[], [b"x"], [document(4, PART_BYTES)[1][:PART_BYTES]], [document(4)[1], b"x"]])
async def test_shelf__parts_that_are_not_the_document__are_refused(bench: Bench, parts: Sequence[bytes]) -> None:
    """A document that was replaced, or damaged, while it was being put there does not take the place of a sound one."""
    await bench.keep(3)

    async def given() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    with pytest.raises(StoreError):
        await bench.shelf.keep(document(4, PART_BYTES)[0], given())
    assert await bench.found() == (3, document(3)[1])
