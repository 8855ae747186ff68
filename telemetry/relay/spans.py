"""Rows as the bytes of OTLP spans: what the agent's own exporter says of them, made faster.

Ids, times and parents are those that were recorded; a run is ``invoke_agent hermes-agent``, a model
call ``chat <model>``, a tool call ``execute_tool <tool>``. What repeats (names, models, outcomes)
is encoded once and remembered, a row costs the joining. ``agent_client.otlp.mapping`` is the
readable twin; a test holds both together for every column. Specification: A5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agent_client.contract import otlp_genai as genai
from agent_client.contract import otlp_ids as ids
from agent_client.contract.otlp_names import (
    COLUMN_KEYS,
    INT64_MAX,
    Attributes,
    object_attributes,
    times_of,
)
from agent_client.contract.tables import Table
from telemetry.relay.heads import (
    call_head,
    call_heads,
    remember,
    run_head,
    run_heads,
    span_head,
    span_heads,
    tool_head,
    tool_heads,
)
from telemetry.relay.wire import (
    SPAN_ATTRIBUTE,
    Numbers,
    Texts,
    attribute,
    attributes,
    double,
    unique_text,
)
from telemetry.store.relay_facts import InstallFacts, RunFacts
from telemetry.store.relay_rows import Row

Origin = tuple[str, str]
"""The agent version and profile that a row comes from; each pair is a resource of its own."""
_NO_RUN: Final = RunFacts()
_DERIVED: Final = attribute(SPAN_ATTRIBUTE, "hermes.time_source", "derived")
_times: Final = struct.Struct("<BQBQ").pack
_START_TAG: Final = 0x39
_END_TAG: Final = 0x41

_run_id = Texts("hermes.run_id")
_session = Texts("gen_ai.conversation.id")
_session_id = Texts("hermes.session_id")
_parent_run = Texts("hermes.parent_run_id")
_model_calls = Numbers("hermes.model_call_count")
_tool_calls = Numbers("hermes.tool_call_count")
_errors = Numbers("hermes.error_count")
_turns = Numbers("hermes.turn_count")
_trace = Texts("hermes.trace_id")
_request_id = unique_text("hermes.api_request_id")
_tool_call_id = unique_text("hermes.tool_call_id")
_gen_ai_call_id = unique_text("gen_ai.tool.call.id")
_input = Numbers("hermes.input_tokens")
_output = Numbers("hermes.output_tokens")
_read = Numbers("hermes.cache_read_tokens")
_write = Numbers("hermes.cache_write_tokens")
_reasoning = Numbers("hermes.reasoning_tokens")
_all_input = Numbers("gen_ai.usage.input_tokens")
_all_output = Numbers("gen_ai.usage.output_tokens")
_read_input = Numbers("gen_ai.usage.cache_read.input_tokens")
_creation_input = Numbers("gen_ai.usage.cache_creation.input_tokens")
_write_input = Numbers("gen_ai.usage.cache_write.input_tokens")
_reasoning_output = Numbers("gen_ai.usage.reasoning.output_tokens")
_latency = double("hermes.latency_ms")
_duration = double("hermes.duration_ms")
_ttft = double("hermes.ttft_ms")
_first_chunk = double("gen_ai.response.time_to_first_chunk")
_cost = double("hermes.estimated_cost_usd")


@dataclass(slots=True)
class _Run:
    """What all spans of a run share. ``trace``: the field, empty while each row's own decides."""

    trace: bytes
    root: bytes
    shared: bytes
    origin: Origin


class InstallSpans:
    """Writes the spans of one install in one profile.

    Each method takes a row as it was recorded and as it may be read, and answers the span's message
    without its length, and its origin.
    """

    def __init__(
        self, install_id: str, profile: str, facts: InstallFacts, events_of: EventsOf | None = None
    ) -> None:
        self._install_id = install_id
        self._profile = profile
        self._facts = facts
        self._events_of = events_of
        self._is_1_41, self._is_next = genai.is_1_41(profile), genai.is_next(profile)
        self._install_field = attribute(SPAN_ATTRIBUTE, "hermes.install.id", install_id)
        self._runs: dict[str, _Run] = {}
        self._parents: dict[tuple[str, str | None], bytes] = {}
        self._call_id = ids.span_id_maker("model_call", install_id)
        self._tool_id = ids.span_id_maker("tool_call", install_id)
        self._span_id = ids.span_id_maker("span", install_id)

    # ------------------------------------------------------------------------------- the spans

    def run(self, raw: Row, row: Row) -> tuple[bytes, Origin]:
        """A run that has ended."""
        (
            name,
            trace_id,
            session_id,
            profile_id,
            entrypoint,
            platform,
            _,
            _,
            end_reason,
            model_calls,
            tool_calls,
            errors,
            cost_usd,
            cost_status,
            schema_v,
            parent_name,
            agent_version,
            turns,
        ) = row
        run_id, parent = raw[0], raw[15]
        provider = self._facts.providers.get(run_id) if self._is_1_41 else None
        key = (
            *(entrypoint, platform, end_reason, cost_status, schema_v, agent_version, profile_id),
            *(provider, self._is_1_41),
        )
        head = run_heads.get(key)
        if head is None:
            head = remember(run_heads, key, run_head(key))
        start_ns, end_ns, is_derived = times_of(raw[6], raw[7], None)
        # Without a recorded trace id a run has a trace of its own: a parent there is none here.
        is_child = bool(parent) and parent != run_id and ids.is_trace_id(trace_id)
        parts = [
            self._trace_field(run_id, trace_id),
            b"\x12\x08",
            ids.run_span_id(self._install_id, run_id),
            b"\x22\x08" + ids.run_span_id(self._install_id, parent) if is_child else b"",
            head,
            _times(_START_TAG, start_ns, _END_TAG, end_ns),
            self._install_field,
            *(_run_id[name], _trace[trace_id], _session_id[session_id], _parent_run[parent_name]),
            *(_model_calls[model_calls], _tool_calls[tool_calls], _errors[errors], _turns[turns]),
            _session[session_id] if session_id else b"",
            _cost(cost_usd) if cost_usd is not None else b"",
            _DERIVED if is_derived else b"",
            self._events_of(run_id) if self._events_of else b"",
        ]
        return b"".join(parts), (agent_version or "", profile_id or "")

    def model_call(self, raw: Row, row: Row) -> tuple[bytes, Origin]:
        """A model call, with all its retries."""
        (
            _,
            _,
            provider,
            model,
            base_url,
            fresh,
            output,
            read,
            write,
            reasoning,
            latency_ms,
            ttft_ms,
            cost_usd,
            cost_status,
            cost_source,
            end_reason,
            retries,
            trace_id,
            _,
            _,
            _,
            response_model,
            finish_reason,
            request_id,
            status_code,
        ) = row
        has_first = ttft_ms is not None and ttft_ms - ttft_ms == 0
        key = (
            provider,
            model,
            base_url,
            raw[4],
            cost_status,
            cost_source,
            end_reason,
            retries,
            response_model,
            finish_reason,
            status_code,
            has_first,
        )
        heads = call_heads
        head = heads.get(key)
        if head is None:
            head = remember(heads, key, call_head(key))
        parts = [head, _input[fresh], _output[output], _read[read], _write[write]]
        parts += (_reasoning[reasoning], _trace[trace_id])
        if fresh is not None or output is not None:
            self._add_usage(parts, fresh, output, read, write, reasoning)
        if latency_ms is not None:
            parts.append(_latency(latency_ms))
        if has_first:
            parts += (_ttft(ttft_ms), _first_chunk(ttft_ms / 1000))
        if cost_usd is not None:
            parts.append(_cost(cost_usd))
        if request_id is not None:
            parts.append(_request_id(request_id))
        place = (self._call_id(raw[0]), raw[1], row[1], raw[18], trace_id, raw[19], raw[20])
        return self._child(place, latency_ms, parts)

    def _add_usage(
        self,
        parts: list[bytes],
        fresh: int | None,
        output: int | None,
        read: int | None,
        write: int | None,
        reasoning: int | None,
    ) -> None:
        """``gen_ai.usage.*``: input counts cached tokens too; what is not said is not none."""
        if fresh is not None or read is not None or write is not None:
            whole = (fresh or 0) + (read or 0) + (write or 0)
            parts.append(_all_input[min(whole, INT64_MAX)])
        parts.append(_all_output[output])
        if read:
            parts.append(_read_input[read])
        if write:
            if self._is_1_41:
                parts.append(_creation_input[write])
            if self._is_next:
                parts.append(_write_input[write])
        if reasoning:
            parts.append(_reasoning_output[reasoning])

    def tool_call(self, raw: Row, row: Row) -> tuple[bytes, Origin]:
        """A tool call; a person's no is an answer, not an error."""
        (
            _,
            _,
            tool_name,
            backend,
            duration_ms,
            result_class,
            retries,
            approval,
            trace_id,
            _,
            _,
            _,
            call_id,
            error_type,
        ) = row
        key = (tool_name, backend, result_class, retries, approval, error_type)
        heads = tool_heads
        head = heads.get(key)
        if head is None:
            head = remember(heads, key, tool_head(key))
        parts = [head, _trace[trace_id]]
        if duration_ms is not None:
            parts.append(_duration(duration_ms))
        if call_id is not None:
            parts.append(_tool_call_id(call_id))
            if call_id:
                parts.append(_gen_ai_call_id(call_id))
        place = (self._tool_id(raw[0]), raw[1], row[1], raw[9], trace_id, raw[10], raw[11])
        return self._child(place, duration_ms, parts)

    def span(self, raw: Row, row: Row) -> tuple[bytes, Origin]:
        """A turn, a subagent, a wait for approval."""
        _, trace_id, _, _, name, kind, _, _, status, attrs = row
        key = (name, kind, status)
        head = span_heads.get(key)
        if head is None:
            head = remember(span_heads, key, span_head(key))
        parts = [head, _trace[trace_id]]
        if attrs:
            parts.append(attributes(SPAN_ATTRIBUTE, object_attributes(attrs)))
        place = (self._span_id(raw[0]), raw[2], row[2], raw[3], trace_id, raw[6], raw[7])
        return self._child(place, None, parts)

    # --------------------------------------------------------------------------------- lineage

    def trace_of(self, run_id: str, trace_id: str | None) -> bytes:
        """The trace id of a run's child; the run's own row decides where it is known."""
        run = self._facts.runs.get(run_id)
        return ids.trace_id(self._install_id, run_id, trace_id if run is None else run.trace_id)

    def parent_of(self, run_id: str, parent: str | None) -> bytes:
        """The recorded parent's span id; the run's where that is no row.

        A turn's row is written at its end: while the run is open a parent without a row counts
        as one that is still going on.
        """
        key = (run_id, parent)
        found = self._parents.get(key)
        if found is None:
            found = self._parents[key] = self._find_parent(run_id, parent)
        return found

    def origin_of(self, run_id: str) -> Origin:
        """Where a row of a run comes from."""
        run = self._facts.runs.get(run_id, _NO_RUN)
        return run.agent_version or "", run.profile_id or ""

    def _child(
        self, place: _Place, took_ms: float | None, parts: list[bytes]
    ) -> tuple[bytes, Origin]:
        span_id, run_id, run_name, parent, trace_id, begin, end = place
        run = self._runs.get(run_id)
        if run is None:
            run = self._run(run_id, run_name, trace_id)
        if begin > 0 and end is not None:
            start_ns, end_ns = begin, max(begin, end)
        else:
            start_ns, end_ns, _ = times_of(begin, end, took_ms)
            parts.append(_DERIVED)
        parts += (
            run.trace or self._trace_field(run_id, trace_id),
            b"\x12\x08",
            span_id,
            b"\x22\x08",
            self._parents.get((run_id, parent)) or self.parent_of(run_id, parent),
            _times(_START_TAG, start_ns, _END_TAG, end_ns),
            run.shared,
        )
        return b"".join(parts), run.origin

    def _run(self, run_id: str, name: str, trace_id: str | None) -> _Run:
        found = self._runs.get(run_id)
        if found is None:
            facts = self._facts.runs.get(run_id)
            session = facts.session_id if facts else None
            found = self._runs[run_id] = _Run(
                self._trace_field(run_id, facts.trace_id) if facts else b"",
                ids.run_span_id(self._install_id, run_id),
                _run_id[name] + (_session[session] if session else b""),
                self.origin_of(run_id),
            )
        return found

    def _trace_field(self, run_id: str, trace_id: str | None) -> bytes:
        return b"\x0a\x10" + ids.trace_id(self._install_id, run_id, trace_id)

    def _find_parent(self, run_id: str, parent: str | None) -> bytes:
        if parent and parent != run_id:
            kind = self._facts.parents.get(parent)
            if kind is None and not self._facts.runs.get(run_id, _NO_RUN).is_closed:
                kind = "span"
            if kind is not None:
                return ids.span_id(kind, self._install_id, parent)
        return ids.run_span_id(self._install_id, run_id)


type _Place = tuple[bytes, str, str, str | None, str | None, int, int | None]
"""Span id, run id as recorded and as it may be read, parent, trace id, start and end."""
type EventsOf = Callable[[str], bytes]
"""The events on the span of a run, as fields of it."""


def columns_of(table: Table, row: Row) -> Attributes:
    """Every recorded column as ``hermes.<column>``."""
    record: dict[str, Any] = dict(zip(table.column_names(), row, strict=True))
    found: Attributes = {"hermes.event": table.event}
    for name, key, is_flag in COLUMN_KEYS[table.name]:
        value = record[name]
        if value is not None:
            found[key] = bool(value) if is_flag else value
    return found
