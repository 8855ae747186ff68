"""OTLP requests with defaults: built as any sender would, by opentelemetry-proto or as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from telemetry.ingest.decode import read_body
from telemetry.ingest.otlp_mapping import Mapped, map_spans
from telemetry.ingest.otlp_protobuf import decode_protobuf
from telemetry.ingest.otlp_receive import MEDIA_PROTOBUF, batch_id_of, receive_spans
from telemetry.ingest.receive import BatchHeader, Outcome
from telemetry.ingest.validate import TimeBounds
from telemetry.models import IngestBatch
from tests.telemetry.builders import INSTALL, S, recent_ns

TRACE = "0af7651916cd43dd8448eb211c80319c"
ROOT_SPAN = "b7ad6b7169203331"
ANY_TIME = TimeBounds(0, 2**63 - 1)

type Attributes = Mapping[str, object]


def span(**values: object) -> Span:
    """A chat of half a second inside an agent, but for what is overridden."""
    start_ns = values.pop("start_ns", None) or recent_ns()
    assert isinstance(start_ns, int)
    end_ns = values.pop("end_ns", start_ns + S // 2)
    assert isinstance(end_ns, int)
    defaults: dict[str, object] = {
        "trace_id": TRACE,
        "span_id": "00f067aa0ba902b7",
        "parent_id": ROOT_SPAN,
        "name": "chat gpt-6",
        "kind": Span.SPAN_KIND_CLIENT,
        "attributes": {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-6"},
    }
    found: dict[str, Any] = defaults | values
    made = Span(
        trace_id=bytes.fromhex(found["trace_id"]),
        span_id=bytes.fromhex(found["span_id"]),
        parent_span_id=bytes.fromhex(found["parent_id"]),
        name=found["name"],
        kind=found["kind"],
        start_time_unix_nano=start_ns,
        end_time_unix_nano=end_ns,
        flags=found.get("flags", 1),
    )
    if found.get("is_error"):
        made.status.code = Status.STATUS_CODE_ERROR
    put(made.attributes, found["attributes"])
    return made


def agent(**values: object) -> Span:
    """The root of the trace: an agent of two seconds."""
    defaults: dict[str, object] = {
        "span_id": ROOT_SPAN,
        "parent_id": "",
        "name": "invoke_agent helper",
        "kind": Span.SPAN_KIND_INTERNAL,
        "attributes": {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"},
    }
    return span(**(defaults | values))


def tool(**values: object) -> Span:
    """A tool call inside the agent."""
    defaults: dict[str, object] = {
        "span_id": "53995c3f42cd8ad8",
        "name": "execute_tool search",
        "kind": Span.SPAN_KIND_INTERNAL,
        "attributes": {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"},
    }
    return span(**(defaults | values))


def put(into: Any, attributes: Attributes) -> None:  # noqa: ANN401 -- a repeated field of protobuf
    for key, value in attributes.items():
        pair = into.add()
        pair.key = key
        if isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        elif isinstance(value, float):
            pair.value.double_value = value
        elif isinstance(value, str):
            pair.value.string_value = value
        else:
            assert isinstance(value, Sequence)
            for item in value:
                pair.value.array_value.values.add().string_value = item


def request(*spans: Span, resource: Attributes | None = None) -> ExportTraceServiceRequest:
    """One resource, one scope and these spans."""
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    put(group.resource.attributes, resource or {"service.name": "bot", "service.version": "1.2"})
    scope = group.scope_spans.add()
    scope.scope.name = "test"
    scope.spans.extend(spans)
    return made


def protobuf(*spans: Span, resource: Attributes | None = None) -> bytes:
    return request(*spans, resource=resource).SerializeToString()


def as_json(*spans: Span, resource: Attributes | None = None) -> bytes:
    """The same as OTLP/JSON: hexadecimal ids, integers for enums, 64-bit integers as text."""
    made = request(*spans, resource=resource).resource_spans[0]
    return json.dumps(
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": _pairs(made.resource.attributes)},
                    "scopeSpans": [
                        {"scope": {"name": "test"}, "spans": [_span_json(one) for one in spans]}
                    ],
                }
            ]
        }
    ).encode()


def _span_json(made: Span) -> dict[str, object]:
    return {
        "traceId": made.trace_id.hex(),
        "spanId": made.span_id.hex(),
        "parentSpanId": made.parent_span_id.hex(),
        "flags": made.flags,
        "name": made.name,
        "kind": made.kind,
        "startTimeUnixNano": str(made.start_time_unix_nano),
        "endTimeUnixNano": str(made.end_time_unix_nano),
        "attributes": _pairs(made.attributes),
        "status": {"code": made.status.code} if made.status.code else {},
    }


def _pairs(attributes: Any) -> list[dict[str, object]]:  # noqa: ANN401 -- a repeated field of protobuf
    return [{"key": pair.key, "value": _value_json(pair.value)} for pair in attributes]


def _value_json(value: Any) -> dict[str, object]:  # noqa: ANN401 -- protobuf's AnyValue
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return {"arrayValue": {"values": [_value_json(item) for item in value.array_value.values]}}
    found = getattr(value, kind)
    name = {"string": "stringValue", "int": "intValue", "double": "doubleValue"}
    key = name.get(kind.removesuffix("_value"), "boolValue")
    return {key: str(found) if kind == "int_value" else found}


def mapped(*spans: Span, resource: Attributes | None = None) -> Mapped:
    """What the spans become, whenever they were."""
    return map_spans(decode_protobuf(protobuf(*spans, resource=resource)), ANY_TIME)


def push(*spans: Span, resource: Attributes | None = None, install_id: object = INSTALL) -> Outcome:
    """Receive one request of these spans."""
    install = UUID(str(install_id))
    data = protobuf(*spans, resource=resource)
    body = read_body(io.BytesIO(data), "identity")
    header = BatchHeader(
        install_id=install,
        batch_id=batch_id_of(install, MEDIA_PROTOBUF, body),
        source=IngestBatch.Source.OTLP,
    )
    return receive_spans(header, body, decode_protobuf(data))
