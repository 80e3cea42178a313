"""A project to manage, and the words in which tests say what is in it.

Plain data and a fake store. Invariant: what is made here is made by the service, unless it is said to be imported.
"""

from typing import Any

import msgspec
import pytest

from gateway.editing_ports import Actor, Item
from gateway.errors import Invalid
from gateway.services.editing import EditingService
from tests.builders import condition
from tests.fake_editing import FakeManagedStore
from tests.fakes import FakeClock

ANA = Actor("ana", "request 1")
BEN = Actor("ben")


class World:
    """A project with the id 1, and the service over it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeManagedStore(self.clock)
        self.editing = EditingService(self.store, self.clock)

    async def __aenter__(self) -> "World":
        await self.editing.create_project({"name": "Test", "token": "phc_test", "group_types": ["organization"]}, ANA)
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def flag(self, key: str, **fields: Any) -> Item:
        return (await self.editing.create(1, "flag", {"key": key, **fields}, ANA)).item

    async def cohort(self, name: str, **fields: Any) -> Item:
        return (await self.editing.create(1, "cohort", {"name": name, **fields}, ANA)).item

    async def imported(self, kind: Any, document: dict[str, Any]) -> None:
        """Put there past the service, as an import does."""
        self.store._projects[1].items[kind, document["id"]] = msgspec.json.encode(document)

    async def refusal(self, call: Any) -> list[tuple[str, str]]:
        with pytest.raises(Invalid) as caught:
            await call
        return [(it.code, it.path) for it in caught.value.problems]


def members(item: Item) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(item.document)
    return decoded


def on_flag(key: object, value: Any = True) -> dict[str, Any]:
    return {"key": str(key), "type": "flag", "operator": "flag_evaluates_to", "value": value}


def in_cohort(cohort_id: object) -> dict[str, Any]:
    return {"key": "id", "type": "cohort", "operator": "in", "value": cohort_id}


def those(*filters: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"groups": [condition(*filters)], **others}


def anybody(*leaves: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"type": "OR", "values": [{"type": "AND", "values": list(leaves)}]}}
