"""What the documentation says about the service's outside, and what the code says, are the same."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from starlette.routing import Route

from config.settings import FIELDS
from gateway.api.routes import OPERATIONS
from gateway.app import ROUTES
from gateway.builder_metrics import BuilderMetrics
from gateway.endpoints.methods import Methods
from gateway.errors import BadRequest, GatewayError
from gateway.metrics import Metrics
from gateway.server.tally import Tally

DOCS = Path(__file__).parents[1] / "docs"
ENDPOINTS = (DOCS / "endpoints.md").read_text(encoding="utf-8")
API = (DOCS / "api.md").read_text(encoding="utf-8")
METRICS = (DOCS / "metrics.md").read_text(encoding="utf-8")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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


@pytest.mark.parametrize("path", sorted({operation.path for operation in OPERATIONS}))
def test_api_document__path__stands_there_with_its_methods_and_parameters(path: str) -> None:
    """Whoever scripts against the API finds each path, what may be done there, and what it can be asked with."""
    (row,) = [row for row in API.splitlines() if row.startswith(f"| `{path}` |")]
    operations = [operation for operation in OPERATIONS if operation.path == path]
    assert row.split("|")[2].strip() == ", ".join(operation.method for operation in operations)
    for operation in operations:
        assert all(f"`{name}" in API for name in operation.query.__struct_fields__)
        assert all(scope.partition(":")[0] in row for scope in operation.scopes)


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


def test_metrics_document__its_rows__are_the_metrics() -> None:
    """Every metric is described with its type and its labels, and nothing else is."""
    described = {}
    for row in METRICS.splitlines():
        if row.startswith("| `flagstone_"):
            name, kind, labels = (cell.strip() for cell in row.split("|")[1:4])
            described[name.strip("`")] = (kind, tuple(part.strip(" `") for part in labels.split(",") if part.strip()))
    families = {
        name + "_total" * (kind == "counter"): (kind, labels)
        for source in (Metrics(), Tally(), BuilderMetrics())
        for name, (kind, labels) in source.families().items()
    }
    assert described == families


@pytest.mark.parametrize("path", FIELDS)
def test_settings__each_of_them__has_a_test_that_names_it(path: str) -> None:
    """A setting that nothing reads would stand here without a test of what it changes."""
    tests = Path(__file__).parent.rglob("test_*.py")
    assert any(f"{path}:" in text or f"{path}," in text or f"{path}." in text for text in map(_docstrings, tests))


@cache
def _docstrings(path: Path) -> str:
    """The promises of all tests in a file."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTIONS)]
    return "\n".join(ast.get_docstring(function) or "" for function in functions)
