"""Redacted records as spans and log records: recorded ids, times and parents, nothing invented.

A run is ``invoke_agent hermes-agent``, a model call ``chat <model>``, a tool call ``execute_tool
<tool>``; turns, subagents and waits for approval are spans of their own names. Errors and
happenings are log records. Every column goes along as ``hermes.<column>``; there is no column for
content, so none can leave. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Final

from agent_client.contract import otlp_genai as genai
from agent_client.contract import otlp_ids as ids
from agent_client.contract.otlp_names import (
    CLIENT,
    COLUMN_KEYS,
    EXCEPTION_EVENT,
    INTERNAL,
    OTHER_ERROR,
    RUN_ERRORS,
    SEVERITY_INFO,
    SEVERITY_WARN,
    Attributes,
    call_error,
    object_attributes,
    server_of,
    time_of,
    times_of,
    tool_error,
)
from agent_client.contract.tables import (
    ERRORS,
    MODEL_CALLS,
    RUNS,
    SPANS,
    TOOL_CALLS,
    Table,
)
from agent_client.otlp.facts import NO_RUN, Facts
from agent_client.otlp.signals import Log, Origin, PointEvent, Span

Record = Mapping[str, object]
_INPUTS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens")


class Mapper:
    """Maps the records of one install in one profile; ``facts`` are those of the rows at hand.

    Each method takes the row as it was recorded (``raw``) and what the redactor left of it
    (``record``). Ids are hashes of the raw ones, so that two ids which the redactor blots out stay
    two spans; everything that can be read comes from the record.
    """

    def __init__(self, install_id: str, profile: str, *, errors_as_events: bool = False) -> None:
        self.install_id = install_id
        self.profile = profile
        self.errors_as_events = errors_as_events
        self.facts = Facts()

    def map(self, table: Table, raw: Record, record: Record) -> Span | Log | None:
        """What a row becomes; None for a run that is still open: it comes again when it ends.

        Other rows are written once: a span without an end will not get one.
        """
        if table is MODEL_CALLS:
            return self._model_call(raw, record)
        if table is TOOL_CALLS:
            return self._tool_call(raw, record)
        if table is SPANS:
            return self._span_row(raw, record)
        if table is RUNS:
            return None if raw["end_ns"] is None else self._run(raw, record)
        return self._error(raw, record) if table is ERRORS else self._happening(table, raw, record)

    # ------------------------------------------------------------------------------- the spans

    def _run(self, raw: Record, record: Record) -> Span:
        run_id, reason = str(raw["run_id"]), record["end_reason"]
        attributes = _columns(RUNS, record)
        attributes["hermes.install.id"] = self.install_id
        attributes["gen_ai.operation.name"] = "invoke_agent"
        attributes["gen_ai.agent.name"] = genai.AGENT_NAME
        _put(attributes, "gen_ai.conversation.id", record["session_id"])
        if genai.is_1_41(self.profile):
            _put(attributes, "gen_ai.agent.version", record["agent_version"])
            provider = genai.provider_name(self.facts.providers.get(run_id))
            _put(attributes, "gen_ai.provider.name", provider)
        is_error = reason in RUN_ERRORS
        if is_error:
            attributes["error.type"] = str(reason)
        parent = raw["parent_run_id"]
        # Without a recorded trace id a run has a trace of its own: a parent there is none here.
        is_child = bool(parent) and parent != run_id and ids.is_trace_id(record["trace_id"])
        start_ns, end_ns = _times(raw, None, attributes)
        return Span(
            self._origin(run_id),
            ids.trace_id(self.install_id, run_id, record["trace_id"]),
            ids.run_span_id(self.install_id, run_id),
            ids.run_span_id(self.install_id, str(parent)) if is_child else b"",
            f"invoke_agent {genai.AGENT_NAME}",
            INTERNAL,
            start_ns,
            end_ns,
            is_error,
            attributes,
            self._run_events(run_id),
        )

    def _model_call(self, raw: Record, record: Record) -> Span:
        attributes = _columns(MODEL_CALLS, record)
        model = _text(record["model"])
        attributes["gen_ai.operation.name"] = "chat"
        _put(attributes, "gen_ai.provider.name", genai.provider_name(record["provider"]))
        _put(attributes, "gen_ai.request.model", model)
        _put(attributes, "gen_ai.response.model", record["response_model"])
        if record["finish_reason"]:
            attributes["gen_ai.response.finish_reasons"] = (str(record["finish_reason"]),)
        ttft_ms = record["ttft_ms"]
        if isinstance(ttft_ms, (int, float)) and isfinite(ttft_ms):
            attributes["gen_ai.request.stream"] = True
            attributes["gen_ai.response.time_to_first_chunk"] = ttft_ms / 1000
        if record["input_tokens"] is not None or record["output_tokens"] is not None:
            output = record["output_tokens"]
            attributes |= genai.usage_attributes(
                self.profile,
                uncached=_count(record["input_tokens"]),
                cache_read=_count(record["cache_read_tokens"]),
                cache_write=_count(record["cache_write_tokens"]),
                output=output if isinstance(output, int) else None,
                reasoning=_count(record["reasoning_tokens"]),
            )
            if all(record[name] is None for name in _INPUTS):
                del attributes["gen_ai.usage.input_tokens"]  # not said is not none
        _put_server(attributes, raw["base_url"], record["base_url"])
        error = call_error(record["status_code"], record["end_reason"])
        if error:
            attributes["error.type"] = error
        name = f"chat {model}" if model else "chat"
        return self._child("model_call", CLIENT, name, raw, record, attributes, raw["latency_ms"])

    def _tool_call(self, raw: Record, record: Record) -> Span:
        attributes = _columns(TOOL_CALLS, record)
        tool = _text(record["tool_name"])
        attributes["gen_ai.operation.name"] = "execute_tool"
        attributes["gen_ai.tool.name"] = tool or "unknown"
        attributes["gen_ai.tool.type"] = genai.tool_type(record["backend"], tool)
        attributes["gen_ai.agent.name"] = genai.AGENT_NAME
        _put(attributes, "gen_ai.tool.call.id", record["tool_call_id"])
        error = tool_error(record["approval"], record["result_class"], record["error_type"])
        if error:
            attributes["error.type"] = error
        name = f"execute_tool {tool}" if tool else "execute_tool"
        return self._child("tool_call", INTERNAL, name, raw, record, attributes, raw["duration_ms"])

    def _span_row(self, raw: Record, record: Record) -> Span:
        attributes = _columns(SPANS, record)
        attributes |= object_attributes(record["attrs_json"])
        if record["status"] == "error":
            attributes["error.type"] = OTHER_ERROR
        name = _text(record["name"]) or _text(record["kind"]) or "span"
        return self._child("span", INTERNAL, name, raw, record, attributes, None)

    def _child(
        self,
        event: str,
        kind: int,
        name: str,
        raw: Record,
        record: Record,
        attributes: Attributes,
        took_ms: object,
    ) -> Span:
        run_id = str(raw["run_id"])
        start_ns, end_ns = _times(raw, took_ms, attributes)
        _put(attributes, "gen_ai.conversation.id", self.facts.runs.get(run_id, NO_RUN).session_id)
        return Span(
            self._origin(run_id),
            self._trace(run_id, record),
            ids.span_id(event, self.install_id, str(raw["span_id"])),
            self._parent(run_id, raw["parent_span_id"]),
            name,
            kind,
            start_ns,
            end_ns,
            "error.type" in attributes,
            attributes,
        )

    # -------------------------------------------------------------------------------- the logs

    def _error(self, raw: Record, record: Record) -> Log:
        attributes = _columns(ERRORS, record)
        name = _text(record["error_class"]) or OTHER_ERROR
        attributes["exception.type"] = attributes["error.type"] = name
        run_id = str(raw["run_id"])
        root = ids.run_span_id(self.install_id, run_id)
        return self._log(ERRORS, EXCEPTION_EVENT, SEVERITY_WARN, root, raw, record, attributes)

    def _happening(self, table: Table, raw: Record, record: Record) -> Log:
        inside = self._parent(str(raw["run_id"]), raw["parent_span_id"])
        attributes = _columns(table, record)
        name = f"hermes.{table.event}"
        return self._log(table, name, SEVERITY_INFO, inside, raw, record, attributes)

    def _log(
        self,
        table: Table,
        name: str,
        severity: int,
        inside: bytes,
        raw: Record,
        record: Record,
        attributes: Attributes,
    ) -> Log:
        run_id, span_id = str(raw["run_id"]), str(raw["span_id"])
        # The conventions' own mark of a record: whoever gets it twice can tell.
        uid = ids.hashed(ids.TRACE_BYTES, table.event, self.install_id, span_id)
        attributes["log.record.uid"] = uid.hex()
        at_ns, trace = time_of(raw["ts_ns"]), self._trace(run_id, record)
        return Log(self._origin(run_id), trace, inside, name, at_ns, severity, attributes)

    def _run_events(self, run_id: str) -> tuple[PointEvent, ...]:
        """A run's final errors as events of its span, for receivers that take no logs."""
        if not self.errors_as_events:
            return ()
        return tuple(
            PointEvent(log.event_name, log.time_ns, log.attributes)
            for raw, record in self.facts.errors.get(run_id, ())
            if record["recovery"] != "retried"
            for log in (self._error(raw, record),)
        )

    # --------------------------------------------------------------------------------- lineage

    def _trace(self, run_id: str, record: Record) -> bytes:
        """The run's trace; the run's own row decides, so that root and children never differ."""
        run = self.facts.runs.get(run_id)
        recorded = record["trace_id"] if run is None else run.trace_id
        return ids.trace_id(self.install_id, run_id, recorded)

    def _parent(self, run_id: str, parent: object) -> bytes:
        """The recorded parent's span; the run's where that is no row.

        A turn's row is written at its end: while the run is open a parent without a row counts
        as one that is still going on.
        """
        if isinstance(parent, str) and parent and parent != run_id:
            kind = self.facts.parents.get(parent)
            if kind is None and not self.facts.runs.get(run_id, NO_RUN).is_closed:
                kind = "span"
            if kind is not None:
                return ids.span_id(kind, self.install_id, parent)
        return ids.run_span_id(self.install_id, run_id)

    def _origin(self, run_id: str) -> Origin:
        run = self.facts.runs.get(run_id, NO_RUN)
        return _text(run.agent_version), _text(run.profile_id)


def _columns(table: Table, record: Record) -> Attributes:
    """Every recorded column as ``hermes.<column>``."""
    found: Attributes = {"hermes.event": table.event}
    for name, key, is_flag in COLUMN_KEYS[table.name]:
        value = record[name]
        if isinstance(value, (str, int)) or (isinstance(value, float) and isfinite(value)):
            found[key] = bool(value) if is_flag else value
    return found


def _put(attributes: Attributes, key: str, value: object) -> None:
    if isinstance(value, str) and value:
        attributes[key] = value


def _put_server(attributes: Attributes, base_url: object, redacted: object) -> None:
    """Host and port of a model's address; user name, path and query never leave."""
    attributes.pop("hermes.base_url", None)
    if isinstance(base_url, str):
        place, host, port = server_of(base_url, _text(redacted))
        if place:
            attributes["hermes.base_url"] = place
            attributes["server.address"] = host
            attributes["server.port"] = port


def _times(raw: Record, took_ms: object, attributes: Attributes) -> tuple[int, int]:
    start_ns, end_ns, is_derived = times_of(raw["start_ns"], raw["end_ns"], took_ms)
    if is_derived:
        attributes["hermes.time_source"] = "derived"
    return start_ns, end_ns


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
