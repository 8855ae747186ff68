"""What a span becomes: the GenAI conventions read, and what must never be kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent_client.contract.tables import BY_NAME
from telemetry.ingest.otlp_failures import error_class
from telemetry.ingest.otlp_mapping import Mapped, map_spans, uncached
from telemetry.ingest.otlp_protobuf import decode_protobuf
from telemetry.ingest.otlp_traces import run_row
from telemetry.ingest.validate import TimeBounds
from tests.telemetry import otlp_builders as otlp
from tests.telemetry.builders import S, recent_ns

CANARY = "canary-7d3c what a person said"


def rows(mapped: Mapped, table: str) -> list[dict[str, Any]]:
    names = (*BY_NAME[table].column_names(), "seq")
    return [dict(zip(names, row, strict=True)) for row in mapped.rows[table]]


def one(mapped: Mapped, table: str) -> dict[str, Any]:
    assert mapped.refused == []
    (found,) = rows(mapped, table)
    return found


def call_of(**attributes: object) -> dict[str, Any]:
    """The row of a chat with these ``gen_ai_…`` attributes; two underscores are a dot."""
    said = {name.replace("__", "."): value for name, value in attributes.items()}
    return one(
        otlp.mapped(otlp.span(attributes={"gen_ai.operation.name": "chat", **said})),
        "tel_model_calls",
    )


def run_of(mapped: Mapped) -> dict[str, Any]:
    (facts,) = mapped.traces.values()
    return dict(zip((*BY_NAME["tel_runs"].column_names(), "seq"), run_row(facts, 1), strict=True))


def refusals(mapped: Mapped) -> list[tuple[int, str, str]]:
    return [(one.line, one.code, one.detail) for one in mapped.refused]


# ------------------------------------------------------------------------------- model calls


def test_an_inference_is_a_model_call() -> None:
    start_ns = recent_ns()
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-4",
        "gen_ai.response.model": "gemini-4-001",
        "gen_ai.response.id": "resp-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.reasoning.output_tokens": 3,
        "server.address": "api.example",
        "server.port": 8443,
    }
    row = one(otlp.mapped(otlp.span(start_ns=start_ns, attributes=attributes)), "tel_model_calls")
    expected = {
        "span_id": "00f067aa0ba902b7",
        "run_id": otlp.TRACE,
        "trace_id": otlp.TRACE,
        "parent_span_id": otlp.ROOT_SPAN,
        "provider": "gemini",
        "model": "gemini-4",
        "response_model": "gemini-4-001",
        "api_request_id": "resp-1",
        "finish_reason": "stop",
        "ttft_ms": 250.0,
        "latency_ms": 500.0,
        "input_tokens": 100,
        "output_tokens": 7,
        "reasoning_tokens": 3,
        "cache_read_tokens": None,
        "base_url": "api.example:8443",
        "start_ns": start_ns,
        "end_ns": start_ns + S // 2,
        "end_reason": "completed",
        "cost_status": "unknown",
        "estimated_cost_usd": None,
        "status_code": None,
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("word", ["chat", "generate_content", "text_completion", "embeddings"])
def test_every_inference_operation_is_a_model_call(word: str) -> None:
    assert call_of(gen_ai__operation__name=word)["run_id"] == otlp.TRACE


@pytest.mark.parametrize("name", ["cache_creation", "cache_write"])
def test_input_is_stored_without_cached_tokens_in_both_profiles(name: str) -> None:
    row = call_of(
        **{
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.cache_read.input_tokens": 60,
            f"gen_ai.usage.{name}.input_tokens": 30,
        }
    )
    assert (row["input_tokens"], row["cache_read_tokens"], row["cache_write_tokens"]) == (
        10,
        60,
        30,
    )


@pytest.mark.parametrize(
    ("total", "read", "write", "expected"),
    [
        (100, 60, 30, 10),
        (90, 60, 30, 0),
        (10, 60, 30, 10),
        (100, None, None, 100),
        (0, None, None, 0),
        (None, 60, None, None),
    ],
)
def test_input_is_never_negative(
    total: int | None, read: int | None, write: int | None, expected: int | None
) -> None:
    assert uncached(total, read, write) == expected


@pytest.mark.parametrize(
    ("attributes", "column", "value"),
    [
        ({"gen_ai.system": "openai"}, "provider", "openai"),
        ({"gen_ai.provider.name": "Aws.Bedrock"}, "provider", "bedrock"),
        ({"gen_ai.provider.name": "my-gateway"}, "provider", "my-gateway"),
        ({"gen_ai.usage.prompt_tokens": 5}, "input_tokens", 5),
        ({"gen_ai.usage.completion_tokens": 6}, "output_tokens", 6),
        ({"gen_ai.usage.input_tokens": 5.0}, "input_tokens", 5),
        ({"gen_ai.response.model": "only-response"}, "model", "only-response"),
        ({"server.address": "a.example", "server.port": 443}, "base_url", "a.example"),
        ({"gen_ai.request.model": "m" * 300}, "model", "m" * 200),
        ({"gen_ai.response.id": "r" * 300}, "api_request_id", None),
    ],
)
def test_a_fact_is_found_in_every_spelling(
    attributes: dict[str, object], column: str, value: object
) -> None:
    assert call_of(**attributes)[column] == value


@pytest.mark.parametrize(
    ("attributes", "table"),
    [
        ({"openinference.span.kind": "LLM", "llm.model_name": "m"}, "tel_model_calls"),
        ({"openinference.span.kind": "TOOL", "tool.name": "t"}, "tel_tool_calls"),
        ({"traceloop.span.kind": "tool", "traceloop.entity.name": "t"}, "tel_tool_calls"),
        ({"llm.request.type": "chat", "gen_ai.system": "OpenAI"}, "tel_model_calls"),
        ({"gen_ai.system": "openai", "gen_ai.request.model": "m"}, "tel_model_calls"),
        ({"openinference.span.kind": "RETRIEVER"}, "tel_spans"),
        ({"http.request.method": "GET"}, "tel_spans"),
    ],
)
def test_older_instrumentations_are_understood(attributes: dict[str, object], table: str) -> None:
    assert one(otlp.mapped(otlp.span(attributes=attributes)), table)


@pytest.mark.parametrize(
    ("attributes", "end_reason", "status_code", "kind"),
    [
        ({"error.type": "429"}, "error", 429, "rate_limit"),
        ({"error.type": "openai.AuthenticationError"}, "error", None, "auth"),
        ({"error.type": "TimeoutError"}, "timeout", None, "provider_timeout"),
        ({"http.response.status_code": 503}, "error", 503, "provider_error"),
        ({}, "error", None, "unknown"),
    ],
)
def test_a_failed_call_is_a_call_and_an_error(
    attributes: dict[str, object], end_reason: str, status_code: int | None, kind: str
) -> None:
    said = {"gen_ai.operation.name": "chat", **attributes}
    mapped = otlp.mapped(otlp.span(is_error=True, attributes=said))
    call, error = one(mapped, "tel_model_calls"), one(mapped, "tel_error_events")
    assert (call["end_reason"], call["status_code"]) == (end_reason, status_code)
    assert (error["error_class"], error["subsystem"], error["recovery"]) == (kind, "model", "none")
    assert (error["parent_span_id"], error["ts_ns"]) == (call["span_id"], call["end_ns"])


def test_a_call_that_went_well_has_no_status_code() -> None:
    assert call_of(**{"http.response.status_code": 200})["status_code"] is None


@pytest.mark.parametrize(
    ("kind", "status_code", "expected"),
    [
        ("RateLimitError", None, "rate_limit"),
        ("ConnectionRefused", None, "network"),
        ("BadRequestError", 413, "context_overflow"),
        ("x", 500, "provider_error"),
        ("KeyError", None, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_failures_have_the_fleets_classes(
    kind: str | None, status_code: int | None, expected: str
) -> None:
    assert error_class(kind, status_code) == expected


# --------------------------------------------------------------------- tools, agents, the rest


def test_execute_tool_is_a_tool_call() -> None:
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "search",
        "gen_ai.tool.type": "extension",
        "gen_ai.tool.call.id": "call_1",
    }
    row = one(otlp.mapped(otlp.tool(attributes=attributes)), "tel_tool_calls")
    assert (row["tool_name"], row["backend"], row["tool_call_id"]) == (
        "search",
        "extension",
        "call_1",
    )
    assert (row["result_class"], row["duration_ms"], row["error_type"]) == ("ok", 500.0, None)


@pytest.mark.parametrize(
    ("error", "result"), [("timeout", "timeout"), ("blocked", "blocked"), ("OSError", "error")]
)
def test_a_failed_tool_says_how(error: str, result: str) -> None:
    attributes = {"gen_ai.operation.name": "execute_tool", "error.type": error}
    mapped = otlp.mapped(otlp.tool(is_error=True, attributes=attributes))
    row = one(mapped, "tel_tool_calls")
    assert (row["tool_name"], row["result_class"], row["error_type"]) == ("search", result, error)
    assert one(mapped, "tel_error_events")["subsystem"] == "tool"


def test_an_agent_without_a_parent_is_the_run_and_no_span() -> None:
    mapped = otlp.mapped(otlp.agent(start_ns=recent_ns()), otlp.span())
    run = run_of(mapped)
    assert (run["run_id"], run["profile_id"], run["end_reason"]) == (
        otlp.TRACE,
        "helper",
        "completed",
    )
    assert (run["platform"], run["agent_version"], run["entrypoint"]) == ("bot", "1.2", "otlp")
    assert (run["model_call_count"], run["cost_status"]) == (1, "unknown")
    assert rows(mapped, "tel_spans") == []


def test_an_agent_inside_the_trace_is_a_subagents_span() -> None:
    row = one(otlp.mapped(otlp.agent(span_id="11" * 8, parent_id=otlp.ROOT_SPAN)), "tel_spans")
    assert (row["kind"], row["name"], row["status"]) == ("subagent", "helper", "ok")
    assert json.loads(row["attrs_json"]) == {"agent_name": "helper", "operation": "invoke_agent"}


def test_a_root_that_is_no_agent_makes_the_run_and_stays_a_span() -> None:
    web = otlp.span(
        parent_id="", name="POST /ask", kind=2, attributes={"http.request.method": "POST"}
    )
    mapped = otlp.mapped(web)
    row = one(mapped, "tel_spans")
    assert (row["kind"], row["name"]) == ("server", "POST /ask")
    assert run_of(mapped)["end_reason"] == "completed"


def test_a_root_with_an_error_is_a_failed_run() -> None:
    assert run_of(otlp.mapped(otlp.agent(is_error=True)))["end_reason"] == "failed"


def test_a_run_whose_root_lives_elsewhere_ends_with_its_local_root() -> None:
    remote = otlp.agent(parent_id="22" * 8, flags=0x301)
    assert run_of(otlp.mapped(remote, otlp.span()))["end_reason"] == "completed"
    assert run_of(otlp.mapped(otlp.span()))["end_reason"] is None


def test_the_conversation_is_the_session_and_the_senders_default_name_is_none() -> None:
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": "conv-1"}
    mapped = otlp.mapped(
        otlp.span(attributes=attributes), resource={"service.name": "unknown_service:python"}
    )
    run = run_of(mapped)
    assert (run["session_id"], run["platform"], run["agent_version"]) == ("conv-1", None, None)


def test_unknown_operations_are_spans_of_that_kind() -> None:
    attributes = {"gen_ai.operation.name": "search_memory", "gen_ai.input.messages": CANARY}
    row = one(otlp.mapped(otlp.span(name="search_memory", attributes=attributes)), "tel_spans")
    assert (row["kind"], row["name"]) == ("search_memory", "search_memory")
    assert json.loads(row["attrs_json"]) == {"operation": "search_memory"}


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ({"trace_id": ""}, "trace_id"),
        ({"trace_id": "00" * 16}, "trace_id"),
        ({"trace_id": "ab" * 8}, "trace_id"),
        ({"span_id": ""}, "span_id"),
        ({"span_id": "00" * 8}, "span_id"),
        ({"parent_id": "ab"}, "parent_span_id"),
    ],
)
def test_an_id_that_is_none_refuses_the_span(values: dict[str, object], detail: str) -> None:
    mapped = otlp.mapped(otlp.span(**values), otlp.tool())
    assert refusals(mapped) == [(1, "invalid_value", detail)]
    assert len(rows(mapped, "tel_tool_calls")) == 1


def test_a_parent_of_zeros_is_no_parent() -> None:
    assert run_of(otlp.mapped(otlp.agent(parent_id="00" * 8)))["end_reason"] == "completed"


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"gen_ai.usage.input_tokens": -1}, "out_of_range"),
        ({"gen_ai.usage.input_tokens": 2**60}, "out_of_range"),
        ({"gen_ai.usage.input_tokens": "many"}, "wrong_type"),
        ({"gen_ai.usage.input_tokens": True}, "wrong_type"),
        ({"gen_ai.response.time_to_first_chunk": float("nan")}, "out_of_range"),
        ({"gen_ai.response.time_to_first_chunk": "1"}, "wrong_type"),
        ({"gen_ai.request.model": "a\x00b"}, "invalid_text"),
    ],
)
def test_a_value_that_cannot_be_stored_refuses_the_span(
    attributes: dict[str, object], code: str
) -> None:
    said = {"gen_ai.operation.name": "chat", **attributes}
    mapped = otlp.mapped(otlp.span(attributes=said))
    assert refusals(mapped) == [(1, code, next(iter(attributes)))]
    assert mapped.traces == {}


@pytest.mark.parametrize(
    ("start_ns", "end_ns", "code", "detail"),
    [
        (999, 1000, "time_too_old", "start_ns"),
        (2001, 2002, "time_in_future", "start_ns"),
        (1500, 2001, "time_in_future", "end_ns"),
    ],
)
def test_a_time_out_of_bounds_is_refused_with_the_row_for_the_quarantine(
    start_ns: int, end_ns: int, code: str, detail: str
) -> None:
    made = otlp.span(start_ns=start_ns, end_ns=end_ns)
    mapped = map_spans(decode_protobuf(otlp.protobuf(made)), TimeBounds(1000, 2000))
    assert refusals(mapped) == [(1, code, detail)]
    line = json.loads(mapped.refused[0].raw)
    assert (line["_kind"], line["model"], line["start_ns"]) == (
        "tel_model_calls",
        "gpt-6",
        start_ns,
    )


def test_an_end_before_the_begin_is_the_begin() -> None:
    start_ns = recent_ns()
    row = one(otlp.mapped(otlp.span(start_ns=start_ns, end_ns=start_ns - 5)), "tel_model_calls")
    assert (row["end_ns"], row["latency_ms"]) == (start_ns, 0.0)


# ------------------------------------------------------------------------------- what is kept


CONTENT = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.tool.description",
    "gen_ai.agent.description",
    "gen_ai.prompt.0.content",
    "gen_ai.completion.0.content",
    "llm.input_messages.0.message.content",
    "input.value",
    "output.value",
    "traceloop.entity.input",
    "exception.message",
    "db.query.text",
    "url.full",
    "user.id",
)


@pytest.mark.parametrize("operation", ["chat", "execute_tool", "invoke_agent", "retrieval", ""])
@pytest.mark.parametrize("span_id", ["00f067aa0ba902b7", "00" * 8])
def test_content_reaches_neither_rows_nor_the_quarantine(operation: str, span_id: str) -> None:
    said = {**dict.fromkeys(CONTENT, CANARY), "gen_ai.operation.name": operation}
    mapped = otlp.mapped(
        otlp.span(span_id=span_id, attributes=said, is_error=True),
        otlp.agent(attributes=said),
        resource={"service.name": "bot", "process.command_args": CANARY},
    )
    assert mapped.traces
    assert CANARY not in repr(mapped)
