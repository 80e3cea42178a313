"""A request over OFREP -> the token it comes with, and the Context that its context describes.

Invariant: a context that names nobody has an empty distinct id, so that it is told which flags there are as well.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct, field

from evaluator.types import Context, Runtime
from gateway.errors import InvalidContext, UndecodableBody
from gateway.wire.bodies import decode_body
from gateway.wire.query import Body, Headers, context_of


class _Request(Struct):
    context: dict[str, Any] | None = None


class _Named(Struct):
    """The attributes that are no properties of the person."""

    targeting_key: str | int | float | None = field(default=None, name="targetingKey")
    groups: dict[str, Any] | None = None
    group_properties: dict[str, dict[str, Any] | None] | None = field(default=None, name="groupProperties")
    snake_group_properties: dict[str, dict[str, Any] | None] | None = field(default=None, name="group_properties")
    evaluation_contexts: list[str] | None = field(default=None, name="evaluationContexts")
    evaluation_runtime: str | None = field(default=None, name="evaluationRuntime")


_REQUEST: Final = msgspec.json.Decoder(_Request)
_NAMES: Final = frozenset(known.encode_name for known in msgspec.structs.fields(_Named))
_SERVER_AGENTS: Final = (b"node", b"undici")
"""Node's `fetch`, which sends a header that otherwise only browsers send."""
_AT_CONTEXT: Final = " - at `$.context"


def read_token(headers: Headers) -> str | None:
    """The project's token, from `Authorization: Bearer` or else from `X-API-Key`."""
    scheme, _, credential = headers.get(b"authorization", b"").strip().partition(b" ")
    token = credential.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()
    return token.decode("latin-1") or None


def read_context(body: bytes, headers: Headers, *, max_decoded_bytes: int, flag_key: str | None = None) -> Context:
    """Who the body is about, and the one flag that is wanted of them, if it is only one.

    Raises UndecodableBody, InvalidContext, which names the path of what is wrong, or BodyTooLarge.
    """
    attributes = _attributes(body, headers, max_decoded_bytes)
    try:
        named = msgspec.convert(attributes, _Named)
    except msgspec.ValidationError as error:
        raise InvalidContext(str(error).replace("`$", "`context")) from None
    runtime = named.evaluation_runtime
    if runtime is None and headers.get(b"user-agent") in _SERVER_AGENTS:
        runtime = Runtime.SERVER
    context = context_of(
        Body(
            distinct_id="" if named.targeting_key is None else named.targeting_key,
            person_properties={name: value for name, value in attributes.items() if name not in _NAMES},
            groups=named.groups,
            group_properties=named.group_properties,
            dollar_group_properties=named.snake_group_properties,
            evaluation_contexts=named.evaluation_contexts,
            evaluation_runtime=runtime,
            flag_keys=None if flag_key is None else [flag_key],
        ),
        headers,
    )
    assert context is not None  # noqa: S101 - as it has an id
    # OpenFeature's clients do not say what they are. Nothing is hidden from one that cannot be told.
    return msgspec.structs.replace(context, runtime=Runtime.ALL) if context.runtime is Runtime.UNKNOWN else context


def _attributes(body: bytes, headers: Headers, max_decoded_bytes: int) -> dict[str, Any]:
    """The context as it was sent; an empty one where there is none."""
    if not body.strip():
        return {}
    try:
        request = decode_body(body, _REQUEST, headers=headers, compression=None, max_decoded_bytes=max_decoded_bytes)
    except UndecodableBody as error:
        if _AT_CONTEXT in error.why:
            raise InvalidContext(error.why.replace("`$.", "`")) from None
        raise
    return request.context or {}
