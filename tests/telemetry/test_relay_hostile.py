"""Whatever the tables hold, what goes out is OTLP, redacted, and comes in again as it was."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agent_client.contract.otlp_names import INT64_MAX
from agent_client.contract.tables import ERRORS, MODEL_CALLS, RUNS, SPANS, TOOL_CALLS, Table
from fleet.lib.clock import now
from telemetry.ingest.otlp_mapping import map_spans
from telemetry.ingest.otlp_protobuf import decode_protobuf
from telemetry.relay.encode import Target, encode_logs, encode_traces
from telemetry.store.relay_rows import EntryRows
from tests.telemetry import relay_rows as relay
from tests.telemetry.builders import INSTALL, S, model_call, recent_ns, run, span, tool_call
from tests.telemetry.otlp_builders import ANY_TIME
from tests.telemetry.relay_rows import TRACE, attributes_of, fed, spans_of
from tests.telemetry.test_api_batch import enrolled

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
AT = recent_ns()
SECRET = "sk-ant-api03-" + "aB3dE5fG7hJ9" * 6 + "AA"


def entry(table: Table, **values: object) -> EntryRows:
    """A row as no ingest would have taken it."""
    whole = {"run_id": "r", "span_id": "s", "start_ns": AT, "ts_ns": AT, **values}
    row = tuple(whole.get(name) for name in table.column_names())
    return EntryRows(1, INSTALL, now(), 0, {table.name: [row]})


def sent(table: Table, **values: object) -> Any:  # noqa: ANN401 -- a span or a log record
    found = [entry(table, **values)]
    if table is ERRORS:
        (body,) = encode_logs(found, Target())
        return body.data
    (one,) = relay.spans_in(encode_traces(found, Target("both", errors_as_span_events=True)))
    return one


@pytest.mark.parametrize("value", [-1, -(2**63), INT64_MAX, 2**62])
def test_numbers_at_the_ends_of_64_bits_are_sent(value: int) -> None:
    tokens = dict.fromkeys(
        ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"), value
    )
    one = sent(MODEL_CALLS, **tokens, retry_count=value, status_code=value)
    said = attributes_of(one)
    assert said["hermes.input_tokens"] == said["hermes.retry_count"] == value
    assert abs(said["gen_ai.usage.input_tokens"]) <= 2**63


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(value: float) -> None:
    one = sent(MODEL_CALLS, latency_ms=value, ttft_ms=value, estimated_cost_usd=value)
    keys = attributes_of(one)
    assert not {"hermes.latency_ms", "hermes.ttft_ms", "hermes.estimated_cost_usd"} & set(keys)
    assert one.end_time_unix_nano == AT
    assert "hermes.estimated_cost_usd" not in attributes_of(
        sent(RUNS, end_ns=AT, estimated_cost_usd=value)
    )


def test_a_span_never_ends_before_it_begins() -> None:
    for table in (RUNS, MODEL_CALLS, TOOL_CALLS, SPANS):
        one = sent(table, end_ns=AT - S)
        assert (one.start_time_unix_nano, one.end_time_unix_nano) == (AT, AT)


@pytest.mark.parametrize("text", ["a\0b", "é" * 100, "x" * 1_048_576, "\ud800", ""])
def test_any_text_is_a_name(text: str) -> None:
    shown = text.encode("utf-8", "replace").decode()
    for table, column in ((MODEL_CALLS, "model"), (TOOL_CALLS, "tool_name"), (SPANS, "name")):
        one = sent(table, **{column: text, "trace_id": text})
        assert attributes_of(one)[f"hermes.{column}"] == shown
        assert (len(one.trace_id), len(one.span_id)) == (16, 8)


@pytest.mark.parametrize("attrs", ['{"a": 1', "[]", '{"a": NaN, "b": 1e999}', "[" * 9_999, '"x"'])
def test_attributes_that_are_none_are_left_out(attrs: str) -> None:
    keys = attributes_of(sent(SPANS, attrs_json=attrs))
    assert not [key for key in keys if key.startswith("hermes.attrs")]


def test_secrets_that_the_tables_hold_do_not_leave() -> None:
    texts = {
        MODEL_CALLS: ("model", "provider", "base_url", "api_request_id", "finish_reason"),
        TOOL_CALLS: ("tool_name", "error_type", "tool_call_id"),
        SPANS: ("name", "kind", "attrs_json"),
        RUNS: ("session_id", "profile_id", "platform", "agent_version", "parent_run_id"),
        ERRORS: ("error_class", "subsystem"),
    }
    for table, columns in texts.items():
        for column in (*columns, "run_id", "trace_id"):
            text = f'{{"key": "{SECRET}"}}' if column == "attrs_json" else SECRET
            found = sent(table, end_ns=AT, **{column: text})
            data = found if isinstance(found, bytes) else found.SerializeToString()
            assert SECRET.encode() not in data, (table.name, column)


def test_an_address_loses_its_user_path_and_query() -> None:
    one = sent(MODEL_CALLS, base_url="https://user:pass@llm.example:8443/v1/secret?key=1")
    said = attributes_of(one)
    assert said["hermes.base_url"] == "llm.example:8443"
    assert (said["server.address"], said["server.port"]) == ("llm.example", 8443)
    assert b"secret" not in one.SerializeToString()
    assert b"pass" not in one.SerializeToString()


def test_where_redaction_fails_nothing_readable_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr("agent_client.contract.redact._engine.matchers", broken)
    one = sent(TOOL_CALLS, tool_name="a tool never seen before", tool_call_id="an id, too")
    said = attributes_of(one)
    assert said["gen_ai.tool.name"] == said["gen_ai.tool.call.id"] == "[redaction-unavailable]"


def test_what_was_sent_on_comes_in_again_as_the_same_rows() -> None:
    end = {"start_ns": AT, "end_ns": AT + S, "trace_id": TRACE}
    records = [
        run(1, **end, session_id="s-1", estimated_cost_usd=0.25, model_call_count=1),
        model_call(2, **end, cache_read_tokens=7, finish_reason="stop", base_url="llm.example"),
        tool_call(3, **end, tool_call_id="call-1", approval="once"),
        span(4, **end, attrs_json='{"iterations":3}'),
    ]
    (body,) = relay.bodies(fed(*records))
    mapped = map_spans(decode_protobuf(body.data), ANY_TIME)
    assert (mapped.refused, mapped.traces) == ([], {})
    for record in records:
        table = next(t for t in (RUNS, MODEL_CALLS, TOOL_CALLS, SPANS) if t.name == record["_kind"])
        (row,) = mapped.rows[table.name]
        got = dict(zip(table.column_names(), row, strict=False))
        hashed = {"span_id", "parent_span_id"}
        kept = {name: record[name] for name in table.column_names() if name not in hashed}
        assert {name: got[name] for name in kept} == kept


def test_the_console_takes_its_own_relays_body_in(client: Any) -> None:  # noqa: ANN401 -- Django's
    credential = enrolled()
    end = {"start_ns": AT, "end_ns": AT + S, "trace_id": TRACE}
    entry = fed(run(1, **end), model_call(2, **end), install_id=UUID(int=99))
    (body,) = relay.bodies(entry)
    answer = client.post(
        "/v1/traces",
        data=body.compressed(),
        content_type="application/x-protobuf",
        headers={"authorization": f"Bearer {credential}", "content-encoding": "gzip"},
    )
    assert (answer.status_code, answer.content) == (200, b"")
    assert ExportTraceServiceRequest.FromString(body.data).resource_spans
    assert len(spans_of(entry)) == 2
