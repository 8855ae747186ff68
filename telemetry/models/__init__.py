"""What the console keeps of telemetry: the ledger, the events, the rollup cells."""

from __future__ import annotations

from telemetry.models.aggregate import AggregateRecord
from telemetry.models.batch import ClosedPlane, IngestBatch, InstallIntake, QuarantinedLine
from telemetry.models.boards import InstallBoard
from telemetry.models.cells import (
    ALL_GROUPS,
    NEW_CELL_MODELS,
    CostsCell,
    ErrorsCell,
    FirstSeen,
    HistogramCell,
    InstallCell,
    ModelCallsCell,
    ReplacedRun,
    RunsCell,
    ToolCallsCell,
    Unit,
)
from telemetry.models.content import (
    CONTENT_MODELS,
    ContentMessage,
    ContentSession,
)
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
from telemetry.models.quarantine import QuarantineJob
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
from telemetry.models.spool import SpooledBatch
from telemetry.models.trace import OtlpTrace

__all__ = [
    "ALL_GROUPS",
    "CELL_MODELS",
    "CONTENT_MODELS",
    "EVENT_MODELS",
    "NEW_CELL_MODELS",
    "AggregateRecord",
    "Cell",
    "ClosedPlane",
    "ContentMessage",
    "ContentSession",
    "CostsCell",
    "CronEvent",
    "ErrorCell",
    "ErrorEvent",
    "ErrorsCell",
    "EventRow",
    "FeedbackEvent",
    "FillState",
    "FirstSeen",
    "GatewayEvent",
    "HistogramCell",
    "IngestBatch",
    "InstallBoard",
    "InstallCell",
    "InstallHour",
    "InstallIntake",
    "MemoryEvent",
    "ModelCall",
    "ModelCallsCell",
    "ModelCell",
    "OtlpTrace",
    "QuarantineJob",
    "QuarantinedLine",
    "ReplacedRun",
    "Run",
    "RunCell",
    "RunsCell",
    "SkillEvent",
    "Span",
    "SpooledBatch",
    "ToolCall",
    "ToolCallsCell",
    "ToolCell",
    "TouchedHour",
    "Unit",
]
