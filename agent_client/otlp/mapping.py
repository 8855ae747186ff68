"""Redacted records as spans and log records: recorded ids, times and parents, nothing invented.

A run is ``invoke_agent hermes-agent``, a model call ``chat <model>``, a tool call ``execute_tool
<tool>``; turns, subagents and waits for approval are spans of their own names. Errors and
happenings are log records. Every column goes along as ``hermes.<column>``; there is no column for
content, so none can leave. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from agent_client.classify import host_of
from agent_client.contract.tables import (
    ERRORS,
    EVENT_TABLES,
    MODEL_CALLS,
    RUNS,
    SPANS,
    TOOL_CALLS,
    Table,
)
from agent_client.otlp import genai, ids
from agent_client.otlp.facts import NO_RUN, Facts
from agent_client.otlp.signals import (
    CLIENT,
    INTERNAL,
    SEVERITY_INFO,
    SEVERITY_WARN,
    Attributes,
    Log,
    Origin,
    PointEvent,
    Span,
)

RUN_ERRORS: Final = frozenset({"failed", "max_iterations", "timeout"})
CALL_ERRORS: Final = frozenset({"error", "failed", "timeout"})
TOOL_ERRORS: Final = {"error": "tool_error", "timeout": "timeout", "blocked": "blocked"}
DENIALS: Final = frozenset({"denied", "smart_deny"})
EXCEPTION_EVENT: Final = "gen_ai.client.operation.exception"
OTHER_ERROR: Final = "_OTHER"
"""What the conventions call an error of no known class."""
MAX_SPAN_ATTRIBUTES: Final = 64

Record = Mapping[str, object]
_PLACE: Final = frozenset(
    {"span_id", "parent_span_id", "start_ns", "end_ns", "ts_ns", "attrs_json"}
)
"""Columns that say where a record stands: OTLP has fields of its own for them."""
_HERMES: Final = {
    table.name: tuple(
        (column.name, f"hermes.{column.name}", column.kind == "flag")
        for column in table.columns
        if column.name not in _PLACE
    )
    for table in EVENT_TABLES
}
_INPUTS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
_NS_PER_MS: Final = 1_000_000
_INT64_MAX: Final = 2**63 - 1


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
        if isinstance(ttft_ms, (int, float)):
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
        error = call_error(record)
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
        error = tool_error(record)
        if error:
            attributes["error.type"] = error
        name = f"execute_tool {tool}" if tool else "execute_tool"
        return self._child("tool_call", INTERNAL, name, raw, record, attributes, raw["duration_ms"])

    def _span_row(self, raw: Record, record: Record) -> Span:
        attributes = _columns(SPANS, record)
        attributes |= _object_attributes(record["attrs_json"])
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
        at_ns, trace = _time(raw["ts_ns"]), self._trace(run_id, record)
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


def call_error(record: Record) -> str:
    """``error.type`` of a model call that failed for good; "" for one that was answered."""
    status_code, reason = record["status_code"], record["end_reason"]
    if isinstance(status_code, int) and status_code >= 400:
        return str(status_code)
    return str(reason) if reason in CALL_ERRORS else ""


def tool_error(record: Record) -> str:
    """``error.type`` of a tool call; a person's no is an answer, not an error."""
    if record["approval"] in DENIALS:
        return ""
    fault = TOOL_ERRORS.get(_text(record["result_class"]), "")
    return (_text(record["error_type"]) or fault) if fault else ""


def _columns(table: Table, record: Record) -> Attributes:
    """Every recorded column as ``hermes.<column>``."""
    found: Attributes = {"hermes.event": table.event}
    for name, key, is_flag in _HERMES[table.name]:
        value = record[name]
        if isinstance(value, (str, int, float)):
            found[key] = bool(value) if is_flag else value
    return found


def _object_attributes(text: object) -> Attributes:
    """The names, counts and flags of ``attrs_json``; anything nested or odd stays behind."""
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {
        f"hermes.attrs.{_clean(name)}": _clean(item) if isinstance(item, str) else item
        for name, item in list(value.items())[:MAX_SPAN_ATTRIBUTES]
        if isinstance(item, (bool, str))
        or (isinstance(item, int) and abs(item) <= _INT64_MAX)
        or (isinstance(item, float) and math.isfinite(item))
    }


def _clean(text: str) -> str:
    """Half of a surrogate pair, which JSON can spell and UTF-8 cannot, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _put(attributes: Attributes, key: str, value: object) -> None:
    if isinstance(value, str) and value:
        attributes[key] = value


def _put_server(attributes: Attributes, base_url: object, redacted: object) -> None:
    """Host and port of a model's address; user name, path and query never leave."""
    attributes.pop("hermes.base_url", None)
    if isinstance(base_url, str):
        place, host, port = _server_of(base_url, _text(redacted))
        if place:
            attributes["hermes.base_url"] = place
            attributes["server.address"] = host
            attributes["server.port"] = port


@lru_cache(maxsize=256)
def _server_of(base_url: str, redacted: str) -> tuple[str, str, int]:
    """Place, host and port of an address; "" for none.

    Taken from the address as recorded, since what the redactor leaves of one may be none any more;
    a host that the redactor did not leave is a secret in the wrong place.
    """
    place = host_of(base_url)
    if not place or place not in redacted.lower():
        return "", "", 0
    host, colon, port = place.rpartition(":")
    if colon and port.isdigit():
        return place, host, int(port)
    return place, place, 80 if urlsplit(base_url).scheme == "http" else 443


def _times(raw: Record, took_ms: object, attributes: Attributes) -> tuple[int, int]:
    """Start and end; a missing one comes from the duration, and says so. Never ends before."""
    start_ns, end = _time(raw["start_ns"]), raw["end_ns"]
    if isinstance(end, int) and start_ns:
        return start_ns, max(start_ns, end)
    took_ns = int(took_ms * _NS_PER_MS) if isinstance(took_ms, (int, float)) else 0
    attributes["hermes.time_source"] = "derived"
    if isinstance(end, int):
        return max(0, end - took_ns), end
    return start_ns, min(start_ns + took_ns, _INT64_MAX)


def _time(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= _INT64_MAX else 0


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
