"""A real OTLP receiver for the console's own spans, and what it got, parsed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.telemetry.receivers import Http


@dataclass(frozen=True, slots=True)
class Got:
    """One span that was received, with its resource."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    took_ns: int
    is_error: bool
    says: dict[str, object]
    resource: dict[str, object]


def received(http: Http) -> list[Got]:
    """All spans so far. Errors: DecodeError for a body that is not OTLP."""
    return [got for post in list(http.posts) for got in _parsed(gzip.decompress(post.body))]


def raw_bodies(http: Http) -> bytes:
    """Every byte of every body."""
    return b"".join(gzip.decompress(post.body) for post in list(http.posts))


def _parsed(body: bytes) -> Iterator[Got]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _values(group.resource.attributes)
        for scope in group.scope_spans:
            assert scope.scope.name == "hermes.fleet"
            for span in scope.spans:
                yield Got(
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    took_ns=span.end_time_unix_nano - span.start_time_unix_nano,
                    is_error=span.status.code == 2,
                    says=_values(span.attributes),
                    resource=resource,
                )


def _values(attributes: object) -> dict[str, object]:
    pairs: list[KeyValue] = list(attributes)  # type: ignore[call-overload]  # a repeated field
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
