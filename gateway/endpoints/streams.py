"""/ofrep/v1/stream: a stream of events for each client that wants to know when to fetch its flags again.

What it is told, and when, is the service's. Invariant: a stream ends with its client, and every write has a bound.
"""

import asyncio
import random
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import NotFound, Overloaded
from gateway.metrics import Metrics
from gateway.services.flags import FlagService
from gateway.services.held import Held
from gateway.services.limits import LimitService
from gateway.services.streams import Stream, StreamService
from gateway.telemetry import RequestRecord
from gateway.wire.events import MEDIA_TYPE, SIGN_OF_LIFE, come_back, opening, read_last_id, refetch
from gateway.wire.query import read_parameters

RETRY_MS: Final = (1000, 5000)
"""Between which a client waits before it comes back, so that all of them together do not come at once."""
FULL_RETRY_MS: Final = (10_000, 25_000)
"""The same where there is no room for it now."""
_HEADERS: Final = (
    (b"content-type", MEDIA_TYPE),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)


async def listen(request: Request) -> ASGIApp:
    """GET: a stream about the project whose token is in the query."""
    scope = request.scope
    service: FlagService = scope["state"]["flags"]
    limits: LimitService = scope["state"]["limits"]
    record: RequestRecord = scope["state"]["record"]
    if not record.settings.streams.is_enabled:
        raise NotFound
    # In the query, because browsers send no header of ours with these requests.
    record.token = token = read_parameters(scope["query_string"]).token
    if token:
        await limits.check_token(token, record)
    held = await service.find(token, record.deadline)
    record.project_id, record.snapshot_version = held.snapshot.project_id, held.snapshot.version
    record.snapshot_source = held.source
    streams: StreamService = scope["state"]["streams"]
    places = record.settings.concurrency
    if len(streams) >= places.streams and places.mode != "off":
        metrics: Metrics = scope["state"]["metrics"]
        metrics.shed("streams", "full")
        record.error = Overloaded.code
        return _Full()
    return _Events(held, read_last_id(scope["state"]["headers"]))


async def head(_: Request) -> Response:
    return Response(headers={name.decode(): value.decode() for name, value in _HEADERS})


class _Full:
    """The answer where there is no room: a stream that says when to come back, and ends.

    After a 503 browsers give a stream up, and OpenFeature's client fetches its flags and tries again every second.
    """

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        scope["state"]["is_last"] = True
        body = come_back(random.randint(*FULL_RETRY_MS))  # noqa: S311 - spreads load
        headers = [*_HEADERS, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Events:
    """The answer, for as long as it goes on."""

    def __init__(self, held: Held, known: int | None) -> None:
        self._held = held
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service: StreamService = scope["state"]["streams"]
        record: RequestRecord = scope["state"]["record"]
        bound_s = record.settings.server.write_timeout_s
        # On a connection of its own, so that a client whose stream has ended may come to another worker.
        scope["state"].update(has_own_bounds=True, is_last=True)
        record.is_stream = True

        async def write(body: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(bound_s):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        with service.opened(self._held, self._known) as stream:
            client = asyncio.create_task(_end_with_client(receive, stream))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                await write(opening(stream.known, random.randint(*RETRY_MS)))  # noqa: S311 - spreads load
                async for version in stream:
                    await write(SIGN_OF_LIFE if version is None else refetch(version.number, version.etag))
                if stream.reason != "gone":
                    await write(b"", more=False)
            except TimeoutError:
                stream.end("slow")
            finally:
                client.cancel()


async def _end_with_client(receive: Receive, stream: Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end("gone")
