"""The management API over a store in memory, behind all middleware: what its tests stand on.

Nothing here listens or sleeps. Whatever is answered in any of those tests is held to the API's own description.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import httpx
import jsonschema_rs
import msgspec

from config.edge import Limits
from config.management import Api
from config.settings import Settings
from gateway.api import routes
from gateway.services.keys import KeyService
from tests.fake_editing import FakeManagedStore
from tests.fakes import FakeClock
from tests.gateway.serving import MemoryStore, serving

NO_LIMITS = Limits(mode="off")


class Manager(httpx.AsyncClient):
    """A client with a key for everything, of a service with project 1; `store` has what is managed."""

    store: FakeManagedStore
    clock: FakeClock

    async def key(self, *scopes: str, projects: tuple[int, ...] | None = None, name: str = "test") -> str:
        """A new key."""
        text, _ = await KeyService(self.store, self.clock).create(name, scopes, projects, "test")
        return text

    async def with_key(self, *scopes: str, projects: tuple[int, ...] | None = None) -> dict[str, str]:
        """The headers of a call with a new key."""
        return {"authorization": f"Bearer {await self.key(*scopes, projects=projects)}"}

    async def make_flag(self, key: str = "beta", **fields: Any) -> dict[str, Any]:
        answer = await self.post("/api/projects/1/feature_flags", json={"key": key, **fields})
        assert answer.status_code == 201, answer.text
        flag: dict[str, Any] = answer.json()
        return flag

    async def make_cohort(self, name: str = "friends", *, is_static: bool = True) -> int:
        fields = {"name": name, "is_static": is_static}
        answer = await self.post("/api/projects/1/cohorts", json=fields)
        assert answer.status_code == 201, answer.text
        cohort_id: int = answer.json()["id"]
        return cohort_id

    async def send_lines(self, path: str, *lines: str, method: str = "POST", **headers: str) -> httpx.Response:
        """What is answered to an upload of these lines."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.request(method, f"/api/projects/1/{path}", content="\n".join(lines), headers=named)


@cache
def description() -> dict[str, Any]:
    described: dict[str, Any] = msgspec.json.decode(routes.description())
    return described


@cache
def validator(path: str, method: str, status: str, media_type: str) -> Any:
    """What an answer has to be, as it is described."""
    answers = description()["paths"][path][method.lower()]["responses"]
    assert status in answers, f"{method} {path} is not described to answer {status}"
    answer = answers[status]
    if "$ref" in answer:
        answer = description()["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    schema = answer.get("content", {}).get(media_type, {}).get("schema", media_type == "")
    return jsonschema_rs.validator_for({"components": description()["components"], "allOf": [schema]})


async def hold_to_description(answer: httpx.Response) -> None:
    """Raises AssertionError when an operation of the API answers what is not described."""
    operations, _ = routes.find(answer.request.url.path)
    operation = operations.get(answer.request.method)
    if operation is None:
        return
    await answer.aread()
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    value = answer.json() if media_type == "application/json" else answer.text
    problem = next(
        validator(operation.path, operation.method, str(answer.status_code), media_type).iter_errors(value), None
    )
    assert problem is None, f"{answer.request.method} {answer.request.url} answers what is not described: {problem}"


@asynccontextmanager
async def managing(
    api: Api | None = None, *, limits: Limits = NO_LIMITS, settings: Mapping[str, Any] | None = None
) -> AsyncIterator[Manager]:
    """A client of the whole app over a store that has project 1, "Shop", with the group type "company"."""
    clock = FakeClock()
    behind, managed = MemoryStore(), FakeManagedStore(clock)
    behind.managed = managed
    async with serving(behind, Settings(api=api or Api(), limits=limits, **(settings or {})), clock) as client:
        hooks = {"response": [hold_to_description]}
        manager = Manager(transport=client._transport, base_url="http://flagstone", event_hooks=hooks)
        manager.store, manager.clock = managed, clock
        manager.headers["authorization"] = f"Bearer {await manager.key('*')}"
        answer = await manager.post("/api/projects", json={"name": "Shop", "group_types": ["company"]})
        assert answer.status_code == 201, answer.text
        yield manager
