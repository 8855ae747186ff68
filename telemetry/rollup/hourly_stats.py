"""The stats of the hourly cells that pages still read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from django.db import connection
from django.db.models import Model

from fleet.models import Install
from telemetry.models import (
    ErrorCell,
    ErrorEvent,
    EventRow,
    InstallHour,
    ModelCall,
    ModelCell,
    Run,
    RunCell,
    ToolCall,
    ToolCell,
)
from telemetry.rollup.histogram import BUCKETS_PER_DOUBLING, MAX_MS, ZERO_THRESHOLD_MS

HOUR: Final = timedelta(hours=1)
INSTALL_TABLE: Final = Install._meta.db_table
TOKENS_A_CALL_MAX: Final = 1_000_000_000
"""More is a fault; without a bound 1,025 hostile rows overflow the 64-bit sum of their hour."""
DIMENSION_CHARS: Final = 200

GOOD_CALL_ENDS: Final = ("completed", "stop", "ok")
"""``end_reason`` of a model call that went well; NULL counts as well, as old agents send none."""
DENIED: Final = ("denied", "smart_deny")


@dataclass(frozen=True, slots=True)
class Stat:
    """One kind of cell from one event table.

    ``dimensions``: cell field to column; NULL becomes "". ``counts`` and ``sums``: cell field to
    SQL over the row ``r``, integers and floats. ``measure_ms``: SQL of the histogram's value,
    with the cell fields of its histogram and its sum.
    """

    name: str
    source: type[EventRow]
    cell: type[Model]
    dimensions: Mapping[str, str]
    counts: Mapping[str, str]
    sums: Mapping[str, str] = field(default_factory=dict)
    measure_ms: str = ""
    measure_hist: str = ""
    measure_sum: str = ""
    is_by_install: bool = False


def _is(column: str, *values: str) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"SUM(CASE WHEN r.{column} IN ({listed}) THEN 1 ELSE 0 END)"


def _none_of(column: str, *values: str) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"SUM(CASE WHEN r.{column} NOT IN ({listed}) THEN 1 ELSE 0 END)"


def _tokens(column: str) -> str:
    bound = TOKENS_A_CALL_MAX
    return f"SUM(CASE WHEN r.{column} > {bound} THEN {bound} ELSE r.{column} END)"


_ENDS: Final = ("completed", "interrupted", "failed", "max_iterations", "timeout", "abandoned")
_RESULTS: Final = ("ok", "error", "timeout", "blocked")
_GOOD: Final = ", ".join(f"'{value}'" for value in GOOD_CALL_ENDS)
_FAILED_RUN: Final = ("failed", "timeout", "max_iterations")

RUNS: Final = Stat(
    "runs",
    Run,
    RunCell,
    {"entrypoint": "entrypoint", "agent_version": "agent_version"},
    {
        "run_count": "COUNT(*)",
        **{f"{end}_count": _is("end_reason", end) for end in _ENDS},
        "open_count": "SUM(CASE WHEN r.end_reason IS NULL THEN 1 ELSE 0 END)",
        "other_count": _none_of("end_reason", *_ENDS),
        "priced_count": "COUNT(r.estimated_cost_usd)",
    },
    {"cost_usd": "SUM(r.estimated_cost_usd)"},
    measure_ms="CASE WHEN r.end_ns >= r.start_ns "
    "THEN CAST(r.end_ns - r.start_ns AS double precision) / 1000000.0 END",
    measure_hist="duration_hist",
    measure_sum="duration_sum_ms",
)
MODEL_CALLS: Final = Stat(
    "model_calls",
    ModelCall,
    ModelCell,
    {"provider": "provider", "model": "model"},
    {
        "call_count": "COUNT(*)",
        "failed_count": f"SUM(CASE WHEN r.end_reason NOT IN ({_GOOD}) THEN 1 ELSE 0 END)",
        "priced_count": "COUNT(r.estimated_cost_usd)",
        "retry_count": _tokens("retry_count"),
        **{
            name: _tokens(name)
            for name in (
                "input_tokens",
                "output_tokens",
                "cache_read_tokens",
                "cache_write_tokens",
                "reasoning_tokens",
            )
        },
    },
    {"cost_usd": "SUM(r.estimated_cost_usd)"},
    measure_ms="r.latency_ms",
    measure_hist="latency_hist",
    measure_sum="latency_sum_ms",
)
TOOL_CALLS: Final = Stat(
    "tool_calls",
    ToolCall,
    ToolCell,
    {"tool_name": "tool_name"},
    {
        "call_count": "COUNT(*)",
        **{f"{result}_count": _is("result_class", result) for result in _RESULTS},
        "other_count": "SUM(CASE WHEN r.result_class IN ('ok', 'error', 'timeout', 'blocked') "
        "THEN 0 ELSE 1 END)",
        "denied_count": _is("approval", *DENIED),
    },
    measure_ms="r.duration_ms",
    measure_hist="duration_hist",
    measure_sum="duration_sum_ms",
)
ERRORS: Final = Stat(
    "errors",
    ErrorEvent,
    ErrorCell,
    {"error_class": "error_class", "subsystem": "subsystem"},
    {"error_count": "COUNT(*)", "given_up_count": _is("recovery", "none")},
)
_INSTALL_STATS: Final = (
    Stat(
        "install_runs",
        Run,
        InstallHour,
        {},
        {
            "run_count": "COUNT(*)",
            "failed_run_count": _is("end_reason", *_FAILED_RUN),
            "priced_run_count": "COUNT(r.estimated_cost_usd)",
        },
        {"cost_usd": "SUM(r.estimated_cost_usd)"},
        is_by_install=True,
    ),
    Stat(
        "install_model_calls",
        ModelCall,
        InstallHour,
        {},
        {"model_call_count": "COUNT(*)"},
        is_by_install=True,
    ),
    Stat(
        "install_tool_calls",
        ToolCall,
        InstallHour,
        {},
        {
            "tool_call_count": "COUNT(*)",
            "tool_failure_count": _is("result_class", "error", "timeout", "blocked"),
        },
        is_by_install=True,
    ),
    Stat(
        "install_errors",
        ErrorEvent,
        InstallHour,
        {},
        {"error_count": "COUNT(*)"},
        is_by_install=True,
    ),
)
STATS: Final = (RUNS, MODEL_CALLS, TOOL_CALLS, ERRORS, *_INSTALL_STATS)


@dataclass(frozen=True, slots=True)
class Part:
    """One group of raw rows: a cell's key, its numbers, and one bucket of its histogram.

    ``bucket``: None for rows without a measure, "zero" or the index as text.
    """

    key: tuple[object, ...]
    numbers: Mapping[str, int | float]
    bucket: str | None
    row_count: int


def count_hour(stat: Stat, hour: datetime) -> Iterator[Part]:
    """The parts of a stat's cells for one UTC hour, from the raw rows."""
    names = (*stat.counts, *stat.sums, *((stat.measure_sum,) if stat.measure_sum else ()))
    key_size = 1 + stat.is_by_install + len(stat.dimensions)
    with connection.cursor() as cursor:
        bounds = (connection.ops.adapt_datetimefield_value(at) for at in (hour, hour + HOUR))
        cursor.execute(_query(stat), list(bounds))
        for row in cursor.fetchall():
            key, bucket, row_count = row[:key_size], row[key_size], row[key_size + 1]
            numbers = dict(zip(names, row[key_size + 2 :], strict=True))
            yield Part(key, numbers, None if bucket is None else str(bucket), row_count)


def _query(stat: Stat) -> str:
    """Group, install (if the stat has it), dimensions, bucket, rows, counts, sums."""
    quote = connection.ops.quote_name
    keys = ["COALESCE(i.group_id, 0)"]
    if stat.is_by_install:
        keys.append("r.install_id")
    # Cut: a cell's key must fit into an index page whatever a scrubbed name has become.
    keys += [
        f"SUBSTR(COALESCE(r.{quote(column)}, ''), 1, {DIMENSION_CHARS})"
        for column in stat.dimensions.values()
    ]
    keys.append(_bucket(stat.measure_ms) if stat.measure_ms else "NULL")
    values = [f"CAST(COALESCE({counted}, 0) AS bigint)" for counted in stat.counts.values()]
    values += [f"COALESCE({summed}, 0.0)" for summed in stat.sums.values()]
    if stat.measure_sum:
        values.append(f"COALESCE(SUM({stat.measure_ms}), 0.0)")
    positions = ", ".join(str(at + 1) for at in range(len(keys)))
    return (
        f"SELECT {', '.join(keys)}, COUNT(*), {', '.join(values)} "  # noqa: S608 -- names of our own models
        f"FROM {quote(stat.source.table_name())} r "
        f"LEFT JOIN {quote(INSTALL_TABLE)} i ON i.{quote('id')} = r.install_id "
        f"WHERE r.start_at >= %s AND r.start_at < %s GROUP BY {positions}"
    )


def _bucket(measure: str) -> str:
    """histogram.bucket_of in SQL, as text."""
    factor = repr(BUCKETS_PER_DOUBLING / math.log(2))
    value = f"(CASE WHEN ({measure}) > {MAX_MS:.1f} THEN {MAX_MS:.1f} ELSE ({measure}) END)"
    return (
        f"CASE WHEN ({measure}) IS NULL THEN NULL "
        f"WHEN ({measure}) <= {ZERO_THRESHOLD_MS} THEN 'zero' "
        f"ELSE CAST(CAST(CEILING(LN(CAST({value} AS double precision)) * {factor}) - 1 AS integer) "
        "AS varchar(12)) END"
    )
