"""What we send, as a receiver that others wrote understands it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent_client.contract.events import Event
from agent_client.emitter import Emitter
from agent_client.otlp.drain import drain
from agent_client.store import Store
from tests.agent_client.builders import (
    SECOND_NS,
    START_NS,
    error_event,
    model_call,
    run_event,
    span_event,
    tool_call,
)
from tests.agent_client.otlp_homes import TRACE, configure, in_trace
from tests.real_receiver.phoenix import Phoenix, SpanFound

pytestmark = [pytest.mark.real_receiver, pytest.mark.slow, pytest.mark.timeout(1200)]


def session() -> list[Event]:
    """A run that failed, with a turn, a cached model call, a tool call and a subagent."""
    second = {"start_ns": START_NS + SECOND_NS, "end_ns": START_NS + 2 * SECOND_NS}
    return in_trace(
        model_call(0, parent_span_id="turn", input_tokens=100, cache_read_tokens=40, **CACHED),
        tool_call(0, parent_span_id="turn", result_class="error", **second),
        error_event(0),
        model_call(1, run_id="run-1", parent_span_id="run-1", model="small"),
        run_event(1, parent_run_id="run-0", entrypoint="subagent"),
        span_event(0, span_id="turn", name="turn", end_ns=START_NS + 3 * SECOND_NS),
        run_event(0, end_ns=START_NS + 3 * SECOND_NS, end_reason="failed"),
    )


CACHED = {"cache_write_tokens": 7, "output_tokens": 5, "provider": "gemini"}


def record(home: Path, events: list[Event]) -> None:
    """Through the recorder itself."""
    emitter = Emitter(home)
    for event in events:
        emitter.emit(event)
    assert emitter.flush(10)
    emitter.close()


def named(spans: dict[str, SpanFound]) -> dict[str, SpanFound]:
    """Spans by name and, for the two runs, by entrypoint."""
    return {
        f"{span['name']} {span['attributes'].get('hermes.entrypoint', '')}".strip(): span
        for span in spans.values()
    }


def at(when_ns: int) -> datetime:
    return datetime.fromtimestamp(when_ns / 1e9, UTC)


def times_of(span: SpanFound) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(span["start_time"]), datetime.fromisoformat(span["end_time"])


def test_phoenix_shows_what_was_recorded_once(tmp_path: Path, phoenix: Phoenix) -> None:
    configure(tmp_path, phoenix.url, errors_as_span_events=True)
    record(tmp_path, session())
    report = drain(tmp_path)
    assert (report.status, report.sent, report.left) == ("partial", {"spans": 7}, 0)
    # It takes traces alone, and the report says what to do about that.
    assert "telemetry.export.otlp.metrics: false" in report.detail
    assert "telemetry.export.otlp.logs: false" in report.detail
    spans = phoenix.wait_for(7)
    found = named(spans)
    run, child = found["invoke_agent hermes-agent cli"], found["invoke_agent hermes-agent subagent"]
    turn, call, tool = found["turn"], found["chat model-a"], found["execute_tool terminal"]

    assert {span["context"]["trace_id"] for span in spans.values()} == {TRACE}
    assert run["parent_id"] is None
    assert turn["parent_id"] == child["parent_id"] == run["context"]["span_id"]
    assert call["parent_id"] == tool["parent_id"] == turn["context"]["span_id"]
    # Nobody recorded how the subagent ended: the drain takes in what is owed before it sends.
    assert found["subagent"]["parent_id"] in {s["context"]["span_id"] for s in (run, turn)}
    assert found["chat small"]["parent_id"] == child["context"]["span_id"]

    assert times_of(run) == (at(START_NS), at(START_NS + 3 * SECOND_NS))
    assert times_of(tool) == (at(START_NS + SECOND_NS), at(START_NS + 2 * SECOND_NS))
    assert (run["status_code"], tool["status_code"]) == ("ERROR", "ERROR")
    assert (call["status_code"], turn["status_code"]) == ("UNSET", "UNSET")
    assert [event["name"] for event in run["events"]] == ["gen_ai.client.operation.exception"]

    assert call["span_kind"] == "LLM"
    assert call["attributes"]["llm.token_count.prompt"] == 147
    assert call["attributes"]["llm.token_count.completion"] == 5
    assert call["attributes"]["llm.token_count.prompt_details.cache_read"] == 40
    assert call["attributes"]["llm.token_count.prompt_details.cache_write"] == 7
    assert call["attributes"]["gen_ai.provider.name"] == "gcp.gemini"

    # The books are lost although the collector had taken everything: all of it is sent again.
    with Store(tmp_path) as store:
        store.connection.execute("DELETE FROM tel_state WHERE key LIKE 'otlp.%'")
    configure(tmp_path, phoenix.url, logs=False, metrics=False, errors_as_span_events=True)
    record(tmp_path, in_trace(model_call(2, model="the-last")))
    resent = drain(tmp_path)
    assert (resent.status, resent.sent) == ("sent", {"spans": 8})
    again = phoenix.wait_for(8)
    assert {span_id: again[span_id] for span_id in spans} == spans
