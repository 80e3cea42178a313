"""OpenFeature's remote evaluation protocol: one flag, or all of them, for a context.

Invariant: what can be told of a flag is told in a 200, and what fails, fails flag by flag. A client that gets an error
for all of them goes on with those of whoever it asked for before.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from evaluator.types import Context
from gateway.endpoints.finding import find_project
from gateway.endpoints.methods import JsonBytes, NotModified
from gateway.endpoints.provenance import Header, degraded, note_snapshot
from gateway.errors import FlagNotFound, GatewayError, NotAuthenticated, OverQuota, TargetingKeyMissing
from gateway.metrics import Metrics, Phase
from gateway.services.flags import Answer, FlagService
from gateway.services.held import Held
from gateway.services.snapshots import SnapshotService
from gateway.telemetry import RequestRecord
from gateway.wire.etags import etag_of, is_known
from gateway.wire.flags import OFREP_FLAG, joined
from gateway.wire.ofrep import (
    encode_bulk,
    encode_single,
    event_streams,
    inactive_item,
    refusal,
    refused_items,
    snapshot_members,
)
from gateway.wire.ofrep_query import read_context, read_token

BULK: Final = "/ofrep/v1/evaluate/flags"
SINGLE: Final = BULK + "/"
"""What comes before a flag's key."""

Handler = Callable[[Request], Awaitable[ASGIApp]]


def _in_ofrep(handler: Handler) -> Handler:
    """The handler, whose refusals have the members by which clients know them."""

    @functools.wraps(handler)
    async def handle(request: Request) -> ASGIApp:
        try:
            return await handler(request)
        except GatewayError as error:
            error.members = refusal(error, _key_of(request))
            raise

    return handle


def _key_of(request: Request) -> str | None:
    """The flag asked for; None when it is all of them. Keys may have slashes in them, which clients do not escape."""
    path: str = request.scope["path"]
    return path[len(SINGLE) :] or None


@_in_ofrep
async def single(request: Request) -> ASGIApp:
    """POST: one flag for a context."""
    state, key = request.scope["state"], _key_of(request)
    assert key is not None  # noqa: S101 - as the route has one
    service: FlagService = state["flags"]
    record: RequestRecord = state["record"]
    _, held = await _find(request)
    context = await _read(request, key)
    snapshot = held.snapshot
    if key not in snapshot.flags:
        if key in snapshot.inactive:
            members, headers = _provenance(state, held)
            return JsonBytes(encode_single(inactive_item(key), members), *headers)
        raise FlagNotFound(key)
    if not context.distinct_id:
        raise TargetingKeyMissing
    answer = await service.answer_from(held, context, record.deadline)
    members, headers = _provenance(state, held, answer)
    if answer.is_over_quota:
        return _failed(encode_single(refused_items([key], OverQuota()), members), headers)
    outcome = next((it for it in answer.outcomes if it.result.key == key), None)
    if outcome is None:
        raise FlagNotFound(key)
    body = encode_single(outcome.fragments[OFREP_FLAG] or b"", members)
    return _failed(body, headers) if outcome.result.failed else JsonBytes(body, *headers)


@_in_ofrep
async def bulk(request: Request) -> ASGIApp:
    """POST: all flags for a context, unless the client has them as they are."""
    state = request.scope["state"]
    record: RequestRecord = state["record"]
    token, held = await _find(request)
    context = await _read(request, None)
    snapshot, settings = held.snapshot, record.settings.streams
    streams = event_streams(token, settings.inactivity_delay_s) if settings.is_enabled else b""
    wanted = state["headers"].get(b"if-none-match")
    asked = etag_of(b"context", snapshot.etag.encode(), msgspec.json.encode(context, order="deterministic"), streams)
    # Whoever has this tag was answered from these definitions, without stored facts, and would be so again.
    if not snapshot.reads_clock and is_known(wanted, asked):
        return NotModified((b"etag", asked), *_provenance(state, held)[1])
    items, answer = await _items(state, held, context)
    members, headers = _provenance(state, held, answer)
    is_same_again = not snapshot.reads_clock and (answer is None or (answer.is_stateless and not answer.is_over_quota))
    tag = asked if is_same_again else _tag_of_flags(items, answer, streams)
    if is_known(wanted, tag):
        return NotModified((b"etag", tag), *headers)
    began_s = record.duration_s()
    body = encode_bulk(items, members, streams)
    metrics: Metrics = state["metrics"]
    metrics.phase(Phase.ENCODE, record.duration_s() - began_s)
    return JsonBytes(body, (b"etag", tag), *headers)


async def _items(state: dict[str, Any], held: Held, context: Context) -> tuple[bytes, Answer | None]:
    """An item for every flag, and what they were made of. Errors are per flag: an error for the whole answer would
    make a page that does not know its visitor yet fail for good."""
    service: FlagService = state["flags"]
    record: RequestRecord = state["record"]
    keys = (flag.document.key for flag in held.snapshot.select(context).flags)
    if not context.distinct_id:
        return refused_items(keys, TargetingKeyMissing()), None
    answer = await service.answer_from(held, context, record.deadline)
    if answer.is_over_quota:
        return refused_items(keys, OverQuota()), answer
    return joined(answer.outcomes, OFREP_FLAG), answer


def _tag_of_flags(items: bytes, answer: Answer | None, streams: bytes) -> bytes:
    """The tag for what the flags turned out to be. Why some of them failed may be said in another way a moment later,
    which is no reason to send everything again."""
    if answer is None or not answer.errors:
        return etag_of(b"flags", items, streams)
    told = (it.fragments[OFREP_FLAG] if not it.result.failed else it.result.key.encode() for it in answer.outcomes)
    return etag_of(b"some flags", streams, *filter(None, told))


async def _find(request: Request) -> tuple[str, Held]:
    """The project's token, and its snapshot."""
    state = request.scope["state"]
    record: RequestRecord = state["record"]
    metrics: Metrics = state["metrics"]
    metrics.phase(Phase.BODY, record.duration_s())
    record.shape = "ofrep"
    token = read_token(state["headers"])
    if token is None:
        raise NotAuthenticated
    return token, await find_project(state, token, record.deadline)


async def _read(request: Request, flag_key: str | None) -> Context:
    record: RequestRecord = request.scope["state"]["record"]
    return read_context(
        (await request.receive())["body"],  # Whole, from the limit on bodies.
        request.scope["state"]["headers"],
        max_decoded_bytes=record.settings.requests.max_decoded_bytes,
        flag_key=flag_key,
    )


def _provenance(state: dict[str, Any], held: Held, answer: Answer | None = None) -> tuple[bytes, list[Header]]:
    """What an answer says of itself, as members of metadata and as headers, and what the log does."""
    record: RequestRecord = state["record"]
    snapshots: SnapshotService = state["snapshots"]
    snapshot, source, age_s, missing = held.snapshot, held.source, snapshots.age_s(held), None
    if answer is not None:
        snapshot, source, age_s, missing = answer.snapshot, answer.source, answer.age_s, answer.missing
        record.flags, record.missing = len(answer.outcomes), missing
        record.waited_s += answer.waited_s
    header = note_snapshot(record, snapshot, source, age_s)
    is_over_quota = answer is not None and answer.is_over_quota
    members = snapshot_members(snapshot.version, int(age_s * 1000), source, missing, is_over_quota=is_over_quota)
    return members, [header, *degraded(missing)]


def _failed(body: bytes, headers: list[Header]) -> Response:
    """The error of one flag: of the statuses for it, the only one with which all clients read what it says."""
    response = Response(body, 400, media_type="application/json")
    response.raw_headers += headers
    return response
