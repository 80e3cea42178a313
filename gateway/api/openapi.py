"""Describes the management API as an OpenAPI 3.1 document, out of the route table and the Structs of its bodies.

Nothing is said here of any single operation. Invariant: what the table has is described, and nothing else is.
"""

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec

from gateway.api.calls import Operation
from gateway.wire.management import ErrorAnswer

_ABOUT: Final = """\
Edits what flags are evaluated from. Every path is also there with a slash at its end. Answers that are one item carry
its version as their ETag; a change with that version, in `version` or If-Match, is refused with 409 when somebody else
was faster."""
_REFUSALS: Final = {
    400: "What was sent would not work; `problems` has everything wrong with it.",
    401: "There is no key, or none that is valid.",
    403: "The key lacks the scope, or is not for the project.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "Somebody else was faster, or the store cannot be edited.",
    413: "The body is too large.",
    429: "The key, or the address, calls too often.",
    500: "A bug.",
    503: "The store does not answer, or there are too many calls. Retry-After says when to try again.",
}
_SCHEMAS: Final = "#/components/schemas/{name}"
_VALUE: Final = re.compile(r"\{(\w+)\}")
_VALUES: Final[dict[str, dict[str, Any]]] = {
    "project_id": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "@current"}]},
    "id": {"type": "integer", "minimum": 1},
}
_KEY_OR_ID: Final = {"anyOf": [_VALUES["id"], {"type": "string", "minLength": 1, "maxLength": 400}]}
_HEADERS: Final = {
    "If-Match": ('The version you have seen, as in ETag: "3".', {"type": "string", "pattern": r'^"\d{1,18}"$'}),
    "Idempotency-Key": (
        "Made up by you, and the same when you repeat the call: then no second one is made.",
        {"type": "string", "pattern": "^[!-~]{1,200}$"},
    ),
}


def document(operations: Sequence[Operation]) -> bytes:
    """The document as JSON."""
    shapes = list(dict.fromkeys(shape for operation in operations for shape in _shapes_of(operation)))
    schemas, components = msgspec.json.schema_components([ErrorAnswer, *shapes], ref_template=_SCHEMAS)
    schema_of = dict(zip(shapes, schemas[1:], strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _operation(operation, schema_of)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "flagstone management API", "version": version("flagstone"), "description": _ABOUT},
            "security": [{"key": []}],
            "paths": paths,
            "components": {
                "schemas": components,
                "responses": {f"Refused{status}": _refusal(says, schemas[0]) for status, says in _REFUSALS.items()},
                "securitySchemes": {
                    "key": {"type": "http", "scheme": "bearer", "description": "A personal API key, phx_..."}
                },
            },
        }
    )


def _shapes_of(operation: Operation) -> Iterable[Any]:
    takes = () if operation.is_upload else (operation.takes,)
    return (it for it in (*takes, operation.of, operation.gives, operation.also) if it is not None)


def _operation(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    words = [word for word in operation.path.split("/")[2:] if not _VALUE.fullmatch(word)]
    one = ["one"] if operation.path.endswith("}") else []
    described: dict[str, Any] = {
        "operationId": "_".join([*words, *one, operation.method.lower()]).replace(".", "_"),
        "tags": [words[1] if len(words) > 1 else words[0]],
        "summary": (operation.run.__doc__ or "").partition("\n")[0],
        "description": f"Takes the scope {' and '.join(operation.scopes)}." if operation.scopes else "Takes no key.",
        "parameters": [*_path_parameters(operation), *_query_parameters(operation), *_headers(operation)],
        "responses": _responses(operation, schema_of),
    }
    if not operation.scopes:
        described["security"] = []
    if operation.is_upload:
        schema = {"type": "string"}
        line = schema_of[operation.of] if operation.of else schema
        content = {media_type: {"schema": schema, "x-line": line} for media_type in operation.takes}
        described["requestBody"] = {"description": "Lines, each as in x-line.", "required": True, "content": content}
    elif operation.takes is not None:
        content = {"application/json": {"schema": schema_of[operation.takes]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _path_parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    for name in _VALUE.findall(operation.path):
        is_key = name == "id" and operation.kind == "flag"
        schema = _KEY_OR_ID if is_key else _VALUES[name]
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    (schema,), components = msgspec.json.schema_components([operation.query], ref_template=_SCHEMAS)
    described = components[schema["$ref"].rpartition("/")[2]]
    for name, member in described["properties"].items():
        says = member.pop("description", "")
        yield {"name": name, "in": "query", "description": says, "schema": _without_null(member)}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter, which is left out rather than null."""
    if schema.get("default", ...) is None:
        del schema["default"]
    others = [it for it in schema.pop("anyOf", ()) if it != {"type": "null"}]
    return {**others[0], **schema} if others else schema


def _headers(operation: Operation) -> Iterable[dict[str, Any]]:
    for name in operation.headers:
        says, schema = _HEADERS[name]
        yield {"name": name, "in": "header", "description": says, "schema": schema}


def _responses(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    given: dict[int, list[Any]] = {operation.status: []}
    if operation.gives is not None:
        given[operation.status].append(_given(operation, schema_of))
        if "Idempotency-Key" in operation.headers:  # Else an earlier call has made it.
            given[200] = [*given[201]]
    if operation.also is not None:
        given.setdefault(200, []).append(schema_of[operation.also])
    refused = [status for status in _REFUSALS if operation.scopes or status in (429, 500, 503)]
    return {
        **{str(status): _response(schemas) for status, schemas in given.items()},
        **{str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in refused},
    }


def _given(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = schema_of[operation.gives]
    if operation.of is None or operation.is_upload:
        return schema
    return {"allOf": [schema, {"properties": {"results": {"items": schema_of[operation.of]}}}]}


def _response(schemas: list[Any]) -> dict[str, Any]:
    if not schemas:
        return {"description": "Done."}
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _refusal(says: str, schema: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}, "text/plain": {"schema": {"type": "string"}}}
    return {"description": says, "content": content}
