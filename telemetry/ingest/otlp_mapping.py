"""Spans of any GenAI-instrumented agent as rows: the agent's own mapping, read backwards. Pure.

A span that our agent exported carries its row's columns as ``hermes.*`` and becomes that row again.
Any other span is read by the GenAI conventions: an inference is a model call, ``execute_tool`` a
tool call, an agent or workflow without a parent the run itself, with one a subagent's span; what
is none of these is kept as a span. Its run is its trace (``otlp_traces``). Only attributes on the
closed list of ``otlp_names`` get here, and there is no column for content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from agent_client.contract import tables
from agent_client.contract.tables import BY_EVENT, MS_MAX, Table
from telemetry.ingest import otlp_names as names
from telemetry.ingest.otlp_failures import (
    call_end,
    error_class,
    error_type_of,
    result_of,
    run_end,
    status_code_of,
)
from telemetry.ingest.otlp_recorded import recorded_error, recorded_row
from telemetry.ingest.otlp_spans import Attribute, Decoded, OtlpSpan
from telemetry.ingest.otlp_traces import AGENT, LOCAL_ROOT, OTHER, ROOT, TraceFacts
from telemetry.ingest.otlp_values import (
    clean_name,
    count_of,
    id_of,
    is_finite,
    json_object,
    name_of,
    number_of,
)
from telemetry.ingest.scrub import scrub_and_cut, scrub_text
from telemetry.ingest.validate import LineFault, Refused, TimeBounds, time_fault
from telemetry.store.copy import Row

NS_PER_MS: Final = 1_000_000
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_KINDS: Final = ("span", "internal", "server", "client", "producer", "consumer")
_CLIENT: Final = 3
_RECORDED_SPANS: Final = frozenset({"run", "model_call", "tool_call", "span"})


@dataclass(slots=True)
class Mapped:
    """Rows by table, traces by run id with what this request says of them, and refused spans."""

    rows: dict[str, list[Row]] = field(
        default_factory=lambda: {table.name: [] for table in tables.EVENT_TABLES}
    )
    traces: dict[str, TraceFacts] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)


def map_spans(decoded: Decoded, bounds: TimeBounds) -> Mapped:
    """What the spans of a request become; never raises: a bad span is refused with a code."""
    mapped = Mapped(refused=list(decoded.refused))
    for span in decoded.spans:
        try:
            _check_ids(span)
            if span.attributes.get(names.HERMES_EVENT) in _RECORDED_SPANS:
                _take_recorded(span, bounds, mapped)
            else:
                _take_foreign(span, bounds, mapped)
        except _Untimely as fault:
            mapped.refused.append(Refused(span.number, fault.code, fault.detail, fault.raw))
        except LineFault as fault:
            raw = _described(span)
            mapped.refused.append(Refused(span.number, fault.code, fault.detail, raw))
    mapped.refused.sort(key=lambda refused: refused.line)
    return mapped


class _Untimely(LineFault):
    """A row at a time that is not accepted; ``raw`` is the row as a line of the wire."""

    def __init__(self, code: str, detail: str, raw: bytes) -> None:
        super().__init__(code, detail)
        self.raw = raw


def _check_ids(span: OtlpSpan) -> None:
    if len(span.trace_id) != len(_NO_TRACE) or span.trace_id == _NO_TRACE:
        raise LineFault("invalid_value", "trace_id")
    if len(span.span_id) != len(_NO_SPAN) or span.span_id == _NO_SPAN:
        raise LineFault("invalid_value", "span_id")
    if span.parent_id:
        if len(span.parent_id) != len(_NO_SPAN):
            raise LineFault("invalid_value", "parent_span_id")
        if span.parent_id == _NO_SPAN:  # some senders write no parent so
            span.parent_id = ""


def _check_times(span: OtlpSpan, bounds: TimeBounds, table: Table, row: Row) -> None:
    if span.start_ns > bounds.newest_ns:
        raise _Untimely("time_in_future", "start_ns", _line(table, row))
    if span.start_ns < bounds.oldest_ns:
        raise _Untimely("time_too_old", "start_ns", _line(table, row))
    if span.end_ns > bounds.newest_ns:
        raise _Untimely("time_in_future", "end_ns", _line(table, row))


def _line(table: Table, row: Row) -> bytes:
    """A row as its line of the wire: what the quarantine shows and can take in again."""
    record = dict(zip((*table.column_names(), "seq"), row, strict=True))
    return json.dumps({"_kind": table.name, **record}, separators=(",", ":")).encode()


def _described(span: OtlpSpan) -> bytes:
    """What of a refused span may be looked at: its place and the attributes on the closed list."""
    shown = {
        "trace_id": span.trace_id[:64],
        "span_id": span.span_id[:32],
        "parent_span_id": span.parent_id[:32],
        "name": scrub_and_cut(span.name, tables.NAME_MAX_CHARS),
        "start_ns": span.start_ns,
        "end_ns": span.end_ns,
        "attributes": span.attributes,
    }
    return json.dumps({"otlp_span": shown}, separators=(",", ":"), default=str).encode()


# ------------------------------------------------------------------- spans of our own agent


def _take_recorded(span: OtlpSpan, bounds: TimeBounds, mapped: Mapped) -> None:
    """The row that the agent exported, and a run's errors where it sent them as events."""
    event = str(span.attributes[names.HERMES_EVENT])
    table = BY_EVENT[event]
    row = recorded_row(table, span)
    _check_times(span, bounds, table, row)
    # A column may say another time than the span, and the day of the row is that of the column.
    fault = time_fault(table, row, bounds)
    if fault:
        raise _Untimely(*fault, _line(table, row))
    errors = [
        error
        for at, moment in enumerate(span.events)
        if moment.attributes.get(names.HERMES_EVENT) == "error"
        and bounds.oldest_ns <= moment.time_ns <= bounds.newest_ns
        and not time_fault(tables.ERRORS, error := recorded_error(span, at, moment), bounds)
    ]
    mapped.rows[table.name].append(row)
    mapped.rows[tables.ERRORS.name].extend(errors)


# ----------------------------------------------------------------------- spans of anybody else


def _take_foreign(span: OtlpSpan, bounds: TimeBounds, mapped: Mapped) -> None:
    operation = _operation(span)
    error: Row | None = None
    is_agent = operation in names.AGENT_OPERATIONS
    if operation in names.MODEL_OPERATIONS:
        table, row = tables.MODEL_CALLS, _model_call(span)
        error = _error(span, "model") if span.is_error else None
    elif operation == names.TOOL_OPERATION:
        table, row = tables.TOOL_CALLS, _tool_call(span)
        error = _error(span, "tool") if span.is_error else None
    else:
        table, row = tables.SPANS, _span(span, "subagent" if is_agent else operation)
    _check_times(span, bounds, table, row)
    rank = _rank(span, is_agent=is_agent)
    facts = _tell(span, rank, mapped.traces)
    if table is tables.SPANS and is_agent and rank == ROOT:
        return  # it is the run itself
    facts.count(table.name)
    mapped.rows[table.name].append(row)
    if error is not None:
        facts.count(tables.ERRORS.name)
        mapped.rows[tables.ERRORS.name].append(error)


def _tell(span: OtlpSpan, rank: int, traces: dict[str, TraceFacts]) -> TraceFacts:
    """The facts of a span's trace, with what the span says of the run added."""
    attributes, resource = span.attributes, span.resource
    session = id_of(attributes, names.CONVERSATION)
    agent = name_of(attributes, names.AGENT_NAME)
    service = name_of(resource, names.SERVICE_NAME)
    version = name_of(attributes, names.AGENT_VERSION) or name_of(resource, names.SERVICE_VERSION)
    reason = run_end(span) if span.is_error else "completed"
    # Nothing can be refused from here on: a refused span says nothing of its run.
    facts = traces.get(span.trace_id)
    if facts is None:
        facts = traces[span.trace_id] = TraceFacts(span.trace_id, span.start_ns)
    place = facts.add_span(rank, span.start_ns, span.span_id)
    if session:
        facts.say("session_id", place, session)
    if agent:
        facts.say("profile_id", place, agent)
    # What SDKs write for a service that was given no name says nothing.
    if service and not service.startswith("unknown_service"):
        facts.say("platform", place, service)
    if version:
        facts.say("agent_version", place, version)
    if rank <= LOCAL_ROOT and span.ended_ns is not None:
        facts.end(rank, span.ended_ns, span.span_id, reason)
    return facts


def _operation(span: OtlpSpan) -> str:
    """The conventions' word for what a span is; "" when it says nothing of the kind."""
    attributes = span.attributes
    said = attributes.get(names.OPERATION)
    if isinstance(said, str) and said:
        return _lowered(said)
    for name in names.KIND_WORDS:
        word = attributes.get(name)
        if isinstance(word, str) and word:
            lower = _lowered(word)
            return names.OPERATION_OF_WORD.get(lower, lower)
    # Instrumentations older than the operation's name.
    is_call = span.kind == _CLIENT and "gen_ai.request.model" in attributes
    return "chat" if is_call else ""


def _rank(span: OtlpSpan, *, is_agent: bool) -> int:
    if not span.parent_id:
        return ROOT
    if span.has_remote_parent:
        return LOCAL_ROOT
    return AGENT if is_agent else OTHER


def _model_call(span: OtlpSpan) -> Row:
    attributes = span.attributes
    request, response = (
        name_of(attributes, names.REQUEST_MODEL),
        name_of(attributes, names.RESPONSE_MODEL),
    )
    cache_read = count_of(attributes, names.CACHE_READ)
    cache_write = count_of(attributes, names.CACHE_WRITE)
    first_chunk_s = number_of(attributes, names.FIRST_CHUNK)
    return (
        span.span_id,
        span.trace_id,
        _provider(name_of(attributes, names.PROVIDER)),
        request or response,
        _server(attributes),
        uncached(count_of(attributes, names.INPUT), cache_read, cache_write),
        count_of(attributes, names.OUTPUT),
        cache_read,
        cache_write,
        count_of(attributes, names.REASONING),
        _took_ms(span),
        None if first_chunk_s is None else first_chunk_s * 1000,
        None,
        "unknown",
        None,
        call_end(span),
        0,
        span.trace_id,
        span.parent_id or None,
        span.start_ns,
        span.ended_ns,
        response,
        name_of(attributes, names.FINISH),
        id_of(attributes, names.RESPONSE_ID),
        status_code_of(attributes),
        0,
    )


def uncached(total: int | None, cache_read: int | None, cache_write: int | None) -> int | None:
    """Input tokens without the cached ones, as rows count them; never below zero.

    The conventions count cached tokens in. A total smaller than its own part was counted without
    them, as several instrumentations do, and is right as it is.
    """
    cached = (cache_read or 0) + (cache_write or 0)
    if total is None or total < cached:
        return total
    return total - cached


def _tool_call(span: OtlpSpan) -> Row:
    attributes = span.attributes
    tool = name_of(attributes, names.TOOL_NAME)
    kind = name_of(attributes, names.TOOL_TYPE)
    error = error_type_of(span)
    return (
        span.span_id,
        span.trace_id,
        tool or clean_name(span.name.removeprefix("execute_tool ")),
        None if kind == "function" else kind,
        _took_ms(span),
        result_of(span, error),
        0,
        None,
        span.trace_id,
        span.parent_id or None,
        span.start_ns,
        span.ended_ns,
        id_of(attributes, names.TOOL_CALL_ID),
        error,
        0,
    )


def _span(span: OtlpSpan, kind: str) -> Row:
    attributes = span.attributes
    kept = {
        short: scrub_and_cut(value, tables.NAME_MAX_CHARS) if isinstance(value, str) else value
        for name, value in attributes.items()
        if (short := names.SPAN_ATTRIBUTES.get(name)) is not None and is_finite(value)
    }
    agent = name_of(attributes, names.AGENT_NAME) if kind == "subagent" else None
    otel_kind = _KINDS[span.kind] if 0 <= span.kind < len(_KINDS) else "span"
    return (
        span.span_id,
        span.trace_id,
        span.trace_id,
        span.parent_id or None,
        agent or clean_name(span.name),
        clean_name(kind) or otel_kind,
        span.start_ns,
        span.ended_ns,
        "error" if span.is_error else "ok",
        json_object(kept),
        0,
    )


def _error(span: OtlpSpan, subsystem: str) -> Row:
    """The failure of a call that its instrumentation gave up; a retried one is no error span."""
    end_ns = span.ended_ns or span.start_ns
    return (
        span.span_id,
        span.trace_id,
        end_ns,
        error_class(error_type_of(span), status_code_of(span.attributes)),
        subsystem,
        "none",
        span.trace_id,
        span.span_id,
        span.start_ns,
        end_ns,
        None,
        status_code_of(span.attributes),
        0,
        0,
    )


@lru_cache(maxsize=1024)
def _provider(said: str | None) -> str | None:
    lower = _lowered(said or "")
    return names.PROVIDERS.get(lower, lower) or None


def _lowered(word: str) -> str:
    """A word in small letters, scrubbed before: in small letters an AWS key is none to any rule."""
    return scrub_text(scrub_and_cut(word, tables.NAME_MAX_CHARS)).strip().lower()


def _server(attributes: Mapping[str, Attribute]) -> str | None:
    host, port = name_of(attributes, names.SERVER), count_of(attributes, names.PORT)
    if not host or port in {None, 80, 443}:
        return host
    return f"{host}:{port}"[: tables.NAME_MAX_CHARS]


def _took_ms(span: OtlpSpan) -> float | None:
    if not span.end_ns:
        return None
    return max(0.0, min((span.end_ns - span.start_ns) / NS_PER_MS, MS_MAX))
