"""The exporter of our own spans: OTLP protobuf, POSTed with the standard library, within seconds.

A failed POST is not tried again: spans of the console are a help, not a record, and a retry would
hold up those that come after. What is lost is counted, and said once when it begins.
"""

from __future__ import annotations

import gzip
import http.client
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2 as pb
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = structlog.get_logger(__name__)
TIMEOUT_S: Final = 5.0
MEDIA: Final = "application/x-protobuf"


class OtlpExporter(SpanExporter):
    """Sends batches to one address. Never raises."""

    def __init__(self, endpoint: str, headers_env: Mapping[str, str], *, ca_file: str = "") -> None:
        self._to: Final = urlsplit(endpoint)
        self._headers_env: Final = dict(headers_env)
        self._ca_file: Final = ca_file
        self._stop_by_s: float | None = None
        self.lost_count = 0
        self._is_failing = False

    def hurry(self, stop_by_s: float) -> None:
        """Nothing may take longer than until this moment of the monotonic clock."""
        self._stop_by_s = stop_by_s

    def has_sent_all(self) -> bool:
        """Whether the collector has taken every span so far."""
        return self.lost_count == 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """POST them, once."""
        try:
            problem = self._post(gzip.compress(encoded(spans), 1))
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = type(error).__name__
        if problem:
            self.lost_count += len(spans)
            if not self._is_failing:
                logger.warning("traces_not_sent", problem=problem, span_count=len(spans))
        elif self._is_failing:
            logger.info("traces_sent_again", lost_count=self.lost_count)
        self._is_failing = bool(problem)
        return SpanExportResult.FAILURE if problem else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is held between two batches."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # the SDK's signature
        """Nothing waits here."""
        return True

    def _post(self, body: bytes) -> str:
        """What is wrong; "" when it was taken."""
        timeout_s = TIMEOUT_S
        if self._stop_by_s is not None:
            timeout_s = min(timeout_s, self._stop_by_s - time.monotonic())
        if timeout_s <= 0:
            return "stopping"
        headers = {"Content-Type": MEDIA, "Content-Encoding": "gzip", "Connection": "close"}
        for name, variable in self._headers_env.items():
            value = _value_of(variable)
            if not value:
                return f"{variable} is not set"
            headers[name] = value
        connection = self._connection(timeout_s)
        try:
            connection.request("POST", self._to.path or "/v1/traces", body, headers)
            status = connection.getresponse().status
        finally:
            connection.close()
        return "" if 200 <= status < 300 else f"status {status}"

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        host = self._to.hostname or ""
        if self._to.scheme == "http":
            return http.client.HTTPConnection(host, self._to.port, timeout=timeout_s)
        context = ssl.create_default_context()
        if self._ca_file:
            context.load_verify_locations(self._ca_file)
        return http.client.HTTPSConnection(host, self._to.port, timeout=timeout_s, context=context)


def _value_of(variable: str) -> str:
    """Read when it is sent, so that a file can be renewed; "" when there is none."""
    value, path = os.environ.get(variable, "").strip(), os.environ.get(f"{variable}_FILE", "")
    return value or (Path(path).read_text(encoding="utf-8").strip() if path else "")


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """The spans as one request; all are of one process and so of one resource and scope."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    scope = group.scope_spans.add()
    for index, each in enumerate(spans):
        if index == 0:
            group.resource.attributes.extend(_pairs(each.resource.attributes))
            scope.scope.name = each.instrumentation_scope.name if each.instrumentation_scope else ""
        _fill(scope.spans.add(), each)
    return request.SerializeToString()


def _fill(made: pb.Span, each: ReadableSpan) -> None:
    context = each.context
    made.trace_id = context.trace_id.to_bytes(16, "big")
    made.span_id = context.span_id.to_bytes(8, "big")
    made.flags = int(context.trace_flags)
    if each.parent is not None:
        made.parent_span_id = each.parent.span_id.to_bytes(8, "big")
    made.name = each.name
    made.kind = pb.Span.SpanKind.ValueType(each.kind.value + 1)
    made.start_time_unix_nano = each.start_time or 0
    made.end_time_unix_nano = each.end_time or 0
    made.attributes.extend(_pairs(each.attributes or {}))
    made.status.code = pb.Status.StatusCode.ValueType(each.status.status_code.value)


def _pairs(values: Mapping[str, object]) -> list[KeyValue]:
    pairs = []
    for name, value in values.items():
        pair = KeyValue(key=name)
        match value:
            case bool():
                pair.value.bool_value = value
            case int():
                pair.value.int_value = value
            case float():
                pair.value.double_value = value
            case _:
                pair.value.string_value = str(value)
        pairs.append(pair)
    return pairs
