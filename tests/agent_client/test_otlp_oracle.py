"""Our bytes against those of OpenTelemetry's own SDK for the same content, for random rows."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import (
    encode_logs as sdk_encode_logs,
)
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import (
    encode_metrics as sdk_encode_metrics,
)
from opentelemetry.exporter.otlp.proto.common.trace_encoder import (
    encode_spans as sdk_encode_spans,
)
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import export as sdk_metrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from agent_client.contract.otlp_genai import PROFILES, SCHEMA_1_41
from agent_client.contract.otlp_names import CLIENT, SCOPE
from agent_client.contract.redact import redact_record
from agent_client.contract.tables import BY_EVENT, RUNS, Table
from agent_client.otlp.encode import Sender, encode_logs, encode_metrics, encode_spans
from agent_client.otlp.facts import Facts, RunFacts
from agent_client.otlp.mapping import Mapper
from agent_client.otlp.metrics import Meter
from agent_client.otlp.signals import Log, PointEvent, Span
from tests.agent_client.builders import START_NS
from tests.agent_client.otlp_homes import INSTALL, TRACE, sender
from tests.agent_client.otlp_rows import ROWS, TEXT

FACTS = st.builds(
    RunFacts,
    trace_id=TEXT | st.just(TRACE),
    session_id=TEXT | st.none(),
    profile_id=TEXT | st.none(),
    agent_version=st.sampled_from([None, "0.19.0", "0.20.0"]),
    is_closed=st.booleans(),
)


def mapped(
    rows: list[tuple[Table, dict[str, object]]], run: RunFacts, profile: str
) -> list[Span | Log]:
    mapper = Mapper(INSTALL, profile)
    runs = {str(row["run_id"]): run for _, row in rows}
    mapper.facts = Facts(runs=runs, providers=dict.fromkeys(runs, "gemini"))
    made = [mapper.map(table, row, redact_record(row)) for table, row in rows]
    return [entry for entry in made if entry is not None]


# -------------------------------------------------------------------- the same, by the SDK


def schema_of(profile: str) -> str:
    return SCHEMA_1_41 if profile == "1.41" else ""


def resource_of(entry: Span | Log, who: Sender) -> Resource:
    return Resource(who.resource_of(entry.origin), schema_of(who.profile))


def scope_of(who: Sender) -> InstrumentationScope:
    attributes = {"hermes.semconv.profile": who.profile}
    return InstrumentationScope(SCOPE, who.version, schema_of(who.profile), attributes)


def readable_span(span: Span, who: Sender) -> ReadableSpan:
    def context(span_id: bytes) -> SpanContext:
        trace_id, number = int.from_bytes(span.trace_id), int.from_bytes(span_id)
        return SpanContext(trace_id, number, is_remote=False, trace_flags=TraceFlags(1))

    return ReadableSpan(
        span.name,
        context(span.span_id),
        context(span.parent_id) if span.parent_id else None,
        resource_of(span, who),
        span.attributes,
        [Event(event.name, event.attributes, event.time_ns) for event in span.events],
        kind=SpanKind.CLIENT if span.kind == CLIENT else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR if span.is_error else StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=scope_of(who),
    )


def readable_log(log: Log, who: Sender) -> ReadableLogRecord:
    record = LogRecord(  # type: ignore[call-overload]  # none of them has both ids and an event name
        timestamp=log.time_ns,
        observed_timestamp=log.time_ns,
        trace_id=int.from_bytes(log.trace_id),
        span_id=int.from_bytes(log.span_id),
        trace_flags=TraceFlags(1),
        severity_text={9: "INFO", 13: "WARN"}[log.severity],
        severity_number=SeverityNumber(log.severity),
        attributes=log.attributes,
        event_name=log.event_name,
    )
    return ReadableLogRecord(record, resource_of(log, who), scope_of(who))


def alike(request: ExportTraceServiceRequest, *, flags: int) -> ExportTraceServiceRequest:
    """The request without what may differ: the flags, and whether an unset status is written.

    Ours say "sampled"; the SDK says "the parent is known to be local" and forgets the other.
    """
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for found in scope.spans:
                assert found.flags == flags
                found.ClearField("flags")
                found.status.SetInParent()
    return request


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, max_size=6), FACTS, st.sampled_from(PROFILES))
def test_spans_are_what_the_sdk_would_have_written(
    rows: list[tuple[Table, dict[str, object]]], run: RunFacts, profile: str
) -> None:
    who = sender(profile)
    spans = [entry for entry in mapped(rows, run, profile) if isinstance(entry, Span)]
    for number, span in enumerate(spans):
        if number % 2:
            span.events = (PointEvent("something", span.start_ns, {"exception.type": "auth"}),)
    ours = ExportTraceServiceRequest.FromString(encode_spans(spans, who))
    theirs = sdk_encode_spans([readable_span(span, who) for span in spans])
    assert alike(ours, flags=0x001) == alike(theirs, flags=0x100)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, max_size=6), FACTS, st.sampled_from(PROFILES))
def test_logs_are_what_the_sdk_would_have_written(
    rows: list[tuple[Table, dict[str, object]]], run: RunFacts, profile: str
) -> None:
    who = sender(profile)
    logs = [entry for entry in mapped(rows, run, profile) if isinstance(entry, Log)]
    ours = ExportLogsServiceRequest.FromString(encode_logs(logs, who))
    theirs = sdk_encode_logs([readable_log(log, who) for log in logs])
    for resource in theirs.resource_logs:
        for scope in resource.scope_logs:
            for found in scope.log_records:
                assert found.body.WhichOneof("value") is None
                found.ClearField("body")  # an empty body is none
    assert ours == theirs


def point_of(one: Any, start_ns: int, now_ns: int) -> Any:  # noqa: ANN401  # two classes of the SDK
    if one.bounds:
        return sdk_metrics.HistogramDataPoint(
            one.attributes,
            start_ns,
            now_ns,
            one.count,
            one.total,
            one.buckets,
            one.bounds,
            one.minimum,
            one.maximum,
        )
    value = int(one.total) if one.is_whole else float(one.total)
    return sdk_metrics.NumberDataPoint(one.attributes, start_ns, now_ns, value)


def sdk_metrics_of(meter: Meter, who: Sender, now_ns: int) -> ExportMetricsServiceRequest:
    cumulative = sdk_metrics.AggregationTemporality.CUMULATIVE
    by_name: dict[str, list[Any]] = {}
    for one in meter.series:
        by_name.setdefault(one.name, []).append(one)
    metrics = []
    for name, series in by_name.items():
        points = [point_of(one, meter.start_ns, now_ns) for one in series]
        data: Any = (
            sdk_metrics.Histogram(points, cumulative)
            if series[0].bounds
            else sdk_metrics.Sum(points, cumulative, series[0].is_whole)
        )
        metrics.append(sdk_metrics.Metric(name, "", series[0].unit, data))
    schema = schema_of(who.profile)
    resource = Resource(who.resource_of(("", "")), schema)
    scoped = sdk_metrics.ScopeMetrics(scope_of(who), metrics, schema)
    found = sdk_encode_metrics(
        sdk_metrics.MetricsData([sdk_metrics.ResourceMetrics(resource, [scoped], schema)])
    )
    assert isinstance(found, ExportMetricsServiceRequest)
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=8), FACTS, st.sampled_from(PROFILES))
def test_metrics_are_what_the_sdk_would_have_written(
    rows: list[tuple[Table, dict[str, object]]], run: RunFacts, profile: str
) -> None:
    who, meter, now_ns = sender(profile), Meter(START_NS), START_NS + 10**9
    for entry in mapped(rows, run, profile):
        if isinstance(entry, Log):
            meter.add_log(BY_EVENT[str(entry.attributes["hermes.event"])], entry)
        elif entry.attributes["hermes.event"] == RUNS.event:
            meter.add_run(entry, profile, None)
        else:
            meter.add_span(BY_EVENT[str(entry.attributes["hermes.event"])], entry, profile)
    again = Meter.from_json(meter.to_json(), 0)
    body = encode_metrics(again.series, who, start_ns=again.start_ns, now_ns=now_ns)
    ours = ExportMetricsServiceRequest.FromString(body)
    assert ours == sdk_metrics_of(meter, who, now_ns)


def test_the_oracle_sees_a_nanosecond() -> None:
    who = sender()
    span = Span(("", ""), b"\1" * 16, b"\2" * 8, b"", "x", CLIENT, 1, 2, False, {"a": ("b",)})
    body = encode_spans([span], who)
    ours = alike(ExportTraceServiceRequest.FromString(body), flags=0x001)
    assert ours == alike(sdk_encode_spans([readable_span(span, who)]), flags=0x100)
    span.end_ns += 1
    assert ours != alike(sdk_encode_spans([readable_span(span, who)]), flags=0x100)
