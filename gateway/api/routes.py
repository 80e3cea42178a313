"""The route table of the management API: what runs for each method and path, and which scope it takes.

How an operation is found and run is in app.py, how it is described in openapi.py. Invariant: in a path, words and
values take turns, so that an operation is found without trying one pattern after the other.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from gateway.api import items, keys, openapi, people, projects
from gateway.api.calls import (
    Answer,
    Applying,
    Call,
    Handler,
    HistoryPaging,
    Listing,
    Operation,
    Planning,
    Replacing,
    Searching,
    Trying,
)
from gateway.edits import Desired, Flips, Plan
from gateway.services.editing_references import ItemKind
from gateway.wire.management import (
    Cohort,
    CohortFields,
    Flag,
    FlagFields,
    GroupType,
    History,
    KeyAnswer,
    KeyFields,
    MembersAnswer,
    Paged,
    PeopleAnswer,
    Project,
    ProjectFields,
    PublicationAnswer,
    RollBackRequest,
)

_PROJECT: Final = "/api/projects/{project_id}"
_MEMBERS: Final = "/cohorts/{id}/members"
_KEYS: Final = "/api/personal_api_keys"
_JSON_LINES: Final = ("application/x-ndjson",)
_LINES: Final = (*_JSON_LINES, "text/plain")
_ONCE: Final = ("Idempotency-Key",)
_SEEN: Final = ("If-Match",)


async def describe(_: Call) -> Answer:
    """What there is, as an OpenAPI document."""
    return Answer(description())


@cache
def description() -> bytes:
    """The same, without a call."""
    return openapi.document(OPERATIONS)


def _on(method: str, path: str, run: Handler, scopes: str, **described: Any) -> Operation:
    return Operation(method=method, path=path, run=run, scopes=tuple(scopes.split()), **described)


def _in(method: str, path: str, run: Handler, scopes: str, **described: Any) -> Operation:
    return _on(method, _PROJECT + path, run, scopes, **described)


def _items(path: str, kind: ItemKind, scope: str, fields: Any, item: Any, **tried: Any) -> list[Operation]:
    """The rows of flags, or of cohorts, of which nobody knows beforehand whose value they change."""

    def on(method: str, below: str, run: Handler, action: str, **described: Any) -> Operation:
        return _in(method, path + below, run, f"{scope}:{action}", kind=kind, **described)

    return [
        on("GET", "", items.find, "read", query=Listing, gives=Paged, of=item),
        on("POST", "", items.create, "write", takes=fields, gives=item, status=201, headers=_ONCE, **tried),
        on("GET", "/{id}", items.show, "read", gives=item),
        on("PATCH", "/{id}", items.change, "write", takes=fields, gives=item, headers=_SEEN, **tried),
        on("DELETE", "/{id}", items.delete, "write", status=204, headers=_SEEN, **tried),
        on("POST", "/{id}/restore", items.restore, "write", gives=item, headers=_SEEN),
        on("GET", "/{id}/history", items.history, "read", query=HistoryPaging, gives=History),
        on("GET", "/{id}/activity", items.history, "read", query=HistoryPaging, gives=History),
        on("POST", "/{id}/rollback", items.roll_back, "write", takes=RollBackRequest, gives=item, headers=_SEEN),
    ]


_IN_COHORTS: Final[dict[str, Any]] = {"takes": _LINES, "gives": PeopleAnswer}
_OF_PERSONS: Final[dict[str, Any]] = {"takes": _JSON_LINES, "of": people.PersonLine, "gives": PeopleAnswer}
_OF_GROUPS: Final[dict[str, Any]] = {"takes": _JSON_LINES, "of": people.GroupLine, "gives": PeopleAnswer}
_OF_TYPES: Final[dict[str, Any]] = {"takes": GroupType, "gives": GroupType, "status": 201, "also": GroupType}
_OF_STATES: Final[dict[str, Any]] = {"takes": Desired, "gives": Plan}

OPERATIONS: Final = (
    _on("GET", "/api/openapi.json", describe, "", gives=dict),
    _on("GET", "/api/projects", projects.find, "project:read", query=Searching, gives=Paged, of=Project),
    _on("POST", "/api/projects", projects.create, "project:write", takes=ProjectFields, gives=Project, status=201),
    _in("GET", "", projects.show, "project:read", gives=Project),
    _in("PATCH", "", projects.change, "project:write", takes=ProjectFields, gives=Project, headers=_SEEN),
    _in("DELETE", "", projects.delete, "project:write", status=204),
    _in("GET", "/history", projects.history, "project:read", query=HistoryPaging, gives=History),
    _in("GET", "/publication", projects.publication, "project:read", gives=PublicationAnswer),
    *_items("/feature_flags", "flag", "feature_flag", FlagFields, Flag, query=Trying, also=Flips),
    *_items("/cohorts", "cohort", "cohort", CohortFields, Cohort),
    _in("GET", _MEMBERS, people.count_members, "cohort:read", gives=MembersAnswer),
    _in("POST", _MEMBERS, people.add_members, "person:write", query=Replacing, **_IN_COHORTS),
    _in("DELETE", _MEMBERS, people.remove_members, "person:write", **_IN_COHORTS),
    _in("GET", "/groups_types", projects.find_group_types, "group:read", gives=list[GroupType]),
    _in("POST", "/groups_types", projects.add_group_type, "group:write", **_OF_TYPES),
    _in("POST", "/persons", people.add_persons, "person:write", **_OF_PERSONS),
    _in("POST", "/groups", people.add_groups, "group:write", **_OF_GROUPS),
    _in("POST", "/plan", items.plan, "feature_flag:read cohort:read", query=Planning, **_OF_STATES),
    _in("POST", "/apply", items.apply, "feature_flag:write cohort:write", query=Applying, **_OF_STATES),
    _on("GET", _KEYS, keys.find, "personal_api_key:read", gives=Paged, of=KeyAnswer),
    _on("POST", _KEYS, keys.create, "personal_api_key:write", takes=KeyFields, gives=KeyAnswer, status=201),
    _on("DELETE", f"{_KEYS}/{{id}}", keys.revoke, "personal_api_key:write", status=204),
)


Shape = tuple[str, ...]


def find(path: str) -> tuple[Mapping[str, Operation], list[str]]:
    """The operations at a path by their methods, none if there are none; and the values in it."""
    shape, values = _shape(path)
    return _ROUTES.get(shape, {}), values


def _shape(path: str) -> tuple[Shape, list[str]]:
    """The words of a path, with gaps for its values. Values stand at every second place from the third on."""
    parts = path.removesuffix("/").split("/")[1:]
    return tuple("" if i >= 2 and i % 2 == 0 else part for i, part in enumerate(parts)), parts[2::2]


_ROUTES: Final[dict[Shape, dict[str, Operation]]] = {}
for _operation in OPERATIONS:
    _ROUTES.setdefault(_shape(_operation.path)[0], {})[_operation.method] = _operation
