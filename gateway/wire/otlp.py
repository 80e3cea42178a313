"""Requests as OpenTelemetry's protocol has them: bytes of protobuf. Imported only where there are traces.

Invariant: attributes have values of closed sets, numbers and ids of ours; nothing that names a person or an address, no
token, and no path, in which a token may stand.
"""

import os
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Final

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from gateway.telemetry import RequestRecord
from gateway.traces import Part, Trace

Value = str | int | bool | float

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
OTHER_METHOD: Final = "_OTHER"
FAILED_CALLS: Final = ("timeout", "error")
_NS: Final = 1_000_000_000
_FLAGS: Final = 0x101
"""Sampled, and it is known whether the parent is elsewhere."""
_IS_REMOTE: Final = 0x200
_NAME: Final = "flagstone"


class Otlp:
    """The encoding of one process, which names itself once for all spans that are sent together."""

    def __init__(self, service_name: str, attributes: Sequence[tuple[str, str]]) -> None:
        told: dict[str, Value | None] = {
            "service.name": service_name,
            "service.version": version(_NAME),
            "service.instance.id": str(uuid.uuid4()),
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
            **dict(attributes),
        }
        scope = InstrumentationScope(name=_NAME, version=version(_NAME))
        self._resource = ResourceSpans(resource=Resource(attributes=_attributes(told))).SerializeToString()
        self._scope = ScopeSpans(scope=scope).SerializeToString()

    def spans(self, record: RequestRecord, trace: Trace, outcome: str, *, ended_ns: int, now: float) -> bytes:
        """The spans of a request that just ended, for `payload`; `now` is the monotonic time at `ended_ns`."""
        trace_id, span_id = bytes.fromhex(trace.trace_id), bytes.fromhex(trace.span_id)
        server = _server_span(record, trace, outcome, ended_ns)
        server.trace_id, server.span_id = trace_id, span_id
        parts = [_span_of(part, trace_id, span_id, ended_ns - int((now - part.ended_at) * _NS)) for part in trace.parts]
        encoded: bytes = ScopeSpans(spans=[server, *parts]).SerializeToString()
        return encoded

    def payload(self, requests: Iterable[bytes]) -> bytes:
        """What is sent: the spans of several requests."""
        # Elements of a list stand one after the other, so that what was encoded apart can be put together.
        return _field(1, self._resource + _field(2, self._scope + b"".join(requests)))


def _server_span(record: RequestRecord, trace: Trace, outcome: str, ended_ns: int) -> Span:
    method = record.method if record.method in METHODS else OTHER_METHOD
    name = method if method != OTHER_METHOD else "HTTP"
    span = Span(
        trace_state=trace.state,
        flags=_FLAGS,
        name=name if trace.route is None else f"{name} {trace.route}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=ended_ns - int(record.duration_s() * _NS),
        end_time_unix_nano=ended_ns,
        # Its id apart from the others, as no other request has the same.
        attributes=[
            KeyValue(key="flagstone.request_id", value=AnyValue(string_value=record.request_id)),
            *_attributes(_told(record, trace, method, outcome)),
        ],
    )
    if trace.parent_id is not None:
        span.parent_span_id = bytes.fromhex(trace.parent_id)
        span.flags |= _IS_REMOTE
    if record.status is not None and record.status >= 500:
        span.status.code = Status.STATUS_CODE_ERROR
    return span


def _told(record: RequestRecord, trace: Trace, method: str, outcome: str) -> dict[str, Value | None]:
    status = record.status
    return {
        "http.request.method": method,
        "http.route": trace.route,
        "http.response.status_code": status,
        "error.type": None if status is None or status < 500 else record.error or str(status),
        "url.scheme": trace.scheme,
        "network.protocol.name": "http",
        "network.protocol.version": trace.http_version,
        "flagstone.outcome": outcome,
        "flagstone.error": record.error,
        "flagstone.is_partial": record.missing is not None,
        "flagstone.missing": record.missing,
        "flagstone.project_id": record.project_id,
        "flagstone.snapshot_version": record.snapshot_version,
        "flagstone.snapshot_source": record.snapshot_source,
        "flagstone.snapshot_age_ms": record.snapshot_age_ms,
        "flagstone.shape": record.shape,
        "flagstone.flags": record.flags,
    }


def _span_of(part: Part, trace_id: bytes, parent_id: bytes, ended_ns: int) -> Span:
    span = Span(
        trace_id=trace_id,
        span_id=os.urandom(8),
        parent_span_id=parent_id,
        flags=_FLAGS,
        name=part.name,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=ended_ns - int(part.took_s * _NS),
        end_time_unix_nano=ended_ns,
    )
    if part.outcome is not None:
        span.kind = Span.SPAN_KIND_CLIENT
        waited_ms = round(part.waited_s * 1000, 3)
        span.attributes.extend(
            _attributes({"flagstone.call_outcome": part.outcome, "flagstone.call_waited_ms": waited_ms})
        )
        if part.outcome in FAILED_CALLS:
            span.status.code = Status.STATUS_CODE_ERROR
    return span


def _attributes(values: Mapping[str, Value] | Mapping[str, Value | None]) -> list[KeyValue]:
    return [_attribute(name, value) for name, value in values.items() if value is not None]


@lru_cache(1024)
def _attribute(name: str, value: Value) -> KeyValue:
    """Most are the same for one request after the other, and making them is what a span costs."""
    if isinstance(value, str):
        return KeyValue(key=name, value=AnyValue(string_value=value))
    if isinstance(value, bool):
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    if isinstance(value, float):
        return KeyValue(key=name, value=AnyValue(double_value=value))
    return KeyValue(key=name, value=AnyValue(int_value=value))


def _field(number: int, body: bytes) -> bytes:
    """A message within another one: its number, its length in groups of seven bits, and itself."""
    head, left = bytearray([number << 3 | 2]), len(body)
    while left > 0x7F:
        head.append(left & 0x7F | 0x80)
        left >>= 7
    head.append(left)
    return bytes(head) + body
