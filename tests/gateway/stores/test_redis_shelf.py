"""The builder's way into Redis: nothing is found half-way, damage is found out, and nothing is waited for long."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from config.address import Address
from config.backends import Redis
from drills.faults import FaultProxy
from drills.servers import Redis as RedisServer
from gateway.building_ports import PART_BYTES
from gateway.errors import StoreError
from gateway.stores.redis import RedisCache, document_key, pointer_key
from gateway.stores.redis_client import RedisFeed
from gateway.stores.redis_shelf import STAGING_TTL_S, RedisShelf
from tests.contracts.test_shelves import document, in_parts

KEY = document_key(7, 2)
LARGE = 3 * PART_BYTES


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def shelf(redis_server: RedisServer, proxy: FaultProxy) -> AsyncIterator[RedisShelf]:
    settings = Redis(url=Address(redis_server.url(proxy.port)), timeout_ms=30, connect_timeout_ms=200, ttl_s=1000)
    async with RedisShelf(settings) as shelf:
        yield shelf


async def keep(shelf: RedisShelf, version: int = 2, size: int = LARGE) -> bool:
    published, content = document(version, size)
    return await shelf.keep(published, in_parts(content))


async def test_keep__under_way__is_found_by_nobody(shelf: RedisShelf, redis_server: RedisServer) -> None:
    """Until it is whole it has another name; what is left of one that was never finished goes by itself."""
    published, content = document(2, LARGE)

    async def until_the_last() -> AsyncIterator[bytes]:
        parts = in_parts(content)
        yield await anext(parts)
        raise StoreError("the store is gone")

    with pytest.raises(StoreError, match="the store is gone"):
        await shelf.keep(published, until_the_last())
    with redis_server.client() as client:
        (left,) = client.keys("*")
        assert left.decode().startswith(KEY + ":")
        assert 0 < client.ttl(left) <= STAGING_TTL_S


async def test_keep__done__leaves_pointer_and_document_that_expire(
    shelf: RedisShelf, redis_server: RedisServer
) -> None:
    """Both live as long as what gateways put there; the version before goes soon."""
    await keep(shelf, 1)
    await keep(shelf, 2)
    with redis_server.client() as client:
        ttls = {key.decode(): client.ttl(key) for key in client.keys("*")}
    assert set(ttls) == {document_key(7, 1), KEY, pointer_key("phc_a")}
    assert 0 < ttls[document_key(7, 1)] <= 60
    assert 890 <= ttls[KEY] <= 1000
    assert 890 <= ttls[pointer_key("phc_a")] <= 1000


async def test_keep__older_than_what_is_there__moves_nothing(shelf: RedisShelf, redis_server: RedisServer) -> None:
    """A document that is not wanted is not sent."""
    await keep(shelf, 2)

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError
        yield b""

    assert not await shelf.keep(document(1)[0], unread())
    with redis_server.client() as client:
        assert len(client.keys("*")) == 2


async def test_keep__done__is_announced(shelf: RedisShelf, redis_server: RedisServer) -> None:
    """Gateways that listen to Redis hear which project changed."""
    feed = RedisFeed(Redis(url=Address(redis_server.url()), timeout_ms=2000, connect_timeout_ms=2000))
    async with asyncio.timeout(5), aclosing(feed.changes()) as changes:  # type: ignore[type-var]
        assert await anext(changes) is None
        await keep(shelf)
        assert await anext(changes) == 7


@pytest.mark.parametrize("damage", ["changed", "cut", "longer", "far longer", "gone", "pointer gone", "pointer wrong"])
async def test_holds__damaged__is_found_out_and_put_right(
    shelf: RedisShelf, redis_server: RedisServer, damage: str
) -> None:
    """Whatever somebody does to an entry, it is not held; nothing broken is left, and it can be put there again."""
    published, content = document(2, LARGE)
    await keep(shelf)
    with redis_server.client() as client:
        raw = client.get(KEY)
        assert isinstance(raw, bytes)
        assert len(raw) < LARGE
        match damage:
            case "changed":
                client.set(KEY, raw[:200] + bytes([raw[200] ^ 1]) + raw[201:])
            case "cut":
                client.set(KEY, raw[:-1])
            case "longer":
                client.set(KEY, raw + b"x")
            case "far longer":
                client.set(KEY, raw + b"x" * 3 * PART_BYTES)
            case "gone":
                client.delete(KEY)
            case "pointer gone":
                client.delete(pointer_key("phc_a"))
            case "pointer wrong":
                client.set(pointer_key("phc_a"), b"what")
        assert not await shelf.holds(published)
        if "pointer" not in damage:
            assert not client.exists(KEY)
    assert await keep(shelf)
    assert await shelf.holds(published)
    async with RedisCache(Redis(url=Address(redis_server.url()), timeout_ms=2000)) as cache:
        found = await cache.load_definitions("phc_a")
    assert found is not None
    assert found.document == content


async def test_holds__not_compressed__is_read_in_parts(redis_server: RedisServer) -> None:
    """A document is compared as it is stored, whatever gateways do with theirs."""
    settings = Redis(url=Address(redis_server.url()), timeout_ms=2000, compress_above_bytes=1 << 20)
    async with RedisShelf(settings) as shelf:
        await keep(shelf)
        assert await shelf.holds(document(2, LARGE)[0])
        with redis_server.client() as client:
            assert client.strlen(KEY) > LARGE


async def test_keep__changed_on_its_way__is_refused(
    shelf: RedisShelf, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read back must be what was sent, before anybody can find it."""
    append = RedisShelf._append

    async def append_and_damage(self: RedisShelf, key: str, piece: bytes) -> None:
        await append(self, key, piece[:-1] + b"?" if piece else piece)

    monkeypatch.setattr(RedisShelf, "_append", append_and_damage)
    with pytest.raises(StoreError, match="read back as something else"):
        await keep(shelf)
    with redis_server.client() as client:
        assert not client.exists(KEY, pointer_key("phc_a"))


@pytest.mark.parametrize("mode", ["blackhole", "refuse"])
async def test_shelf__redis_is_gone__fails_in_time(shelf: RedisShelf, proxy: FaultProxy, mode: str) -> None:
    """Each call is bounded, and all is well once Redis is back."""
    await asyncio.to_thread(proxy.set, mode)
    began = time.monotonic()
    for call in (keep(shelf), shelf.holds(document(2, LARGE)[0])):
        with pytest.raises(StoreError):
            await call
    assert time.monotonic() - began < 5
    await asyncio.to_thread(proxy.heal)
    assert await keep(shelf)
    assert await shelf.holds(document(2, LARGE)[0])


async def test_keep__cancelled_at_any_moment__can_be_repeated(shelf: RedisShelf) -> None:
    """Somebody who gives up half-way leaves a shelf that works, and nothing that is found."""
    published, _ = document(2, LARGE)
    for steps in range(0, 60, 3):
        keeping = asyncio.ensure_future(keep(shelf))
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        keeping.cancel()
        await asyncio.wait({keeping})
        await shelf.holds(published)
    assert await keep(shelf)
    assert await shelf.holds(published)
