"""Typed questions over cells only; a fixed, small number of queries each.

One query reads the cells of a kind for the window and the one before; the sums are made here, so
that a page asks each table once. Missing names are ``unknown``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db.models import Count, Max, Q, QuerySet, Sum

from telemetry.insight.answers import (
    Cost,
    ErrorLine,
    InstallLine,
    ModelLine,
    Overview,
    Point,
    Tokens,
    TokenSeries,
    ToolLine,
)
from telemetry.insight.window import Compared, Freshness, Window
from telemetry.models import (
    Cell,
    ErrorCell,
    FillState,
    InstallHour,
    ModelCell,
    RunCell,
    ToolCell,
    TouchedHour,
)
from telemetry.rollup.histogram import Histogram, merge_json

TOP_MODELS: Final = 5
TOP_INSTALLS: Final = 10
UNKNOWN: Final = "unknown"
OTHER: Final = "other"
END_REASONS: Final = (
    "completed",
    "interrupted",
    "failed",
    "max_iterations",
    "timeout",
    "abandoned",
    "open",
    "other",
)
FAILED_RUN_FIELDS: Final = ("failed_count", "timeout_count", "max_iterations_count")
TOOL_FAILURE_FIELDS: Final = ("error_count", "timeout_count", "blocked_count")
TOKEN_FIELDS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


def overview(window: Window, *, group_id: int | None = None) -> Overview:
    """Everything the overview page shows; 8 queries.

    ``group_id``: only installs that were in this group when their hour was filled.
    """
    runs = _Slices(RunCell.objects.all(), window, group_id)
    models = _Slices(ModelCell.objects.all(), window, group_id)
    tools = _Slices(ToolCell.objects.all(), window, group_id)
    errors = _Slices(ErrorCell.objects.all(), window, group_id)
    durations = runs.both(_durations)
    return Overview(
        window=window,
        unit=window.unit,
        freshness=freshness(window),
        active_installs=_active_installs(window, group_id),
        runs=runs.both(lambda cells: _sum(cells, "run_count")),
        success_rate=runs.both(lambda cells: _rate(cells, ("completed_count",), "run_count")),
        p50_ms=Compared(durations.value.quantile_ms(0.5), durations.previous.quantile_ms(0.5)),
        p95_ms=Compared(durations.value.quantile_ms(0.95), durations.previous.quantile_ms(0.95)),
        tokens=models.both(_tokens),
        cost=runs.both(lambda cells: _cost(cells, "run_count")),
        tool_calls=tools.both(lambda cells: _sum(cells, "call_count")),
        tool_failure_rate=tools.both(lambda cells: _rate(cells, TOOL_FAILURE_FIELDS, "call_count")),
        errors=errors.both(lambda cells: _sum(cells, "error_count")),
        end_reasons=_end_reasons(runs.current),
        entrypoints=_shares(runs.current, "entrypoint"),
        versions=_shares(runs.current, "agent_version"),
        series=_series(window, runs.current, tools.current, errors.current),
        previous_runs=_shifted_runs(window, runs.previous),
        tokens_by_model=_tokens_by_model(window, models.current),
        tools=_tool_lines(tools.current),
        error_lines=_error_lines(errors.current),
        models=_model_lines(models.current),
        top_installs=top_installs(window, group_id=group_id),
        heat=_heat(runs.current),
    )


def freshness(window: Window) -> Freshness:
    """How old the cells of a window are; 2 queries."""
    inside = Q(hour__gte=window.start, hour__lt=window.end)
    last = FillState.objects.aggregate(last=Max("filled_at"))["last"]
    pending = TouchedHour.objects.filter(inside).aggregate(hours=Count("hour", distinct=True))
    return Freshness(last_filled_at=last, pending_hours=int(pending["hours"]))


def top_installs(
    window: Window, *, group_id: int | None = None, limit: int = TOP_INSTALLS
) -> tuple[InstallLine, ...]:
    """Installs with the most runs, most first; 1 query."""
    return _install_lines(_in(InstallHour.objects.all(), window, group_id), limit)


def install_activity(
    install_ids: Iterable[UUID], window: Window, *, limit: int = 1000
) -> dict[UUID, InstallLine]:
    """The sums of some installs, by id, for a list page; 1 query. Quiet installs are left out."""
    wanted = list(install_ids)[:limit]
    cells = InstallHour.objects.filter(install_id__in=wanted)
    lines = _install_lines(_in(cells, window, None), limit)
    return {line.install_id: line for line in lines}


def _install_lines(cells: QuerySet[InstallHour], limit: int) -> tuple[InstallLine, ...]:
    rows = (
        cells.values("install_id")
        .annotate(
            runs=Sum("run_count"),
            failed_runs=Sum("failed_run_count"),
            tool_calls=Sum("tool_call_count"),
            tool_failures=Sum("tool_failure_count"),
            errors=Sum("error_count"),
            cost=Sum("cost_usd"),
            priced=Sum("priced_run_count"),
        )
        .order_by("-runs", "install_id")[:limit]
    )
    return tuple(
        InstallLine(
            install_id=row["install_id"],
            runs=int(row["runs"]),
            failed_runs=int(row["failed_runs"]),
            tool_calls=int(row["tool_calls"]),
            tool_failures=int(row["tool_failures"]),
            errors=int(row["errors"]),
            cost_usd=float(row["cost"]) if row["priced"] else None,
        )
        for row in rows
    )


def _active_installs(window: Window, group_id: int | None) -> Compared[int]:
    cells = _in(InstallHour.objects.all(), _both(window), group_id)
    counts = cells.aggregate(
        current=Count("install_id", distinct=True, filter=Q(hour__gte=window.start)),
        previous=Count("install_id", distinct=True, filter=Q(hour__lt=window.start)),
    )
    return Compared(int(counts["current"]), int(counts["previous"]))


def _both(window: Window) -> Window:
    return Window(window.previous.start, window.end)


def _in[C: Cell](cells: QuerySet[C], window: Window, group_id: int | None) -> QuerySet[C]:
    inside = cells.filter(hour__gte=window.start, hour__lt=window.end)
    return inside if group_id is None else inside.filter(group_id=group_id)


class _Slices[C: (RunCell, ModelCell, ToolCell, ErrorCell)]:
    """Cells of the window and of the one before; 1 query."""

    def __init__(self, cells: QuerySet[C], window: Window, group_id: int | None) -> None:
        self.current: list[C] = []
        self.previous: list[C] = []
        for cell in _in(cells, _both(window), group_id):
            (self.current if cell.hour >= window.start else self.previous).append(cell)

    def both[Number](self, measure: Callable[[Sequence[C]], Number]) -> Compared[Number]:
        """A measure of both."""
        return Compared(measure(self.current), measure(self.previous))


def _sum(cells: Iterable[Cell], *names: str) -> int:
    return sum(int(getattr(cell, name)) for cell in cells for name in names)


def _rate(cells: Sequence[Cell], parts: Sequence[str], whole: str) -> float | None:
    total = _sum(cells, whole)
    return _sum(cells, *parts) / total if total else None


def _tokens(cells: Sequence[ModelCell]) -> Tokens:
    return Tokens(**{name: _sum(cells, name) for name in TOKEN_FIELDS})


def _cost(cells: Sequence[RunCell | ModelCell], whole: str) -> Cost:
    priced = _sum(cells, "priced_count")
    usd = sum(cell.cost_usd for cell in cells) if priced else None
    return Cost(usd, priced, _sum(cells, whole))


def _durations(cells: Iterable[RunCell]) -> Histogram:
    return merge_json(cell.duration_hist for cell in cells)


def _end_reasons(cells: Sequence[RunCell]) -> tuple[tuple[str, int], ...]:
    counts = {reason: _sum(cells, f"{reason}_count") for reason in END_REASONS}
    return tuple((reason, count) for reason, count in counts.items() if count)


def _shares(cells: Iterable[RunCell], name: str) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    for cell in cells:
        counts[getattr(cell, name) or UNKNOWN] += cell.run_count
    return tuple(counts.most_common())


def _grouped[C: Cell, Key](cells: Iterable[C], key: Callable[[C], Key]) -> dict[Key, list[C]]:
    groups: defaultdict[Key, list[C]] = defaultdict(list)
    for cell in cells:
        groups[key(cell)].append(cell)
    return groups


def _series(
    window: Window,
    runs: Sequence[RunCell],
    tools: Sequence[ToolCell],
    errors: Sequence[ErrorCell],
) -> tuple[Point, ...]:
    def at(cell: Cell) -> datetime:
        return window.bucket_of(cell.hour)

    by_run, by_tool, by_error = _grouped(runs, at), _grouped(tools, at), _grouped(errors, at)
    return tuple(
        Point(
            start=start,
            runs=_sum(by_run.get(start, ()), "run_count"),
            failed_runs=_sum(by_run.get(start, ()), *FAILED_RUN_FIELDS),
            tool_errors=_sum(by_tool.get(start, ()), *TOOL_FAILURE_FIELDS),
            errors=_sum(by_error.get(start, ()), "error_count"),
            cost_usd=_cost(by_run.get(start, ()), "run_count").usd,
        )
        for start in window.buckets()
    )


def _shifted_runs(window: Window, cells: Iterable[RunCell]) -> tuple[int, ...]:
    """Runs of the window before, each hour counted where it would be one window later."""
    shift = window.end - window.start
    counts: Counter[datetime] = Counter()
    for cell in cells:
        counts[window.bucket_of(cell.hour + shift)] += cell.run_count
    return tuple(counts[start] for start in window.buckets())


def _tokens_by_model(window: Window, cells: Sequence[ModelCell]) -> tuple[TokenSeries, ...]:
    """The TOP_MODELS with the most tokens, then all others as one."""
    totals: Counter[str] = Counter()
    tokens: Counter[tuple[str, datetime]] = Counter()
    for cell in cells:
        name, count = cell.model or UNKNOWN, _tokens([cell]).total_tokens
        totals[name] += count
        tokens[name, window.bucket_of(cell.hour)] += count
    top = [name for name, count in totals.most_common(TOP_MODELS) if count]
    rest = [name for name, count in totals.items() if count and name not in top]
    lines = [(name, [name]) for name in top] + ([(OTHER, rest)] if rest else [])
    return tuple(
        TokenSeries(
            label, tuple(sum(tokens[name, at] for name in names) for at in window.buckets())
        )
        for label, names in lines
    )


def _tool_lines(cells: Iterable[ToolCell]) -> tuple[ToolLine, ...]:
    lines = (
        ToolLine(
            tool_name=name,
            calls=_sum(found, "call_count"),
            failures=_sum(found, *TOOL_FAILURE_FIELDS),
            timeouts=_sum(found, "timeout_count"),
            blocked=_sum(found, "blocked_count"),
            denied=_sum(found, "denied_count"),
            p95_ms=merge_json(cell.duration_hist for cell in found).quantile_ms(0.95),
        )
        for name, found in _grouped(cells, lambda cell: cell.tool_name or UNKNOWN).items()
    )
    return tuple(sorted(lines, key=lambda line: (-line.calls, line.tool_name)))


def _error_lines(cells: Iterable[ErrorCell]) -> tuple[ErrorLine, ...]:
    groups = _grouped(cells, lambda cell: (cell.error_class or UNKNOWN, cell.subsystem or UNKNOWN))
    lines = (
        ErrorLine(*key, errors=_sum(found, "error_count"), given_up=_sum(found, "given_up_count"))
        for key, found in groups.items()
    )
    return tuple(sorted(lines, key=lambda line: (-line.errors, line.error_class, line.subsystem)))


def _model_lines(cells: Iterable[ModelCell]) -> tuple[ModelLine, ...]:
    groups = _grouped(cells, lambda cell: (cell.provider or UNKNOWN, cell.model or UNKNOWN))
    lines = (_model_line(provider, model, found) for (provider, model), found in groups.items())
    return tuple(sorted(lines, key=lambda line: (-line.calls, line.provider, line.model)))


def _model_line(provider: str, model: str, cells: Sequence[ModelCell]) -> ModelLine:
    latency = merge_json(cell.latency_hist for cell in cells)
    return ModelLine(
        provider=provider,
        model=model,
        calls=_sum(cells, "call_count"),
        failed_calls=_sum(cells, "failed_count"),
        retries=_sum(cells, "retry_count"),
        tokens=_tokens(cells),
        cost=_cost(cells, "call_count"),
        p50_ms=latency.quantile_ms(0.5),
        p95_ms=latency.quantile_ms(0.95),
    )


def _heat(cells: Iterable[RunCell]) -> tuple[tuple[int, ...], ...]:
    heat = [[0] * 24 for _ in range(7)]
    for cell in cells:
        heat[cell.hour.weekday()][cell.hour.hour] += cell.run_count
    return tuple(map(tuple, heat))
