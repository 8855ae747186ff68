"""Turns, subagents and waits for approval as spans: their ids, their times, their few attributes.

A span is stored once, at its end. Its id follows from what it is the span of, so children can
name it before it is there, and whoever writes it twice writes the same row.
"""

from __future__ import annotations

import json
from typing import Final

from agent_client.contract.events import SpanEvent
from agent_client.ids import id_within
from agent_client.payload import word_of

ATTRIBUTES: Final = frozenset(
    {
        "child_run_id",
        "choice",
        "decided_by",
        "duration_ms",
        "end_reason",
        "error_count",
        "model_call_count",
        "outcome",
        "role",
        "surface",
        "tool_call_count",
    }
)
"""Everything a span may say of itself. Each value is a number, an id of ours or a word from a
closed list: goals, summaries and commands have no place."""

_encode: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
"""Made once: ``json.dumps`` makes an encoder for each call, which costs more than the encoding."""
_TURN_STATUSES: Final = {"completed": "ok", "interrupted": "interrupted", "abandoned": "abandoned"}
_ROLES: Final = {"leaf": "leaf", "orchestrator": "orchestrator"}
_OUTCOMES: Final = {
    word: word
    for word in (
        "abandoned",
        "completed",
        "error",
        "failed",
        "interrupted",
        "max_iterations",
        "timeout",
    )
}
_SURFACES: Final = {word: word for word in ("cli", "gateway", "smart")}
_DECIDERS: Final = {"aux_llm": "aux_llm"}
_REFUSALS: Final = ("denied", "smart_deny", "timeout")


def turn_status(end_reason: str) -> str:
    """A turn's status by how it ended; any end but these is an error."""
    return _TURN_STATUSES.get(end_reason, "error")


def turn_span(
    span_id: str,
    run_id: str,
    trace_id: str | None,
    times_ns: tuple[int, int],
    end_reason: str,
    **counts: int,
) -> SpanEvent:
    """One turn of a run."""
    return SpanEvent(
        span_id=span_id,
        trace_id=trace_id,
        run_id=run_id,
        parent_span_id=run_id,
        name="turn",
        kind="turn",
        start_ns=times_ns[0],
        end_ns=max(times_ns),
        status=turn_status(end_reason),
        attrs_json=attributes(end_reason=end_reason, **counts),
    )


def subagent_span(
    child_run_id: str,
    run_id: str,
    trace_id: str | None,
    parent_span_id: str | None,
    times_ns: tuple[int, int],
    outcome: object,
    role: object = None,
    duration_ms: float | None = None,
) -> SpanEvent:
    """One subagent, in its parent's run; the child's own run is named in its attributes."""
    word = word_of(outcome, _OUTCOMES)
    return SpanEvent(
        span_id=id_within(child_run_id, "subagent"),
        trace_id=trace_id,
        run_id=run_id,
        parent_span_id=parent_span_id or run_id,
        name="subagent",
        kind="subagent",
        start_ns=times_ns[0],
        end_ns=max(times_ns),
        status=turn_status(word or "error"),
        attrs_json=attributes(
            child_run_id=child_run_id,
            outcome=word,
            role=word_of(role, _ROLES),
            duration_ms=duration_ms,
        ),
    )


def approval_span(
    span_id: str,
    run_id: str,
    trace_id: str | None,
    parent_span_id: str,
    times_ns: tuple[int, int],
    choice: str,
    surface: object,
    decided_by: object,
) -> SpanEvent:
    """One wait for approval: how long it took, where it was asked and how it was answered."""
    return SpanEvent(
        span_id=span_id,
        trace_id=trace_id,
        run_id=run_id,
        parent_span_id=parent_span_id,
        name="approval",
        kind="approval",
        start_ns=times_ns[0],
        end_ns=max(times_ns),
        status="denied" if choice in _REFUSALS else "ok",
        attrs_json=attributes(
            choice=choice,
            surface=surface_of(surface),
            decided_by=word_of(decided_by, _DECIDERS),
        ),
    )


def surface_of(value: object) -> str | None:
    """Where an approval was asked; the host puts a server's name behind ``mcp-elicitation/``."""
    if isinstance(value, str) and value.startswith("mcp-elicitation/"):
        return "mcp"
    return word_of(value, _SURFACES)


def attributes(**values: str | float | None) -> str:
    """A span's attributes as JSON, without those that are not known.

    Errors: ValueError for a name that is not on the list.
    """
    unknown = values.keys() - ATTRIBUTES
    if unknown:
        raise ValueError(f"no attribute of a span: {min(unknown)}")
    return _encode({name: value for name, value in values.items() if value is not None})
