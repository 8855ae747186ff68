"""Spans, logs and metric series as plain values: what the mapping makes and the encoder writes."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_client.contract.otlp_names import Attributes

Origin = tuple[str, str]
"""The agent version and profile that a record comes from; each pair is a resource of its own."""


@dataclass(slots=True)
class PointEvent:
    """A moment inside a span."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass(slots=True)
class Span:
    """One span; ``parent_id`` is empty for a root. Not frozen: thousands are made in a drain."""

    origin: Origin
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    kind: int
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: Attributes
    events: tuple[PointEvent, ...] = ()


@dataclass(slots=True)
class Log:
    """One log record with an event name and no body."""

    origin: Origin
    trace_id: bytes
    span_id: bytes
    event_name: str
    time_ns: int
    severity: int
    attributes: Attributes


@dataclass(slots=True)
class Series:
    """One cumulative metric series: a sum, or a histogram when it has ``bounds``."""

    name: str
    unit: str
    attributes: Attributes
    bounds: tuple[float, ...] = ()
    total: float = 0
    count: int = 0
    buckets: list[int] = field(default_factory=list)
    minimum: float = 0.0
    maximum: float = 0.0
    is_whole: bool = False
    """A sum of whole numbers is sent as one."""
