"""Spans as they are encoded: whole for any record, and described as a whole in the documentation."""

from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from config.settings import Settings
from gateway.telemetry import RequestRecord
from gateway.traces import Parent, Part, Trace
from gateway.wire.otlp import Otlp
from tests.collector import attributes_of
from tests.fakes import FakeClock

ENDED_NS = 1_768_478_400_000_000_000
DOCUMENT = (Path(__file__).parents[3] / "docs/traces.md").read_text()


def record(clock: FakeClock, **known: object) -> RequestRecord:
    made = RequestRecord(clock, Settings(), 1, request_id="r1", method="GET", path="/x", user_agent="")
    for name, value in known.items():
        setattr(made, name, value)
    return made


def decoded(encoding: Otlp, *requests: bytes) -> tuple[dict[str, object], list[Span]]:
    """The attributes of the resource, and the spans."""
    export = ExportTraceServiceRequest.FromString(encoding.payload(requests))
    (resource,) = export.resource_spans
    (scope,) = resource.scope_spans
    assert scope.scope.name == "flagstone"
    return attributes_of(resource.resource), list(scope.spans)


def test_payload__requests_encoded_apart__are_one_message() -> None:
    """However many there are, whatever their size, each span arrives whole, and once."""
    encoding, clock = Otlp("flags", []), FakeClock()
    for count in (0, 1, 2, 1000):
        traces = [Trace(None) for _ in range(count)]
        sent = [encoding.spans(record(clock), it, "gone", ended_ns=ENDED_NS, now=clock.monotonic()) for it in traces]
        resource, spans = decoded(encoding, *sent)
        assert resource["service.name"] == "flags"
        assert [span.span_id.hex() for span in spans] == [it.span_id for it in traces]


def test_spans__times__are_those_of_the_clock_on_the_wall() -> None:
    """What was measured in durations is told in moments, each part where it was."""
    clock, encoding = FakeClock(), Otlp("x", [])
    made, trace = record(clock), Trace(Parent("1" * 32, "2" * 16, True, "a=1"))
    clock.advance(0.010)
    trace.note(Part("body", clock.monotonic(), 0.004))
    clock.advance(0.020)
    trace.note(Part("persons", clock.monotonic(), 0.015, "timeout", 0.002))
    clock.advance(0.030)
    _, (server, body, persons) = decoded(
        encoding, encoding.spans(made, trace, "whole", ended_ns=ENDED_NS, now=clock.monotonic())
    )
    spans = [(it.start_time_unix_nano - ENDED_NS, it.end_time_unix_nano - ENDED_NS) for it in (server, body, persons)]
    in_ms = [tuple(round(moment / 1e6) for moment in span) for span in spans]
    assert in_ms == [(-60, 0), (-54, -50), (-45, -30)]
    assert (server.trace_state, server.parent_span_id.hex()) == ("a=1", "2" * 16)
    assert attributes_of(persons) == {"flagstone.call_outcome": "timeout", "flagstone.call_waited_ms": 2.0}
    assert (body.kind, persons.kind) == (Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_CLIENT)


def test_traces_document__its_attributes__are_those_of_spans() -> None:
    """Whoever writes a query finds every attribute described, and none that is gone."""
    clock, encoding = FakeClock(), Otlp("x", [])
    made = record(
        clock, status=503, error="overloaded", missing="timeout", project_id=1, snapshot_version=2,
        snapshot_source="disk", snapshot_age_ms=3, shape="records", flags=4,
    )  # fmt: skip
    trace = Trace(None)
    trace.route, trace.scheme, trace.http_version = "/flags", "http", "1.1"
    trace.note(Part("persons", 0, 0, "ok"))
    resource, spans = decoded(encoding, encoding.spans(made, trace, "failed", ended_ns=ENDED_NS, now=0))
    told = {*resource, *(name for span in spans for name in attributes_of(span))}
    assert {name for name in told if f"`{name}`" not in DOCUMENT} == set()
    cells = [row.split("|")[1] for row in DOCUMENT.splitlines() if row.startswith("| `") and "." in row.split("|")[1]]
    described = {name.strip(" `") for cell in cells for name in cell.split(",")}
    assert {name for name in described if not name.startswith("traces.")} <= told
