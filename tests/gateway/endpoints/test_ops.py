"""What operators and balancers ask."""

from collections.abc import AsyncIterator

import pytest

from gateway.errors import StoreUnavailable
from tests.gateway.serving import Client, MemoryStore, one_project, serving


@pytest.fixture
def store() -> MemoryStore:
    return one_project()


@pytest.fixture
async def client(store: MemoryStore) -> AsyncIterator[Client]:
    async with serving(store) as client:
        yield client


@pytest.mark.parametrize(("path", "text"), [("/", "feature flags"), ("/_liveness", "ok")])
async def test_ops__get__is_text_without_a_store(client: Client, store: MemoryStore, path: str, text: str) -> None:
    """That the process lives has nothing to do with the store."""
    store.error = StoreUnavailable("x")
    answer = await client.get(path)
    assert (answer.status_code, answer.text) == (200, text)
    assert store.calls == []


async def test_readiness__store_comes_and_goes__follows_until_a_snapshot_is_held(
    client: Client, store: MemoryStore
) -> None:
    """Ready means that a snapshot can be evaluated now; it is neither latched nor lost with the store."""
    seen = []
    for error in (None, StoreUnavailable("x"), None):
        store.error = error
        seen.append((await client.get("/_readiness")).status_code)
    await client.ask()
    store.error = StoreUnavailable("x")
    seen.append((await client.get("/_readiness")).status_code)
    assert seen == [200, 503, 200, 200]


async def test_readiness__not_ready__says_why(client: Client, store: MemoryStore) -> None:
    """A probe that fails tells its operator the reason, in JSON."""
    assert (await client.get("/_readiness")).json() == {"status": "ready"}
    store.error = StoreUnavailable("password is hunter2")
    answer = await client.get("/_readiness")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "status": "not_ready",
        "reason": "No snapshot is held and the store does not answer",
    }


@pytest.mark.parametrize("path", ["/", "/_liveness", "/_readiness"])
async def test_ops__methods__are_those_that_only_read(client: Client, path: str) -> None:
    """HEAD goes where GET goes, OPTIONS tells, and anything else is refused with what is allowed."""
    assert (await client.head(path)).status_code == 200
    assert (await client.options(path)).headers["allow"] == "GET, OPTIONS, HEAD"
    refused = await client.post(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, OPTIONS, HEAD")
