"""One run as a waterfall: model calls, tool calls and errors placed in its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db.models import Q, QuerySet
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console.charts import Tone, span_bar
from fleet.templatetags.fleet_format import duration_ms
from telemetry.models import ErrorEvent, EventRow, ModelCall, Run, ToolCall

MAX_SPANS: Final = 400
"""Rows of one page; a run with more says so and shows the first ones."""
MAX_RUN_LIFE: Final = timedelta(days=7)
"""How far after its begin a run's children are looked for: it bounds the partitions opened."""
CLOCK_SLACK: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Span:
    """One call or error: times in nanoseconds, ``end_ns`` None when it has none."""

    kind: str
    name: str
    detail: str
    start_ns: int
    end_ns: int | None
    outcome: str
    tone: Tone
    is_child: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A span with its bar."""

    span: Span
    bar: SafeString
    offset_ms: float
    duration: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The rows in order of begin, and what the time axis spans."""

    rows: tuple[Row, ...]
    total_ms: float
    is_cut: bool


def spans_of(run: Run) -> list[Span]:
    """Everything that names this run, three queries, each cut at MAX_SPANS + 1 rows."""
    start, end = run.start_at - CLOCK_SLACK, run.start_at + MAX_RUN_LIFE
    mine = Q(install_id=run.install_id, run_id=run.run_id)
    calls = ModelCall.objects.in_window(start, end).filter(mine)
    tools = ToolCall.objects.in_window(start, end).filter(mine)
    errors = ErrorEvent.objects.in_window(start, end).filter(mine)
    return sorted(
        [
            *(_model_span(row) for row in _first(calls)),
            *(_tool_span(row) for row in _first(tools)),
            *(_error_span(row) for row in _first(errors)),
        ],
        key=lambda span: span.start_ns,
    )


def _first[SpanRow: EventRow](rows: QuerySet[SpanRow]) -> QuerySet[SpanRow]:
    return rows.order_by("start_at")[: MAX_SPANS + 1]


def waterfall_of(run: Run, spans: Sequence[Span]) -> Waterfall:
    """Bars for spans within the run's time. Pure."""
    begin = min([run.start_ns, *(span.start_ns for span in spans)])
    end = max([run.end_ns or 0, begin + 1, *(span.end_ns or span.start_ns for span in spans)])
    length = end - begin
    rows = []
    for span in spans[:MAX_SPANS]:
        took_ms = None if span.end_ns is None else max(span.end_ns - span.start_ns, 0) / 1e6
        title = _("%(name)s: begins after %(offset)s, takes %(time)s") % {
            "name": span.name,
            "offset": duration_ms((span.start_ns - begin) / 1e6),
            "time": duration_ms(took_ms),
        }
        share = 0.0 if took_ms is None else took_ms * 1e6 / length
        rows.append(
            Row(
                span,
                span_bar((span.start_ns - begin) / length, share, title, span.tone),
                (span.start_ns - begin) / 1e6,
                duration_ms(took_ms),
            )
        )
    return Waterfall(tuple(rows), length / 1e6, len(spans) > MAX_SPANS)


def _end(start_ns: int, end_ns: int | None, took_ms: float | None) -> int | None:
    if end_ns:
        return end_ns
    return None if took_ms is None else start_ns + int(took_ms * 1e6)


def _model_span(row: ModelCall) -> Span:
    tokens = _("%(input)s in, %(output)s out") % {
        "input": "–" if row.input_tokens is None else f"{row.input_tokens:,}",
        "output": "–" if row.output_tokens is None else f"{row.output_tokens:,}",
    }
    is_bad = bool(row.status_code and row.status_code >= 400)
    return Span(
        _("Model"),
        row.model or row.response_model or _("unknown model"),
        f"{row.provider or '–'} · {tokens}",
        row.start_ns,
        _end(row.start_ns, row.end_ns, row.latency_ms),
        row.finish_reason or row.end_reason or "",
        "bad" if is_bad else "1",
    )


def _tool_span(row: ToolCall) -> Span:
    is_ok = row.result_class in {None, "ok"}
    return Span(
        _("Tool"),
        row.tool_name or _("unknown tool"),
        row.error_type or row.approval or row.backend or "",
        row.start_ns,
        _end(row.start_ns, row.end_ns, row.duration_ms),
        row.result_class or "",
        "2" if is_ok else "bad",
        is_child=bool(row.parent_span_id),
    )


def _error_span(row: ErrorEvent) -> Span:
    start_ns = row.ts_ns
    code = f"HTTP {row.status_code}" if row.status_code else ""
    return Span(
        _("Error"),
        row.error_class or "unknown",
        " · ".join(part for part in (row.subsystem or "", code) if part),
        start_ns,
        row.end_ns if row.end_ns and row.end_ns > start_ns else None,
        row.recovery_word,
        "bad",
    )
