"""The app, its clock and its store in one process: what tests of services and of the app stand on.

Nothing here listens or sleeps. A store's failures are values that a test sets.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx
import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.address import Address
from config.reload import Live
from config.settings import Settings
from config.settings import Store as StoreSettings
from gateway.app import create_app
from gateway.ports import Definitions, FactsQuery, StoredFacts
from gateway.server import lifespan
from tests.builders import condition, flag, person, project
from tests.fakes import FakeClock

TOKEN = "phc_project_one"


class MemoryStore:
    """Definitions by token and persons by distinct id; fails with `error`, hangs while `gate` is closed.

    Unlike FakeStore it keeps documents and versions exactly as given, also those that no import would let through.
    """

    builds = None
    managed: Any = None

    def __init__(self, documents: Mapping[str, dict[str, Any]] | None = None) -> None:
        self.definitions: dict[str, Definitions] = {}
        self.persons: dict[str, StoredFacts] = {}
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[str] = []
        for token, document in (documents or {}).items():
            self.put(token, document)

    def put(self, token: str, document: dict[str, Any] | bytes, version: int = 1) -> None:
        """Store a project; bytes stand as they are, to store what no importer would let through."""
        raw = document if isinstance(document, bytes) else msgspec.json.encode({**document, "token": token})
        project_id = document.get("id", 1) if isinstance(document, dict) else 1
        self.definitions[token] = Definitions(project_id, version, raw)

    async def load_definitions(self, token: str) -> Definitions | None:
        await self._answer("load_definitions")
        return self.definitions.get(token)

    async def definitions_versions(self, tokens: Sequence[str]) -> Mapping[str, int]:
        await self._answer("definitions_versions")
        return {token: self.definitions[token].version for token in tokens if token in self.definitions}

    async def load_facts(self, query: FactsQuery) -> StoredFacts:
        await self._answer("load_facts")
        return self.persons.get(query.distinct_ids[0], StoredFacts())

    async def save_overrides(
        self, project_id: int, distinct_ids: tuple[str, ...], hash_keys: Mapping[str, str]
    ) -> None:
        return None

    async def _answer(self, call: str) -> None:
        self.calls.append(call)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


def one_project() -> MemoryStore:
    """A store with TOKEN: "on" is on for all, and "paid" needs the stored property "plan"."""
    paid = flag("paid", condition(person("plan", "paid")), id=2)
    return MemoryStore({TOKEN: project(flag("on", id=1), paid)})


async def settle() -> None:
    """Let everything run that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


class Client(httpx.AsyncClient):
    """A client of the app in this process; `ask` posts to /flags."""

    async def ask(self, query: str = "v=2", **fields: Any) -> httpx.Response:
        return await self.post(f"/flags?{query}", json={"token": TOKEN, "distinct_id": "u1", **fields})


@asynccontextmanager
async def serving(
    store: MemoryStore, settings: Settings | None = None, clock: FakeClock | None = None
) -> AsyncIterator[Client]:
    """A client of the whole app over this store; the app's lifespan lasts as long as the context."""
    chosen = settings or Settings()
    if chosen.store == Settings().store:  # What it announces would be another store's.
        chosen = msgspec.structs.replace(chosen, store=StoreSettings(url=Address("file:none.json")))
    app = create_app(Live(chosen), clock or FakeClock(), lambda _: nullcontext(store))
    async with running(app) as serving_app:
        # A crash that got past the app would be raised into the test.
        transport = httpx.ASGITransport(serving_app)
        async with Client(transport=transport, base_url="http://flagstone") as client:
            yield client


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[ASGIApp]:
    """The app with its lifespan begun; each request gets a copy of the state, as from an engine."""
    async with lifespan.running(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        yield with_state


def receiving(*messages: Message) -> Receive:
    """A `receive` that gives these messages and then nothing, as from a client that stopped sending."""
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


def part(body: bytes, *, more: bool = False) -> Message:
    """A piece of a request's body."""
    return {"type": "http.request", "body": body, "more_body": more}
