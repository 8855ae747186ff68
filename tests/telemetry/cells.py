"""Cells made from raw rows by plain counting, as slow and as simple as can be.

What the fold makes in SQL, made here in Python: tests of questions start from it, and a fold that
counts anything else is found out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import Model, UniqueConstraint

from fleet.lib.clock import floor_hour, now
from telemetry.models import (
    ALL_GROUPS,
    CostsCell,
    ErrorEvent,
    ErrorsCell,
    EventRow,
    FillState,
    HistogramCell,
    InstallCell,
    ModelCall,
    ModelCallsCell,
    Run,
    RunsCell,
    ToolCall,
    ToolCallsCell,
    TouchedHour,
    Unit,
)
from telemetry.rollup.histogram import Histogram

ENDS = ("completed", "interrupted", "failed", "max_iterations", "timeout", "abandoned")
BAD_ENDS = ("failed", "timeout", "max_iterations")
RESULTS = ("ok", "error", "timeout", "blocked")
TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
Numbers = dict[str, int]
Cells = dict[tuple[Any, ...], Numbers]


def fill_cells() -> None:
    """Every cell from every raw row, hours and days, each group and all of them."""
    _save(RunsCell, _group_cells(Run, run_key, run_numbers))
    _save(CostsCell, _group_cells(Run, lambda run: {"cost_status": run.cost_status}, run_cost))
    _save(ModelCallsCell, _group_cells(ModelCall, model_key, model_numbers))
    _save(ToolCallsCell, _group_cells(ToolCall, tool_key, tool_numbers))
    _save(ErrorsCell, _group_cells(ErrorEvent, error_key, error_numbers))
    _save_histograms()
    _save_installs()
    for hour in set(TouchedHour.objects.values_list("hour", flat=True)):
        state, _ = FillState.objects.get_or_create(hour=hour, defaults={"started_at": now()})
        FillState.objects.filter(pk=state.pk).update(state="done", filled_at=now())
    TouchedHour.objects.all().delete()


def usd_to_nusd(usd: float | None) -> int:
    return round((usd or 0.0) * 1e9)


def run_ms(run: Run) -> float | None:
    return None if run.end_ns is None else (run.end_ns - run.start_ns) / 1e6


def run_key(run: Run) -> dict[str, str | None]:
    return {
        "entrypoint": run.entrypoint,
        "platform": run.platform,
        "agent_version": run.agent_version,
    }


def run_cost(run: Run) -> Numbers:
    return {
        "run_count": 1,
        "priced_count": run.estimated_cost_usd is not None,
        "cost_nusd": usd_to_nusd(run.estimated_cost_usd),
    }


def run_numbers(run: Run) -> Numbers:
    end = run.end_reason
    duration_ms = run_ms(run)
    return {
        **run_cost(run),
        **{f"{name}_count": end == name for name in ENDS},
        "open_count": end is None,
        "other_count": end is not None and end not in ENDS,
        "failed_cost_nusd": usd_to_nusd(run.estimated_cost_usd) if end in BAD_ENDS else 0,
        "timed_count": duration_ms is not None,
        "duration_sum_us": round((duration_ms or 0.0) * 1000),
        "model_call_count": run.model_call_count or 0,
        "tool_call_count": run.tool_call_count or 0,
        "error_count": run.error_count or 0,
        "turn_count": run.turn_count or 0,
    }


def model_key(call: ModelCall) -> dict[str, str | None]:
    return {"provider": call.provider, "model": call.model}


def model_numbers(call: ModelCall) -> Numbers:
    return {
        "call_count": 1,
        "failed_count": call.end_reason not in {None, "completed", "stop", "ok"},
        "priced_count": call.estimated_cost_usd is not None,
        "cost_nusd": usd_to_nusd(call.estimated_cost_usd),
        "retry_count": call.retry_count or 0,
        "timed_count": call.latency_ms is not None,
        "latency_sum_us": round((call.latency_ms or 0.0) * 1000),
        **{name: getattr(call, name) or 0 for name in TOKENS},
    }


def tool_key(call: ToolCall) -> dict[str, str | None]:
    return {"tool_name": call.tool_name}


def tool_numbers(call: ToolCall) -> Numbers:
    result = call.result_class
    return {
        "call_count": 1,
        **{f"{name}_count": result == name for name in RESULTS},
        "other_count": result not in RESULTS,
        "denied_count": call.approval in {"denied", "smart_deny"},
        "timed_count": call.duration_ms is not None,
        "duration_sum_us": round((call.duration_ms or 0.0) * 1000),
    }


def error_key(error: ErrorEvent) -> dict[str, str | None]:
    return {"error_class": error.error_class, "subsystem": error.subsystem}


def error_numbers(error: ErrorEvent) -> Numbers:
    return {"error_count": 1, "given_up_count": error.recovery == "none"}


def _slots(row: EventRow) -> Iterable[tuple[Unit, datetime]]:
    hour = floor_hour(row.start_at)
    return ((Unit.HOUR, hour), (Unit.DAY, hour.replace(hour=0)))


def _group_cells[Row: EventRow](
    model: type[Row],
    key_of: Callable[[Row], Mapping[str, str | None]],
    numbers_of: Callable[[Row], Numbers],
) -> Cells:
    cells: Cells = defaultdict(lambda: defaultdict(int))
    for row in model._default_manager.all():
        names = tuple(value or "" for value in key_of(row).values())
        for unit, at in _slots(row):
            for group_id in (row.group_id, ALL_GROUPS):
                cell = cells[(unit, at, group_id, *names)]
                for name, value in numbers_of(row).items():
                    cell[name] += int(value)
    return cells


def _save(model: type[Model], cells: Cells) -> None:
    manager: Any = model._default_manager
    (constraint,) = model._meta.constraints
    assert isinstance(constraint, UniqueConstraint)
    order = [name for name in constraint.fields if name not in {"unit", "group_id", "at"}]
    manager.all().delete()
    manager.bulk_create(
        model(**dict(zip(("unit", "at", "group_id", *order), key, strict=True)), **numbers)
        for key, numbers in cells.items()
    )


def _save_histograms() -> None:
    values: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    def note(
        row: EventRow, value: float | None, kind: str, name: str | None, detail: str | None
    ) -> None:
        for unit, at in _slots(row) if value is not None else ():
            for group_id in (row.group_id, ALL_GROUPS):
                values[unit, at, group_id, kind, name or "", detail or ""].append(value or 0.0)

    for run in Run.objects.all():
        note(run, run_ms(run), "run", "", "")
        note(run, run_ms(run), "run_version", run.agent_version, "")
    for call in ModelCall.objects.all():
        note(call, call.latency_ms, "model", call.provider, call.model)
        note(call, call.ttft_ms, "model_ttft", call.provider, call.model)
    for tool in ToolCall.objects.all():
        note(tool, tool.duration_ms, "tool", tool.tool_name, "")
    HistogramCell.objects.all().delete()
    names = ("unit", "at", "group_id", "kind", "name", "detail")
    HistogramCell.objects.bulk_create(
        HistogramCell(**dict(zip(names, key, strict=True)), counts=Histogram.of(found).to_json())
        for key, found in values.items()
    )


def _save_installs() -> None:
    cells: dict[tuple[Any, ...], Numbers] = defaultdict(lambda: defaultdict(int))
    groups: dict[tuple[Any, ...], int] = {}

    def note(row: EventRow, numbers: Numbers) -> None:
        for unit, at in _slots(row):
            key = (unit, at, row.install_id)
            groups[key] = row.group_id
            for name, value in numbers.items():
                cells[key][name] += int(value)

    for run in Run.objects.all():
        note(run, _install_run(run))
    for call in ModelCall.objects.all():
        note(call, _install_model_call(call))
    for tool in ToolCall.objects.all():
        note(tool, _install_tool_call(tool))
    for error in ErrorEvent.objects.all():
        note(error, {"error_count": 1})
    InstallCell.objects.all().delete()
    InstallCell.objects.bulk_create(
        InstallCell(unit=key[0], at=key[1], install_id=key[2], group_id=groups[key], **numbers)
        for key, numbers in cells.items()
    )


def _install_run(run: Run) -> Numbers:
    return {
        "run_count": 1,
        "completed_run_count": run.end_reason == "completed",
        "failed_run_count": run.end_reason in BAD_ENDS,
        "priced_run_count": run.estimated_cost_usd is not None,
        "cost_nusd": usd_to_nusd(run.estimated_cost_usd),
    }


def _install_model_call(call: ModelCall) -> Numbers:
    return {
        "model_call_count": 1,
        "token_count": sum(getattr(call, name) or 0 for name in TOKENS[:4]),
    }


def _install_tool_call(call: ToolCall) -> Numbers:
    return {
        "tool_call_count": 1,
        "tool_failure_count": call.result_class in {"error", "timeout", "blocked"},
    }
