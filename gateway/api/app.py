"""ManagementApi: the management API as one ASGI app, from a request to the answer of its operation.

Who may call is in auth.py, what there is in routes.py, what is done behind the endpoints in the services. Invariant:
whatever is asked, the answer is an operation's or a GatewayError; and nothing of a body is read before it is known who
sends it.
"""

from binascii import crc32
from typing import Final

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from config.reload import Live
from config.settings import Settings
from gateway.api import projects, routes
from gateway.api.auth import actor_of, find_key, require_project, require_scopes
from gateway.api.calls import MAX_DIGITS, Answer, Call, Slots, in_time, read_query
from gateway.api.reading import read_whole
from gateway.editing_ports import Actor, ManagedStore, PersonalKey
from gateway.errors import (
    AuthenticationFailed,
    GatewayError,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    ReadOnlyStore,
)
from gateway.ports import Clock, SystemClock
from gateway.refusing import reject
from gateway.services.editing import EditingService
from gateway.services.editing_references import ItemKind
from gateway.services.keys import KeyService
from gateway.slow_limits import SlowLimits

MAX_REFERENCE_CHARACTERS: Final = 400
ADDRESSES: Final = 4096
"""Those without a good key are sorted into so many, so that made-up ones cannot fill the memory."""


class ManagementApi:
    """`store` None: it cannot be edited. Without `live`, the settings are the defaults.

    An in-process caller may set `actor` in the state of a request, and then needs no key.
    """

    def __init__(self, store: ManagedStore | None, live: Live | None = None, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._live = live or Live(Settings())
        self._store = store
        if store is not None:
            self._editing = EditingService(store, clock)
            self._keys = KeyService(store, clock)
        self._uploads = Slots()
        self._limits = SlowLimits(self._live, lambda settings: settings.api.rate)

    def __repr__(self) -> str:
        return f"<ManagementApi {self._uploads!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except GatewayError as error:
            if (record := scope["state"].get("record")) is not None:
                record.error = error.code
            await reject(send, error)
        else:
            await answer.send(send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        state = scope["state"]
        actor: Actor | None = state.get("actor")
        api = self._live.settings.api
        operations, values = routes.find(scope["path"])
        if not operations or not (api.is_enabled or actor):
            raise NotFound
        allow = ", ".join([*operations, *(["HEAD"] if "GET" in operations else []), "OPTIONS"])
        if scope["method"] == "OPTIONS":
            return Answer(b"", 204, [(b"allow", allow.encode())])
        operation = operations.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if operation is None:
            raise MethodNotAllowed(allow)
        if not operation.scopes:
            return Answer(routes.description())
        if self._store is None:
            raise ReadOnlyStore
        headers = dict(scope["headers"])
        key = None
        async with in_time(api):
            if actor is None:
                key = await self._authenticate(Request(scope), headers)
                actor = actor_of(key, state)
            require_scopes(key, operation.scopes)
            project_id = await self._project(key, values.pop(0)) if "{project_id}" in operation.path else 0
        if (record := state.get("record")) is not None:
            record.project_id = project_id or None
        reads_itself = operation.is_upload or operation.method == "GET"
        call = Call(
            path=scope["path"],
            query=read_query(scope["query_string"], operation.query),
            headers=headers,
            body=b"" if reads_itself else await read_whole(receive, headers, api.max_body_bytes),
            receive=receive,
            by=actor,
            key=key,
            kind=operation.kind,
            project_id=project_id,
            ref=_reference(values[0], operation.kind) if values else 0,
            store=self._store,
            editing=self._editing,
            keys=self._keys,
            uploads=self._uploads,
            api=api,
        )
        if operation.is_upload:  # Which takes its time, in steps that are held to it.
            return await operation.run(call)
        async with in_time(api):
            return await operation.run(call)

    async def _authenticate(self, request: Request, headers: dict[bytes, bytes]) -> PersonalKey:
        """The key, which is held to its rates; whoever has no good one is so by address."""
        try:
            key = await find_key(self._keys, headers)
        except (NotAuthenticated, AuthenticationFailed):
            address = crc32(request.state.client.bucket.encode()) % ADDRESSES
            await self._limits.check(request, f"address {address}")
            raise
        await self._limits.check(request, f"key {key.id}")
        return key

    async def _project(self, key: PersonalKey | None, given: str) -> int:
        """The id of the project that the path names. Raises NotFound and PermissionDenied."""
        project_id = await projects.current(key, self._editing) if given == "@current" else _number(given)
        if project_id is None:
            raise NotFound
        require_project(key, project_id)
        return project_id


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def _reference(text: str, kind: ItemKind) -> int | str:
    """An id, or the key of a flag. Raises NotFound for what is neither."""
    number = _number(text)
    if number is not None:
        return number
    if kind != "flag" or not 1 <= len(text) <= MAX_REFERENCE_CHARACTERS:
        raise NotFound
    return text
