"""What a run's waterfall shows of each kind of row: name, detail, outcome and colour."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import islice
from typing import Final

from django.utils.translation import gettext as _

from fleet.console.charts import Tone
from fleet.templatetags.fleet_format import words
from telemetry.models import (
    CronEvent,
    ErrorEvent,
    FeedbackEvent,
    GatewayEvent,
    MemoryEvent,
    ModelCall,
    Run,
    SkillEvent,
    ToolCall,
)
from telemetry.models import Span as SpanRow
from telemetry.models.events import EventQuerySet, EventRow
from telemetry.pages.waterfall import MAX_SPANS, Span

MAX_RUN_LIFE: Final = timedelta(days=7)
"""How far after its begin a run's children are looked for: it bounds the partitions opened."""
CLOCK_SLACK: Final = timedelta(hours=1)
MAX_ATTRIBUTES: Final = 5
"""Attributes of a span on one line; the rest is in the export."""
MAX_ATTRIBUTE_CHARS: Final = 200
MAX_FACT_CHARS: Final = 40
"""An attribute's name, which is the agent's word too: a long one would be the whole page."""
_IN_THE_OUTCOME: Final = frozenset(
    (fact, end)
    for fact in ("end_reason", "outcome")
    for end in ("completed", "interrupted", "abandoned")
)
"""What the outcome's own column says already; ``max_iterations`` says more than its ``error``."""
_BAD_ENDS: Final = frozenset({"error", "failed", "timeout", "blocked", "denied"})

type Happening = GatewayEvent | CronEvent | SkillEvent | MemoryEvent | FeedbackEvent


def spans_of(run: Run) -> list[Span]:
    """Everything that names this run: one query a table, each cut at MAX_SPANS + 1 rows."""
    return [
        *_each(run, SpanRow.objects.all(), _stretch),
        *_each(run, ModelCall.objects.all(), _model_call),
        *_each(run, ToolCall.objects.all(), _tool_call),
        *_each(run, ErrorEvent.objects.all(), _error),
        *_each(run, GatewayEvent.objects.all(), _gateway),
        *_each(run, CronEvent.objects.all(), _cron),
        *_each(run, SkillEvent.objects.all(), _skill),
        *_each(run, MemoryEvent.objects.all(), _memory),
        *_each(run, FeedbackEvent.objects.all(), _feedback),
    ]


def _each[Stored: EventRow](
    run: Run, rows: EventQuerySet[Stored], span_of: Callable[[Stored], Span]
) -> Iterable[Span]:
    start, end = run.start_at - CLOCK_SLACK, run.start_at + MAX_RUN_LIFE
    mine = rows.in_window(start, end).filter(install_id=run.install_id, run_id=run.run_id)
    return map(span_of, mine.order_by("start_at")[: MAX_SPANS + 1])


def _end(start_ns: int, end_ns: int | None, took_ms: float | None) -> int | None:
    if end_ns:
        return end_ns
    return None if took_ms is None else start_ns + int(took_ms * 1e6)


def _stretch(row: SpanRow) -> Span:
    kinds = {"turn": _("Turn"), "subagent": _("Subagent"), "approval": _("Approval")}
    tones: dict[str, Tone] = {"turn": "previous", "subagent": "4", "approval": "3"}
    kind, name = row.kind or "", row.name or ""
    facts = attributes_of(row.attrs_json)
    child_run_id = facts.get("child_run_id", "") if kind == "subagent" else ""
    return Span(
        kinds.get(kind) or words(kind) or _("Span"),
        child_run_id if name == kind else name,
        " · ".join(
            _told(fact, value[:60])
            for fact, value in facts.items()
            if not fact.endswith(("_id", "_ms")) and (fact, value) not in _IN_THE_OUTCOME
        ),
        row.start_ns,
        row.end_ns,
        row.status or "",
        "bad" if row.status == "error" else tones.get(kind, "6"),
        span_id=row.span_id,
        parent_id=row.parent_span_id or "",
        child_run_id=child_run_id,
    )


def _told(fact: str, value: str) -> str:
    """An attribute in words: 4 model calls; surface cli."""
    if fact.endswith("_count"):
        noun = words(fact.removesuffix("_count")).lower()
        return f"{value} {noun}" if value == "1" else f"{value} {noun}s"
    return f"{words(fact).lower()} {value}"


def attributes_of(text: str | None) -> dict[str, str]:
    """The first plain attributes of a span, by name; {} for anything else."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    plain = (
        (name[:MAX_FACT_CHARS], str(value)[:MAX_ATTRIBUTE_CHARS])
        for name, value in found.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    )
    return dict(islice(plain, MAX_ATTRIBUTES))


def _model_call(row: ModelCall) -> Span:
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
        span_id=row.span_id,
        parent_id=row.parent_span_id or "",
    )


def _tool_call(row: ToolCall) -> Span:
    return Span(
        _("Tool"),
        row.tool_name or _("unknown tool"),
        row.error_type or row.approval or row.backend or "",
        row.start_ns,
        _end(row.start_ns, row.end_ns, row.duration_ms),
        row.result_class or "",
        "2" if row.result_class in {None, "ok"} else "bad",
        span_id=row.span_id,
        parent_id=row.parent_span_id or "",
    )


def _error(row: ErrorEvent) -> Span:
    code = f"HTTP {row.status_code}" if row.status_code else ""
    has_length = bool(row.end_ns and row.end_ns > row.ts_ns)
    return Span(
        _("Error"),
        row.error_class or "unknown",
        " · ".join(part for part in (row.subsystem or "", code) if part),
        row.ts_ns,
        row.end_ns if has_length else None,
        row.recovery_word,
        "bad",
        span_id=row.span_id,
        parent_id=row.parent_span_id or "",
        is_mark=not has_length,
    )


def _mark(row: Happening, kind: str, name: str, detail: str, outcome: str, tone: Tone) -> Span:
    return Span(
        kind,
        name,
        detail,
        row.ts_ns,
        None,
        outcome,
        "bad" if outcome in _BAD_ENDS else tone,
        span_id=row.span_id,
        parent_id=row.parent_span_id or "",
        is_mark=True,
    )


def _gateway(row: GatewayEvent) -> Span:
    parts = [row.direction or "", _("voice") if row.voice else ""]
    if row.attachments:
        parts.append(_("%s attached") % f"{row.attachments:,}")
    detail = " · ".join(part for part in parts if part)
    name = row.platform or _("unknown platform")
    return _mark(row, _("Gateway"), name, detail, row.result or "", "5")


def _cron(row: CronEvent) -> Span:
    return _mark(row, _("Cron"), words(row.kind) or _("job"), "", row.result or "", "3")


def _skill(row: SkillEvent) -> Span:
    name = row.skill_name or _("unknown skill")
    return _mark(row, _("Skill"), name, row.action or "", "", "4")


def _memory(row: MemoryEvent) -> Span:
    return _mark(row, _("Memory"), words(row.action) or _("change"), "", row.result or "", "6")


def _feedback(row: FeedbackEvent) -> Span:
    return _mark(row, _("Feedback"), words(row.kind) or _("unknown"), "", "", "5")
