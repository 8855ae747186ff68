"""Rows for `benchmarks.insight`, made by PostgreSQL itself: one statement a table and day.

Working hours are busier than nights, weekdays than weekends, some installs, models and tools than
others; durations are log-normal, as those of real calls are.
"""

from __future__ import annotations

from datetime import date
from typing import Final

WEEKEND: Final = 0.4
TABLES: Final = {
    "telemetry_run": 1.0,
    "telemetry_modelcall": 1.5,
    "telemetry_toolcall": 1.5,
    "telemetry_errorevent": 0.05,
}
"""Rows by run: 30 M calls for 10 M runs."""

_AT: Final = (
    "CASE WHEN r1 < 0.8 THEN 8 + 10 * r2 ELSE 24 * r2 END * interval '1 hour' "
    "+ CAST(%(day)s AS date) AT TIME ZONE 'UTC'"
)
_MADE: Final = (
    "SELECT i, random() r1, random() r2, random() r3, random() r4, random() r5, "
    "sqrt(-2 * ln(1 - random())) * cos(6.283185 * random()) z "
    "FROM generate_series(1, %(rows)s) i OFFSET 0"
)
_COMMON: Final = (
    "install_id, start_at, seq, batch_id, received_at, group_id",
    "b.id, at, i, b.id, at, b.group_id",
)
_NS: Final = "CAST(extract(epoch FROM at) * 1000000 AS bigint) * 1000"
_ID: Final = "to_hex(CAST(extract(epoch FROM CAST(%(day)s AS date)) AS bigint) * 1000 + i)"

_COLUMNS: Final[dict[str, dict[str, str]]] = {
    "telemetry_run": {
        "run_id": _ID,
        "entrypoint": "(ARRAY['cli', 'gateway', 'cron', 'acp'])[1 + floor(4 * r3 * r3)::int]",
        "platform": "(ARRAY['linux', 'darwin', 'windows'])[1 + b.platform]",
        "agent_version": "'0.19.' || b.version",
        "start_ns": _NS,
        "end_ns": f"CASE WHEN r4 < 0.995 THEN {_NS} + CAST(exp(10.6 + 1.2 * z) * 1e6 AS bigint) "
        "END",
        "end_reason": "CASE WHEN r4 >= 0.995 THEN NULL WHEN r4 < 0.9 THEN 'completed' "
        "WHEN r4 < 0.94 THEN 'failed' WHEN r4 < 0.97 THEN 'interrupted' "
        "WHEN r4 < 0.985 THEN 'max_iterations' ELSE 'timeout' END",
        "model_call_count": "2",
        "tool_call_count": "2",
        "error_count": "CASE WHEN r5 < 0.05 THEN 1 ELSE 0 END",
        "estimated_cost_usd": "CASE WHEN r5 < 0.85 THEN 0.02 * exp(z) END",
        "cost_status": "CASE WHEN r5 < 0.7 THEN 'estimated' WHEN r5 < 0.85 THEN 'included' "
        "ELSE 'unknown' END",
        "turn_count": "3",
    },
    "telemetry_modelcall": {
        "span_id": _ID,
        "run_id": "to_hex(i)",
        "provider": "'provider-' || mod(floor(10 * r3 * r3)::int, 3)",
        "model": "'model-' || floor(10 * r3 * r3)::int",
        "input_tokens": "CAST(2000 * exp(z) AS bigint)",
        "output_tokens": "CAST(600 * r4 AS bigint)",
        "cache_read_tokens": "CAST(3000 * r5 AS bigint)",
        "cache_write_tokens": "100",
        "latency_ms": "exp(7.3 + 0.1 * floor(10 * r3 * r3) + 0.8 * z)",
        "estimated_cost_usd": "CASE WHEN r5 < 0.85 THEN 0.01 * exp(z) END",
        "end_reason": "CASE WHEN r4 < 0.98 THEN 'completed' ELSE 'failed' END",
        "start_ns": _NS,
    },
    "telemetry_toolcall": {
        "span_id": _ID,
        "run_id": "to_hex(i)",
        "tool_name": "'tool-' || floor(25 * r3 * r3)::int",
        "duration_ms": "exp(3.4 + 0.2 * floor(25 * r3 * r3) + z)",
        "result_class": "CASE WHEN r4 < 0.97 THEN 'ok' WHEN r4 < 0.985 THEN 'error' "
        "WHEN r4 < 0.995 THEN 'timeout' ELSE 'blocked' END",
        "approval": "CASE WHEN r5 < 0.01 THEN 'denied' END",
        "start_ns": _NS,
    },
    "telemetry_errorevent": {
        "span_id": _ID,
        "run_id": "to_hex(i)",
        "ts_ns": _NS,
        "error_class": "(ARRAY['rate_limit', 'timeout', 'auth', 'network', 'overloaded', "
        "'bad_request', 'context', 'unknown'])[1 + floor(8 * r3 * r3)::int]",
        "subsystem": "CASE WHEN r4 < 0.8 THEN 'model' ELSE 'tool' END",
        "recovery": "CASE WHEN r5 < 0.9 THEN 'retried' ELSE 'none' END",
    },
}


def day_rows(table: str, day: date) -> str:
    """The statement that fills a table's day; parameters: day, rows, installs, start, end.

    Installs come in order, so that the primary key grows at its end.
    """
    columns = _COLUMNS[table]
    names, values = _COMMON
    return (
        f"INSERT INTO {table}_{day:%Y%m%d} ({names}, {', '.join(columns)}) "  # noqa: S608 -- names of this module
        f"SELECT {values}, {', '.join(columns.values())} "
        f"FROM (SELECT m.*, {_AT} AS at FROM ({_MADE}) m) s JOIN bench_install b "
        "ON b.n = floor(%(installs)s * power((i - 1) / CAST(%(rows)s AS float), 1.6))::int "
        "WHERE at >= %(start)s AND at < %(end)s"
    )
