"""What the documentation says about the service's outside, and what the code says, are the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route

from gateway.app import ROUTES
from gateway.endpoints.methods import Methods
from gateway.errors import BadRequest, GatewayError

ENDPOINTS = (Path(__file__).parents[1] / "docs" / "endpoints.md").read_text(encoding="utf-8")


def errors(family: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """Every error that has a code of its own."""
    for error in family.__subclasses__():
        if "code" in vars(error) or error.code == GatewayError.code:
            yield error
        yield from errors(error)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_endpoints_document__route__stands_there_with_its_methods(route: Route) -> None:
    """Whoever looks for a route finds it, with every method that it has a handler for."""
    rows = ENDPOINTS.splitlines()
    first = next(i for i, row in enumerate(rows) if row.startswith("| `/") and f"`{route.path}`" in row.split("|")[1])
    described = rows[first]
    for row in rows[first + 1 :]:
        if not row.startswith("| |"):
            break
        described += row
    assert isinstance(route.app, Methods)
    missing = [method for method in route.app.methods if method != "OPTIONS" and method not in described]
    assert not missing


@pytest.mark.parametrize("error", sorted(set(errors()), key=lambda error: error.code), ids=lambda error: error.code)
def test_endpoints_document__error__stands_there_as_it_is_sent(error: type[GatewayError]) -> None:
    """Every error code is documented with the status, the type and the kind of body it is sent with."""
    body = "JSON" if error.json_body else "text"
    assert f"\n| {error.status} | `{error.code}` | `{error.type}` | {body} | " in ENDPOINTS


def test_endpoints_document__its_errors__all_exist() -> None:
    """The document describes no error that is gone."""
    described = {row.split("`")[1] for row in ENDPOINTS.splitlines() if row[:5] in {f"| {n}" for n in range(400, 600)}}
    assert described == {error.code for error in errors()}
    assert BadRequest.code in described
