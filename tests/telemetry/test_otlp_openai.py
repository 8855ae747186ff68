"""A GenAI instrumentation that others wrote: the openai client, watched, becomes a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from django.test import Client
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.genai.handler import TelemetryHandler
from pytest_django.live_server_helper import LiveServer

from telemetry.models import EVENT_MODELS, IngestBatch, ModelCall, QuarantinedLine, Run, ToolCall
from telemetry.pages.run_spans import spans_of
from tests.telemetry.test_api_batch import enrolled

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]
CANARY = "canary-77aa what a person said"


class Model(BaseHTTPRequestHandler):
    """Answers as the chat completions of OpenAI do; refuses the model ``busy`` with 429."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_busy = asked["model"] == "busy"
        message = {"role": "assistant", "content": CANARY}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        usage["prompt_tokens_details"] = {"cached_tokens": 64}  # type: ignore[assignment]  # nested, as theirs is
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "usage": usage}
        answer |= {"model": f"{asked['model']}-001", "choices": [choice]}
        body = json.dumps({"error": {"message": CANARY}} if is_busy else answer).encode()
        self.send_response(429 if is_busy else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def model() -> Iterator[openai.OpenAI]:
    """A client of a model that runs here."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client
    server.shutdown()
    server.server_close()


@contextmanager
def watched(server: LiveServer) -> Iterator[TracerProvider]:
    """The openai package watched, its spans sent to the console."""
    made = TracerProvider(resource=Resource({"service.name": "shop", "service.version": "3"}))
    headers = {"authorization": f"Bearer {enrolled()}"}
    exporter = OTLPSpanExporter(endpoint=f"{server.url}/v1/traces", headers=headers)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    watcher = OpenAIInstrumentor()  # type: ignore[no-untyped-call]  # it has no types
    watcher.instrument(tracer_provider=made)
    yield made
    watcher.uninstrument()
    made.shutdown()


@pytest.fixture
def provider(live_server: LiveServer) -> Iterator[TracerProvider]:
    with watched(live_server) as made:
        yield made


def ask(client: openai.OpenAI, name: str = "gpt-6") -> None:
    client.chat.completions.create(model=name, messages=[{"role": "user", "content": CANARY}])


def test_an_instrumented_agent_is_a_run_with_its_calls(
    model: openai.OpenAI, provider: TracerProvider
) -> None:
    handler = TelemetryHandler(tracer_provider=provider)
    with handler.invoke_local_agent("openai", request_model="gpt-6") as agent:
        agent.agent_name = "shopkeeper"
        ask(model)
        with handler.tool("stock"):
            pass
        with pytest.raises(openai.RateLimitError):
            ask(model, "busy")
    run = Run.objects.get()
    assert (run.profile_id, run.platform, run.agent_version) == ("shopkeeper", "shop", "3")
    assert (run.end_reason, run.model_call_count, run.tool_call_count) == ("completed", 2, 1)
    good, failed = ModelCall.objects.order_by("start_ns")
    assert (good.provider, good.model, good.response_model) == ("openai", "gpt-6", "gpt-6-001")
    assert (good.output_tokens, good.finish_reason, good.end_reason) == (7, "stop", "completed")
    assert (good.input_tokens or 0) + (good.cache_read_tokens or 0) == 100
    assert (failed.model, failed.end_reason) == ("busy", "error")
    assert ToolCall.objects.get().tool_name == "stock"
    kinds = [span.kind for span in spans_of(run)]
    assert sorted(kinds) == ["Error", "Model", "Model", "Tool"]


@pytest.mark.usefixtures("provider")
def test_calls_without_an_agent_are_runs_of_their_own(model: openai.OpenAI) -> None:
    ask(model)
    run = Run.objects.get()
    assert (run.end_reason, run.model_call_count, run.platform) == ("completed", 1, "shop")


def test_messages_are_stored_nowhere_even_when_the_instrumentation_sends_them(
    model: openai.OpenAI, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    # It reads the variable once a process, and another test may have been first.
    stability = _OpenTelemetrySemanticConventionStability
    monkeypatch.setattr(stability, "_initialized", False)
    monkeypatch.setattr(stability, "_OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING", {})
    memory = InMemorySpanExporter()
    with watched(live_server) as made:
        made.add_span_processor(SimpleSpanProcessor(memory))
        ask(model)
    assert CANARY in str([span.attributes for span in memory.get_finished_spans()])
    models = (*EVENT_MODELS, IngestBatch, QuarantinedLine)
    assert ModelCall.objects.count() == 1
    assert CANARY not in "".join(str(list(each._default_manager.values())) for each in models)


@pytest.mark.usefixtures("provider")
def test_the_run_is_on_the_console(model: openai.OpenAI, admin_client: Client) -> None:
    ask(model)
    run = Run.objects.get()
    page = admin_client.get(f"/runs/{run.install_id}/?run={run.run_id}")
    assert "gpt-6" in page.content.decode()
