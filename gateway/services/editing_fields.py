"""Which members flags, cohorts and projects have, and reading those that somebody sent: strictly, with every problem.

What the members mean together is judged in validation.py. Invariant: what reading gives is plain JSON of its own, of
bounded depth, so that everything after it may walk it and change it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from evaluator.definitions import UNDECODABLE, FiltersDocument, decode
from evaluator.types import Problem
from gateway.editing_ports import Kind
from gateway.edits import MemberChange

MAX_DEPTH: Final = 100
"""Of members in members. The deepest cohort that is evaluated stays below."""

Document = dict[str, Any]


class _Flag(msgspec.Struct, frozen=True):
    key: str = ""
    name: str | None = None
    filters: FiltersDocument = FiltersDocument()
    active: bool = True
    deleted: bool = False
    version: int | None = None
    ensure_experience_continuity: bool | None = None
    bucketing_identifier: Literal["distinct_id", "device_id"] | None = None
    evaluation_runtime: Literal["all", "client", "server"] | None = None
    evaluation_contexts: list[str] | None = None
    has_encrypted_payloads: bool | None = None
    is_remote_configuration: bool | None = None
    has_experiment: bool | None = None
    tags: list[str] | None = None


class _Cohort(msgspec.Struct, frozen=True):
    name: str = ""
    description: str | None = None
    is_static: bool = False
    filters: dict[str, Any] | None = None
    deleted: bool = False
    version: int | None = None


class _Project(msgspec.Struct, frozen=True):
    id: Annotated[int, msgspec.Meta(ge=1, lt=10**18)] | None = None
    name: str = ""
    token: str | None = None
    secret_tokens: list[str] = []
    timezone: str = "UTC"
    property_matching_version: Literal[1, 2] = 1
    bucketing: Literal["sha1", "murmur3"] = "sha1"
    group_types: list[str] = []
    version: int | None = None


SHAPES: Final[Mapping[Kind, type[msgspec.Struct]]] = {"flag": _Flag, "cohort": _Cohort, "project": _Project}
DEFAULTS: Final[Mapping[Kind, Callable[[], Document]]] = {
    "flag": lambda: {
        "key": "",
        "name": "",
        "filters": {"groups": []},
        "active": True,
        "deleted": False,
        "ensure_experience_continuity": False,
        "bucketing_identifier": None,
        "evaluation_runtime": "all",
        "evaluation_contexts": [],
        "has_encrypted_payloads": False,
        "is_remote_configuration": False,
        "has_experiment": False,
        "tags": [],
    },
    "cohort": lambda: {"name": "", "description": "", "is_static": False, "filters": None, "deleted": False},
    "project": lambda: {
        "name": "",
        "secret_tokens": [],
        "timezone": "UTC",
        "property_matching_version": 1,
        "bucketing": "sha1",
        "group_types": [],
    },
}
"""What a new item has where nothing is said. PostHog's defaults: a flag made through its API is on."""

STAMPS: Final = ("id", "version", "created_at", "created_by", "updated_at", "last_modified_by")
"""Members that are no part of what an item means."""

_OLD_NAMES: Final = ("evaluation_tags", "evaluation_environments")
"""What PostHog called evaluation contexts before."""

_OF_TOOLS: Final[Mapping[Kind, frozenset[str]]] = {
    "flag": frozenset({
        "_create_in_folder", "_should_create_usage_dashboard", "analytics_dashboards", "can_edit", "creation_context",
        "experiment_set", "experiment_set_metadata", "features", "has_enriched_analytics", "is_simple_flag",
        "is_used_in_replay_settings", "last_called_at", "performed_rollback", "rollback_conditions",
        "rollout_percentage", "status", "surveys", "team_id", "usage_dashboard", "user_access_level",
    }),
    "cohort": frozenset({
        "_create_in_folder", "cohort_type", "count", "errors_calculating", "experiment_set", "groups",
        "is_calculating", "last_calculation", "last_error_message", "pending_version", "query", "team_id",
        "user_access_level",
    }),
    "project": frozenset({"organization", "uuid"}),
}  # fmt: skip
"""Members that PostHog answers with and its tools send back; they mean nothing here."""


def read_fields(kind: Kind, fields: Mapping[str, Any], path: str, problems: list[Problem]) -> Document:
    """The members that count, in a copy of their own; what is wrong with any of them is added to `problems`."""
    try:
        given = msgspec.json.decode(msgspec.json.encode(fields), type=Document)
    except (*UNDECODABLE, UnicodeEncodeError, TypeError) as error:  # As msgspec says that of what JSON cannot have.
        problems.append(Problem("undecodable", path, None, str(error)))
        return {}
    if _is_too_deep(given):
        problems.append(Problem("invalid", path, None, f"this nests more than {MAX_DEPTH} levels deep"))
        return {}
    if kind == "flag":
        rename_contexts(given)
    shape = SHAPES[kind]
    ignored = _OF_TOOLS[kind].union(STAMPS) - {"version"}
    unknown = given.keys() - ignored - set(shape.__struct_fields__)
    problems += [Problem("undecodable", f"{path}.{name}", None, "unknown member") for name in sorted(unknown)]
    members = {name: value for name, value in given.items() if name in shape.__struct_fields__}
    found = decode(msgspec.json.encode(members), shape, path)
    if isinstance(found, tuple):
        problems += found
        return {}
    if kind == "flag" and "filters" in members:
        _write_payloads(members["filters"])
    return members


def rename_contexts(document: Document) -> None:
    """Keep evaluation contexts under one name: a flag's older names for them count while this one has none."""
    for name in _OLD_NAMES:
        contexts = document.pop(name, None)
        if contexts and not document.get("evaluation_contexts"):
            document["evaluation_contexts"] = contexts


def _write_payloads(filters: Document) -> None:
    """Payloads are stored as JSON text, so what came as JSON itself is written as such."""
    for name, payload in (filters.get("payloads") or {}).items():
        if payload is not None and not isinstance(payload, str):
            filters["payloads"][name] = msgspec.json.encode(payload).decode()


def _is_too_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for it in level
            if isinstance(it, dict | list)
            for inner in (it.values() if isinstance(it, dict) else it)
        ]
        if not level:
            return False
    return True


def differences(before: object, after: object, path: str) -> Iterator[MemberChange]:
    """Where two JSON values differ. The order of members says nothing, and neither do 1 and 1.0; true is not 1."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            yield from differences(before.get(name, msgspec.UNSET), after.get(name, msgspec.UNSET), f"{path}.{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif isinstance(before, bool) is not isinstance(after, bool) or before != after:
        yield MemberChange(path, before, after)


def changes_of(before: Document, after: Document, path: str = "$") -> Iterator[MemberChange]:
    """Where two documents of an item differ in what they mean."""
    was, shall = _meaning(before), _meaning(after)
    if msgspec.json.encode(was) != msgspec.json.encode(shall):  # Most are the same, which is quickly seen.
        yield from differences(was, shall, path)


def _meaning(document: Document) -> Document:
    return {name: value for name, value in document.items() if name not in STAMPS}


def name_of(kind: Kind, document: Document) -> str:
    """What people call the item."""
    return str(document.get("key" if kind == "flag" else "name") or "")
