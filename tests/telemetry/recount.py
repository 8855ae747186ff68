"""What the cells are to hold, counted row by row in plain Python: the judge of folds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

from django.db.models import Model

from fleet.lib.clock import floor_hour
from telemetry.models import (
    ALL_GROUPS,
    CELL_MODELS,
    ErrorEvent,
    HistogramCell,
    InstallCell,
    ModelCall,
    Run,
    ToolCall,
)
from telemetry.rollup.histogram import bucket_of

type Key = tuple[object, ...]
type Numbers = dict[str, int]
type Counted = Run | ModelCall | ToolCall | ErrorEvent
type Cells = dict[Key, Numbers]
"""By model name and the values of the cell's key."""

FAILED = {"failed", "timeout", "max_iterations"}
ENDS = ("completed", "interrupted", "failed", "max_iterations", "timeout", "abandoned")
KEYS = {
    "RunsCell": ("entrypoint", "platform", "agent_version"),
    "CostsCell": ("cost_status",),
    "ModelCallsCell": ("provider", "model"),
    "ToolCallsCell": ("tool_name",),
    "ErrorsCell": ("error_class", "subsystem"),
    "HistogramCell": ("kind", "name", "detail"),
}


class Recount:
    """Cells from rows; zero numbers are left out, as are cells with nothing in them."""

    def __init__(self) -> None:
        self.cells: dict[Key, Counter[str]] = defaultdict(Counter)

    def add(self, model: str, row: Counted, key: Key, **numbers: int) -> None:
        for place in self._places(row):
            self.cells[(model, *place, *key)].update(numbers)

    def install(self, row: Counted, **numbers: int) -> None:
        for unit, at in self._times(row):
            self.cells[("InstallCell", unit, at, row.install_id)].update(numbers)

    def measure(self, row: Run | ModelCall | ToolCall, value_ms: float | None, *key: str) -> None:
        if value_ms is not None:
            bucket = bucket_of(value_ms)
            self.add("HistogramCell", row, key, **{"zero" if bucket is None else str(bucket): 1})

    def _times(self, row: Counted) -> list[tuple[str, datetime]]:
        hour = floor_hour(row.start_at)
        return [("h", hour), ("d", hour.replace(hour=0))]

    def _places(self, row: Counted) -> list[Key]:
        levels = (row.group_id, ALL_GROUPS)
        return [(unit, at, level) for unit, at in self._times(row) for level in levels]


def text(value: str | None) -> str:
    return (value or "")[:200]


def rounded(value: float | None, factor: int, most: int) -> int:
    return 0 if value is None else min(math.floor(value * factor + 0.5), most * factor)


def counted() -> Cells:
    """Every cell, from every row there is."""
    count = Recount()
    for run in Run.objects.all():
        _run(count, run)
    for call in ModelCall.objects.all():
        _model_call(count, call)
    for tool in ToolCall.objects.all():
        _tool_call(count, tool)
    for error in ErrorEvent.objects.all():
        numbers = {"error_count": 1, "given_up_count": int(error.recovery == "none")}
        count.add("ErrorsCell", error, (text(error.error_class), text(error.subsystem)), **numbers)
        count.install(error, error_count=1)
    return without_zeros(count.cells)


def _run(count: Recount, run: Run) -> None:
    cost = rounded(run.estimated_cost_usd, 10**9, 10**6)
    priced = int(run.estimated_cost_usd is not None)
    is_timed = run.end_ns is not None and run.end_ns >= run.start_ns
    took_ns = run.end_ns - run.start_ns if is_timed and run.end_ns is not None else 0
    end = run.end_reason
    ending = "open" if end is None else end if end in ENDS else "other"
    calls = ("model_call_count", "tool_call_count", "error_count", "turn_count")
    count.add(
        "RunsCell",
        run,
        (text(run.entrypoint), text(run.platform), text(run.agent_version)),
        run_count=1,
        **{f"{ending}_count": 1},
        priced_count=priced,
        timed_count=int(is_timed),
        cost_nusd=cost,
        failed_cost_nusd=cost if end in FAILED else 0,
        duration_sum_us=min(took_ns // 1000, 10**13),
        **{name: min(getattr(run, name) or 0, 10**9) for name in calls},
    )
    count.add(
        "CostsCell", run, (text(run.cost_status),), run_count=1, priced_count=priced, cost_nusd=cost
    )
    count.install(
        run,
        run_count=1,
        completed_run_count=int(end == "completed"),
        failed_run_count=int(end in FAILED),
        priced_run_count=priced,
        cost_nusd=cost,
    )
    if is_timed:
        count.measure(run, took_ns / 1e6, "run", "", "")
        count.measure(run, took_ns / 1e6, "run_version", text(run.agent_version), "")


def _model_call(count: Recount, call: ModelCall) -> None:
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    tokens = {name: min(getattr(call, name) or 0, 10**9) for name in names}
    of = (text(call.provider), text(call.model))
    count.add(
        "ModelCallsCell",
        call,
        of,
        call_count=1,
        failed_count=int(call.end_reason not in {None, "completed", "stop", "ok"}),
        priced_count=int(call.estimated_cost_usd is not None),
        timed_count=int(call.latency_ms is not None),
        retry_count=min(call.retry_count or 0, 10**9),
        reasoning_tokens=min(call.reasoning_tokens or 0, 10**9),
        cost_nusd=rounded(call.estimated_cost_usd, 10**9, 10**6),
        latency_sum_us=rounded(call.latency_ms, 1000, 10**10),
        **tokens,
    )
    count.install(call, model_call_count=1, token_count=sum(tokens.values()))
    count.measure(call, call.latency_ms, "model", *of)
    count.measure(call, call.ttft_ms, "model_ttft", *of)


def _tool_call(count: Recount, tool: ToolCall) -> None:
    results = ("ok", "error", "timeout", "blocked")
    result = tool.result_class if tool.result_class in results else "other"
    count.add(
        "ToolCallsCell",
        tool,
        (text(tool.tool_name),),
        call_count=1,
        **{f"{result}_count": 1},
        denied_count=int(tool.approval in {"denied", "smart_deny"}),
        timed_count=int(tool.duration_ms is not None),
        duration_sum_us=rounded(tool.duration_ms, 1000, 10**10),
    )
    count.install(tool, tool_call_count=1, tool_failure_count=int(result in results[1:]))
    count.measure(tool, tool.duration_ms, "tool", text(tool.tool_name), "")


def stored() -> Cells:
    """Every cell as it is stored, in the same form."""
    cells: dict[Key, Counter[str]] = {}
    for model in CELL_MODELS:
        name = model.__name__
        rows: Iterable[dict[str, Any]] = cast("type[Model]", model)._default_manager.values()
        for row in rows:
            at = row["at"].astimezone(UTC)
            if model is InstallCell:
                key: Key = (name, row["unit"], at, row["install_id"])
            else:
                key = (name, row["unit"], at, row["group_id"], *(row[part] for part in KEYS[name]))
            if model is HistogramCell:
                cells[key] = Counter(row["counts"])
                continue
            other = {"id", "unit", "at", "group_id", "install_id", *KEYS.get(name, ())}
            cells[key] = Counter({part: row[part] for part in row.keys() - other})
    return without_zeros(cells, is_strict=True)


def without_zeros(cells: dict[Key, Counter[str]], *, is_strict: bool = False) -> Cells:
    """Numbers that are not zero; ``is_strict``: a cell without any is a fault."""
    found = {
        key: {name: number for name, number in numbers.items() if number}
        for key, numbers in cells.items()
    }
    assert not is_strict or all(found.values()), "an empty cell was left"
    return {key: numbers for key, numbers in found.items() if numbers}
