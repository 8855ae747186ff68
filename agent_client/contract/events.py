"""The events a recorder emits: run, model_call, tool_call, error, span, and five happenings.

Field order is the storage order of ``tables``; a test holds the two together.
No event has a field for message text, arguments, results or stack traces: what
has no place cannot leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from agent_client.contract.tables import (
    COUNT_MAX,
    CRON_EVENTS,
    ERRORS,
    FEEDBACK_EVENTS,
    GATEWAY_EVENTS,
    MEMORY_EVENTS,
    MODEL_CALLS,
    MS_MAX,
    RUNS,
    SKILL_EVENTS,
    SPANS,
    TIME_MAX_NS,
    TOOL_CALLS,
    USD_MAX,
    Column,
    Table,
)

END_REASONS = ("completed", "interrupted", "failed", "max_iterations", "timeout", "abandoned")
RESULT_CLASSES = ("ok", "error", "timeout", "blocked")
ENTRYPOINTS = ("cli", "gateway", "tui", "api", "cron", "batch", "acp", "subagent")
COST_STATUSES = ("actual", "estimated", "unknown")
APPROVALS = ("once", "session", "always", "denied", "timeout", "smart_approve", "smart_deny")
ERROR_CLASSES = (
    "provider_timeout",
    "rate_limit",
    "auth",
    "network",
    "context_overflow",
    "provider_error",
    "invalid_response",
    "content_policy",
    "unknown",
)
SPAN_KINDS = ("turn", "subagent", "approval")
SPAN_STATUSES = ("ok", "error", "interrupted", "denied", "abandoned")
"""``abandoned``: its process died; the end is that of the last thing seen inside."""
RECOVERIES = ("retried", "none")
"""``none``: the call was given up; a run whose last event is such an error has failed."""


class _Event:
    """Shared conversion; each event names its table."""

    __slots__ = ()
    TABLE: ClassVar[Table]

    def to_dict(self) -> dict[str, object]:
        """``{"event": <type>, <every column>: <value or None>}``."""
        values: dict[str, object] = {"event": self.TABLE.event}
        for name in self.TABLE.column_names():
            values[name] = getattr(self, name)
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The event of a dictionary; unknown keys are ignored.

        Errors: ValueError naming the first column that is missing, of the wrong
        type or out of its bounds.
        """
        known: dict[str, object] = {}
        for column in cls.TABLE.columns:
            value = data.get(column.name)
            if value is None and not column.required and column.name not in data:
                continue
            code = fault_of(column, value)
            if code:
                raise ValueError(f"{column.name}: {code}")
            known[column.name] = value
        return cls(**known)


def fault_of(column: Column, value: object) -> str:
    """Why a value may not stand in a column, as a wire code; "" when it may."""
    if value is None:
        return "missing_field" if column.required else ""
    if column.max_chars:
        if not isinstance(value, str):
            return "wrong_type"
        if column.required and not value:
            return "missing_field"
        return "too_long" if len(value) > column.max_chars else ""
    if column.kind == "flag":
        return "" if isinstance(value, bool) or value in (0, 1) else "wrong_type"
    return _number_fault(column, value)


def _number_fault(column: Column, value: object) -> str:
    if isinstance(value, bool):
        return "wrong_type"
    if column.kind in {"ms", "usd"}:
        if not isinstance(value, (int, float)):
            return "wrong_type"
        bound = MS_MAX if column.kind == "ms" else USD_MAX
        return "" if 0 <= value <= bound else "out_of_range"
    if not isinstance(value, int):
        return "wrong_type"
    bound = TIME_MAX_NS if column.kind == "time" else COUNT_MAX
    return "" if 0 <= value <= bound else "out_of_range"


@dataclass(frozen=True, slots=True)
class RunEvent(_Event):
    """One session's activity in one process; later events of the same run_id replace it."""

    TABLE: ClassVar[Table] = RUNS

    run_id: str
    trace_id: str | None = None
    session_id: str | None = None
    profile_id: str | None = None
    entrypoint: str | None = None
    platform: str | None = None
    start_ns: int = 0
    end_ns: int | None = None
    end_reason: str | None = None
    model_call_count: int = 0
    tool_call_count: int = 0
    error_count: int = 0
    estimated_cost_usd: float | None = None
    cost_status: str | None = None
    schema_v: int = 1
    parent_run_id: str | None = None
    agent_version: str | None = None
    turn_count: int = 0


@dataclass(frozen=True, slots=True)
class ModelCallEvent(_Event):
    """One logical model call with all its retries; ``input_tokens`` excludes cached tokens."""

    TABLE: ClassVar[Table] = MODEL_CALLS

    span_id: str
    run_id: str
    provider: str | None = None
    model: str | None = None
    base_url: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    estimated_cost_usd: float | None = None
    cost_status: str | None = None
    cost_source: str | None = None
    end_reason: str | None = None
    retry_count: int = 0
    trace_id: str | None = None
    parent_span_id: str | None = None
    start_ns: int = 0
    end_ns: int | None = None
    response_model: str | None = None
    finish_reason: str | None = None
    api_request_id: str | None = None
    status_code: int | None = None


@dataclass(frozen=True, slots=True)
class ToolCallEvent(_Event):
    """One tool call: its name, its time and how it ended; never its arguments or result."""

    TABLE: ClassVar[Table] = TOOL_CALLS

    span_id: str
    run_id: str
    tool_name: str | None = None
    backend: str | None = None
    duration_ms: float | None = None
    result_class: str | None = None
    retry_count: int = 0
    approval: str | None = None
    trace_id: str | None = None
    parent_span_id: str | None = None
    start_ns: int = 0
    end_ns: int | None = None
    tool_call_id: str | None = None
    error_type: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorEvent(_Event):
    """One failed attempt or fault: classes only, never a message or a stack."""

    TABLE: ClassVar[Table] = ERRORS

    span_id: str
    run_id: str
    ts_ns: int = 0
    error_class: str | None = None
    subsystem: str | None = None
    recovery: str | None = None
    trace_id: str | None = None
    parent_span_id: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    retryable: bool | None = None
    status_code: int | None = None
    retry_count: int = 0


@dataclass(frozen=True, slots=True)
class SpanEvent(_Event):
    """A stretch of a run that is no call: a turn, a subagent, a wait for approval.

    ``attrs_json``: an object of names, counts and flags from a closed list; never content.
    """

    TABLE: ClassVar[Table] = SPANS

    span_id: str
    trace_id: str | None = None
    run_id: str = ""
    parent_span_id: str | None = None
    name: str | None = None
    kind: str | None = None
    start_ns: int = 0
    end_ns: int | None = None
    status: str | None = None
    attrs_json: str | None = None


@dataclass(frozen=True, slots=True)
class GatewayEvent(_Event):
    """A message that a gateway took in or gave out; who wrote it and what is not kept."""

    TABLE: ClassVar[Table] = GATEWAY_EVENTS

    span_id: str
    run_id: str
    ts_ns: int = 0
    platform: str | None = None
    direction: str | None = None
    result: str | None = None
    voice: bool | None = None
    attachments: int | None = None
    trace_id: str | None = None
    parent_span_id: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None


@dataclass(frozen=True, slots=True)
class CronEvent(_Event):
    """A scheduled job that was made, changed, removed or run."""

    TABLE: ClassVar[Table] = CRON_EVENTS

    span_id: str
    run_id: str
    ts_ns: int = 0
    kind: str | None = None
    result: str | None = None
    trace_id: str | None = None
    parent_span_id: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SkillEvent(_Event):
    """A skill that was read or changed, by its name."""

    TABLE: ClassVar[Table] = SKILL_EVENTS

    span_id: str
    run_id: str
    ts_ns: int = 0
    action: str | None = None
    skill_name: str | None = None
    trace_id: str | None = None
    parent_span_id: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryEvent(_Event):
    """A change of the agent's memory; what it remembers is not kept."""

    TABLE: ClassVar[Table] = MEMORY_EVENTS

    span_id: str
    run_id: str
    ts_ns: int = 0
    action: str | None = None
    result: str | None = None
    trace_id: str | None = None
    parent_span_id: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None


@dataclass(frozen=True, slots=True)
class FeedbackEvent(_Event):
    """What a person thought of an answer, as one word."""

    TABLE: ClassVar[Table] = FEEDBACK_EVENTS

    span_id: str
    run_id: str
    ts_ns: int = 0
    kind: str | None = None
    trace_id: str | None = None
    parent_span_id: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None


Event = (
    RunEvent
    | ModelCallEvent
    | ToolCallEvent
    | ErrorEvent
    | SpanEvent
    | GatewayEvent
    | CronEvent
    | SkillEvent
    | MemoryEvent
    | FeedbackEvent
)
EVENT_TYPES: dict[str, type[Event]] = {
    cls.TABLE.event: cls
    for cls in (
        RunEvent,
        ModelCallEvent,
        ToolCallEvent,
        ErrorEvent,
        SpanEvent,
        GatewayEvent,
        CronEvent,
        SkillEvent,
        MemoryEvent,
        FeedbackEvent,
    )
}


def event_of(data: Mapping[str, object]) -> Event:
    """The typed event of a dictionary that carries ``event``.

    Errors: ValueError for an unknown kind or a value out of its bounds.
    """
    cls = EVENT_TYPES.get(str(data.get("event")))
    if cls is None:
        raise ValueError("event: unknown_kind")
    return cls.from_dict(data)


def field_names(cls: type[Event]) -> tuple[str, ...]:
    """Field names of an event class in declaration order."""
    return tuple(field.name for field in fields(cls))
