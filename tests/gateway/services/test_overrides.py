"""Writing overrides: after the answer, twice at most, in a bounded queue, and every write's fate counted."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from evaluator.types import OverrideWrite
from gateway.errors import StoreError, StoreUnavailable
from gateway.metrics import Metrics
from gateway.ports import FactsQuery
from gateway.services import overrides
from gateway.services.overrides import OverrideService
from tests.fakes import FakeClock, FakeStore
from tests.gateway.assembly import guarded
from tests.gateway.serving import settle
from tests.gateway.stores.test_sqlite import demo, ignore

WRITE = OverrideWrite(("u1",), {"sticky": "anon"})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def store() -> FakeStore:
    store = FakeStore()
    await store.import_projects([demo()], ignore)
    store.calls.clear()
    return store


@pytest.fixture
async def service(store: FakeStore, metrics: Metrics) -> AsyncIterator[OverrideService]:
    async with (
        guarded(FakeClock(), "writer") as guard,
        OverrideService(store, guard, metrics, max_queued=3, timeout_s=0.05, jitter=lambda: 0.0) as service,
    ):
        yield service


def counted(metrics: Metrics, outcome: str) -> float:
    rows = metrics.render().decode().splitlines()
    name = f'flagstone_override_writes_total{{outcome="{outcome}"}} '
    return next((float(row.removeprefix(name)) for row in rows if row.startswith(name)), 0.0)


async def test_keep__store_works__writes_without_anybody_waiting(
    service: OverrideService, store: FakeStore, metrics: Metrics
) -> None:
    """The caller goes on at once, and the override is there soon after."""
    service.keep(1, WRITE)
    assert store.calls == []
    await settle()
    assert (await store.load_facts(FactsQuery(1, ("u1",), wants_overrides=True))).overrides == {"sticky": "anon"}
    assert counted(metrics, "written") == 1
    assert repr(service) == "<OverrideService 0/3 queued, 0 writing>"


async def test_keep__store_fails__is_tried_twice_and_given_up(
    service: OverrideService, store: FakeStore, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that fails is tried once more, then it is lost, counted, and told of."""
    store.error = StoreUnavailable("x")
    service.keep(1, WRITE)
    await settle()
    assert store.calls == ["save_overrides"] * 2
    assert (counted(metrics, "retried"), counted(metrics, "failed")) == (1, 1)
    assert [record.message for record in caplog.records] == ["override_store_failed"]


async def test_keep__second_try_works__is_written(
    service: OverrideService, store: FakeStore, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hiccup of the writer loses nothing."""
    save, tries = store.save_overrides, []

    async def once(*args: object) -> None:
        tries.append(args)
        if len(tries) == 1:
            raise StoreError("x")
        await save(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "save_overrides", once)
    service.keep(1, WRITE)
    await settle()
    assert (counted(metrics, "retried"), counted(metrics, "written")) == (1, 1)


async def test_keep__adapter_crashes__is_told_and_not_tried_again(
    service: OverrideService, store: FakeStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug must not pass unseen because nobody waits, and the writer goes on."""

    async def crash(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(store, "save_overrides", crash)
    service.keep(1, WRITE)
    await settle()
    monkeypatch.undo()
    service.keep(1, WRITE)
    await settle()
    assert [record.message for record in caplog.records] == ["override_write_crashed"]
    assert store.calls == ["save_overrides"]


async def test_keep__writer_hangs__queues_within_a_bound_and_drops_the_rest(
    service: OverrideService, store: FakeStore, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A writer that does not keep up costs its own queue, told once each time it is full, and nobody's memory."""
    store.hang = asyncio.Event()
    for _ in range(2):
        service.keep(1, WRITE)
    await settle()
    for _ in range(5):
        service.keep(1, WRITE)
    assert (service.queued, counted(metrics, "dropped")) == (3, 2)
    assert [record.message for record in caplog.records] == ["override_writes_dropped"]
    store.hang.set()
    await settle()
    assert counted(metrics, "written") == 5
    service.keep(1, WRITE)
    await settle()
    assert counted(metrics, "written") == 6


async def test_keep__write_takes_too_long__is_a_failed_try(
    service: OverrideService, store: FakeStore, metrics: Metrics
) -> None:
    """Each try has its own time limit."""
    store.hang = asyncio.Event()
    service.keep(1, WRITE)
    while not counted(metrics, "failed"):
        await asyncio.sleep(0.01)
    assert store.calls == ["save_overrides"] * 2


async def test_close__writes_waiting__are_finished_or_counted_as_dropped(
    store: FakeStore, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An orderly end empties the queue if the store lets it; a hanging store does not hold the process."""
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(overrides, "CLOSE_TIMEOUT_S", 0.02)
    before = asyncio.all_tasks()
    async with guarded(FakeClock(), "writer") as guard:
        async with OverrideService(store, guard, metrics, max_queued=9, timeout_s=9) as service:
            for _ in range(4):
                service.keep(1, WRITE)
        assert counted(metrics, "written") == 4
        store.hang = asyncio.Event()
        async with OverrideService(store, guard, metrics, max_queued=9, timeout_s=9) as service:
            for _ in range(6):
                service.keep(1, WRITE)
        assert counted(metrics, "dropped") == 6 - overrides.WRITERS
    await settle()
    assert asyncio.all_tasks() == before
