"""A collector of OpenTelemetry traces on loopback, which takes what it is sent apart with the protocol's own messages.

Knows nothing of the service. Invariant: leaving it ends it, also while it hangs.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


def attributes_of(described: Any) -> dict[str, Any]:
    """Attributes as Python has them."""
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in described.attributes}


class Collector:
    """Use as a context manager. Answers with `status`, once `gate` is open."""

    def __init__(self) -> None:
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.exports: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.heads.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                collector.gate.wait(60)
                if collector.status == 200:
                    collector.exports.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                try:
                    self.send_response(collector.status)
                    self.send_header("content-length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    self.close_connection = True  # Whoever asked has given up.

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Collector":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def resources(self) -> list[dict[str, Any]]:
        return [attributes_of(it.resource) for export in self.exports for it in export.resource_spans]

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def servers(self) -> list[Span]:
        """The spans of whole requests."""
        return [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]

    def parts_of(self, server: Span) -> dict[str, Span]:
        """The spans below another one, by their names."""
        return {span.name: span for span in self.spans if span.parent_span_id == server.span_id}
