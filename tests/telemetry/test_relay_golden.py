"""The relay's bytes against the agent's own exporter and OpenTelemetry's SDK, for random rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs as sdk_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as sdk_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from agent_client.contract.otlp_genai import PROFILES
from agent_client.contract.tables import (
    ERRORS,
    MODEL_CALLS,
    RUNS,
    SPANS,
    TOOL_CALLS,
    Table,
)
from agent_client.otlp.encode import encode_logs as agent_logs
from agent_client.otlp.encode import encode_spans as agent_spans
from agent_client.otlp.facts import Facts as AgentFacts
from agent_client.otlp.facts import RunFacts as AgentRun
from agent_client.otlp.mapping import Mapper
from agent_client.otlp.scrub import Scrubber
from agent_client.otlp.signals import Log, Span
from agent_client.store import Row as AgentRow
from telemetry.relay.cleaned import clean_facts, clean_rows
from telemetry.relay.logs import InstallLogs, run_events
from telemetry.relay.spans import InstallSpans
from telemetry.store.relay_facts import InstallFacts, RunFacts
from telemetry.store.relay_rows import LOG_TABLES, TRACE_TABLES, Row
from tests.agent_client.otlp_homes import INSTALL, TRACE, sender
from tests.agent_client.otlp_rows import ROWS, TEXT
from tests.agent_client.test_otlp_oracle import alike, readable_log, readable_span

NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Rows of eleven tables shrink for minutes and say no more than the first."""
Recorded = tuple[Table, Mapping[str, object]]
RUN = st.builds(
    RunFacts,
    trace_id=TEXT | st.just(TRACE),
    session_id=TEXT | st.none(),
    profile_id=TEXT | st.none(),
    agent_version=st.sampled_from([None, "0.19.0", "0.20.0"]),
    is_closed=st.booleans(),
)


def stored(table: Table, row: Mapping[str, object]) -> Row:
    return tuple(row[name] for name in table.column_names())


def facts_of(rows: list[Recorded], run: RunFacts) -> InstallFacts:
    """The same facts for the run of every row, some parents and some errors."""
    run_ids = [str(row["run_id"]) for _, row in rows]
    parents = {
        str(row["span_id"]): table.event
        for table, row in rows
        if table in (SPANS, TOOL_CALLS, MODEL_CALLS)
    }
    errors: dict[str, list[Row]] = {}
    for table, row in rows:
        if table is ERRORS:
            errors.setdefault(str(row["run_id"]), []).append(stored(table, row))
    return InstallFacts(
        dict.fromkeys(run_ids, run), parents, dict.fromkeys(run_ids, "gemini"), errors
    )


def by_the_agent(
    rows: list[Recorded], found: InstallFacts, profile: str, *, errors_as_events: bool
) -> list[Span | Log]:
    scrubber = Scrubber()
    mapper = Mapper(INSTALL, profile, errors_as_events=errors_as_events)
    clean = clean_facts({UUID(INSTALL): found})[INSTALL]
    mapper.facts = AgentFacts(
        runs={
            run_id: AgentRun(
                run.trace_id, run.session_id, run.profile_id, run.agent_version, run.is_closed
            )
            for run_id, run in clean.runs.items()
        },
        parents=found.parents,
        providers=clean.providers,
        errors={
            run_id: [scrubber.pair_of(AgentRow(ERRORS, 1, row)) for row in errors]
            for run_id, errors in found.errors.items()
        },
    )
    pairs = [
        (table, scrubber.pair_of(AgentRow(table, 1, stored(table, row)))) for table, row in rows
    ]
    made = [mapper.map(table, raw, record) for table, (raw, record) in pairs]
    return [entry for entry in made if entry is not None]


def by_the_relay(
    rows: list[Recorded], found: InstallFacts, profile: str, *, errors_as_events: bool
) -> tuple[list[SpanMessage], list[LogRecord]]:
    clean = clean_facts({UUID(INSTALL): found})[INSTALL]
    events = run_events(INSTALL, clean) if errors_as_events else None
    writer = InstallSpans(INSTALL, profile, clean, events)
    logs = InstallLogs(INSTALL, writer)
    write = {
        RUNS: writer.run,
        MODEL_CALLS: writer.model_call,
        TOOL_CALLS: writer.tool_call,
        SPANS: writer.span,
        **{table: logs.of(table) for table in LOG_TABLES},
    }
    spans, records = [], []
    for table, row in rows:
        if table is RUNS and row["end_ns"] is None:
            continue
        raw = stored(table, row)
        (clean_row,) = clean_rows(table, [raw])
        data, _ = write[table](raw, clean_row)
        if table in TRACE_TABLES:
            spans.append(SpanMessage.FromString(data))
        else:
            records.append(LogRecord.FromString(data))
    return spans, records


def sorted_attributes(message: Any) -> Any:  # noqa: ANN401 -- a span or a log record
    """The message with its attributes by name: their order says nothing; a doubled one fails."""
    for one in (message, *getattr(message, "events", ())):
        pairs = sorted(one.attributes, key=lambda pair: pair.key)
        assert len({pair.key for pair in pairs}) == len(pairs)
        del one.attributes[:]
        one.attributes.extend(pairs)
    return message


def spans_in(request: ExportTraceServiceRequest) -> list[SpanMessage]:
    found = [
        sorted_attributes(span)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    return sorted(found, key=lambda span: span.SerializeToString())


def logs_in(request: ExportLogsServiceRequest) -> list[LogRecord]:
    found = [
        sorted_attributes(record)
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
    for record in found:
        record.ClearField("body")  # the SDK writes an empty one
    return sorted(found, key=lambda record: record.SerializeToString())


def ours(messages: list[Any]) -> list[Any]:
    return sorted(map(sorted_attributes, messages), key=lambda one: one.SerializeToString())


@settings(max_examples=100, deadline=None, phases=NO_SHRINKING)
@given(st.lists(ROWS, max_size=6), RUN, st.sampled_from(PROFILES), st.booleans())
def test_rows_become_what_the_agent_itself_and_the_sdk_would_send(
    rows: list[Recorded], run: RunFacts, profile: str, errors_as_events: bool
) -> None:
    found = facts_of(rows, run)
    spans, logs = by_the_relay(rows, found, profile, errors_as_events=errors_as_events)
    theirs = by_the_agent(rows, found, profile, errors_as_events=errors_as_events)
    who = sender(profile)
    their_spans = [entry for entry in theirs if isinstance(entry, Span)]
    their_logs = [entry for entry in theirs if isinstance(entry, Log)]
    by_agent = ExportTraceServiceRequest.FromString(agent_spans(their_spans, who))
    assert ours(spans) == spans_in(by_agent)
    logs_by_agent = ExportLogsServiceRequest.FromString(agent_logs(their_logs, who))
    assert ours(logs) == logs_in(logs_by_agent)
    by_sdk = sdk_spans([readable_span(span, who) for span in their_spans])
    assert spans_in(alike(by_agent, flags=0x001)) == spans_in(alike(by_sdk, flags=0x100))
    logs_by_sdk = sdk_logs([readable_log(log, who) for log in their_logs])
    assert ours(logs) == logs_in(logs_by_sdk)
