"""The only place that picks implementations: which store a URL means, and what the services are made of.

Invariant: what is opened here is closed in the reverse order, whatever happens in between.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypedDict

from config.settings import Settings, StoreUrl
from gateway.ports import Clock, DefinitionStore, GroupStore, OverrideStore, PersonStore, TransferStore
from gateway.services.facts import FactsService
from gateway.services.flags import FlagService
from gateway.services.snapshots import SnapshotService
from gateway.stores.file import FileStore
from gateway.stores.sqlite import SqliteStore
from gateway.wire.flags import encode_result


class Store(DefinitionStore, PersonStore, GroupStore, OverrideStore, TransferStore, Protocol):
    """What one backend fulfils."""


OpenStore = Callable[[StoreUrl], AbstractAsyncContextManager[Store]]


class Services(TypedDict):
    """What endpoints find in the state of a request."""

    settings: Settings
    snapshots: SnapshotService
    flags: FlagService


def open_store(url: StoreUrl) -> AbstractAsyncContextManager[Store]:
    """The store that the URL names, opened on entry. Its scheme was checked with the settings."""
    return FileStore(url.path) if url.scheme == "file" else SqliteStore(url.path)


@asynccontextmanager
async def open_services(
    settings: Settings, clock: Clock, open_store: OpenStore = open_store
) -> AsyncIterator[Services]:
    """Everything that answers requests, until the context is left."""
    async with (
        open_store(settings.store.url) as store,
        SnapshotService(store, encode_result, settings.snapshots, clock) as snapshots,
        FactsService(store, store, store, reserve_s=settings.requests.answer_reserve_ms / 1000) as facts,
    ):
        yield Services(settings=settings, snapshots=snapshots, flags=FlagService(snapshots, facts, clock))
