"""Traces from real processes to a real collector, and what callers notice of one that hangs or is not there."""

from collections.abc import Iterator

import httpx
import pytest

from tests.collector import Collector, attributes_of
from tests.processes.clients import PATIENCE_S
from tests.processes.conftest import Serve, Service, wait_until
from tests.processes.listening import Listener

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BODY = {"token": "phc_demo", "distinct_id": "alice"}
PARTS = {"body", "snapshot", "evaluate", "facts", "persons", "encode"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def ask(service: Service, **headers: str) -> httpx.Response:
    response = httpx.post(f"{service.server.url}/flags?v=2", json=BODY, headers=headers, timeout=PATIENCE_S)
    return response.raise_for_status()


def test_traces__collector__gets_them_from_every_worker(serve: Serve, engine: str, collector: Collector) -> None:
    """traces.url, traces.sample_ratio, traces.parents: what is asked for arrives, under an id that the caller knows,
    from the next request on after a reload, and what waits when the service stops arrives as well."""
    service = serve(
        f"server.engine={engine}", "server.workers=2", f"traces.url={collector.url}", "proxies.trusted=127.0.0.1",
    )  # fmt: skip
    service.settings(traces={"sample_ratio": 0.0})
    assert service.command("reload", "--wait")[0] == 0
    ask(service)
    answer = ask(service, traceparent=f"00-{TRACE}-{PARENT}-01")
    ask(service, traceparent=f"00-{TRACE}-{PARENT}-01", **{"x-forwarded-for": "203.0.113.9"})
    wait_until(lambda: collector.servers, "the trace arrives")
    (server,) = collector.servers
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, PARENT)
    told = attributes_of(server)
    assert told["flagstone.request_id"] == answer.headers["x-request-id"]
    assert (told["http.route"], told["http.response.status_code"]) == ("/flags", 200)
    assert set(collector.parts_of(server)) >= PARTS
    wait_until(lambda: service.metric("trace_spans_total", 'outcome="exported"') == len(collector.spans), "it counts")

    service.settings(traces={"sample_ratio": 1.0})
    assert service.command("reload", "--wait")[0] == 0
    with Listener(service.server.port).begun():
        wait_until(lambda: len(collector.servers) == 2, "a stream arrives that goes on")
    assert collector.servers[1].name == "GET /ofrep/v1/stream"
    for _ in range(20):
        ask(service)
    assert service.stopped() == 0
    assert len(collector.servers) == 22
    assert {it["service.name"] for it in collector.resources} == {"flagstone"}


@pytest.mark.parametrize("is_there", [True, False], ids=["hanging", "refusing"])
def test_traces__collector_in_trouble__is_nobody_s_trouble(
    serve: Serve, engine: str, collector: Collector, is_there: bool
) -> None:
    """Requests are answered as ever while nobody takes their spans, which are dropped, counted, and not waited for."""
    collector.gate.clear()
    url = collector.url if is_there else "http://127.0.0.1:9"
    service = serve(
        f"server.engine={engine}", "server.workers=1", f"traces.url={url}", "traces.sample_ratio=1",
        "traces.max_queued=100", "traces.timeout_ms=60000",
    )  # fmt: skip
    with service.load(kept=2, anew=1) as load:
        wait_until(lambda: service.metric("trace_spans_total", 'outcome="full"') > 100, "the queue is full")
        if not is_there:
            wait_until(lambda: service.events("trace_export_failed"), "the log says why")
    assert load.is_perfect, load
    assert service.metric("trace_spans_queued") <= 100
    assert service.stopped() == 0
