"""The numbers, on rows whose answers were worked out by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client import insights, insights_text
from agent_client.files import telemetry_dir
from agent_client.insights import overview, percentiles
from agent_client.store import DATABASE
from tests.agent_client.builders import (
    START_NS,
    error_event,
    model_call,
    run_event,
    store_events,
    tool_call,
)

MS = 1_000_000
# A summary's parts are told apart by their keys, not by a type.
Summary = dict[str, Any]


def run(number: int, duration_ms: int | None, **changes: Any) -> Any:  # noqa: ANN401  # a builder's values
    end_ns = None if duration_ms is None else START_NS + duration_ms * MS
    return run_event(number, end_ns=end_ns, **changes)


def filled(home: Path) -> Path:
    store_events(
        home,
        run(0, 100, estimated_cost_usd=0.25),
        run(1, 200, entrypoint="gateway", estimated_cost_usd=0.5),
        run(2, 400, end_reason="failed"),
        run(3, None, end_reason=None, entrypoint=None),
        model_call(0, latency_ms=100, input_tokens=100, output_tokens=10, cache_read_tokens=300),
        model_call(1, latency_ms=200, input_tokens=100, output_tokens=20),
        model_call(2, provider=None, model=None, input_tokens=None, latency_ms=None),
        *[tool_call(n, result_class=word) for n, word in enumerate(("ok", "ok", "error"))],
        tool_call(3, tool_name="web", result_class="timeout"),
        tool_call(4, tool_name="web", result_class="blocked"),
        tool_call(5, tool_name=None, result_class=None),
        error_event(0),
        error_event(1),
        error_event(2, error_class=None),
    )
    return home


def database(home: Path) -> Path:
    return telemetry_dir(home) / DATABASE


def summary(home: Path, since_ns: int | None = None) -> Summary:
    found: Summary = overview(database(home), since_ns)
    return found


def test_runs_are_counted_by_hand(tmp_path: Path) -> None:
    assert summary(filled(tmp_path))["workflows"] == {
        "total": 4,
        "completed": 2,
        "success_rate": 0.5,
        "duration_p50_ms": 200.0,
        "duration_p95_ms": 380.0,
        "by_entrypoint": {"cli": 2, "gateway": 1, "unknown": 1},
        "by_end_reason": {"completed": 2, "failed": 1, "unknown": 1},
        "cost_usd": 0.75,
        "runs_with_cost": 2,
    }


def test_model_calls_are_counted_by_hand(tmp_path: Path) -> None:
    assert summary(filled(tmp_path))["model_calls"] == {
        "total": 3,
        "by_provider": {"custom": 2, "unknown": 1},
        "by_model": {"model-a": 2, "unknown": 1},
        "tokens": {"input": 200, "output": 30, "cache_read": 300},
        "cache_hit_rate": 0.6,
        "breakdown": [
            {
                "provider": "custom",
                "model": "model-a",
                "calls": 2,
                "mean_latency_ms": 150.0,
                "cache_hit_rate": 0.6,
            },
            {
                "provider": "unknown",
                "model": "unknown",
                "calls": 1,
                "mean_latency_ms": None,
                "cache_hit_rate": 0.0,
            },
        ],
    }


def test_tool_calls_are_counted_by_hand(tmp_path: Path) -> None:
    assert summary(filled(tmp_path))["tool_calls"] == {
        "total": 6,
        "failed": 3,
        "failure_rate": 0.5,
        "by_tool": {"terminal": 3, "web": 2, "unknown": 1},
        "failures_by_tool": {"terminal": 1, "web": 2},
    }


def test_errors_are_counted_by_hand(tmp_path: Path) -> None:
    assert summary(filled(tmp_path))["errors"] == {
        "total": 3,
        "by_class": {"auth": 2, "unknown": 1},
    }


def test_an_empty_home_has_no_data_and_no_section(tmp_path: Path) -> None:
    store_events(tmp_path)
    found = summary(tmp_path)
    assert not found["has_data"]
    assert found["workflows"]["duration_p50_ms"] is None
    assert found["workflows"]["cost_usd"] is None
    assert insights_text.render(found) == ""


def test_every_part_honours_the_window(tmp_path: Path) -> None:
    filled(tmp_path)
    later = START_NS + 10**15
    assert not summary(tmp_path, later)["has_data"]
    store_events(
        tmp_path,
        run_event(9, start_ns=later, end_ns=later),
        model_call(9, start_ns=later),
        tool_call(9, start_ns=later),
        error_event(9, ts_ns=later),
    )
    found = summary(tmp_path, later)
    parts = ("workflows", "model_calls", "tool_calls", "errors")
    assert [found[part]["total"] for part in parts] == [1, 1, 1, 1]
    assert found["model_calls"]["tokens"]["input"] == 100


@pytest.mark.parametrize(
    "part",
    [
        insights.workflow_summary,
        insights.model_call_summary,
        insights.tool_call_summary,
        insights.error_summary,
        insights.has_data,
    ],
)
def test_each_part_takes_a_path_or_a_connection(
    tmp_path: Path, part: Callable[[insights.Source], object]
) -> None:
    path = database(filled(tmp_path))
    with closing(sqlite3.connect(path)) as connection:
        assert part(connection) == part(path)


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    home = tmp_path / "a #100% odd? home"
    home.mkdir()
    assert summary(filled(home))["has_data"]


def queries(home: Path) -> int:
    traced: list[str] = []
    with closing(sqlite3.connect(database(home))) as connection:
        connection.set_trace_callback(traced.append)
        overview(connection)
    # SQLite tells of the pragma it runs for each table too; there are always the same.
    return len([sql for sql in traced if sql.lstrip().startswith("SELECT")])


def test_the_number_of_queries_does_not_depend_on_the_rows(tmp_path: Path) -> None:
    filled(tmp_path)
    before = queries(tmp_path)
    store_events(
        tmp_path,
        *[run_event(100 + n) for n in range(50)],
        *[model_call(100 + n) for n in range(50)],
    )
    assert queries(tmp_path) == before == 7


def percentile(ordered: list[float], share: float) -> float:
    (found,) = percentiles(iter(ordered), len(ordered), (share,))
    assert found is not None
    return found


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_a_percentile_lies_between_the_smallest_and_the_largest(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    assert ordered[0] - 0.005 <= percentile(ordered, share) <= ordered[-1] + 0.005


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 10.0), (0.5, 25.0), (0.95, 38.5), (1.0, 40.0), (1 / 3, 20.0)]
)
def test_a_percentile_is_interpolated(share: float, value: float) -> None:
    assert percentile([10, 20, 30, 40], share) == value


@pytest.mark.parametrize(
    ("ms", "text"), [(850, "850ms"), (2400, "2.4s"), (90_000, "1.5m"), (None, "-"), (0, "0ms")]
)
def test_durations_read_well(ms: object, text: str) -> None:
    assert insights_text.duration_text(ms) == text


def test_the_section_shows_every_part(tmp_path: Path) -> None:
    text = insights_text.render(summary(filled(tmp_path)))
    for words in (
        "Workflows       4 (50.0% completed)",
        "p50 200ms, p95 380ms",
        "cli 2, gateway 1, unknown 1",
        "Tool calls      6 (50.0% failed)",
        "terminal                 3, 1 failed",
        "200 in, 30 out, 300 from cache",
        "custom/model-a",
        "60% cache hits",
        "Errors          auth 2, unknown 1",
        "$0.7500 (known for 2 of 4 runs)",
    ):
        assert words in text


def test_the_section_leaves_out_what_there_is_not(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    text = insights_text.render(summary(tmp_path))
    assert "Cost            unknown" in text
    assert not [word for word in ("Tool calls", "Model calls", "Errors") if word in text]


def test_the_section_is_short_however_many_tools_there_are(tmp_path: Path) -> None:
    store_events(
        tmp_path,
        run_event(),
        *[tool_call(n, tool_name=f"tool-{n}") for n in range(20)],
        *[model_call(n, model=f"model-{n}") for n in range(20)],
    )
    text = insights_text.render(summary(tmp_path))
    assert text.count("\n  tool-") == 6
    assert text.count("\n  custom/model-") == 8


def test_names_cannot_steer_the_terminal_nor_fill_it(tmp_path: Path) -> None:
    steering = "\x1b]0;title\x07\r\n"
    store_events(
        tmp_path,
        *[run_event(n, entrypoint=f"{steering}{n}") for n in range(20)],
        tool_call(tool_name=steering + "x" * 150),
        model_call(provider=steering, model="m\u202e"),
        error_event(error_class=steering),
    )
    text = insights_text.render(summary(tmp_path))
    assert all(c.isprintable() for line in text.splitlines() for c in line)
    assert "and 12 more" in text
    assert "x" * 61 not in text
