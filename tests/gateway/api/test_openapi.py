"""What the API says of itself is what it has, and nothing that fits the description makes it crash."""

import asyncio
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import Receive, Scope, Send

from gateway.api.app import ManagementApi
from gateway.api.calls import Operation
from gateway.api.routes import OPERATIONS, find
from gateway.editing_ports import Actor
from gateway.services.keys import SCOPES
from tests.fake_editing import FakeManagedStore
from tests.gateway.api.managing import description

ME = Actor("test")


def test_description__has_what_the_table_has() -> None:
    """No operation is missing, and none is described that is not there."""
    described = {(method.upper(), path) for path, methods in description()["paths"].items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}


def test_description__names_each_operation_once() -> None:
    """Clients made from the description have a function for each operation."""
    names = [it["operationId"] for methods in description()["paths"].values() for it in methods.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda it: f"{it.method} {it.path}")
def test_operation__of_the_table__is_found_and_told(operation: Operation) -> None:
    """Each row is reached by its path, with a slash at its end and without, and says what it does and takes."""
    for path in (operation.path, f"{operation.path}/"):
        assert find(path)[0][operation.method] is operation
    assert set(operation.scopes) <= set(SCOPES)
    described = description()["paths"][operation.path][operation.method.lower()]
    assert described["summary"].endswith((".", "first."))
    assert ("security" in described) == (not operation.scopes)
    assert all(it.get("description") for it in described["parameters"] if it["in"] != "path")


def test_description__refers_to_what_is_there() -> None:
    """Each reference leads somewhere, and every shape is used."""
    raw = msgspec.json.encode(description()).decode()
    referred = {part.split('"')[0] for part in raw.split('"$ref":"#/components/')[1:]}
    components = description()["components"]
    there = {f"{kind}/{name}" for kind in ("schemas", "responses") for name in components[kind]}
    assert referred == there


class Served:
    """The API in process, over a store with a project, a flag and a cohort."""

    def __init__(self) -> None:
        self._api = ManagementApi(FakeManagedStore())
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        project = await self._api._editing.create_project({"name": "Shop", "group_types": ["company"]}, ME)
        project_id = project.item.id
        await self._api._editing.create(project_id, "flag", {"key": "beta"}, ME)
        await self._api._editing.create(project_id, "cohort", {"name": "friends", "is_static": True}, ME)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await self._api({**scope, "state": {"actor": ME}}, receive, send)


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, value: Any) -> bytes:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text.encode("utf-8", "replace")


schema: Any = schemathesis.openapi.from_dict(description())


@schema.parametrize()
@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_operation__asked_anything_that_fits_its_description__answers_as_described(case: Any) -> None:
    """Whatever is sent, the answer is one that is described, and never a crash."""
    if case.path_parameters:  # What there is, more often than chance would have it.
        case.path_parameters = dict.fromkeys(case.path_parameters, 1)
    case.call_and_validate(
        app=Served(),
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_headers_conformance,
            response_schema_conformance,
        ],
    )
