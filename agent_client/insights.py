"""The metrics of the local plane, every part of them within the window.

Definitions: success_rate = completed / all runs (4 decimals); p50 and p95 by
linear interpolation (2 decimals); failure_rate = (error + timeout + blocked) /
all tool calls; cache_hit_rate = cache_read / (cache_read + input). A missing
name counts as ``unknown``. A fixed number of queries and constant memory
however many rows; a source is our database or the reference's tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from agent_client.contract.tables import ERRORS, MODEL_CALLS, RUNS, TOOL_CALLS
from agent_client.source import Reader, Source, open_source

__all__ = [
    "Source",
    "Summary",
    "error_summary",
    "has_data",
    "model_call_summary",
    "overview",
    "tool_call_summary",
    "workflow_summary",
]

Summary = dict[str, object]
TOP_TOOLS = 6
TOP_MODELS = 8


def has_data(source: Source, since_ns: int | None = None) -> bool:
    """Whether there is anything to show. Errors: sqlite3.Error."""
    with open_source(source) as reader:
        return _has_data(reader, since_ns)


def workflow_summary(source: Source, since_ns: int | None = None) -> Summary:
    """Runs: count, success_rate, p50 and p95 of duration, by entrypoint and end reason, cost.

    ``cost_usd`` is the sum of what is known, for ``runs_with_cost`` of the runs; None for none.
    """
    with open_source(source) as reader:
        return _workflows(reader, since_ns)


def model_call_summary(source: Source, since_ns: int | None = None) -> Summary:
    """Model calls: count, tokens, cache_hit_rate, by provider and model, and their breakdown."""
    with open_source(source) as reader:
        return _model_calls(reader, since_ns)


def tool_call_summary(source: Source, since_ns: int | None = None) -> Summary:
    """Tool calls: count, failure_rate, and per tool calls and failures."""
    with open_source(source) as reader:
        return _tool_calls(reader, since_ns)


def error_summary(source: Source, since_ns: int | None = None) -> Summary:
    """Errors: count and by class."""
    with open_source(source) as reader:
        return _errors(reader, since_ns)


def overview(source: Source, since_ns: int | None = None) -> Summary:
    """All summaries of one window over one connection. Errors: sqlite3.Error."""
    with open_source(source) as reader:
        return {
            "has_data": _has_data(reader, since_ns),
            "workflows": _workflows(reader, since_ns),
            "model_calls": _model_calls(reader, since_ns),
            "tool_calls": _tool_calls(reader, since_ns),
            "errors": _errors(reader, since_ns),
        }


def _has_data(reader: Reader, since_ns: int | None) -> bool:
    found = " OR ".join(
        f"EXISTS (SELECT 1 FROM {reader.relation(table, 'run_id')})"
        for table in (RUNS, MODEL_CALLS, TOOL_CALLS, ERRORS)
    )
    return any(row[0] for row in reader.rows(f"SELECT {found}", since_ns))


def _workflows(reader: Reader, since_ns: int | None) -> Summary:
    runs = reader.relation(
        RUNS, "entrypoint", "end_reason", "start_ns", "end_ns", "estimated_cost_usd"
    )
    cost = _number("estimated_cost_usd")
    groups = list(
        reader.rows(
            f"SELECT {_name('entrypoint')}, {_name('end_reason')}, count(*), "
            f"total({_HAS_DURATION}), count({cost}), total({cost}) FROM {runs} GROUP BY 1, 2",
            since_ns,
        )
    )
    total, timed, priced, cost_usd = (_sum(groups, place) for place in (2, 3, 4, 5))
    by_end_reason = _tally((row[1], row[2]) for row in groups)
    completed = by_end_reason.get("completed", 0)
    durations = reader.rows(
        f"SELECT (end_ns - start_ns) / 1e6 FROM {runs} WHERE {_HAS_DURATION} ORDER BY 1", since_ns
    )
    p50_ms, p95_ms = percentiles((row[0] for row in durations), int(timed), (0.50, 0.95))
    return {
        "total": int(total),
        "completed": completed,
        "success_rate": _ratio(completed, total),
        "duration_p50_ms": p50_ms,
        "duration_p95_ms": p95_ms,
        "by_entrypoint": _tally((row[0], row[2]) for row in groups),
        "by_end_reason": by_end_reason,
        "cost_usd": round(cost_usd, 6) if priced else None,
        "runs_with_cost": int(priced),
    }


def _model_calls(reader: Reader, since_ns: int | None) -> Summary:
    counted = ("input_tokens", "output_tokens", "cache_read_tokens")
    calls = reader.relation(MODEL_CALLS, "provider", "model", "latency_ms", *counted)
    sums = ", ".join(f"total({_number(name)})" for name in counted)
    rows = list(
        reader.rows(
            f"SELECT {_name('provider')}, {_name('model')}, count(*), "
            f"avg({_number('latency_ms')}), {sums} FROM {calls} "
            "GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
            since_ns,
        )
    )
    fresh, output, cached = (int(_sum(rows, place)) for place in (4, 5, 6))
    return {
        "total": int(_sum(rows, 2)),
        "by_provider": _tally((row[0], row[2]) for row in rows),
        "by_model": _tally((row[1], row[2]) for row in rows),
        "tokens": {"input": fresh, "output": output, "cache_read": cached},
        "cache_hit_rate": _ratio(cached, cached + fresh),
        "breakdown": [_breakdown(row) for row in rows],
    }


def _breakdown(row: tuple[object, ...]) -> Summary:
    provider, model, calls, latency_ms = row[:4]
    fresh, cached = _real(row[4]), _real(row[6])
    return {
        "provider": provider,
        "model": model,
        "calls": calls,
        "mean_latency_ms": None if latency_ms is None else round(_real(latency_ms), 2),
        "cache_hit_rate": _ratio(cached, cached + fresh),
    }


def _tool_calls(reader: Reader, since_ns: int | None) -> Summary:
    calls = reader.relation(TOOL_CALLS, "tool_name", "result_class")
    rows = list(
        reader.rows(
            f"SELECT {_name('tool_name')}, count(*), "
            f"total(result_class IN ('error', 'timeout', 'blocked')) FROM {calls} GROUP BY 1",
            since_ns,
        )
    )
    total, failed = _sum(rows, 1), _sum(rows, 2)
    return {
        "total": int(total),
        "failed": int(failed),
        "failure_rate": _ratio(failed, total),
        "by_tool": _tally((row[0], row[1]) for row in rows),
        "failures_by_tool": _tally((row[0], row[2]) for row in rows if row[2]),
    }


def _errors(reader: Reader, since_ns: int | None) -> Summary:
    errors = reader.relation(ERRORS, "error_class")
    rows = list(
        reader.rows(f"SELECT {_name('error_class')}, count(*) FROM {errors} GROUP BY 1", since_ns)
    )
    return {"total": int(_sum(rows, 1)), "by_class": _tally((row[0], row[1]) for row in rows)}


def percentiles(
    ordered: Iterable[object], count: int, shares: Sequence[float]
) -> list[float | None]:
    """Percentiles of ``count`` sorted numbers by linear interpolation, 2 decimals; None of none.

    Takes the numbers one at a time and keeps those it needs.
    """
    if not count:
        return [None for _ in shares]
    places = [share * (count - 1) for share in shares]
    wanted = sorted({at for place in places for at in (int(place), min(int(place) + 1, count - 1))})
    kept = _pick(iter(ordered), wanted)
    return [
        round(kept[low] + (kept[high] - kept[low]) * (place - low), 2)
        for place in places
        for low, high in [(int(place), min(int(place) + 1, count - 1))]
    ]


def _pick(values: Iterator[object], wanted: Sequence[int]) -> dict[int, float]:
    kept: dict[int, float] = {}
    at = 0
    for index in wanted:
        kept[index] = _real(next(islice(values, index - at, None)))
        at = index + 1
    return kept


_HAS_DURATION = "(typeof(start_ns) = 'integer' AND typeof(end_ns) = 'integer')"


def _name(column: str) -> str:
    """SQL of a name, or ``unknown``; SQLite may hold any type."""
    return f"coalesce(nullif(CAST({column} AS TEXT), ''), 'unknown')"


def _number(column: str) -> str:
    """SQL of a number that a sum can take, or NULL."""
    is_number = f"typeof({column}) IN ('integer', 'real') AND {column} BETWEEN -9e15 AND 9e15"
    return f"CASE WHEN {is_number} THEN {column} END"


def _real(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _sum(rows: Iterable[tuple[object, ...]], place: int) -> float:
    return sum(_real(row[place]) for row in rows)


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def _tally(counts: Iterable[tuple[object, object]]) -> dict[str, int]:
    """Counts by name, the largest first."""
    sums: dict[str, int] = {}
    for name, count in counts:
        sums[str(name)] = sums.get(str(name), 0) + int(_real(count))
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))
