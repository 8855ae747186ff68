"""The official OpenTelemetry SDK as the client: its exporters against the live console."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from pytest_django.live_server_helper import LiveServer

from telemetry.api import otlp as otlp_api
from telemetry.ingest.decode import IngestError
from telemetry.ingest.otlp_receive import receive_spans
from telemetry.models import ErrorEvent, IngestBatch, ModelCall, QuarantinedLine, Run, ToolCall
from tests.telemetry.test_api_batch import enrolled

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]
CANARY = "canary-e0f1 what a person said"
RESOURCE = Resource({"service.name": "bot", "service.version": "1.2"})


def exporter(server: LiveServer, **more: Any) -> OTLPSpanExporter:  # noqa: ANN401 -- the exporter's own options
    headers = {"authorization": f"Bearer {more.pop('token', None) or enrolled()}"}
    return OTLPSpanExporter(endpoint=f"{server.url}/v1/traces", headers=headers, **more)


def run_agent(provider: TracerProvider) -> None:
    """A trace as instrumentations make it: an agent that calls a model and a tool, which fails."""
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span(
        "invoke_agent helper",
        attributes={"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"},
    ):
        with tracer.start_as_current_span(
            "chat gpt-6",
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "gpt-6",
                "gen_ai.usage.input_tokens": 12,
                "gen_ai.response.finish_reasons": ["stop"],
                "gen_ai.input.messages": CANARY,
            },
        ):
            pass
        with tracer.start_as_current_span(
            "execute_tool search",
            attributes={"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"},
        ) as span:
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", "TimeoutError")


def finished() -> list[ReadableSpan]:
    """The spans of such a trace, not sent yet."""
    memory, provider = InMemorySpanExporter(), TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    run_agent(provider)
    return list(memory.get_finished_spans())


@contextmanager
def answering(
    monkeypatch: pytest.MonkeyPatch, first: Callable[[], object]
) -> Iterator[list[float]]:
    """The console whose first answer is another one; the times at which it was asked."""
    real, asked = receive_spans, list[float]()

    def receive(*args: Any) -> Any:  # noqa: ANN401 -- as the real one
        asked.append(time.monotonic())
        if len(asked) == 1:
            first()
        return real(*args)

    monkeypatch.setattr(otlp_api, "receive_spans", receive)
    yield asked


def assert_stored() -> None:
    run = Run.objects.get()
    assert (run.end_reason, run.profile_id, run.platform) == ("completed", "helper", "bot")
    assert (run.agent_version, run.model_call_count, run.tool_call_count) == ("1.2", 1, 1)
    call = ModelCall.objects.get()
    assert (call.model, call.input_tokens, call.finish_reason) == ("gpt-6", 12, "stop")
    tool = ToolCall.objects.get()
    assert (tool.tool_name, tool.result_class, tool.error_type) == (
        "search",
        "timeout",
        "TimeoutError",
    )
    assert ErrorEvent.objects.get().subsystem == "tool"


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_what_the_sdk_exports_is_a_run(live_server: LiveServer, compression: Compression) -> None:
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(
        BatchSpanProcessor(exporter(live_server, compression=compression), max_export_batch_size=2)
    )
    run_agent(provider)
    provider.shutdown()
    assert_stored()
    assert IngestBatch.objects.count() == 2
    assert IngestBatch.objects.latest("pk").client.startswith("OTel-OTLP-Exporter-Python")


def test_the_variables_of_the_documents_are_all_it_takes(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", live_server.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{enrolled()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert OTLPSpanExporter().export(finished()) is SpanExportResult.SUCCESS
    assert_stored()
    assert IngestBatch.objects.get().content_encoding == "gzip"


def test_the_sdks_own_json_is_understood(live_server: LiveServer) -> None:
    request = urllib.request.Request(
        f"{live_server.url}/v1/traces",
        data=encode_spans(finished()).to_json().encode(),
        headers={"Authorization": f"Bearer {enrolled()}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert (answer.status, answer.read()) == (200, b"{}")
    assert_stored()


def test_a_wrong_token_fails_at_once_and_says_so(
    live_server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    result = exporter(live_server, token="hfa_wrong").export(finished())
    assert result is SpanExportResult.FAILURE
    assert "code: 401" in caplog.text
    assert not IngestBatch.objects.exists()


def test_a_request_over_the_limit_fails_at_once(
    live_server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    provider, memory = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("test")
    for _ in range(9):
        tracer.start_span("chat", attributes={"gen_ai.input.messages": "x" * 2**20}).end()
    result = exporter(live_server).export(memory.get_finished_spans())
    assert (result, "code: 413" in caplog.text) == (SpanExportResult.FAILURE, True)


def test_an_overloaded_console_is_asked_again_and_nothing_is_doubled(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def overloaded() -> None:
        raise IngestError("unavailable", "the database is overloaded", retry_after_s=1)

    with answering(monkeypatch, overloaded) as asked:
        assert exporter(live_server).export(finished()) is SpanExportResult.SUCCESS
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1
    assert "retrying in 1.00s" in caplog.text
    assert_stored()


def test_a_partial_success_is_one_to_the_sdk_and_the_rest_stands_in_quarantine(
    live_server: LiveServer,
) -> None:
    spans = finished()
    old = TracerProvider(resource=RESOURCE).get_tracer("test").start_span("old", start_time=1)
    old.end(end_time=2)
    assert isinstance(old, ReadableSpan)
    assert exporter(live_server).export([*spans, old]) is SpanExportResult.SUCCESS
    assert_stored()
    assert QuarantinedLine.objects.get().code == "time_too_old"


def test_exporters_of_other_signals_neither_fail_nor_repeat(
    live_server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"authorization": f"Bearer {enrolled()}"}
    logs = LoggerProvider()
    logs.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(f"{live_server.url}/v1/logs", headers=headers))
    )
    logs.get_logger("test").emit(body=CANARY)
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{live_server.url}/v1/metrics", headers=headers)
    )
    metrics = MeterProvider([reader])
    metrics.get_meter("test").create_counter("calls").add(1)
    logs.shutdown()
    metrics.shutdown()
    problems = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in problems if "opentelemetry" in record.name] == []
    assert not IngestBatch.objects.exists()
