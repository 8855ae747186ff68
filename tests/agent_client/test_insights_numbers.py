"""The numbers equal those of a plain count over the same rows, whatever the rows are."""

from __future__ import annotations

import json
import sqlite3
import statistics
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client import schema
from agent_client.hostdb import STATE_DB
from agent_client.insights import overview
from tests.agent_client.builders import SECOND_NS, START_NS
from tests.agent_client.host_state import insert
from tests.agent_client.seed_state import (
    add_error,
    add_model_call,
    add_run,
    add_tool_call,
    seed_database,
)

Rows = list[dict[str, Any]]
NAMES = st.sampled_from([None, "", "a", "b", "completed", "é", "unknown"])
TIMES = st.integers(START_NS, START_NS + 9)
TOKENS = st.none() | st.integers(0, 10**6)
RUNS = st.fixed_dictionaries(
    {
        "entrypoint": NAMES,
        "end_reason": NAMES,
        "start_ns": TIMES,
        "end_ns": st.none() | st.integers(START_NS, START_NS + 10**12),
        "estimated_cost_usd": st.none() | st.floats(0, 100),
    }
)
CALLS = st.fixed_dictionaries(
    {
        "provider": NAMES,
        "model": NAMES,
        "latency_ms": st.none() | st.floats(0, 1e6),
        "input_tokens": TOKENS,
        "output_tokens": TOKENS,
        "cache_read_tokens": TOKENS,
        "run": st.integers(0, 9),
    }
)
TOOLS = st.fixed_dictionaries(
    {
        "tool_name": NAMES,
        "result_class": st.sampled_from([None, "ok", "error", "timeout", "blocked", "other"]),
        "run": st.integers(0, 9),
    }
)
ERRORS = st.fixed_dictionaries({"error_class": NAMES, "ts_ns": TIMES})


@contextmanager
def database(runs: Rows, calls: Rows, tools: Rows, errors: Rows) -> Iterator[sqlite3.Connection]:
    """The reference's tables in memory; calls have no time of their own."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.m001_seed(connection)
        for number, values in enumerate(runs):
            insert(connection, "tel_runs", run_id=f"run-{number}", **values)
        for table, rows in (("tel_model_calls", calls), ("tel_tool_calls", tools)):
            for number, values in enumerate(rows):
                own = {name: value for name, value in values.items() if name != "run"}
                run_id = f"run-{values['run']}"
                insert(connection, table, span_id=f"s-{number}", run_id=run_id, **own)
        for values in errors:
            insert(connection, "tel_error_events", **values)
        yield connection


def tally(rows: Rows, name: str) -> dict[str, int]:
    return dict(Counter(row[name] or "unknown" for row in rows))


def share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def quantile(values: list[float], percent: int) -> Any:  # noqa: ANN401  # near a number, or None
    """By the standard library's inclusive method, which is linear interpolation."""
    if len(values) < 2:
        return round(values[0], 2) if values else None
    return pytest.approx(
        statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 1e-9, 0.0051
    )


def total(rows: Rows, name: str) -> int:
    return sum(row[name] or 0 for row in rows)


def naive_runs(runs: Rows) -> dict[str, Any]:
    spans = [(r["end_ns"] - r["start_ns"]) / 1e6 for r in runs if r["end_ns"] is not None]
    costs = [r["estimated_cost_usd"] for r in runs if r["estimated_cost_usd"] is not None]
    completed = sum(run["end_reason"] == "completed" for run in runs)
    return {
        "total": len(runs),
        "completed": completed,
        "success_rate": share(completed, len(runs)),
        "duration_p50_ms": quantile(spans, 50),
        "duration_p95_ms": quantile(spans, 95),
        "by_entrypoint": tally(runs, "entrypoint"),
        "by_end_reason": tally(runs, "end_reason"),
        "cost_usd": pytest.approx(sum(costs), abs=2e-6) if costs else None,
        "runs_with_cost": len(costs),
    }


def naive_calls(calls: Rows) -> dict[str, Any]:
    cached, fresh = total(calls, "cache_read_tokens"), total(calls, "input_tokens")
    groups: dict[tuple[str, str], Rows] = {}
    for call in calls:
        key = (call["provider"] or "unknown", call["model"] or "unknown")
        groups.setdefault(key, []).append(call)
    return {
        "total": len(calls),
        "by_provider": tally(calls, "provider"),
        "by_model": tally(calls, "model"),
        "tokens": {
            "input": fresh,
            "output": total(calls, "output_tokens"),
            "cache_read": cached,
        },
        "cache_hit_rate": share(cached, cached + fresh),
        "breakdown": [naive_group(*key, groups[key]) for key in groups],
    }


def naive_group(provider: str, model: str, calls: Rows) -> dict[str, Any]:
    known = [call["latency_ms"] for call in calls if call["latency_ms"] is not None]
    cached, fresh = total(calls, "cache_read_tokens"), total(calls, "input_tokens")
    return {
        "provider": provider,
        "model": model,
        "calls": len(calls),
        "mean_latency_ms": pytest.approx(sum(known) / len(known), abs=0.0051) if known else None,
        "cache_hit_rate": share(cached, cached + fresh),
    }


def naive_tools(tools: Rows) -> dict[str, Any]:
    bad = [row for row in tools if row["result_class"] in {"error", "timeout", "blocked"}]
    return {
        "total": len(tools),
        "failed": len(bad),
        "failure_rate": share(len(bad), len(tools)),
        "by_tool": tally(tools, "tool_name"),
        "failures_by_tool": tally(bad, "tool_name"),
    }


def in_window(rows: Rows, runs: Rows, since_ns: int | None) -> Rows:
    """A call stands where its run began; one of an unknown run is in no window."""
    starts = {number: run["start_ns"] for number, run in enumerate(runs)}
    return [row for row in rows if since_ns is None or starts.get(row["run"], 0) >= since_ns]


def by_names(summary: dict[str, Any]) -> dict[str, Any]:
    def key(entry: dict[str, Any]) -> tuple[str, str]:
        return entry["provider"], entry["model"]

    return {**summary, "breakdown": sorted(summary["breakdown"], key=key)}


@given(
    st.lists(RUNS, max_size=12),
    st.lists(CALLS, max_size=12),
    st.lists(TOOLS, max_size=12),
    st.lists(ERRORS, max_size=12),
    st.none() | TIMES,
)
def test_every_number_equals_a_plain_count(
    runs: Rows, calls: Rows, tools: Rows, errors: Rows, since_ns: int | None
) -> None:
    with database(runs, calls, tools, errors) as connection:
        found: dict[str, Any] = overview(connection, since_ns)
    calls, tools = in_window(calls, runs, since_ns), in_window(tools, runs, since_ns)
    runs = [run for run in runs if since_ns is None or run["start_ns"] >= since_ns]
    errors = [error for error in errors if since_ns is None or error["ts_ns"] >= since_ns]
    assert found["workflows"] == naive_runs(runs)
    assert by_names(found["model_calls"]) == by_names(naive_calls(calls))
    assert found["tool_calls"] == naive_tools(tools)
    assert found["errors"] == {"total": len(errors), "by_class": tally(errors, "error_class")}
    assert found["has_data"] == bool(runs or calls or tools or errors)


def test_the_references_file_is_a_source_and_its_calls_stand_where_their_run_began(
    tmp_path: Path,
) -> None:
    with seed_database(tmp_path) as host:
        add_run(host, 0)
        add_run(host, 1)
        add_model_call(host, 0)
        add_model_call(host, 1, run_id="run-1")
        add_tool_call(host, 0)
        add_error(host)
        for source in (tmp_path / STATE_DB, str(tmp_path / STATE_DB), host):
            found: dict[str, Any] = overview(source, START_NS + SECOND_NS)
            parts = ("workflows", "model_calls", "tool_calls", "errors")
            assert [found[part]["total"] for part in parts] == [1, 1, 0, 0]


def test_tables_and_columns_that_are_missing_count_nothing(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert overview(connection)["has_data"] is False
        connection.execute("CREATE TABLE tel_tool_calls (tool_name TEXT)")
        connection.execute("INSERT INTO tel_tool_calls VALUES ('web')")
    found: dict[str, Any] = overview(path)
    assert found["tool_calls"]["by_tool"] == {"web": 1}
    assert found["workflows"]["total"] == 0
    assert overview(path, 1)["has_data"] is False  # without a time it is in no window


HOSTILE: list[Callable[[sqlite3.Connection], None]] = [
    lambda host: add_run(host, 1, start_ns="soon", end_ns=b"late", estimated_cost_usd="dear"),
    lambda host: add_run(
        host, 1, entrypoint=b"\xff", end_reason=7, estimated_cost_usd=float("inf")
    ),
    lambda host: add_run(host, 1, start_ns=-(2**63), end_ns=2**63 - 1),
    lambda host: add_model_call(host, 1, input_tokens=2**63 - 1, latency_ms=float("inf")),
    lambda host: add_model_call(host, 1, provider="a\x00b", cache_read_tokens="many"),
]


@pytest.mark.parametrize("spoil", HOSTILE)
def test_hostile_values_leave_the_answer_valid(
    tmp_path: Path, spoil: Callable[[sqlite3.Connection], None]
) -> None:
    with seed_database(tmp_path) as host:
        add_run(host)
        spoil(host)
    found: dict[str, Any] = overview(tmp_path / STATE_DB)
    json.dumps(found, allow_nan=False)
    assert found["workflows"]["by_end_reason"]["completed"] >= 1


def test_a_row_factory_of_the_callers_changes_nothing(tmp_path: Path) -> None:
    with seed_database(tmp_path) as host:
        add_run(host)
        plain = overview(host)
        host.row_factory = lambda _, row: dict(enumerate(row))
        assert overview(host) == plain


def test_durations_of_many_runs_take_constant_memory(tmp_path: Path) -> None:
    count = 100_000
    with seed_database(tmp_path) as host:
        host.execute(
            "WITH RECURSIVE n(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n WHERE x < ?) "
            "INSERT INTO tel_runs (run_id, start_ns, end_ns) "
            "SELECT x, 1, 1 + (x * 7919 % 100000) * 1000000 FROM n",
            (count - 1,),
        )
        tracemalloc.start()
        found: dict[str, Any] = overview(host)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    runs = found["workflows"]
    assert (runs["duration_p50_ms"], runs["duration_p95_ms"]) == (49_999.5, 94_999.05)
    assert peak_bytes < 200_000  # the durations alone take 3 MB
