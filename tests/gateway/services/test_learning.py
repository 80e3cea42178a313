"""Learning persons and groups: gathered within bounds, stored behind everybody's back, and every fate counted."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from config.clients import Capture
from gateway.editing_ports import ManagedStore, Update
from gateway.errors import StoreError, StoreUnavailable
from gateway.metrics import Metrics
from gateway.services import learning
from gateway.services.learning import LearningService
from tests.builders import project
from tests.contracts.managed import ANN, new_project
from tests.fake_editing import FakeManagedStore
from tests.fakes import FakeClock
from tests.gateway.assembly import flags_of
from tests.gateway.serving import MemoryStore, settle

TOKEN = "phc_one"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def definitions() -> MemoryStore:
    return MemoryStore({TOKEN: {**project(), "id": 1}, "phc_two": {**project(), "id": 2}})


@pytest.fixture
async def people() -> FakeManagedStore:
    store = FakeManagedStore()
    for token in (TOKEN, "phc_two"):
        await new_project(store, token, group_types=["company"])
    store.calls.clear()
    return store


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REST_S", "RETRY_S"):
        monkeypatch.setattr(learning, name, 0.0)


@pytest.fixture
async def service(
    people: FakeManagedStore, definitions: MemoryStore, metrics: Metrics
) -> AsyncIterator[LearningService]:
    async with learning_from(people, definitions, metrics) as service:
        yield service


@asynccontextmanager
async def learning_from(
    people: ManagedStore, definitions: MemoryStore, metrics: Metrics, **changes: int
) -> AsyncIterator[LearningService]:
    clock = FakeClock()
    async with (
        flags_of(definitions, clock) as flags,
        LearningService(people, flags.find, clock, metrics, Capture(**changes), jitter=lambda: 0.0) as service,
    ):
        yield service


def of(key: str, joined: str = "", token: str = TOKEN, *, once: dict[str, Any] | None = None, **given: Any) -> Update:
    """What an event says of a person."""
    return Update(token=token, key=key, joined=joined, put=encoded(given), once=encoded(once or {}))


def of_group(key: str, kind: str = "company", **given: Any) -> Update:
    return Update(token=TOKEN, group_type=kind, key=key, put=encoded(given))


def encoded(values: dict[str, Any]) -> dict[str, bytes]:
    return {name: msgspec.json.encode(value) for name, value in values.items()}


async def stored(people: FakeManagedStore, project_id: int = 1) -> list[tuple[list[str], dict[str, Any]]]:
    return [(it.distinct_ids, it.properties) for it in await people.sample_persons(project_id, 1000)]


def counted(metrics: Metrics) -> dict[str, float]:
    """The fates that something met."""
    start = 'flagstone_learned_total{outcome="'
    rows = [row.removeprefix(start).split('"} ') for row in metrics.render().decode().splitlines()
            if row.startswith(start)]  # fmt: skip
    return {outcome: float(number) for outcome, number in rows if float(number)}


async def until_idle(service: LearningService) -> None:
    async with asyncio.timeout(30):
        while service.waiting:
            await asyncio.sleep(0)


async def test_learn__several_events_of_a_person__are_stored_as_one(
    service: LearningService, people: FakeManagedStore, metrics: Metrics
) -> None:
    """Later values go over earlier ones, the first of those for once stays, and nobody has waited for it."""
    await service.learn([of("u0"), of("u0", token="phc_two")])
    await until_idle(service)
    people.calls.clear()
    await service.learn([of("u1", plan="free", once={"from": "ad"}), of("u2"), of("u1", plan="pro", once={"from": 2})])
    await service.learn([of("u1", age=3), of_group("acme", size=1), of_group("acme", size=2)])
    await service.learn([of("u1", token="phc_two")])
    assert (service.waiting, people.calls) == (4, [])
    await until_idle(service)
    assert people.calls == ["upsert_persons", "upsert_groups", "upsert_persons"]
    assert (await stored(people))[1:] == [(["u1"], {"plan": "pro", "from": "ad", "age": 3}), (["u2"], {})]
    assert (await stored(people, 2))[1:] == [(["u1"], {})]
    assert [it.properties for it in await people.sample_groups(1, "company", 9)] == [{"size": 2}]
    assert counted(metrics) == {"stored": 6}
    assert repr(service) == "<LearningService 0 waiting, 0 bytes>"


async def test_learn__properties_for_once__leave_stored_ones_alone(
    service: LearningService, people: FakeManagedStore
) -> None:
    """What the store has was there first."""
    for number in (1, 2):
        await service.learn([of("u1", n=number, once={"first": number})])
        await until_idle(service)
    assert await stored(people) == [(["u1"], {"n": 2, "first": 1})]


async def test_learn__ids_that_are_joined__are_one_person(
    service: LearningService, people: FakeManagedStore, metrics: Metrics
) -> None:
    """Whoever was known by either id keeps what was known of them."""
    await service.learn([of("anon", seen=1)])
    await until_idle(service)
    await service.learn([of("u1", "anon", plan="pro"), of("u1", "other")])
    await until_idle(service)
    assert await stored(people) == [(["anon", "other", "u1"], {"seen": 1, "plan": "pro"})]
    assert counted(metrics) == {"stored": 4}


async def test_learn__ids_of_different_persons__are_not_merged_and_lose_nothing_else(
    service: LearningService, people: FakeManagedStore, metrics: Metrics
) -> None:
    """Merging persons is left to whoever keeps them: only the joining is refused, and counted."""
    await service.learn([of("u1", n=1), of("u2", n=2)])
    await until_idle(service)
    await service.learn([of("u1", "u2", plan="pro"), of("u1", "new"), of_group("acme", "club")])
    await until_idle(service)
    assert await stored(people) == [(["new", "u1"], {"n": 1, "plan": "pro"}), (["u2"], {"n": 2})]
    assert counted(metrics) == {"stored": 4, "refused": 2}


async def test_learn__unknown_token__is_dropped_and_asked_for_once(
    service: LearningService, definitions: MemoryStore, people: FakeManagedStore, metrics: Metrics
) -> None:
    """Made-up tokens take no room and are no storm on the store, however many one request has."""
    for _ in range(5):
        await service.learn([of("u1", token="phc_made_up")])
        await until_idle(service)
    assert counted(metrics) == {"unknown": 5}
    assert definitions.calls.count("load_definitions") == 1
    await service.learn([of("u1", token=f"phc_{number}") for number in range(50)])
    await until_idle(service)
    assert counted(metrics) == {"unknown": 55}
    assert definitions.calls.count("load_definitions") == 1 + learning.MAX_TOKENS
    assert people.calls == []


@pytest.mark.parametrize("most", [1, 5])
async def test_learn__more_than_there_is_room_for__is_dropped(
    people: FakeManagedStore, definitions: MemoryStore, metrics: Metrics, most: int
) -> None:
    """capture.max_persons: persons, groups and ids to be joined that wait; those who wait already learn more."""
    people.hang = asyncio.Event()
    async with learning_from(people, definitions, metrics, max_persons=most) as service:
        await service.learn([of(f"u{number}") for number in range(9)])
        await service.learn([of("u0", plan="pro"), of("u0", "anon"), of_group("acme")])
        assert (service.waiting, counted(metrics)) == (most, {"full": 11 - most})
        people.hang.set()
        await until_idle(service)
        assert counted(metrics) == {"full": 11 - most, "stored": most}
        await service.learn([of("later")])
        await until_idle(service)
        assert counted(metrics) == {"full": 11 - most, "stored": most + 1}
    assert (await stored(people))[0] == (["u0"], {"plan": "pro"})


async def test_learn__more_bytes_than_there_is_room_for__are_dropped(
    people: FakeManagedStore, definitions: MemoryStore, metrics: Metrics
) -> None:
    """capture.max_buffered_bytes: what waits to be stored is bounded by it as well."""
    async with learning_from(people, definitions, metrics, max_buffered_bytes=100) as service:
        await service.learn([of(f"u{number}", text="x" * 34, once={"a": 1}) for number in range(3)])
        await until_idle(service)
        assert counted(metrics) == {"full": 1, "stored": 2}
        await service.learn([of("u2", text="x" * 34)])
        await until_idle(service)
    assert counted(metrics) == {"full": 1, "stored": 3}


async def test_learn__properties_without_end__are_kept_within_bounds(
    service: LearningService, people: FakeManagedStore, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one huge value nor very many small ones get as far as the store; the others do."""
    monkeypatch.setattr(learning, "MAX_PROPERTIES", 3)
    monkeypatch.setattr(learning, "MAX_PROPERTY_BYTES", 10)
    await service.learn([of("u1", big="x" * 9, a=1, b=2), of("u1", c=3, d=4, a=5, once={"big": "x" * 9, "e": 1})])
    await until_idle(service)
    assert await stored(people) == [(["u1"], {"e": 1, "a": 5, "b": 2, "c": 3})]
    assert counted(metrics) == {"oversized": 3, "stored": 1}


async def test_learn__a_great_many__are_stored_in_batches(
    service: LearningService, people: FakeManagedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction holds the store's write lock for long, whether of many rows or of large ones."""
    monkeypatch.setattr(learning, "AT_ONCE_BYTES", 50)
    await service.learn([of(f"u{number}") for number in range(1001)])
    await until_idle(service)
    assert people.calls == ["upsert_persons"] * 3
    people.calls.clear()
    await service.learn([of(f"u{number}", text="x" * 30) for number in range(6)])
    await until_idle(service)
    assert people.calls == ["upsert_persons"] * 3


async def test_learn__store_fails_for_a_while__is_stored_when_it_is_back(
    service: LearningService, people: FakeManagedStore, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are answered meanwhile, and what they say is kept while there is room."""
    caplog.set_level(logging.INFO)
    people.error = StoreUnavailable("x")
    await service.learn([of("u1", n=1)])
    async with asyncio.timeout(30):
        while len(people.calls) < 3:
            await asyncio.sleep(0)
    await service.learn([of("u1", n=2), of("u2")])
    people.error = None
    await until_idle(service)
    assert await stored(people) == [(["u1"], {"n": 2}), (["u2"], {})]
    assert counted(metrics) == {"stored": 3}
    told = [record.message for record in caplog.records if record.message.startswith("learning")]
    assert told == ["learning_store_failed", "learning_store_recovered"]


async def test_learn__definitions_cannot_be_had__waits_for_them(
    service: LearningService, definitions: MemoryStore, people: FakeManagedStore, metrics: Metrics
) -> None:
    """An outage is no verdict on a token."""
    definitions.error = StoreUnavailable("x")
    await service.learn([of("u1")])
    await settle()
    definitions.error = None
    assert service.waiting == 1
    service._clock.advance(60)  # type: ignore[attr-defined]
    await until_idle(service)
    assert counted(metrics) == {"stored": 1}


@pytest.mark.parametrize(
    ("error", "tries"), [(StoreError("x"), learning.TRIES), (TimeoutError(), learning.TRIES), (RuntimeError("bug"), 1)]
)
async def test_learn__what_cannot_be_stored__is_given_up_at_last(
    service: LearningService, people: FakeManagedStore, metrics: Metrics, error: Exception, tries: int
) -> None:
    """One batch that fails whatever is done is not in the way of all others for ever."""
    people.error = error
    await service.learn([of("u1")])
    await until_idle(service)
    assert (len(people.calls), counted(metrics)) == (tries, {"failed": 1})
    people.error = None
    await service.learn([of("u2")])
    await until_idle(service)
    assert await stored(people) == [(["u2"], {})]


async def test_learn__store_hangs__is_tried_again(
    service: LearningService, people: FakeManagedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write has a bound of its own."""
    monkeypatch.setattr(learning, "WRITE_TIMEOUT_S", 0.01)
    people.hang = asyncio.Event()
    await service.learn([of("u1")])
    async with asyncio.timeout(30):
        while len(people.calls) < 2:
            await asyncio.sleep(0.005)
    people.hang.set()
    await until_idle(service)
    assert await stored(people) == [(["u1"], {})]


async def test_learn__project_is_gone__is_refused(
    service: LearningService, people: FakeManagedStore, metrics: Metrics
) -> None:
    """A snapshot may outlive its project for a moment."""
    await people.delete_project(1, ANN)
    await service.learn([of("u1"), of_group("acme")])
    await until_idle(service)
    assert counted(metrics) == {"refused": 2}


async def test_close__updates_waiting__are_stored_or_counted_as_dropped(
    people: FakeManagedStore, definitions: MemoryStore, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orderly end stores what waits at once; a store that hangs or fails does not hold the process."""
    monkeypatch.setattr(learning, "REST_S", 1000.0)
    monkeypatch.setattr(learning, "CLOSE_TIMEOUT_S", 0.5)
    async with learning_from(people, definitions, metrics) as service:
        await service.learn([of("u1")])
    assert counted(metrics) == {"stored": 1}
    people.error = StoreUnavailable("x")
    async with learning_from(people, definitions, metrics) as service:
        await service.learn([of("u2")])
    assert counted(metrics) == {"stored": 1, "failed": 1}
    monkeypatch.setattr(learning, "CLOSE_TIMEOUT_S", 0.01)
    people.hang = asyncio.Event()
    async with learning_from(people, definitions, metrics) as service:
        await service.learn([of("u3"), of("u4")])
    assert counted(metrics) == {"stored": 1, "failed": 1, "stopped": 2}
