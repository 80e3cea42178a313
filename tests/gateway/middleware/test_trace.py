"""Requests as they arrive at a collector: which ones, as part of whose trace, and what is said of them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from config.address import Address
from config.clients import Capture
from config.edge import Concurrency, Proxies
from config.networks import Networks
from config.operating import Traces
from config.pairs import Pairs
from config.settings import Settings
from gateway.errors import StoreUnavailable
from tests.collector import Collector, attributes_of
from tests.fakes import FakeClock
from tests.gateway.serving import TOKEN, Client, MemoryStore, one_project, serving, settle

PEER = "127.0.0.1"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@asynccontextmanager
async def traced(
    collector: Collector,
    store: MemoryStore | None = None,
    *,
    clock: FakeClock | None = None,
    trusted: str = "",
    others: dict[str, Any] | None = None,
    **traces: Any,
) -> AsyncIterator[Client]:
    """The app; what it says of itself has arrived once the context is left."""
    settings = Settings(
        traces=Traces(url=Address(collector.url), **{"sample_ratio": 1.0, **traces}),
        proxies=Proxies(trusted=Networks(trusted)),
        **(others or {}),
    )
    async with serving(store or one_project(), settings, clock) as client:
        yield client


async def test_traces__request__is_a_span_with_its_parts_below(collector: Collector) -> None:
    """traces.url: each traced request arrives as one span, and what was done for it as spans inside it."""
    async with traced(collector) as client:
        answer = await client.ask()
    (server,) = collector.servers
    assert server.name == "POST /flags"
    told = attributes_of(server)
    assert told["flagstone.request_id"] == answer.headers["x-request-id"]
    expected = {"http.request.method": "POST", "http.route": "/flags", "http.response.status_code": 200,
                "url.scheme": "http", "network.protocol.version": "1.1", "flagstone.outcome": "whole",
                "flagstone.is_partial": False, "flagstone.project_id": 1, "flagstone.snapshot_version": 1,
                "flagstone.snapshot_source": "store", "flagstone.snapshot_age_ms": 0, "flagstone.flags": 2}  # fmt: skip
    assert expected.items() <= told.items()
    parts = collector.parts_of(server)
    assert {"body", "snapshot", "definitions", "evaluate", "facts", "persons", "encode"} == set(parts)
    assert len(collector.spans) == 1 + len(parts)
    for part in parts.values():
        assert part.trace_id == server.trace_id
        assert server.start_time_unix_nano <= part.start_time_unix_nano
        assert part.end_time_unix_nano <= server.end_time_unix_nano
    assert attributes_of(parts["persons"])["flagstone.call_outcome"] == "ok"
    assert collector.heads[0][0] == "/v1/traces"
    assert collector.heads[0][1]["content-type"] == "application/x-protobuf"


async def test_traces__service__says_who_it_is(collector: Collector) -> None:
    """traces.service_name, traces.attributes: what the spans of one installation are found by."""
    said = Pairs("deployment.environment.name=production,team=a%2Cb")
    async with traced(collector, service_name="flags-eu", attributes=said) as client:
        await client.ask()
    (resource,) = collector.resources
    expected = {"service.name": "flags-eu", "deployment.environment.name": "production", "team": "a,b"}
    assert expected.items() <= resource.items()
    assert {"service.version", "service.instance.id", "host.name", "process.pid"} <= set(resource)


async def test_traces__failure__is_told_where_it_was(collector: Collector) -> None:
    """Of an answer that is not whole the trace says so, and which call failed."""
    store = one_project()
    async with traced(collector, store) as client:
        await client.ask()
        store.error = StoreUnavailable("gone")
        await client.ask()
    partial = attributes_of(collector.servers[1])
    assert (partial["flagstone.outcome"], partial["flagstone.is_partial"]) == ("partial", True)
    assert partial["flagstone.missing"] == "database_unavailable"
    persons = collector.parts_of(collector.servers[1])["persons"]
    assert attributes_of(persons)["flagstone.call_outcome"] == "error"
    assert persons.status.code == persons.status.STATUS_CODE_ERROR


async def test_traces__nobody_left_to_ask__is_an_error(collector: Collector) -> None:
    """A 5xx marks the span as failed, a refusal does not: it is the client's fault."""
    store = one_project()
    store.error = StoreUnavailable("gone")
    async with traced(collector, store) as client:
        assert (await client.ask()).status_code == 503
        assert (await client.post("/flags", content=b"{")).status_code == 400
    failed, refused = collector.servers
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert attributes_of(failed)["error.type"] == attributes_of(failed)["flagstone.error"]
    assert refused.status.code == refused.status.STATUS_CODE_UNSET
    assert "error.type" not in attributes_of(refused)
    assert attributes_of(refused)["flagstone.outcome"] == "refused"


async def test_traces__everything_a_client_sends__is_in_none_of_them(collector: Collector) -> None:
    """No token, no id of a person, no property, no key and no address leaves with a trace, nor any path or query."""
    secrets = ["phc_project_one", "alice@example.com", "enterprise", "198.51.100.7", "SecretAgent", "hush", "acme"]
    headers = {"user-agent": "SecretAgent", "x-forwarded-for": "198.51.100.7", "authorization": "Bearer hush"}
    fields = {"distinct_id": "alice@example.com", "person_properties": {"plan": "enterprise"}, "groups": {"c": "acme"}}
    async with traced(collector, trusted=PEER, parents="everybody") as client:
        await client.post(f"/flags?v=2&token={TOKEN}", json={"token": TOKEN, **fields}, headers=headers)
        await client.get(f"/array/{TOKEN}/config.js", headers=headers)
        await client.get("/hush/alice@example.com", headers=headers)
        await client.request("HUSH", "/flags", headers=headers)
        await client.get("/api/projects/hush/feature_flags/acme/remote_config", headers=headers)
        await client.get("/api/projects/1/feature_flags/acme", headers=headers)
        await client.post("/ofrep/v1/evaluate/flags/acme", json={"context": {"targetingKey": "alice@example.com"}})
        await client.get(f"/flags/definitions?token={TOKEN}", headers=headers)
    assert [attributes_of(it).get("http.route") for it in collector.servers] == [
        "/flags", "/array/{token}/config.js", None, "/flags",
        "/api/projects/{project}/feature_flags/{key}/remote_config", "/api/projects/{project_id}/feature_flags/{id}",
        "/ofrep/v1/evaluate/flags/{key}", "/flags/definitions",
    ]  # fmt: skip
    assert attributes_of(collector.servers[3])["http.request.method"] == "_OTHER"
    sent = b"".join(export.SerializeToString() for export in collector.exports)
    assert [secret for secret in secrets if secret.encode() in sent] == []


@pytest.mark.parametrize(
    ("parents", "trusted", "client", "is_believed"),
    [
        ("inside", "127.0.0.1", None, True),
        ("inside", "127.0.0.1", "203.0.113.9", False),
        ("inside", "", None, False),
        ("proxies", "127.0.0.1", "203.0.113.9", True),
        ("proxies", "10.0.0.0/8", "203.0.113.9", False),
        ("everybody", "", "203.0.113.9", True),
        ("nobody", "127.0.0.1", None, False),
    ],
)
async def test_traces__caller_with_a_trace__is_believed_or_not(
    collector: Collector, parents: str, trusted: str, client: str | None, is_believed: bool
) -> None:
    """traces.parents: who decides that a request is traced; nobody outside does unless the operator lets them."""
    headers = {"traceparent": SAMPLED, **({"x-forwarded-for": client} if client else {})}
    async with traced(collector, trusted=trusted, parents=parents, sample_ratio=0.0) as app:
        assert (await app.post("/flags", json={"token": TOKEN, "distinct_id": "a"}, headers=headers)).is_success
    assert bool(collector.servers) is is_believed
    for server in collector.servers:
        assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, PARENT)
        assert server.flags == 0x301


@pytest.mark.parametrize("ratio", [0.0, 1.0])
async def test_traces__nobody_decided_before__is_left_to_chance(collector: Collector, ratio: float) -> None:
    """traces.sample_ratio: the part of requests that are traced; a caller that is believed has decided already."""
    async with traced(collector, parents="everybody", sample_ratio=ratio) as client:
        await client.ask()
        await client.post("/flags", json={}, headers={"traceparent": UNSAMPLED})
        await client.post("/flags", json={}, headers={"traceparent": SAMPLED})
        await client.post("/flags", json={}, headers={"traceparent": "00-nonsense"})
    assert len(collector.servers) == (1 if ratio == 0 else 3)
    assert [it.trace_id.hex() for it in collector.servers].count(TRACE) == 1


async def test_traces__log__has_the_same_id(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """From a line of the log to its trace and back; also to that of a caller which has none recorded here."""
    caplog.set_level(logging.INFO)
    async with traced(collector, parents="everybody") as client:
        await client.ask()
        await client.post("/flags", json={}, headers={"traceparent": UNSAMPLED})
    lines = [record.fields["trace_id"] for record in caplog.records if record.message == "request"]
    assert lines == [collector.servers[0].trace_id.hex(), TRACE]


async def test_traces__none_wanted__look_at_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Without traces.url a caller's trace is not even read, and no request has one."""
    caplog.set_level(logging.INFO)
    async with serving(one_project(), Settings(traces=Traces(parents="everybody"))) as client:
        await client.post("/flags", json={}, headers={"traceparent": SAMPLED})
    (line,) = [record.fields for record in caplog.records if record.message == "request"]
    assert line["trace_id"] is None


async def test_traces__health__has_none(collector: Collector) -> None:
    """What balancers ask every second is not traced."""
    async with traced(collector) as client:
        await client.get("/_liveness")
        await client.get("/_readiness")
        await client.get("/_status")
        await client.get("/")
    assert [it.name for it in collector.servers] == ["GET /"]


@pytest.mark.parametrize("traceparent", [None, SAMPLED, UNSAMPLED])
async def test_traces__event_sent_on__goes_as_part_of_the_trace(collector: Collector, traceparent: str | None) -> None:
    """The upstream of events learns the trace and the span that it is called for, and nothing else of a stranger."""
    with Collector() as upstream:
        upstream.status = 204
        others = {"capture": Capture(upstream=Address(upstream.url))}
        headers = {"tracestate": "vendor=x", **({"traceparent": traceparent} if traceparent else {})}
        async with traced(collector, parents="everybody", others=others) as client:
            assert (await client.post("/e/", content=b"{}", headers=headers)).is_success
    ((_, head),) = upstream.heads
    if traceparent == UNSAMPLED:
        assert head["traceparent"] == UNSAMPLED
    else:
        (server,) = collector.servers
        assert head["traceparent"] == f"00-{server.trace_id.hex()}-{server.span_id.hex()}-01"
    assert head.get("tracestate") == (None if traceparent is None else "vendor=x")


async def test_traces__line_before_the_gate__is_a_part(collector: Collector) -> None:
    """What a request waited for its turn is told apart from what it took."""
    store, clock = one_project(), FakeClock()
    concurrency = Concurrency(mode="fixed", limit=1, max_queued=5, max_wait_ms=5000)
    async with traced(collector, store, clock=clock, others={"concurrency": concurrency}) as client:
        store.gate.clear()
        requests = [asyncio.ensure_future(client.ask()) for _ in range(2)]
        await settle()
        clock.advance(0.02)
        store.gate.set()
        await asyncio.gather(*requests)
    waited = [collector.parts_of(it)["queue"] for it in collector.servers if "queue" in collector.parts_of(it)]
    assert [it.end_time_unix_nano - it.start_time_unix_nano for it in waited] == [pytest.approx(20_000_000, abs=1000)]
