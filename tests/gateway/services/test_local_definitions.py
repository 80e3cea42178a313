"""Definitions for SDKs: made once, kept within bounds, and served on when they cannot be made."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from config.settings import Snapshots
from evaluator.snapshot import build_snapshot
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.ports import Deadline, Definitions
from gateway.services import local_definitions
from gateway.services.compiling import MAX_INLINE_BYTES
from gateway.services.held import Held
from gateway.services.local_definitions import LocalDefinitionService
from gateway.wire.etags import etag_of
from gateway.wire.flags import encode_result
from tests.builders import flag, project
from tests.fakes import FakeClock

FLAGS = [flag(f"flag-{number}", id=number) for number in range(1, 11)]
MANY = [flag(f"flag-{number}", id=number) for number in range(1, 500)]


def held(*flags: dict[str, Any], version: int = 1, **fields: Any) -> Held:
    document = msgspec.json.encode(project(*flags, **fields))
    definitions = Definitions(1, version, document)
    return Held(build_snapshot(document, version, encode_result), definitions, "store", 0.0, 0.0)


def soon(seconds: float = 30) -> Deadline:
    return Deadline(FakeClock(), seconds)


def service_of(metrics: Metrics | None = None, **settings: Any) -> LocalDefinitionService:
    return LocalDefinitionService(etag_of, Snapshots(**settings), metrics or Metrics())


def built(metrics: Metrics, outcome: str = "ok") -> float:
    name = f'flagstone_local_definitions_built_total{{outcome="{outcome}"}}'
    return next(float(line.split()[-1]) for line in metrics.render().decode().splitlines() if line.startswith(name))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def service(metrics: Metrics) -> AsyncIterator[LocalDefinitionService]:
    async with service_of(metrics) as service:
        yield service


class Broken:
    """Stands for a builder of definitions that fails, or takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.is_failing = False
        self._really = local_definitions.local_definitions
        monkeypatch.setattr(local_definitions, "local_definitions", self._build)

    def _build(self, document: bytes) -> bytes:
        if self.is_failing:
            raise RuntimeError("a bug")
        assert self.gate.wait(30)
        return self._really(document)


async def test_get__first_and_later__are_the_same_bytes(service: LocalDefinitionService, metrics: Metrics) -> None:
    """A version is made once, with its compressed form, and handed out from then on."""
    one = held(*FLAGS)
    first = await service.get(one, soon())
    assert await service.get(one, soon(0)) is first
    assert [it["key"] for it in msgspec.json.decode(first.body)["flags"]] == [it["key"] for it in FLAGS]
    assert first.gzipped is not None
    assert gzip.decompress(first.gzipped) == first.body
    assert len(first.gzipped) < len(first.body)
    assert built(metrics) == 1
    assert f"flagstone_local_definitions_bytes {float(first.size_bytes)}" in metrics.render().decode()
    assert repr(service) == "<LocalDefinitionService 1 prepared, 0 being made>"


async def test_get__hardly_any_flags__are_not_compressed(service: LocalDefinitionService) -> None:
    """What gzip would make larger is kept as it is only."""
    assert (await service.get(held(), soon())).gzipped is None


@pytest.mark.parametrize("flags", [FLAGS, MANY])
async def test_get__many_at_once__make_it_once(
    service: LocalDefinitionService, metrics: Metrics, flags: list[dict[str, Any]]
) -> None:
    """All SDKs of a fleet that start together cost one preparation, of whatever size."""
    one = held(*flags)
    assert (len(one.definitions.document) > MAX_INLINE_BYTES) is (flags is MANY)
    found = await asyncio.gather(*(service.get(one, soon()) for _ in range(50)))
    assert {id(it) for it in found} == {id(found[0])}
    assert built(metrics) == 1


async def test_etag__another_version__changes_with_the_content_alone(service: LocalDefinitionService) -> None:
    """A version that says the same is the same to SDKs; one that does not is another."""
    tags = []
    for version, flags in enumerate([FLAGS, FLAGS, FLAGS[:5]], 1):
        one = held(*flags, version=version, name=f"name {version}")
        assert service.etag(one) is None
        prepared = await service.get(one, soon())
        assert (prepared.version, service.etag(one)) == (version, prepared.etag)
        tags.append(prepared.etag)
    assert tags[0] == tags[1] != tags[2]
    assert tags[0].startswith(b'W/"')


async def test_get__cannot_be_made__is_the_version_before(
    service: LocalDefinitionService, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that breaks the preparation takes nothing away; who has no earlier one is told to come again."""
    before = await service.get(held(*FLAGS), soon())
    broken = Broken(monkeypatch)
    broken.is_failing = True
    newer = held(*FLAGS, version=2)
    assert await service.get(newer, soon()) is before
    assert service.etag(newer) is None
    with pytest.raises(Unavailable):
        await service.get(held(*FLAGS, token="phc_other"), soon())
    assert built(metrics, "failed") == 2
    broken.is_failing = False
    broken.gate.set()
    assert (await service.get(newer, soon())).version == 2


async def test_get__takes_too_long__is_the_version_before_and_later_the_new_one(
    service: LocalDefinitionService, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits beyond their deadline, and what they waited for is made nevertheless."""
    before = await service.get(held(*FLAGS), soon())
    broken = Broken(monkeypatch)
    newer, other = held(*MANY, version=2), held(*MANY, token="phc_other")
    assert await service.get(newer, soon(0.01)) is before
    with pytest.raises(Unavailable):
        await service.get(other, soon(0.01))
    broken.gate.set()
    assert (await service.get(newer, soon())).version == 2
    assert await service.get(other, soon())
    assert built(metrics) == 3


async def test_get__request_is_cancelled__others_get_what_it_began(
    service: LocalDefinitionService, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that hangs up takes nothing from those who wait for the same."""
    broken = Broken(monkeypatch)
    one = held(*MANY)
    first, second = (asyncio.create_task(service.get(one, soon())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    broken.gate.set()
    assert (await second).version == 1
    assert built(metrics) == 1


async def test_close__while_something_is_made__does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stops is not held up, and whoever waits is told to come again."""
    broken = Broken(monkeypatch)
    async with service_of() as service:
        waiting = asyncio.create_task(service.get(held(*MANY), soon()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await waiting
    broken.gate.set()


@pytest.mark.parametrize(("max_bytes", "kept"), [(1 << 20, 2), (2048, 1)])
async def test_get__more_than_there_is_room_for__forgets_those_not_asked_for_longest(
    metrics: Metrics, max_bytes: int, kept: int
) -> None:
    """snapshots.max_local_bytes: what is prepared occupies no more than this; tags outlast it."""
    async with service_of(metrics, max_local_bytes=max_bytes) as service:
        one, other = held(*FLAGS), held(*FLAGS, token="phc_other")
        prepared = await service.get(one, soon())
        assert prepared.size_bytes > 1024
        await service.get(other, soon())
        await service.get(other, soon())
        assert repr(service) == f"<LocalDefinitionService {kept} prepared, 0 being made>"
        assert service.etag(one) == prepared.etag
        assert await service.get(one, soon()) == prepared
        assert built(metrics) == 4 - kept


async def test_get__larger_than_all_the_room__is_kept_by_itself(metrics: Metrics) -> None:
    """A project that is larger than the bound is not made anew for each request."""
    async with service_of(metrics, max_local_bytes=1024) as service:
        one = held(*MANY)
        assert await service.get(one, soon()) is await service.get(one, soon())
        assert built(metrics) == 1
