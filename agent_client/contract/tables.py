"""The local plane's tables as data: the closed list of columns that may leave a machine.

The agent's SQLite schema, its export, the console's decoder and its storage are
all built from this list, so a column cannot exist on one side only.
Units are in the names: ``_ns`` integer nanoseconds since the epoch (UTC),
``_ms`` milliseconds, ``_usd`` US dollars, ``_tokens`` and ``_count`` integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ColumnKind = Literal["id", "name", "json", "count", "time", "ms", "usd", "flag"]

ID_MAX_CHARS: Final = 200
"""Ids of the host reach 120 characters (``session:task:rand:api:N``); longer ones are hostile."""
NAME_MAX_CHARS: Final = 200
"""Provider, model, tool and class names; longer ones would bloat every rollup cell."""
JSON_MAX_CHARS: Final = 16_384
"""Span attributes; a bigger object does not belong into telemetry."""
COUNT_MAX: Final = 2**53
"""Counts stay exact in every JSON reader."""
TIME_MAX_NS: Final = 2**63 - 1
"""Times are signed 64-bit everywhere (SQLite, PostgreSQL, OTLP)."""
MS_MAX: Final = 1e12
"""About 31 years; beyond it a sum over a fleet overflows nothing but means nothing."""
USD_MAX: Final = 1e9
"""A single call that costs more is a fault of the price table."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its meaning decides type, bounds and redaction.

    ``seed`` marks the reference design's columns, which keep its names and order.
    """

    name: str
    kind: ColumnKind
    seed: bool = False
    required: bool = False

    @property
    def sqlite_type(self) -> str:
        """TEXT, INTEGER or REAL."""
        if self.kind in {"id", "name", "json"}:
            return "TEXT"
        return "REAL" if self.kind in {"ms", "usd"} else "INTEGER"

    @property
    def max_chars(self) -> int:
        """Longest accepted text; 0 for numbers."""
        return {"id": ID_MAX_CHARS, "name": NAME_MAX_CHARS, "json": JSON_MAX_CHARS}.get(
            self.kind, 0
        )


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the local plane.

    ``key`` identifies a row within an install; ``time`` places it in a window and
    in a day partition; ``merges``: later ``seq`` wins (runs), else insert once.
    """

    name: str
    event: str
    key: str
    time: str
    columns: tuple[Column, ...]
    merges: bool = False

    def column_names(self) -> tuple[str, ...]:
        """Names in storage order, without ``seq``."""
        return tuple(column.name for column in self.columns)


def _seed(kind: ColumnKind, *names: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind, seed=True) for name in names)


def _more(kind: ColumnKind, *names: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name in names)


def _key(name: str, *, seed: bool = True) -> Column:
    return Column(name, "id", seed=seed, required=True)


_PLACE: Final = (
    Column("trace_id", "id"),
    Column("parent_span_id", "id"),
    Column("start_ns", "time", required=True),
    Column("end_ns", "time"),
)
"""Added to every child row: the reference's rows carry no time and cannot be placed in a window."""

RUNS: Final = Table(
    "tel_runs",
    "run",
    "run_id",
    "start_ns",
    (
        _key("run_id"),
        *_seed("id", "trace_id", "session_id", "profile_id"),
        *_seed("name", "entrypoint", "platform"),
        Column("start_ns", "time", seed=True, required=True),
        *_seed("time", "end_ns"),
        *_seed("name", "end_reason"),
        *_seed("count", "model_call_count", "tool_call_count", "error_count"),
        *_seed("usd", "estimated_cost_usd"),
        *_seed("name", "cost_status"),
        *_seed("count", "schema_v"),
        *_more("id", "parent_run_id"),
        *_more("name", "agent_version"),
        *_more("count", "turn_count"),
    ),
    merges=True,
)
MODEL_CALLS: Final = Table(
    "tel_model_calls",
    "model_call",
    "span_id",
    "start_ns",
    (
        _key("span_id"),
        Column("run_id", "id", seed=True, required=True),
        *_seed("name", "provider", "model", "base_url"),
        *_seed("count", "input_tokens", "output_tokens", "cache_read_tokens"),
        *_seed("count", "cache_write_tokens", "reasoning_tokens"),
        *_seed("ms", "latency_ms", "ttft_ms"),
        *_seed("usd", "estimated_cost_usd"),
        *_seed("name", "cost_status", "cost_source", "end_reason"),
        *_seed("count", "retry_count"),
        *_PLACE,
        *_more("name", "response_model", "finish_reason"),
        *_more("id", "api_request_id"),
        *_more("count", "status_code"),
    ),
)
TOOL_CALLS: Final = Table(
    "tel_tool_calls",
    "tool_call",
    "span_id",
    "start_ns",
    (
        _key("span_id"),
        Column("run_id", "id", seed=True, required=True),
        *_seed("name", "tool_name", "backend"),
        *_seed("ms", "duration_ms"),
        *_seed("name", "result_class"),
        *_seed("count", "retry_count"),
        *_seed("name", "approval"),
        *_PLACE,
        *_more("id", "tool_call_id"),
        *_more("name", "error_type"),
    ),
)
ERRORS: Final = Table(
    "tel_error_events",
    "error",
    "span_id",
    "ts_ns",
    (
        _key("span_id", seed=False),
        Column("run_id", "id", seed=True, required=True),
        Column("ts_ns", "time", seed=True, required=True),
        *_seed("name", "error_class", "subsystem", "recovery"),
        *_more("id", "trace_id", "parent_span_id"),
        *_more("time", "start_ns", "end_ns"),
        *_more("flag", "retryable"),
        *_more("count", "status_code", "retry_count"),
    ),
)
SPANS: Final = Table(
    "tel_spans",
    "span",
    "span_id",
    "start_ns",
    (
        _key("span_id"),
        *_seed("id", "trace_id"),
        Column("run_id", "id", seed=True, required=True),
        *_seed("id", "parent_span_id"),
        *_seed("name", "name", "kind"),
        Column("start_ns", "time", seed=True, required=True),
        *_seed("time", "end_ns"),
        *_seed("name", "status"),
        *_seed("json", "attrs_json"),
    ),
)


def _happening(name: str, event: str, *columns: Column) -> Table:
    """A table of happenings: one moment each, with the identity and place the reference lacks."""
    return Table(
        name,
        event,
        "span_id",
        "ts_ns",
        (
            _key("span_id", seed=False),
            Column("run_id", "id", seed=True, required=True),
            Column("ts_ns", "time", seed=True, required=True),
            *columns,
            *_more("id", "trace_id", "parent_span_id"),
            *_more("time", "start_ns", "end_ns"),
        ),
    )


GATEWAY_EVENTS: Final = _happening(
    "tel_gateway_events",
    "gateway",
    *_seed("name", "platform", "direction", "result"),
    *_seed("flag", "voice"),
    *_seed("count", "attachments"),
)
CRON_EVENTS: Final = _happening("tel_cron_events", "cron", *_seed("name", "kind", "result"))
SKILL_EVENTS: Final = _happening(
    "tel_skill_events", "skill", *_seed("name", "action", "skill_name")
)
MEMORY_EVENTS: Final = _happening("tel_memory_events", "memory", *_seed("name", "action", "result"))
FEEDBACK_EVENTS: Final = _happening("tel_feedback_events", "feedback", *_seed("name", "kind"))

EVENT_TABLES: Final = (
    RUNS,
    MODEL_CALLS,
    TOOL_CALLS,
    ERRORS,
    SPANS,
    GATEWAY_EVENTS,
    CRON_EVENTS,
    SKILL_EVENTS,
    MEMORY_EVENTS,
    FEEDBACK_EVENTS,
)
"""Everything that is recorded, parents first. Append only: frames name their kind by position."""
BY_NAME: Final = {table.name: table for table in EVENT_TABLES}
BY_EVENT: Final = {table.event: table for table in EVENT_TABLES}
