"""The id of the trace that is going on, for log lines; "" when none is recorded."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

TRACE_ID: Final[ContextVar[str]] = ContextVar("fleet_trace_id", default="")
