"""A real OTLP receiver on 127.0.0.1: decodes what arrives, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACES, LOGS, METRICS = "/v1/traces", "/v1/logs", "/v1/metrics"


@dataclass
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Fault:
    """Spoils ``times`` requests to a path.

    ``kind``: status (with headers), partial (some records rejected), reply (200 with a body of any
    type), reset (before the work), drop (the connection, after the work), slow (dripping headers),
    dripping (a body), early (refuses before it has read the body).
    """

    path: str
    kind: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    rejected: int = 0
    message: str = ""
    times: int = 1
    action: Callable[[], None] | None = None


class OtlpReceiver:
    """The server; a context manager. Spans are kept by id, as a receiver that upserts does."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.requests: list[Received] = []
        self.faults: list[Fault] = []
        self.paths = {TRACES, LOGS, METRICS}
        self.max_records = 10**9
        self.spans: dict[bytes, Span] = {}
        self.span_arrivals = 0
        self.logs: list[LogRecord] = []
        self.metrics: dict[str, Metric] = {}
        self.resources: list[dict[str, Any]] = []
        self.connections = 0
        receiver = self

        class Handler(_Handler):
            owner = receiver

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{self.prefix}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sent(self, path: str) -> list[Received]:
        return [request for request in self.requests if request.path == self.prefix + path]

    def by_name(self) -> dict[str, Span]:
        return {span.name: span for span in self.spans.values()}

    def take(self, path: str, body: bytes) -> int:
        """Keep what a request holds; 413 when it is too much."""
        if path == TRACES:
            traces = trace_service.ExportTraceServiceRequest.FromString(body)
            spans = [
                span
                for resource in traces.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]
            if len(spans) > self.max_records:
                return 413
            self.resources += [attributes(r.resource.attributes) for r in traces.resource_spans]
            self.span_arrivals += len(spans)
            self.spans.update({span.span_id: span for span in spans})
        elif path == LOGS:
            logs = logs_service.ExportLogsServiceRequest.FromString(body)
            records = [
                record
                for resource in logs.resource_logs
                for scope in resource.scope_logs
                for record in scope.log_records
            ]
            if len(records) > self.max_records:
                return 413
            self.logs += records
        else:
            metrics = metrics_service.ExportMetricsServiceRequest.FromString(body)
            for resource in metrics.resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics.update({metric.name: metric for metric in scope.metrics})
        return 200


def plain(value: AnyValue) -> Any:  # noqa: ANN401  # whatever was sent
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def attributes(pairs: Any) -> dict[str, Any]:  # noqa: ANN401  # a repeated field
    found: dict[str, Any] = {}
    for pair in pairs:
        assert isinstance(pair, KeyValue)
        assert pair.key not in found, f"{pair.key} twice"
        found[pair.key] = plain(pair.value)
    return found


def partial_answer(path: str, rejected: int, message: str) -> bytes:
    if path == TRACES:
        traces = trace_service.ExportTraceServiceResponse()
        traces.partial_success.rejected_spans = rejected
        traces.partial_success.error_message = message
        return traces.SerializeToString()
    if path == LOGS:
        logs = logs_service.ExportLogsServiceResponse()
        logs.partial_success.rejected_log_records = rejected
        logs.partial_success.error_message = message
        return logs.SerializeToString()
    metrics = metrics_service.ExportMetricsServiceResponse()
    metrics.partial_success.rejected_data_points = rejected
    metrics.partial_success.error_message = message
    return metrics.SerializeToString()


class _Handler(BaseHTTPRequestHandler):
    owner: OtlpReceiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        del format, args

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def do_POST(self) -> None:
        path = self.path.removeprefix(self.owner.prefix)
        fault = self._fault(path)
        if fault is not None and fault.kind == "early":
            self.close_connection = True
            self._send(fault.status, fault.headers, b"")
            return
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = gzip.decompress(raw) if headers.get("content-encoding") == "gzip" else raw
        self.owner.requests.append(Received(self.path, headers, body))
        if fault is not None:
            self._spoil(fault, path, body)
            return
        if path not in self.owner.paths:
            self._send(404, {"Content-Type": "text/plain"}, b"Not Found")
            return
        self._send(self.owner.take(path, body), {"Content-Type": "application/x-protobuf"}, b"")

    def _fault(self, path: str) -> Fault | None:
        for fault in self.owner.faults:
            if path == fault.path:
                fault.times -= 1
                if not fault.times:
                    self.owner.faults.remove(fault)
                return fault
        return None

    def _spoil(self, fault: Fault, path: str, body: bytes) -> None:
        if fault.kind == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return
        if fault.kind == "status":
            self._send(fault.status, fault.headers, fault.body)
            return
        if fault.kind in {"slow", "dripping"}:
            self.close_connection = True
            more = b"X-A: " if fault.kind == "slow" else b"Content-Length: 100000\r\n\r\n"
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" + more)
                for _ in range(1000):
                    self.wfile.write(b"a")
                    self.wfile.flush()
                    time.sleep(0.01)
            return
        self.owner.take(path, body)
        if fault.action is not None:
            fault.action()
        if fault.kind == "drop":
            self.close_connection = True
            return
        data = fault.body
        if fault.kind == "partial":
            data = partial_answer(path, fault.rejected, fault.message)
        self._send(200, {"Content-Type": "application/x-protobuf", **fault.headers}, data)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
