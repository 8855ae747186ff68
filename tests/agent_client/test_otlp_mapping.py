from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_client.contract import otlp_genai as genai
from agent_client.contract import otlp_ids as ids
from agent_client.contract.events import Event
from agent_client.contract.otlp_names import CLIENT, INTERNAL, SEVERITY_INFO, SEVERITY_WARN
from agent_client.otlp.signals import Log, Span
from tests.agent_client.builders import (
    SECOND_NS,
    START_NS,
    error_event,
    happening,
    model_call,
    one_of_each,
    run_event,
    span_event,
    tool_call,
)
from tests.agent_client.otlp_homes import (
    INSTALL,
    TRACE,
    in_trace,
    mapped,
    run_id_of,
    span_of,
    spans_of,
)

# ------------------------------------------------------------------------------------ the ids

DERIVED = "8577f0ebd591bc163a9ea92a14b8d9a1"
"""H(16, "trace", install, "run-0")."""


@pytest.mark.parametrize(
    ("kind", "recorded", "expected"),
    [
        ("run", "20261122_094211_c57e6c", "a973fdae53773afa"),
        ("model_call", "7d0f6c1e8a4b4f6f9a3c2b1d0e9f8a7b", "f683134ecff22d11"),
        ("tool_call", "7d0f6c1e8a4b4f6f9a3c2b1d0e9f8a7b", "1c3e098178bdbaf0"),
        ("span", "ünïcödé", "41a62e42c68e3804"),
    ],
)
def test_span_ids_are_the_golden_ones(kind: str, recorded: str, expected: str) -> None:
    assert ids.span_id(kind, INSTALL, recorded).hex() == expected


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (TRACE, TRACE),
        (None, DERIVED),
        ("0" * 32, DERIVED),
        ("trace-0", DERIVED),
        (TRACE.upper(), DERIVED),
        (TRACE + "\n", DERIVED),
        (7, DERIVED),
    ],
)
def test_a_trace_id_is_the_recorded_one_or_the_runs_hash(recorded: object, expected: str) -> None:
    assert ids.trace_id(INSTALL, "run-0", recorded).hex() == expected


def test_an_id_of_zeros_would_be_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def digest(self) -> bytes:
            return bytes(32)

    monkeypatch.setattr("agent_client.contract.otlp_ids.hashlib.sha256", lambda _data: Zeros())
    assert ids.hashed(8, "x") == bytes(7) + b"\x01"


# --------------------------------------------------------------------------- what becomes what


def test_every_kind_of_row_becomes_its_span_or_log(tmp_path: Path) -> None:
    made = mapped(tmp_path, *in_trace(*one_of_each()))
    assert [entry.name if isinstance(entry, Span) else entry.event_name for entry in made] == [
        "invoke_agent hermes-agent",
        "chat model-a",
        "execute_tool terminal",
        "gen_ai.client.operation.exception",
        "turn",
        "hermes.gateway",
        "hermes.cron",
        "hermes.skill",
        "hermes.memory",
        "hermes.feedback",
    ]
    assert {entry.trace_id.hex() for entry in made} == {TRACE}


def test_names_kinds_and_times_are_as_recorded(tmp_path: Path) -> None:
    run, call = spans_of(tmp_path, *in_trace(run_event(), model_call(end_ns=START_NS + 5)))
    assert (run.kind, call.kind) == (INTERNAL, CLIENT)
    assert (run.start_ns, run.end_ns) == (START_NS, START_NS + SECOND_NS)
    assert (call.start_ns, call.end_ns) == (START_NS, START_NS + 5)
    assert "hermes.time_source" not in call.attributes


@pytest.mark.parametrize(
    ("event", "times"),
    [
        (model_call(end_ns=None, latency_ms=2.5), (START_NS, START_NS + 2_500_000)),
        (model_call(end_ns=None), (START_NS, START_NS)),
        (model_call(start_ns=0, end_ns=START_NS, latency_ms=1.0), (START_NS - 10**6, START_NS)),
        (tool_call(duration_ms=1.0), (START_NS, START_NS + 1_000_000)),
        (span_event(end_ns=None), (START_NS, START_NS)),
    ],
)
def test_a_time_that_is_missing_is_derived_and_says_so(
    tmp_path: Path, event: Event, times: tuple[int, int]
) -> None:
    span = span_of(tmp_path, event)
    assert (span.start_ns, span.end_ns) == times
    assert span.attributes["hermes.time_source"] == "derived"


def test_no_span_ends_before_it_starts(tmp_path: Path) -> None:
    assert span_of(tmp_path, model_call(end_ns=START_NS - 7)).end_ns == START_NS


def test_an_open_run_waits_until_it_is_closed(tmp_path: Path) -> None:
    assert mapped(tmp_path, run_event(end_ns=None, end_reason=None)) == []


# -------------------------------------------------------------------------------- the lineage


def test_children_hang_below_their_turn_and_it_below_its_run(tmp_path: Path) -> None:
    run, turn, call, tool = spans_of(
        tmp_path,
        *in_trace(
            run_event(),
            span_event(1),
            model_call(parent_span_id="span-1"),
            tool_call(parent_span_id="run-0"),
        ),
    )
    assert run.parent_id == b""
    assert turn.parent_id == tool.parent_id == run.span_id == run_id_of("run-0")
    assert call.parent_id == turn.span_id


def test_a_parent_without_a_row_is_a_turn_that_goes_on_while_the_run_is_open(
    tmp_path: Path,
) -> None:
    (call,) = spans_of(
        tmp_path, run_event(end_ns=None), model_call(parent_span_id="turn-that-goes-on")
    )
    assert call.parent_id == ids.span_id("span", INSTALL, "turn-that-goes-on")


def test_a_parent_without_a_row_is_the_run_once_that_is_closed(tmp_path: Path) -> None:
    run, call = spans_of(tmp_path, run_event(), model_call(parent_span_id="never-recorded"))
    assert call.parent_id == run.span_id


@pytest.mark.parametrize("parent", [None, "", "run-0"])
def test_a_child_without_a_parent_of_its_own_hangs_below_its_run(
    tmp_path: Path, parent: str | None
) -> None:
    assert span_of(tmp_path, tool_call(parent_span_id=parent)).parent_id == run_id_of("run-0")


def test_a_wait_for_approval_can_hang_below_a_tool_call(tmp_path: Path) -> None:
    tool, wait = spans_of(tmp_path, tool_call(3), span_event(parent_span_id="tool-3"))
    assert wait.parent_id == tool.span_id


def test_a_subagents_run_hangs_below_its_parents_run(tmp_path: Path) -> None:
    parent, child = spans_of(tmp_path, *in_trace(run_event(0), run_event(1, parent_run_id="run-0")))
    assert (child.trace_id, child.parent_id) == (parent.trace_id, parent.span_id)


def test_a_subagent_in_a_trace_of_its_own_has_no_parent_there(tmp_path: Path) -> None:
    child = span_of(tmp_path, run_event(1, trace_id=None, parent_run_id="run-0"))
    assert child.parent_id == b""
    assert child.attributes["hermes.parent_run_id"] == "run-0"


def test_no_run_is_its_own_parent(tmp_path: Path) -> None:
    (child,) = spans_of(tmp_path, *in_trace(run_event(0, parent_run_id="run-0")))
    assert child.parent_id == b""


def test_the_runs_row_decides_the_trace_of_all_its_children(tmp_path: Path) -> None:
    run, call = mapped(tmp_path, run_event(trace_id=TRACE), model_call(trace_id=None))
    assert run.trace_id == call.trace_id == bytes.fromhex(TRACE)


def test_two_ids_that_the_redactor_blots_out_stay_two_spans(tmp_path: Path) -> None:
    secrets = [f"sk-ant-api03-{letter * 60}" for letter in "ab"]
    made = mapped(tmp_path, *(model_call(span_id=secret) for secret in secrets))
    assert len({entry.span_id for entry in made}) == 2


# ----------------------------------------------------------------------------- errors and ends


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("completed", None),
        ("interrupted", None),
        ("abandoned", None),
        ("failed", "failed"),
        ("timeout", "timeout"),
        ("max_iterations", "max_iterations"),
    ],
)
def test_a_run_is_an_error_only_when_it_failed(
    tmp_path: Path, reason: str, error: str | None
) -> None:
    span = span_of(tmp_path, run_event(end_reason=reason))
    assert (span.is_error, span.attributes.get("error.type")) == (error is not None, error)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"result_class": "ok"}, None),
        ({"result_class": "error"}, "tool_error"),
        ({"result_class": "error", "error_type": "FileNotFoundError"}, "FileNotFoundError"),
        ({"result_class": "timeout"}, "timeout"),
        ({"result_class": "blocked"}, "blocked"),
        ({"result_class": "blocked", "approval": "denied"}, None),
        ({"result_class": "blocked", "approval": "smart_deny"}, None),
        ({"result_class": "error", "approval": "once"}, "tool_error"),
    ],
)
def test_a_tool_call_is_an_error_unless_a_person_said_no(
    tmp_path: Path, changes: dict[str, Any], error: str | None
) -> None:
    span = span_of(tmp_path, tool_call(**changes))
    assert (span.is_error, span.attributes.get("error.type")) == (error is not None, error)
    assert span.attributes.get("hermes.approval") == changes.get("approval")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"end_reason": "completed", "retry_count": 3}, None),
        ({"end_reason": "completed", "status_code": 200}, None),
        ({"end_reason": "completed", "status_code": 529}, "529"),
        ({"end_reason": "failed"}, "failed"),
    ],
)
def test_a_model_call_is_an_error_only_when_it_failed_for_good(
    tmp_path: Path, changes: dict[str, Any], error: str | None
) -> None:
    span = span_of(tmp_path, model_call(**changes))
    assert (span.is_error, span.attributes.get("error.type")) == (error is not None, error)


@pytest.mark.parametrize("status", ["ok", "denied", "interrupted", "abandoned"])
def test_a_turn_that_only_ended_is_no_error(tmp_path: Path, status: str) -> None:
    assert not span_of(tmp_path, span_event(status=status)).is_error


def test_a_turn_that_failed_has_an_error_of_no_known_class(tmp_path: Path) -> None:
    assert span_of(tmp_path, span_event(status="error")).attributes["error.type"] == "_OTHER"


# ------------------------------------------------------------------------------ the attributes


def test_input_tokens_include_the_cached_ones(tmp_path: Path) -> None:
    call = model_call(
        input_tokens=100,
        output_tokens=7,
        cache_read_tokens=20,
        cache_write_tokens=3,
        reasoning_tokens=5,
    )
    found = span_of(tmp_path, call).attributes
    assert found["gen_ai.usage.input_tokens"] == 123
    assert found["gen_ai.usage.output_tokens"] == 7
    assert found["gen_ai.usage.cache_read.input_tokens"] == 20
    assert found["gen_ai.usage.cache_creation.input_tokens"] == 3
    assert found["gen_ai.usage.reasoning.output_tokens"] == 5
    assert found["hermes.input_tokens"] == 100


def test_tokens_that_are_not_known_are_not_zero(tmp_path: Path) -> None:
    span = span_of(tmp_path, model_call(input_tokens=None, output_tokens=None))
    assert not [key for key in span.attributes if key.startswith("gen_ai.usage")]
    span = span_of(tmp_path / "half", model_call(input_tokens=None, output_tokens=20))
    assert "gen_ai.usage.input_tokens" not in span.attributes
    assert span.attributes["gen_ai.usage.output_tokens"] == 20


@pytest.mark.parametrize(
    ("profile", "creation", "write"), [("1.41", 3, None), ("next", None, 3), ("both", 3, 3)]
)
def test_the_profile_names_the_tokens_written_to_the_cache(
    tmp_path: Path, profile: str, creation: int | None, write: int | None
) -> None:
    found = span_of(tmp_path, model_call(cache_write_tokens=3), profile).attributes
    assert found.get("gen_ai.usage.cache_creation.input_tokens") == creation
    assert found.get("gen_ai.usage.cache_write.input_tokens") == write


def test_a_run_names_its_dominant_provider_in_1_41_alone(tmp_path: Path) -> None:
    calls = [model_call(number, provider="gemini") for number in range(3)]
    events: list[Event] = [run_event(agent_version="0.19.0"), model_call(9, provider="xai"), *calls]
    for profile, provider in (("1.41", "gcp.gemini"), ("next", None), ("both", "gcp.gemini")):
        run = mapped(tmp_path / profile, *events, profile=profile)[0]
        assert run.attributes.get("gen_ai.provider.name") == provider
        assert ("gen_ai.agent.version" in run.attributes) == (provider is not None)


def test_a_runs_totals_are_never_usage(tmp_path: Path) -> None:
    run = span_of(tmp_path, run_event(estimated_cost_usd=0.5, model_call_count=4))
    assert not [key for key in run.attributes if key.startswith("gen_ai.usage")]
    assert run.attributes["hermes.estimated_cost_usd"] == 0.5
    assert run.attributes["hermes.install.id"] == INSTALL
    assert run.attributes["hermes.entrypoint"] == "cli"


def test_children_carry_the_conversation_of_their_run(tmp_path: Path) -> None:
    _, call = mapped(tmp_path, run_event(session_id="session-7"), model_call())
    assert call.attributes["gen_ai.conversation.id"] == "session-7"
    assert call.origin == ("", "")


@pytest.mark.parametrize(
    ("base_url", "address", "port"),
    [
        ("openrouter.ai", "openrouter.ai", 443),
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("https://user:sesame@api.example/v1?key=sesame", "api.example", 443),
        ("http://api.example/v1", "api.example", 80),
    ],
)
def test_of_an_address_only_host_and_port_leave(
    tmp_path: Path, base_url: str, address: str, port: int
) -> None:
    found = span_of(tmp_path, model_call(base_url=base_url)).attributes
    assert (found["server.address"], found["server.port"]) == (address, port)
    assert "sesame" not in str(found)


def test_an_address_that_is_none_is_left_out(tmp_path: Path) -> None:
    found = span_of(tmp_path, model_call(base_url="http://[broken")).attributes
    assert not {"server.address", "server.port", "hermes.base_url"} & set(found)


def test_streaming_and_the_answers_facts_are_told(tmp_path: Path) -> None:
    call = model_call(ttft_ms=250.0, finish_reason="stop", response_model="model-a-0925")
    found = span_of(tmp_path, call).attributes
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.time_to_first_chunk"] == 0.25
    assert found["gen_ai.response.finish_reasons"] == ("stop",)
    assert found["gen_ai.response.model"] == "model-a-0925"


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai-codex", "openai"),
        ("Bedrock", "aws.bedrock"),
        ("kimi", "moonshot_ai"),
        ("openrouter", "openrouter"),
        (" MyOwn ", "myown"),
        (None, ""),
    ],
)
def test_providers_have_the_conventions_names(provider: object, name: str) -> None:
    assert genai.provider_name(provider) == name


@pytest.mark.parametrize(
    ("backend", "tool", "kind"),
    [
        (None, "terminal", "function"),
        ("mcp", "search", "extension"),
        (None, "mcp_github_search", "extension"),
        (None, "memory", "datastore"),
    ],
)
def test_tools_have_the_conventions_types(backend: str | None, tool: str, kind: str) -> None:
    assert genai.tool_type(backend, tool) == kind


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (model_call(model=None), "chat"),
        (tool_call(tool_name=None), "execute_tool"),
        (span_event(name=None), "turn"),
        (span_event(name=None, kind=None), "span"),
    ],
)
def test_what_has_no_name_is_named_by_its_kind(tmp_path: Path, event: Event, name: str) -> None:
    assert span_of(tmp_path, event).name == name


def test_a_spans_own_attributes_are_names_counts_and_flags(tmp_path: Path) -> None:
    odd = {
        "tool": "terminal",
        "count": 3,
        "is_last": True,
        "share": 0.5,
        "nested": {"a": 1},
        "list": [1],
        "huge": 2**63,
        "half": "\ud83d",
        "none": None,
    }
    text = json.dumps(odd)[:-1] + ', "nan": NaN}'
    found = span_of(tmp_path, span_event(attrs_json=text)).attributes
    assert {key: found[key] for key in found if key.startswith("hermes.attrs.")} == {
        "hermes.attrs.tool": "terminal",
        "hermes.attrs.count": 3,
        "hermes.attrs.is_last": True,
        "hermes.attrs.share": 0.5,
        "hermes.attrs.half": "?",
    }


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 5000, "7"])
def test_span_attributes_that_are_no_object_are_left_out(tmp_path: Path, text: str) -> None:
    found = span_of(tmp_path, span_event(attrs_json=text)).attributes
    assert not [key for key in found if key.startswith("hermes.attrs")]


# ------------------------------------------------------------------------------------ the logs


def test_an_error_is_a_warning_in_its_runs_span(tmp_path: Path) -> None:
    (log,) = mapped(tmp_path, error_event(retryable=True, status_code=429, retry_count=2))
    assert isinstance(log, Log)
    assert (log.severity, log.time_ns, log.span_id) == (SEVERITY_WARN, START_NS, run_id_of("run-0"))
    assert log.attributes["exception.type"] == log.attributes["error.type"] == "auth"
    assert log.attributes["hermes.retryable"] is True
    assert log.attributes["hermes.status_code"] == 429
    assert "exception.message" not in log.attributes


def test_a_happening_lies_in_the_turn_it_came_in(tmp_path: Path) -> None:
    log, turn = reversed(
        mapped(tmp_path, span_event(1), happening("skill", parent_span_id="span-1", action="read"))
    )
    assert isinstance(log, Log)
    assert (log.severity, log.span_id) == (SEVERITY_INFO, turn.span_id)
    assert log.attributes["hermes.action"] == "read"


def test_each_log_record_has_a_mark_of_its_own(tmp_path: Path) -> None:
    logs = mapped(tmp_path, *(happening(kind) for kind in ("skill", "memory")), error_event())
    marks = {str(log.attributes["log.record.uid"]) for log in logs}
    assert len(marks) == 3
    assert all(len(mark) == 32 for mark in marks)


@pytest.mark.parametrize(("is_wanted", "count"), [(True, 1), (False, 0)])
def test_final_errors_are_events_of_the_runs_span_when_asked_for(
    tmp_path: Path, *, is_wanted: bool, count: int
) -> None:
    errors = [error_event(1, recovery="none"), error_event(2, recovery="retried")]
    run = mapped(tmp_path, *errors, run_event(), errors_as_events=is_wanted)[-1]
    assert isinstance(run, Span)
    assert [event.name for event in run.events] == ["gen_ai.client.operation.exception"] * count
