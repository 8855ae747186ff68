"""The metrics of the local plane, every part of them within the window, and how they are printed.

Definitions: success_rate = completed / all runs (4 decimals); p50 and p95 by
linear interpolation (2 decimals); failure_rate = (error + timeout + blocked) /
all tool calls; cache_hit_rate = cache_read / (cache_read + input). A missing
name counts as ``unknown``. A fixed number of queries however many rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

Source = Path | sqlite3.Connection
Summary = dict[str, object]
TOP_TOOLS = 6
TOP_MODELS = 8


@contextmanager
def _open(source: Source) -> Iterator[sqlite3.Connection]:
    if isinstance(source, sqlite3.Connection):
        yield source
        return
    with closing(
        sqlite3.connect(source.absolute().as_uri() + "?mode=ro", uri=True, timeout=5)
    ) as connection:
        yield connection


def has_data(source: Source, since_ns: int | None = None) -> bool:
    """Whether there is anything to show. Errors: sqlite3.Error."""
    with _open(source) as connection:
        row = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM tel_runs WHERE :since IS NULL OR start_ns >= :since) "
            "OR EXISTS (SELECT 1 FROM tel_model_calls WHERE :since IS NULL OR start_ns >= :since)",
            {"since": since_ns},
        ).fetchone()
    return bool(row[0])


def workflow_summary(source: Source, since_ns: int | None = None) -> Summary:
    """Runs: count, success_rate, p50 and p95 of duration, by entrypoint and end reason, cost."""
    with _open(source) as connection:
        rows = connection.execute(
            "SELECT coalesce(entrypoint, 'unknown'), coalesce(end_reason, 'unknown'), "
            "(end_ns - start_ns) / 1e6, estimated_cost_usd FROM tel_runs "
            "WHERE :since IS NULL OR start_ns >= :since",
            {"since": since_ns},
        ).fetchall()
    total = len(rows)
    durations = sorted(row[2] for row in rows if row[2] is not None)
    costs = [row[3] for row in rows if row[3] is not None]
    completed = sum(1 for row in rows if row[1] == "completed")
    return {
        "total": total,
        "completed": completed,
        "success_rate": round(completed / total, 4) if total else 0.0,
        "duration_p50_ms": percentile(durations, 0.50),
        "duration_p95_ms": percentile(durations, 0.95),
        "by_entrypoint": _tally(row[0] for row in rows),
        "by_end_reason": _tally(row[1] for row in rows),
        "cost_usd": round(sum(costs), 6) if costs else None,
        "runs_with_cost": len(costs),
    }


def model_call_summary(source: Source, since_ns: int | None = None) -> Summary:
    """Model calls: count, tokens, cache_hit_rate, by provider and model, and their breakdown."""
    with _open(source) as connection:
        rows = connection.execute(
            "SELECT coalesce(provider, 'unknown'), coalesce(model, 'unknown'), count(*), "
            "avg(latency_ms), total(input_tokens), total(output_tokens), total(cache_read_tokens) "
            "FROM tel_model_calls WHERE :since IS NULL OR start_ns >= :since "
            "GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
            {"since": since_ns},
        ).fetchall()
    by_provider: dict[str, int] = {}
    by_model: dict[str, int] = {}
    for provider, model, calls, *_ in rows:
        by_provider[provider] = by_provider.get(provider, 0) + calls
        by_model[model] = by_model.get(model, 0) + calls
    tokens = [int(sum(row[place] for row in rows)) for place in (4, 5, 6)]
    return {
        "total": sum(row[2] for row in rows),
        "by_provider": by_provider,
        "by_model": by_model,
        "tokens": {"input": tokens[0], "output": tokens[1], "cache_read": tokens[2]},
        "cache_hit_rate": _ratio(tokens[2], tokens[2] + tokens[0]),
        "breakdown": [
            {
                "provider": provider,
                "model": model,
                "calls": calls,
                "mean_latency_ms": None if latency is None else round(latency, 2),
                "cache_hit_rate": _ratio(cached, cached + fresh),
            }
            for provider, model, calls, latency, fresh, _, cached in rows
        ],
    }


def tool_call_summary(source: Source, since_ns: int | None = None) -> Summary:
    """Tool calls: count, failure_rate, and per tool calls and failures."""
    with _open(source) as connection:
        rows = connection.execute(
            "SELECT coalesce(tool_name, 'unknown'), count(*), "
            "total(result_class IN ('error', 'timeout', 'blocked')) "
            "FROM tel_tool_calls WHERE :since IS NULL OR start_ns >= :since GROUP BY 1 "
            "ORDER BY 2 DESC, 1",
            {"since": since_ns},
        ).fetchall()
    total, failed = sum(row[1] for row in rows), int(sum(row[2] for row in rows))
    return {
        "total": total,
        "failed": failed,
        "failure_rate": _ratio(failed, total),
        "by_tool": {tool: calls for tool, calls, _ in rows},
        "failures_by_tool": {tool: int(bad) for tool, _, bad in rows if bad},
    }


def error_summary(source: Source, since_ns: int | None = None) -> Summary:
    """Errors: count and by class."""
    with _open(source) as connection:
        rows = connection.execute(
            "SELECT coalesce(error_class, 'unknown'), count(*) FROM tel_error_events "
            "WHERE :since IS NULL OR ts_ns >= :since GROUP BY 1 ORDER BY 2 DESC, 1",
            {"since": since_ns},
        ).fetchall()
    return {"total": sum(row[1] for row in rows), "by_class": dict(rows)}


def overview(source: Source, since_ns: int | None = None) -> Summary:
    """All summaries of one window over one connection. Errors: sqlite3.Error."""
    with _open(source) as connection:
        return {
            "has_data": has_data(connection, since_ns),
            "workflows": workflow_summary(connection, since_ns),
            "model_calls": model_call_summary(connection, since_ns),
            "tool_calls": tool_call_summary(connection, since_ns),
            "errors": error_summary(connection, since_ns),
        }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """A percentile of sorted values by linear interpolation, 2 decimals; None without values."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return round(ordered[low] + (ordered[high] - ordered[low]) * (place - low), 2)


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def _tally(names: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
