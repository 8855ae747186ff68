"""The event tables as models: read-only windows on what ``store.copy`` writes.

The tables are made by ``migrations/sql/`` 0001 and 0002 (day partitions on PostgreSQL), from
``agent_client.contract.tables``; a test holds the three together.
"""
# ruff: noqa: DJ001 -- NULL is "the agent did not say", an empty text is what it said

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Self
from uuid import UUID

from django.db import models

from agent_client.contract import tables


class EventQuerySet[Row: "EventRow"](models.QuerySet[Row]):
    """Reads of raw rows. Each one names a window or an install: the tables have no other index."""

    def in_window(self, start: datetime, end: datetime) -> Self:
        """Rows that began in ``[start, end)``; only those day partitions are opened."""
        return self.filter(start_at__gte=start, start_at__lt=end)

    def of_install(self, install_id: UUID) -> Self:
        """Rows of one install, newest first."""
        return self.filter(install_id=install_id).order_by("-start_at")


class EventRow(models.Model):
    """What every event row carries beside the contract's columns.

    Units: ``start_at`` is the contract's time column in UTC, cut to microseconds; ``seq`` is the
    agent's own row counter, higher is later. ``group_id`` is the install's group when the row came
    in (0: none): cells made of it stay what they were when an install changes its group.
    """

    CONTRACT: ClassVar[tables.Table]

    install_id = models.UUIDField()
    start_at = models.DateTimeField()
    seq = models.BigIntegerField()
    batch_id = models.UUIDField()
    received_at = models.DateTimeField()
    group_id = models.BigIntegerField(default=0)

    class Meta:
        abstract = True

    @classmethod
    def table_name(cls) -> str:
        """The table's name, for SQL."""
        return cls._meta.db_table


class RunQuerySet(EventQuerySet["Run"]):
    """Runs: reads of EventQuerySet."""


class Run(EventRow):
    """One session's activity in one process; later copies of a run_id replace earlier ones."""

    CONTRACT = tables.RUNS

    pk = models.CompositePrimaryKey("install_id", "start_at", "run_id")
    run_id = models.TextField()
    trace_id = models.TextField(null=True)
    session_id = models.TextField(null=True)
    profile_id = models.TextField(null=True)
    entrypoint = models.TextField(null=True)
    platform = models.TextField(null=True)
    start_ns = models.BigIntegerField()
    end_ns = models.BigIntegerField(null=True)
    end_reason = models.TextField(null=True)
    model_call_count = models.BigIntegerField(null=True)
    tool_call_count = models.BigIntegerField(null=True)
    error_count = models.BigIntegerField(null=True)
    estimated_cost_usd = models.FloatField(null=True)
    cost_status = models.TextField(null=True)
    schema_v = models.BigIntegerField(null=True)
    parent_run_id = models.TextField(null=True)
    agent_version = models.TextField(null=True)
    turn_count = models.BigIntegerField(null=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_run"
        verbose_name = "run"

    def __str__(self) -> str:
        return str(self.run_id)


class ModelCallQuerySet(EventQuerySet["ModelCall"]):
    """Model calls: reads of EventQuerySet."""


class ModelCall(EventRow):
    """One logical model call with all its retries; stored once."""

    CONTRACT = tables.MODEL_CALLS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    run_id = models.TextField()
    provider = models.TextField(null=True)
    model = models.TextField(null=True)
    base_url = models.TextField(null=True)
    input_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)
    cache_read_tokens = models.BigIntegerField(null=True)
    cache_write_tokens = models.BigIntegerField(null=True)
    reasoning_tokens = models.BigIntegerField(null=True)
    latency_ms = models.FloatField(null=True)
    ttft_ms = models.FloatField(null=True)
    estimated_cost_usd = models.FloatField(null=True)
    cost_status = models.TextField(null=True)
    cost_source = models.TextField(null=True)
    end_reason = models.TextField(null=True)
    retry_count = models.BigIntegerField(null=True)
    trace_id = models.TextField(null=True)
    parent_span_id = models.TextField(null=True)
    start_ns = models.BigIntegerField()
    end_ns = models.BigIntegerField(null=True)
    response_model = models.TextField(null=True)
    finish_reason = models.TextField(null=True)
    api_request_id = models.TextField(null=True)
    status_code = models.BigIntegerField(null=True)

    objects = ModelCallQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_modelcall"
        verbose_name = "model call"

    def __str__(self) -> str:
        return str(self.span_id)


class ToolCallQuerySet(EventQuerySet["ToolCall"]):
    """Tool calls: reads of EventQuerySet."""


class ToolCall(EventRow):
    """One tool call: its name, its time and how it ended; stored once."""

    CONTRACT = tables.TOOL_CALLS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    run_id = models.TextField()
    tool_name = models.TextField(null=True)
    backend = models.TextField(null=True)
    duration_ms = models.FloatField(null=True)
    result_class = models.TextField(null=True)
    retry_count = models.BigIntegerField(null=True)
    approval = models.TextField(null=True)
    trace_id = models.TextField(null=True)
    parent_span_id = models.TextField(null=True)
    start_ns = models.BigIntegerField()
    end_ns = models.BigIntegerField(null=True)
    tool_call_id = models.TextField(null=True)
    error_type = models.TextField(null=True)

    objects = ToolCallQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_toolcall"
        verbose_name = "tool call"

    def __str__(self) -> str:
        return str(self.span_id)


class ErrorEventQuerySet(EventQuerySet["ErrorEvent"]):
    """Errors: reads of EventQuerySet."""


class ErrorEvent(EventRow):
    """One failed attempt or fault: classes only; stored once."""

    CONTRACT = tables.ERRORS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    run_id = models.TextField()
    ts_ns = models.BigIntegerField()
    error_class = models.TextField(null=True)
    subsystem = models.TextField(null=True)
    recovery = models.TextField(null=True)
    trace_id = models.TextField(null=True)
    parent_span_id = models.TextField(null=True)
    start_ns = models.BigIntegerField(null=True)
    end_ns = models.BigIntegerField(null=True)
    retryable = models.BooleanField(null=True)
    status_code = models.BigIntegerField(null=True)
    retry_count = models.BigIntegerField(null=True)

    objects = ErrorEventQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_errorevent"
        verbose_name = "error"

    def __str__(self) -> str:
        return str(self.span_id)

    @property
    def recovery_word(self) -> str:
        """What became of it, as a person says it: the contract's ``none`` reads like nothing."""
        return {"none": "given_up"}.get(self.recovery or "", self.recovery or "")


class SpanQuerySet(EventQuerySet["Span"]):
    """Spans: reads of EventQuerySet."""


class Span(EventRow):
    """A stretch of a run that is no call: a turn, a subagent, a wait for approval; stored once."""

    CONTRACT = tables.SPANS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    trace_id = models.TextField(null=True)
    run_id = models.TextField()
    parent_span_id = models.TextField(null=True)
    name = models.TextField(null=True)
    kind = models.TextField(null=True)
    start_ns = models.BigIntegerField()
    end_ns = models.BigIntegerField(null=True)
    status = models.TextField(null=True)
    attrs_json = models.TextField(null=True)

    objects = SpanQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_span"
        verbose_name = "span"

    def __str__(self) -> str:
        return str(self.span_id)


class GatewayEventQuerySet(EventQuerySet["GatewayEvent"]):
    """Gateway events: reads of EventQuerySet."""


class GatewayEvent(EventRow):
    """A message that a gateway took in or gave out; stored once."""

    CONTRACT = tables.GATEWAY_EVENTS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    run_id = models.TextField()
    ts_ns = models.BigIntegerField()
    platform = models.TextField(null=True)
    direction = models.TextField(null=True)
    result = models.TextField(null=True)
    voice = models.BooleanField(null=True)
    attachments = models.BigIntegerField(null=True)
    trace_id = models.TextField(null=True)
    parent_span_id = models.TextField(null=True)
    start_ns = models.BigIntegerField(null=True)
    end_ns = models.BigIntegerField(null=True)

    objects = GatewayEventQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_gatewayevent"
        verbose_name = "gateway event"

    def __str__(self) -> str:
        return str(self.span_id)


class CronEventQuerySet(EventQuerySet["CronEvent"]):
    """Cron events: reads of EventQuerySet."""


class CronEvent(EventRow):
    """A scheduled job that was made, changed, removed or run; stored once."""

    CONTRACT = tables.CRON_EVENTS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    run_id = models.TextField()
    ts_ns = models.BigIntegerField()
    kind = models.TextField(null=True)
    result = models.TextField(null=True)
    trace_id = models.TextField(null=True)
    parent_span_id = models.TextField(null=True)
    start_ns = models.BigIntegerField(null=True)
    end_ns = models.BigIntegerField(null=True)

    objects = CronEventQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_cronevent"
        verbose_name = "scheduled job event"

    def __str__(self) -> str:
        return str(self.span_id)


class SkillEventQuerySet(EventQuerySet["SkillEvent"]):
    """Skill events: reads of EventQuerySet."""


class SkillEvent(EventRow):
    """A skill that was read or changed, by its name; stored once."""

    CONTRACT = tables.SKILL_EVENTS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    run_id = models.TextField()
    ts_ns = models.BigIntegerField()
    action = models.TextField(null=True)
    skill_name = models.TextField(null=True)
    trace_id = models.TextField(null=True)
    parent_span_id = models.TextField(null=True)
    start_ns = models.BigIntegerField(null=True)
    end_ns = models.BigIntegerField(null=True)

    objects = SkillEventQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_skillevent"
        verbose_name = "skill event"

    def __str__(self) -> str:
        return str(self.span_id)


class MemoryEventQuerySet(EventQuerySet["MemoryEvent"]):
    """Memory events: reads of EventQuerySet."""


class MemoryEvent(EventRow):
    """A change of the agent's memory; what it remembers is not known here; stored once."""

    CONTRACT = tables.MEMORY_EVENTS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    run_id = models.TextField()
    ts_ns = models.BigIntegerField()
    action = models.TextField(null=True)
    result = models.TextField(null=True)
    trace_id = models.TextField(null=True)
    parent_span_id = models.TextField(null=True)
    start_ns = models.BigIntegerField(null=True)
    end_ns = models.BigIntegerField(null=True)

    objects = MemoryEventQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_memoryevent"
        verbose_name = "memory event"

    def __str__(self) -> str:
        return str(self.span_id)


class FeedbackEventQuerySet(EventQuerySet["FeedbackEvent"]):
    """Feedback: reads of EventQuerySet."""


class FeedbackEvent(EventRow):
    """What a person thought of an answer, as one word; stored once."""

    CONTRACT = tables.FEEDBACK_EVENTS

    pk = models.CompositePrimaryKey("install_id", "start_at", "span_id")
    span_id = models.TextField()
    run_id = models.TextField()
    ts_ns = models.BigIntegerField()
    kind = models.TextField(null=True)
    trace_id = models.TextField(null=True)
    parent_span_id = models.TextField(null=True)
    start_ns = models.BigIntegerField(null=True)
    end_ns = models.BigIntegerField(null=True)

    objects = FeedbackEventQuerySet.as_manager()

    class Meta:
        db_table = "telemetry_feedbackevent"
        verbose_name = "feedback"

    def __str__(self) -> str:
        return str(self.span_id)


type EventModel = type[
    Run
    | ModelCall
    | ToolCall
    | ErrorEvent
    | Span
    | GatewayEvent
    | CronEvent
    | SkillEvent
    | MemoryEvent
    | FeedbackEvent
]

EVENT_MODELS: tuple[EventModel, ...] = (
    Run,
    ModelCall,
    ToolCall,
    ErrorEvent,
    Span,
    GatewayEvent,
    CronEvent,
    SkillEvent,
    MemoryEvent,
    FeedbackEvent,
)
MODEL_OF: dict[str, EventModel] = {model.CONTRACT.name: model for model in EVENT_MODELS}
"""Model by the contract's table name."""
