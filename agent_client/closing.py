"""What a dead process owes: its open runs closed, and the spans it did not live to end.

Reads rows and makes events; the caller, who holds the journal's lock, stores them. A span that
is there is not made again, so this may be done twice, by several, and after a rebuild.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from typing import Final

from agent_client.contract.events import SpanEvent
from agent_client.ids import id_within
from agent_client.spans import subagent_span, turn_span
from agent_client.store import run_event

PATIENCE_S: Final = 900.0
"""A run that says it ended may go on while its process lives: with another provider after one gave
up, or with a review in the background. No model takes longer."""
MAX_LOOKS: Final = 5000
"""Runs looked at in one recovery: the first one after an update has years to catch up with."""

_LAST_EVENT = """
SELECT max(t) FROM (
  SELECT max(coalesce(end_ns, start_ns)) AS t FROM tel_model_calls WHERE run_id = :run
  UNION ALL SELECT max(coalesce(end_ns, start_ns)) FROM tel_tool_calls WHERE run_id = :run
  UNION ALL SELECT max(coalesce(end_ns, start_ns)) FROM tel_spans WHERE run_id = :run
  UNION ALL SELECT max(ts_ns) FROM tel_error_events WHERE run_id = :run
  UNION ALL SELECT max(coalesce(end_ns, start_ns)) FROM tel_runs
            WHERE trace_id = :trace AND parent_run_id = :run)
"""
_COUNTS = """
SELECT (SELECT count(*) FROM tel_model_calls WHERE run_id = :run),
       (SELECT count(*) FROM tel_tool_calls WHERE run_id = :run),
       (SELECT count(*) FROM tel_error_events WHERE run_id = :run)
       + (SELECT count(*) FROM tel_tool_calls
          WHERE run_id = :run AND result_class IN ('error', 'timeout'))
"""
_LAST_ERROR = """
SELECT ts_ns, recovery FROM tel_error_events WHERE run_id = ? ORDER BY ts_ns DESC LIMIT 1
"""
_ENDED = """
SELECT run_id, seq, coalesce(end_ns BETWEEN ? AND ?, 0) FROM tel_runs
WHERE seq > ? AND end_ns IS NOT NULL ORDER BY seq LIMIT ?
"""
_MISSING_TURNS = """
SELECT parent_span_id, max(trace_id), min(start_ns), max(end_ns),
       max(CASE WHEN gave_up THEN end_ns ELSE 0 END) = max(end_ns),
       total(kind = 'model'), total(kind = 'tool'), total(is_fault)
FROM (
  SELECT parent_span_id, trace_id, start_ns, coalesce(end_ns, start_ns) AS end_ns,
         'model' AS kind, 0 AS is_fault, 0 AS gave_up
  FROM tel_model_calls WHERE run_id = :run
  UNION ALL SELECT parent_span_id, trace_id, start_ns, coalesce(end_ns, start_ns), 'tool',
         result_class IN ('error', 'timeout'), 0 FROM tel_tool_calls WHERE run_id = :run
  UNION ALL SELECT parent_span_id, trace_id, coalesce(start_ns, ts_ns), ts_ns, 'error', 1,
         recovery = 'none' FROM tel_error_events WHERE run_id = :run
  UNION ALL SELECT parent_span_id, trace_id, start_ns, coalesce(end_ns, start_ns), 'span', 0, 0
         FROM tel_spans WHERE run_id = :run AND kind <> 'turn'
  UNION ALL SELECT parent_span_id, trace_id, ts_ns, ts_ns, 'message', 0, 0
         FROM tel_gateway_events WHERE run_id = :run) c
WHERE parent_span_id <> :run
  AND NOT EXISTS (SELECT 1 FROM tel_spans s WHERE s.span_id = c.parent_span_id)
GROUP BY parent_span_id
"""
_TURNS = "SELECT start_ns, span_id FROM tel_spans WHERE run_id = ? AND kind = 'turn'"
_CHILDREN = """
SELECT run_id, start_ns, end_ns FROM tel_runs
WHERE trace_id = ? AND parent_run_id = ? AND end_ns IS NOT NULL ORDER BY start_ns
"""


@dataclass(slots=True)
class _Turn:
    """A turn without a span, from the first row that names it to the last."""

    span_id: str
    trace_id: str | None
    start_ns: int
    end_ns: int
    has_given_up: bool
    model_call_count: float
    tool_call_count: float
    error_count: float


def closing_event(connection: sqlite3.Connection, run_id: str) -> dict[str, object] | None:
    """A run whose process is gone as it ended: failed after a request given up, else abandoned.

    It ends with the last thing that was seen of it or of its subagents, which are closed first.
    """
    event = run_event(connection, run_id)
    if event is None:
        return None
    last_ns = connection.execute(
        _LAST_EVENT, {"run": run_id, "trace": event["trace_id"]}
    ).fetchone()[0]
    error = connection.execute(_LAST_ERROR, (run_id,)).fetchone()
    has_failed = error is not None and error[1] == "none" and error[0] >= (last_ns or 0)
    model_calls, tool_calls, errors = connection.execute(_COUNTS, {"run": run_id}).fetchone()
    return {
        **event,
        "end_ns": max(event["start_ns"], last_ns or 0),  # type: ignore[call-overload]  # int by schema
        "end_reason": "failed" if has_failed else "abandoned",
        # Retention may have taken calls of a long run that its own count knows of.
        "model_call_count": max(event["model_call_count"] or 0, model_calls),  # type: ignore[call-overload,unused-ignore]  # int by schema
        "tool_call_count": max(event["tool_call_count"] or 0, tool_calls),  # type: ignore[call-overload,unused-ignore]  # int by schema
        "error_count": max(event["error_count"] or 0, errors),  # type: ignore[call-overload,unused-ignore]  # int by schema
    }


def settled_runs(
    connection: sqlite3.Connection, after_seq: int, *, has_living: bool
) -> tuple[list[str], int]:
    """Ended runs that were stored since and will not go on; and up to which seq this was looked at.

    One may hold a turn without an end: ``hermes -z`` says nothing more when it cannot log in.
    """
    # An end that lies ahead is that of a clock which was wrong: those after it need not wait.
    now_ns = time.time_ns()
    since_ns = now_ns - int(PATIENCE_S * 1e9) * has_living
    rows = connection.execute(_ENDED, (since_ns, now_ns, after_seq, MAX_LOOKS)).fetchall()
    fresh = [seq for _, seq, is_fresh in rows if is_fresh]
    settled = [run_id for run_id, _, is_fresh in rows if not is_fresh]
    return settled, fresh[0] - 1 if fresh else max((row[1] for row in rows), default=after_seq)


def owed_spans(connection: sqlite3.Connection, run_id: str) -> list[SpanEvent]:
    """The turns that a run's rows name and that have no span, and its subagents' without one."""
    turns = [_Turn(*row) for row in connection.execute(_MISSING_TURNS, {"run": run_id})]
    subagents = _missing_subagents(connection, run_id, turns)
    spans = [
        turn_span(
            turn.span_id,
            run_id,
            turn.trace_id,
            (turn.start_ns, turn.end_ns),
            "failed" if turn.has_given_up else "abandoned",
            model_call_count=int(turn.model_call_count),
            tool_call_count=int(turn.tool_call_count),
            error_count=int(turn.error_count),
        )
        for turn in turns
    ]
    return [*spans, *subagents]


def _missing_subagents(
    connection: sqlite3.Connection, run_id: str, turns: list[_Turn]
) -> list[SpanEvent]:
    """Subagents whose stop nobody told of, each in the turn that began last before it.

    A turn that is owed as well lasts as long as its subagents.
    """
    run = run_event(connection, run_id)
    trace_id = None if run is None else run["trace_id"]
    known = [
        (start_ns, span_id, None) for start_ns, span_id in connection.execute(_TURNS, (run_id,))
    ]
    all_turns = sorted(
        [*known, *((turn.start_ns, turn.span_id, turn) for turn in turns)], key=_start
    )
    spans: list[SpanEvent] = []
    for child_id, start_ns, end_ns in connection.execute(_CHILDREN, (trace_id, run_id)).fetchall():
        span_id = id_within(child_id, "subagent")
        if connection.execute("SELECT 1 FROM tel_spans WHERE span_id = ?", (span_id,)).fetchone():
            continue
        parents = [turn for turn in all_turns if turn[0] <= start_ns]
        parent_id, owed = parents[-1][1:] if parents else (None, None)
        if owed is not None:
            owed.end_ns = max(owed.end_ns, end_ns)
        times_ns = start_ns, end_ns
        spans.append(
            subagent_span(child_id, run_id, str(trace_id), parent_id, times_ns, "abandoned")
        )
    return spans


def _start(turn: tuple[int, str, _Turn | None]) -> int:
    return turn[0]
