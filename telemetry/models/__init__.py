"""What the console keeps of telemetry: the ledger, the events, the rollup cells."""

from __future__ import annotations

from telemetry.models.aggregate import AggregateRecord
from telemetry.models.batch import ClosedPlane, IngestBatch, InstallIntake, QuarantinedLine
from telemetry.models.boards import InstallBoard
from telemetry.models.cells import (
    ALL_GROUPS,
    CELL_MODELS,
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
from telemetry.models.exports import (
    ExportDestination,
    ExportFile,
    ExportFormat,
    ExportJob,
    ExportSchedule,
)
from telemetry.models.quarantine import QuarantineJob
from telemetry.models.relay import (
    AlertEvent,
    AlertWatch,
    DeadLetter,
    Delivery,
    FeedEntry,
    RelayCursor,
    RelayDestination,
    Signal,
    Stream,
)
from telemetry.models.rollups import FillState, TouchedHour
from telemetry.models.spool import SpooledBatch
from telemetry.models.trace import OtlpTrace

__all__ = [
    "ALL_GROUPS",
    "CELL_MODELS",
    "CONTENT_MODELS",
    "EVENT_MODELS",
    "AggregateRecord",
    "AlertEvent",
    "AlertWatch",
    "ClosedPlane",
    "ContentMessage",
    "ContentSession",
    "CostsCell",
    "CronEvent",
    "DeadLetter",
    "Delivery",
    "ErrorEvent",
    "ErrorsCell",
    "EventRow",
    "ExportDestination",
    "ExportFile",
    "ExportFormat",
    "ExportJob",
    "ExportSchedule",
    "FeedEntry",
    "FeedbackEvent",
    "FillState",
    "FirstSeen",
    "GatewayEvent",
    "HistogramCell",
    "IngestBatch",
    "InstallBoard",
    "InstallCell",
    "InstallIntake",
    "MemoryEvent",
    "ModelCall",
    "ModelCallsCell",
    "OtlpTrace",
    "QuarantineJob",
    "QuarantinedLine",
    "RelayCursor",
    "RelayDestination",
    "ReplacedRun",
    "Run",
    "RunsCell",
    "Signal",
    "SkillEvent",
    "Span",
    "SpooledBatch",
    "Stream",
    "ToolCall",
    "ToolCallsCell",
    "TouchedHour",
    "Unit",
]
