"""Where snapshots come from, how they stay fresh, and what a failing store may and may not change."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from config.settings import Snapshots
from evaluator.types import FlagResult, Fragments
from gateway.errors import AuthenticationFailed, GatewayError, StoreError, StoreUnavailable, Unavailable
from gateway.ports import Deadline
from gateway.services import compiling, definitions, snapshots
from gateway.services.snapshots import SnapshotService
from gateway.wire.flags import encode_result
from tests.builders import flag, project
from tests.fakes import FakeClock
from tests.gateway.assembly import snapshots_of
from tests.gateway.serving import TOKEN, MemoryStore, one_project, settle

SETTINGS = Snapshots(refresh_s=5, unknown_token_ttl_s=10, max_projects=3, max_unknown_tokens=3)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryStore:
    return one_project()


@pytest.fixture
async def service(store: MemoryStore, clock: FakeClock) -> AsyncIterator[SnapshotService]:
    async with snapshots_of(store, clock, SETTINGS) as service:
        yield service


@pytest.fixture
def version(service: SnapshotService, clock: FakeClock) -> Callable[..., Any]:
    """The version that a request gets now."""

    async def version(token: str = TOKEN, budget_s: float = 1.0) -> int:
        return (await service.get(token, Deadline(clock, budget_s))).snapshot.version

    return version


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[str]:
    return [record.message for record in caplog.records if record.message in names]


async def test_get__again__is_the_snapshot_in_memory(version: Callable[..., Any], store: MemoryStore) -> None:
    """Only the first request for a project goes to the store."""
    assert [await version(), await version()] == [1, 1]
    assert store.calls == ["load_definitions"]


async def test_get__before_the_refresh_is_due__does_not_ask_the_store(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock
) -> None:
    """The store is asked about a project at most once in the refresh time."""
    await version()
    clock.advance(4.9)
    await version()
    await settle()
    assert store.calls == ["load_definitions"]


async def test_get__refresh_is_due__answers_stale_and_then_fresh(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock
) -> None:
    """A changed project is answered from the old snapshot until the new one stands."""
    await version()
    store.put(TOKEN, project(flag("new")), version=2)
    clock.advance(5)
    assert await version() == 1
    await settle()
    assert await version() == 2


async def test_get__unchanged_version__loads_nothing(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock
) -> None:
    """A refresh of an unchanged project only compares its version, once for all requests meanwhile."""
    await version()
    clock.advance(5)
    await asyncio.gather(*(version() for _ in range(5)))
    await settle()
    assert store.calls == ["load_definitions", "definitions_versions"]
    clock.advance(4.9)
    await version()
    await settle()
    assert len(store.calls) == 2


async def test_get__many_at_once__share_one_load(version: Callable[..., Any], store: MemoryStore) -> None:
    """Requests that find a project not loaded wait for the same load."""
    store.gate.clear()
    requests = [asyncio.ensure_future(version()) for _ in range(10)]
    await settle()
    store.gate.set()
    assert await asyncio.gather(*requests) == [1] * 10
    assert store.calls == ["load_definitions"]


async def test_get__first_request_is_cancelled__others_still_get_the_load(
    version: Callable[..., Any], store: MemoryStore
) -> None:
    """A request that goes away does not take the load that others wait for with it."""
    store.gate.clear()
    first, second = (asyncio.ensure_future(version()) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    store.gate.set()
    assert await second == 1
    assert first.cancelled()


async def test_get__store_hangs__is_unavailable_at_the_deadline(
    version: Callable[..., Any], store: MemoryStore
) -> None:
    """A store that hangs holds a request no longer than its deadline, and its answer serves the next one."""
    store.gate.clear()
    with pytest.raises(Unavailable):
        await version(budget_s=0.01)
    store.gate.set()
    await settle()
    assert await version() == 1
    assert store.calls == ["load_definitions"]


async def test_get__store_fails_with_nothing_held__is_unavailable_and_never_unauthorized(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock
) -> None:
    """A store that fails says nothing about a token: the request is unavailable, and soon tried again."""
    store.error = StoreUnavailable("connection refused")
    for token in (TOKEN, "phc_nobody_has_this"):
        with pytest.raises(Unavailable):
            await version(token)
    store.error = None
    with pytest.raises(Unavailable):
        await version()
    clock.advance(1)
    assert await version() == 1
    with pytest.raises(AuthenticationFailed):
        await version("phc_nobody_has_this")


@pytest.mark.parametrize("error", [StoreError("x"), StoreUnavailable("x"), RuntimeError("a bug in an adapter")])
async def test_get__store_fails_later__keeps_the_snapshot_and_recovers(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock, error: Exception
) -> None:
    """Whatever breaks in a refresh, the snapshot held is served, and refreshing goes on once the store is back."""
    await version()
    store.put(TOKEN, project(flag("new")), version=2)
    store.error = error
    for _ in range(6):
        clock.advance(60)
        assert await version() == 1
        await settle()
    store.error = None
    clock.advance(60)
    assert await version() == 1
    await settle()
    assert await version() == 2


async def test_get__store_keeps_failing__is_asked_less_and_less_often(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock
) -> None:
    """Retries of a failed refresh come after 0.5, 1, 2, 4 and from then on every 5 seconds."""
    await version()
    store.error = StoreError("x")
    clock.advance(5)
    asked_at = []
    for second in range(100):
        asked = len(store.calls)
        await version()
        await settle()
        if len(store.calls) > asked:
            asked_at.append(second)
        clock.advance(1)
    assert asked_at == [0, 1, 2, 4, *range(8, 100, 5)]


async def test_get__store_fails_for_long__is_logged_when_it_begins_and_when_it_ends(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure streak makes two lines, however long it is."""
    caplog.set_level(logging.INFO)
    await version()
    for error in (StoreError("x"), StoreError("x"), StoreUnavailable("y"), None, None):
        store.error = error
        clock.advance(60)
        await version()
        await settle()
    told = events(caplog, "definition_store_failed", "definition_store_recovered")
    assert told == ["definition_store_failed", "definition_store_recovered"]


async def test_get__new_document_cannot_be_built__keeps_the_old_snapshot(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A document of which nothing can be made is rejected once, and the next good version is taken."""
    await version()
    store.put(TOKEN, b'{"flags": "none"}', version=2)
    for _ in range(3):
        clock.advance(60)
        assert await version() == 1
        await settle()
    assert events(caplog, "definitions_rejected") == ["definitions_rejected"]
    store.put(TOKEN, project(), version=3)
    clock.advance(60)
    await version()
    await settle()
    assert await version() == 3


async def test_get__first_document_cannot_be_built__is_unavailable(
    version: Callable[..., Any], store: MemoryStore
) -> None:
    """A project whose only document is broken is unavailable; its token is not called wrong."""
    store.put(TOKEN, b"not json")
    with pytest.raises(Unavailable):
        await version()


async def test_get__encoding_crashes__keeps_the_old_snapshot(store: MemoryStore, clock: FakeClock) -> None:
    """A crash while compiling costs the refresh, not the snapshot that works."""
    crashes = False

    def encode(result: FlagResult) -> Fragments:
        if crashes:
            raise RuntimeError("a bug")
        return encode_result(result)

    async with snapshots_of(store, clock, SETTINGS, encode=encode) as service:
        await service.get(TOKEN, Deadline(clock, 1))
        crashes = True
        store.put(TOKEN, project(flag("new")), version=2)
        clock.advance(5)
        await service.get(TOKEN, Deadline(clock, 1))
        await settle()
        assert (await service.get(TOKEN, Deadline(clock, 1))).snapshot.version == 1


async def test_get__large_document__is_built_beside_the_event_loop(
    version: Callable[..., Any], store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling a document beyond the inline limit happens in a thread."""
    built_in_threads = []

    async def to_thread(build: Callable[..., Any], *args: Any) -> Any:
        built_in_threads.append(args[1])
        return build(*args)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    await version()
    assert built_in_threads == []
    store.put("phc_large", project(flag("x", name="n" * compiling.MAX_INLINE_BYTES)), version=7)
    assert await version("phc_large") == 7
    assert built_in_threads == [7]


async def test_get__project_is_gone__its_token_is_refused(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock
) -> None:
    """Once the store says that no project has a token any more, it is refused like any unknown one."""
    await version()
    store.definitions.clear()
    clock.advance(5)
    await version()
    await settle()
    with pytest.raises(AuthenticationFailed):
        await version()


async def test_get__unknown_token__is_remembered_for_its_time(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock
) -> None:
    """A token that no project has is asked for once; when its time is over, a project created meanwhile is found."""
    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            await version("phc_later")
    assert store.calls == ["load_definitions"]
    store.put("phc_later", project(), version=4)
    clock.advance(9.9)
    with pytest.raises(AuthenticationFailed):
        await version("phc_later")
    clock.advance(0.1)
    assert await version("phc_later") == 4


async def test_get__made_up_tokens__push_out_no_snapshot(
    version: Callable[..., Any], service: SnapshotService, store: MemoryStore
) -> None:
    """However many tokens somebody makes up, memory stays bounded and a project held stays held."""
    await version()
    for number in range(50):
        with pytest.raises(AuthenticationFailed):
            await version(f"phc_made_up_{number}")
    assert repr(service) == "<SnapshotService 1 held, 3 absent, 1 tasks>"
    loads = len(store.calls)
    assert await version() == 1
    assert len(store.calls) == loads


async def test_get__more_projects_than_fit__drops_the_least_used(
    version: Callable[..., Any], service: SnapshotService, store: MemoryStore
) -> None:
    """No more projects are held than allowed, and the one used longest ago makes room."""
    for number in range(4):
        store.put(f"phc_{number}", project(), version=number + 1)
        assert await version(f"phc_{number}") == number + 1
    assert repr(service).startswith("<SnapshotService 3 held")
    await version("phc_1")
    loads = len(store.calls)
    await version("phc_0")
    assert len(store.calls) == loads + 1


async def test_get__token_of_absurd_length__is_refused_without_asking(
    version: Callable[..., Any], service: SnapshotService, store: MemoryStore
) -> None:
    """A token longer than any real one is neither looked up nor remembered."""
    with pytest.raises(AuthenticationFailed):
        await version("x" * (snapshots.MAX_TOKEN_CHARACTERS + 1))
    assert store.calls == []
    assert repr(service) == "<SnapshotService 0 held, 0 absent, 1 tasks>"


async def test_get__too_many_first_loads__is_unavailable_at_once(
    version: Callable[..., Any], store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hanging store collects a bounded number of loads; more are refused without waiting."""
    monkeypatch.setattr(snapshots, "MAX_FIRST_LOADS", 2)
    store.gate.clear()
    waiting = [asyncio.ensure_future(version(f"phc_{number}")) for number in range(2)]
    await settle()
    with pytest.raises(Unavailable):
        await version("phc_2")
    store.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, AuthenticationFailed) for outcome in outcomes)


async def test_get__load_outlasts_its_limit__is_given_up_and_tried_again(
    version: Callable[..., Any], store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that hangs for ever does not keep its project out for ever."""
    monkeypatch.setattr(definitions, "LOAD_TIMEOUT_S", 0.01)
    store.gate.clear()
    with pytest.raises(Unavailable):
        await version()
    store.gate.set()
    clock.advance(1)
    assert await version() == 1


async def test_close__loads_and_refreshes_under_way__are_cancelled(store: MemoryStore, clock: FakeClock) -> None:
    """Closing leaves no task behind."""
    before = asyncio.all_tasks()
    async with snapshots_of(store, clock, SETTINGS) as service:
        await service.get(TOKEN, Deadline(clock, 1))
        store.gate.clear()
        clock.advance(5)
        await service.get(TOKEN, Deadline(clock, 1))
        with pytest.raises(GatewayError):
            await service.get("phc_other", Deadline(clock, 0))
        await settle()
        assert repr(service).endswith("3 tasks>")
    assert asyncio.all_tasks() == before


async def test_is_ready__nothing_held__depends_on_the_store_and_does_not_latch(
    service: SnapshotService, store: MemoryStore, clock: FakeClock
) -> None:
    """Without a snapshot, readiness follows the store, down and up again."""
    ready = []
    for error in (None, StoreUnavailable("x"), None):
        store.error = error
        ready.append(await service.is_ready(Deadline(clock, 1)))
    store.gate.clear()
    ready.append(await service.is_ready(Deadline(clock, 0.01)))
    assert ready == [True, False, True, False]


async def test_is_ready__snapshot_held__needs_no_store(
    service: SnapshotService, version: Callable[..., Any], store: MemoryStore, clock: FakeClock
) -> None:
    """With a snapshot in memory requests can be answered, so a dead store does not take the service out."""
    await version()
    store.error = StoreUnavailable("x")
    assert await service.is_ready(Deadline(clock, 1))
