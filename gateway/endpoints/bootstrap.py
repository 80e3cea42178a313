"""/bootstrap: what a page that is rendered on a server starts posthog-js with.

Invariant: nobody waits for a store of persons unless the request allows that, and nobody at all beyond
`bootstrap.budget_ms`.
"""

import asyncio
from copy import copy
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from evaluator.snapshot import Snapshot
from gateway.endpoints.finding import find_project
from gateway.endpoints.methods import JsonBytes, NotModified
from gateway.endpoints.provenance import Header, degraded, note_snapshot
from gateway.metrics import Metrics, Phase
from gateway.ports import Clock, Deadline
from gateway.services.flags import Answer, FlagService
from gateway.services.held import Held
from gateway.services.snapshots import SnapshotService
from gateway.telemetry import RequestRecord
from gateway.wire.bootstrap import script_of
from gateway.wire.bootstrap_answer import encode_batch, encode_bootstrap
from gateway.wire.bootstrap_query import BootstrapQuery, Visitor, read_body, read_parameters
from gateway.wire.etags import etag_of, is_known

PEOPLE_AT_ONCE: Final = 8
"""After so many others get their turn, as nothing makes a batch without stored facts wait."""
_KEPT: Final = (b"cache-control", b"private, no-cache")
_NOT_KEPT: Final = (b"cache-control", b"no-store")
_VARY: Final = (b"vary", b"Cookie")
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")


async def get(request: Request) -> ASGIApp:
    """The flags of whoever the parameters or the cookie name, unless the client has them already."""
    state = request.scope["state"]
    clock: Clock = state["clock"]
    query = read_parameters(request.scope["query_string"], state["headers"], clock.now())
    held, deadline = await _find(state, query)
    (visitor,) = query.visitors
    if visitor.is_new or held.snapshot.reads_clock:
        return await _answer(state, query, held, deadline)
    tag = _tag_of(held.snapshot, query, visitor)
    # Whoever has this tag was answered from these definitions, without stored facts, and would be so again.
    if is_known(state["headers"].get(b"if-none-match"), tag):
        snapshots: SnapshotService = state["snapshots"]
        provenance = note_snapshot(state["record"], held.snapshot, held.source, snapshots.age_s(held))
        return NotModified((b"etag", tag), provenance, _VARY, _KEPT)
    return await _answer(state, query, held, deadline, tag)


async def post(request: Request) -> ASGIApp:
    """The flags of whoever the body names: one visitor, or a list of people."""
    state = request.scope["state"]
    clock: Clock = state["clock"]
    record: RequestRecord = state["record"]
    metrics: Metrics = state["metrics"]
    metrics.phase(Phase.BODY, record.duration_s())
    query = read_body(
        (await request.receive())["body"],  # Whole, from the limit on bodies.
        state["headers"],
        clock.now(),
        max_decoded_bytes=record.settings.requests.max_decoded_bytes,
        max_ids=record.settings.bootstrap.max_ids,
    )
    held, deadline = await _find(state, query)
    return await _answer(state, query, held, deadline)


async def _find(state: dict[str, Any], query: BootstrapQuery) -> tuple[Held, Deadline]:
    """The snapshot of the project, and until when to answer."""
    record: RequestRecord = state["record"]
    record.shape = query.format
    deadline = record.deadline.within(record.settings.bootstrap.budget_ms / 1000 - record.duration_s())
    held = await find_project(state, query.token, deadline)
    # As it is now: a reload must not split a batch.
    return (copy(held) if query.is_batch else held), deadline


async def _answer(
    state: dict[str, Any], query: BootstrapQuery, held: Held, deadline: Deadline, tag: bytes | None = None
) -> ASGIApp:
    """Evaluates for everybody, one after the other. The tag goes along where no stored fact mattered."""
    record: RequestRecord = state["record"]
    metrics: Metrics = state["metrics"]
    service: FlagService = state["flags"]
    bootstraps, answers = list[bytes](), list[Answer]()
    for number, visitor in enumerate(query.visitors, 1):
        answer = await service.answer_from(held, visitor.context, deadline, with_facts=query.with_facts)
        began_s = record.duration_s()
        bootstraps.append(
            encode_bootstrap(
                visitor,
                answer.outcomes,
                version=answer.snapshot.version,
                age_ms=int(answer.age_s * 1000),
                source=answer.source,
                errors=answer.errors and query.with_facts,
                is_over_quota=answer.is_over_quota,
            )
        )
        metrics.phase(Phase.ENCODE, record.duration_s() - began_s)
        answers.append(answer)
        if number % PEOPLE_AT_ONCE == 0:
            await asyncio.sleep(0)
    record.waited_s += sum(answer.waited_s for answer in answers)
    record.flags = sum(len(answer.outcomes) for answer in answers)
    # Where stored facts were not wanted, what they would have decided is not missing.
    record.missing = next(filter(None, (answer.missing for answer in answers)), None) if query.with_facts else None
    snapshots: SnapshotService = state["snapshots"]
    provenance = note_snapshot(record, held.snapshot, held.source, snapshots.age_s(held))
    is_same_again = all(not it.is_over_quota and (it.is_stateless or not query.with_facts) for it in answers)
    tags = [(b"etag", tag)] if tag is not None and is_same_again else []
    body = encode_batch(bootstraps) if query.is_batch else bootstraps[0]
    return _response(body, query, provenance, *tags, *degraded(record.missing))


def _tag_of(snapshot: Snapshot, query: BootstrapQuery, visitor: Visitor) -> bytes:
    """The tag for everything that the answer depends on."""
    asked = (visitor.context, visitor.is_identified, query.with_facts, query.format, query.nonce)
    return etag_of(snapshot.etag.encode(), msgspec.json.encode(asked, order="deterministic"))


def _response(body: bytes, query: BootstrapQuery, *headers: Header) -> ASGIApp:
    is_of_somebody_new = any(visitor.is_new for visitor in query.visitors)
    headers += (_VARY, _NOT_KEPT if is_of_somebody_new else _KEPT, _NO_SNIFFING)
    if query.format == "json":
        return JsonBytes(body, *headers)
    response = Response(script_of(body, query.nonce), media_type="text/html")
    response.raw_headers += headers
    return response
