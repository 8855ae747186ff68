"""What the console keeps of telemetry: the ledger, the events, the rollup cells."""

from __future__ import annotations

from telemetry.models.aggregate import AggregateRecord
from telemetry.models.batch import ClosedPlane, IngestBatch, InstallIntake, QuarantinedLine
from telemetry.models.events import (
    EVENT_MODELS,
    CronEvent,
    ErrorEvent,
    EventRow,
    FeedbackEvent,
    GatewayEvent,
    MemoryEvent,
    ModelCall,
    Run,
    SkillEvent,
    Span,
    ToolCall,
)
from telemetry.models.rollups import (
    CELL_MODELS,
    Cell,
    ErrorCell,
    FillState,
    InstallHour,
    ModelCell,
    RunCell,
    ToolCell,
    TouchedHour,
)

__all__ = [
    "CELL_MODELS",
    "EVENT_MODELS",
    "AggregateRecord",
    "Cell",
    "ClosedPlane",
    "CronEvent",
    "ErrorCell",
    "ErrorEvent",
    "EventRow",
    "FeedbackEvent",
    "FillState",
    "GatewayEvent",
    "IngestBatch",
    "InstallHour",
    "InstallIntake",
    "MemoryEvent",
    "ModelCall",
    "ModelCell",
    "QuarantinedLine",
    "Run",
    "RunCell",
    "SkillEvent",
    "Span",
    "ToolCall",
    "ToolCell",
    "TouchedHour",
]
