"""A request to /flags or /decide -> FlagsQuery: who asks, for which project, and in which shape to answer.

What a client may write in several ways is written in one way from here on. Invariant: a member that is null is
absent, and of several names for one member the first in its declaration here that is present counts.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct, field

from evaluator.types import Context, Runtime
from gateway.wire.bodies import decode_body
from gateway.wire.flags import Shape

T = TypeVar("T")
Headers = Mapping[bytes, bytes]
"""Lower-case names; where a header came twice, one of its values."""


class Parameters(Struct, frozen=True):
    """The query string. None: not given, or empty. A version that is no number is version 1."""

    version: int | None
    config: bool | None
    compression: str | None
    only_surveys: bool
    token: str | None = None


class FlagsQuery(Struct, frozen=True):
    """`context` is None where the request names nobody, which only a request with `disable_flags` may do."""

    token: str | None
    context: Context | None
    shape: Shape
    disable_flags: bool
    with_config: bool


class Body(Struct):
    """The members of a request about flags, under every name that clients have for them."""

    token: str | None = None
    dollar_token: str | None = field(default=None, name="$token")
    api_key: str | None = None
    distinct_id: str | int | float | None = None
    dollar_distinct_id: str | int | float | None = field(default=None, name="$distinct_id")
    disable_flags: bool | None = None
    person_properties: dict[str, Any] | None = None
    dollar_properties: dict[str, Any] | None = field(default=None, name="$properties")
    groups: dict[str, Any] | None = None
    dollar_groups: dict[str, Any] | None = field(default=None, name="$groups")
    group_properties: dict[str, dict[str, Any] | None] | None = None
    dollar_group_properties: dict[str, dict[str, Any] | None] | None = field(default=None, name="$group_properties")
    anon_distinct_id: str | None = None
    dollar_anon_distinct_id: str | None = field(default=None, name="$anon_distinct_id")
    device_id: str | None = None
    dollar_device_id: str | None = field(default=None, name="$device_id")
    flag_keys: list[str] | None = None
    flag_keys_to_evaluate: list[str] | None = None
    evaluation_contexts: list[str] | None = None
    evaluation_environments: list[str] | None = None
    evaluation_runtime: str | None = None


_BODY: Final = msgspec.json.Decoder(Body)
_MAX_VERSION_DIGITS: Final = 9
_BROWSERS: Final = ("Mozilla", "Chrome", "Safari", "Firefox", "Edge")
_SERVER_SDKS: Final = (
    "posthog-python", "posthog-ruby", "posthog-php", "posthog-java",
    "posthog-go", "posthog-node", "posthog-dotnet", "posthog-elixir",
)  # fmt: skip
_SERVER_TOOLS: Final = ("python-requests/", "curl/")
_CLIENT_SDKS: Final = ("posthog-android", "posthog-ios", "posthog-react-native", "posthog-flutter")
_BROWSER_HEADERS: Final = (
    b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"sec-fetch-user",
)  # fmt: skip
_MAX_CACHED_BYTES: Final = 128
_RUNTIMES: Final = {"client": Runtime.CLIENT, "server": Runtime.SERVER}


def read_parameters(query_string: bytes) -> Parameters:
    """The parameters of interest; of one given twice the last counts."""
    # Clients use a handful of them over and over; long ones are somebody's own.
    return (_read_parameters if len(query_string) <= _MAX_CACHED_BYTES else _read_parameters.__wrapped__)(query_string)


@lru_cache(256)
def _read_parameters(query_string: bytes) -> Parameters:
    given = dict(parse_qsl(query_string.decode("latin-1")))
    config = given.get("config")
    return Parameters(
        version=_version(given.get("v") or given.get("version")),
        config=None if config is None else _is_true(config),
        compression=given.get("compression"),
        only_surveys=_is_true(given.get("only_evaluate_survey_feature_flags", "")),
        token=given.get("token"),
    )


def read_query(
    body: bytes, parameters: Parameters, headers: Headers, *, is_decide: bool, max_decoded_bytes: int
) -> FlagsQuery:
    """The query of a POST, whose path says whether it came to /decide. Raises UndecodableBody or BodyTooLarge."""
    decoded = decode_body(
        body, _BODY, headers=headers, compression=parameters.compression, max_decoded_bytes=max_decoded_bytes
    )
    shape, with_config = _answer_wanted(
        parameters, is_decide=is_decide or headers.get(b"x-original-endpoint") == b"decide"
    )
    return FlagsQuery(
        token=decoded.token or decoded.dollar_token or decoded.api_key,
        context=context_of(decoded, headers, only_surveys=parameters.only_surveys),
        shape=shape,
        disable_flags=decoded.disable_flags is True,
        with_config=with_config,
    )


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_VERSION_DIGITS else 1


def _is_true(text: str) -> bool:
    return text.lower() in ("true", "1")


def _answer_wanted(parameters: Parameters, *, is_decide: bool) -> tuple[Shape, bool]:
    """The shape, and whether the remote-config members are wanted."""
    version = parameters.version
    if is_decide:
        with_config = parameters.config is not False
        if version is None or version < 2:
            return Shape.DECIDE_LIST, with_config
        if version == 2:
            return Shape.DECIDE_MAP, with_config
        return (Shape.LEGACY if version == 3 else Shape.RECORDS), with_config
    if version is None:
        return (Shape.RECORDS, True) if parameters.config is None else (Shape.LEGACY, parameters.config)
    with_config = parameters.config is True
    if version < 2:
        return Shape.LEGACY, with_config
    return (Shape.RECORDS if version < 4 else Shape.TYPED), with_config


def context_of(body: Body, headers: Headers, *, only_surveys: bool = False) -> Context | None:
    """Who the body is about; None when it names nobody."""
    distinct_id = body.dollar_distinct_id if body.distinct_id is None else body.distinct_id
    if distinct_id is None:
        return None
    properties = _first(body.person_properties, body.dollar_properties) or {}
    flag_keys = _first(body.flag_keys, body.flag_keys_to_evaluate)
    return Context(
        distinct_id=distinct_id if isinstance(distinct_id, str) else _number_text(distinct_id),
        person_properties=properties,
        groups=_usable(_first(body.groups, body.dollar_groups) or {}),
        group_properties={
            kind: known
            for kind, known in (_first(body.group_properties, body.dollar_group_properties) or {}).items()
            if known is not None
        },
        anon_distinct_id=body.anon_distinct_id
        or body.dollar_anon_distinct_id
        or _text(properties, "$anon_distinct_id"),
        device_id=body.device_id or body.dollar_device_id or _text(properties, "$device_id"),
        runtime=_runtime(body.evaluation_runtime, headers),
        evaluation_contexts=frozenset(_first(body.evaluation_contexts, body.evaluation_environments) or ()),
        flag_keys=None if flag_keys is None else frozenset(flag_keys),
        only_surveys=only_surveys,
    )


def _first(canonical: T | None, alias: T | None) -> T | None:
    return alias if canonical is None else canonical


def _number_text(number: float) -> str:
    return str(number) if isinstance(number, int) else msgspec.json.encode(number).decode()


def _text(properties: Mapping[str, object], name: str) -> str | None:
    value = properties.get(name)
    return value if isinstance(value, str) and value else None


def _usable(groups: Mapping[str, object]) -> dict[str, str]:
    """The groups whose key can name one: text that is not empty, or a number."""
    usable: dict[str, str] = {}
    for kind, key in groups.items():
        if isinstance(key, str) and key:
            usable[kind] = key
        elif isinstance(key, int | float) and not isinstance(key, bool):
            usable[kind] = _number_text(key)
    return usable


def _runtime(wanted: str | None, headers: Headers) -> Runtime:
    """Where the caller runs: as it says itself, else as its user agent or headers that only browsers send tell."""
    if wanted is not None:
        return _RUNTIMES.get(wanted.lower(), Runtime.ALL)
    agent = headers.get(b"user-agent", b"").decode("latin-1")
    if any(mark in agent for mark in _BROWSERS) or agent.startswith(_CLIENT_SDKS):
        return Runtime.CLIENT
    if agent.startswith(_SERVER_SDKS) or any(mark in agent for mark in _SERVER_TOOLS):
        return Runtime.SERVER
    return Runtime.UNKNOWN if headers.keys().isdisjoint(_BROWSER_HEADERS) else Runtime.CLIENT
