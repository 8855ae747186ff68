"""Every question against a plain count of the raw rows, on random small fleets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.lib.clock import datetime_to_ns, floor_hour, now
from telemetry.insight import queries
from telemetry.insight.answers import Overview, Percentiles, Tokens
from telemetry.insight.calls import TOKEN_FIELDS
from telemetry.insight.filters import Filters
from telemetry.insight.window import HOUR, Window
from telemetry.models import (
    CELL_MODELS,
    EVENT_MODELS,
    ErrorEvent,
    EventRow,
    FillState,
    FirstSeen,
    ModelCall,
    Run,
    ToolCall,
    TouchedHour,
)
from telemetry.rollup.fill import fill_pending
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
END = floor_hour(now()) + HOUR
FIRST_HOUR = 9 * 24 - 1
"""Hours before the end in which rows begin: two windows of four days and a bit."""
INSTALLS = tuple(UUID(int=number) for number in range(1, 5))
BAD_ENDS = {"failed", "timeout", "max_iterations"}
Rows = Sequence[dict[str, Any]]


def some(*values: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([*values, None])


AMOUNTS = st.one_of(st.none(), st.integers(0, 10**6))
MS = st.one_of(st.none(), st.just(0.0), st.floats(0.01, 1e6))
# Most begin near the edges of the windows below, where whole days and hours meet.
EDGES = st.one_of(*(st.integers(at, at + 23) for at in (0, 90, 105, 185)))
PLACE = {
    "hours_ago": st.one_of(EDGES, EDGES, st.integers(0, FIRST_HOUR)),
    "install": st.integers(0, len(INSTALLS) - 1),
}
RUNS = st.fixed_dictionaries(
    {
        "kind": st.just("run"),
        "end_reason": some("completed", "failed", "timeout", "interrupted", "odd"),
        "entrypoint": some("cli", "cron"),
        "platform": some("linux"),
        "agent_version": some("1", "2"),
        "took_ms": MS,
        "estimated_cost_usd": st.one_of(st.none(), st.floats(0, 9).map(lambda usd: round(usd, 6))),
        "cost_status": some("estimated", "included"),
        "turn_count": AMOUNTS,
    }
    | PLACE
)
MODEL_CALLS = st.fixed_dictionaries(
    {
        "kind": st.just("model_call"),
        "provider": some("a", "b"),
        "model": some("m1", "m2", "m3"),
        "end_reason": some("completed", "failed"),
        "latency_ms": MS,
        "ttft_ms": MS,
        **dict.fromkeys(TOKEN_FIELDS, AMOUNTS),
    }
    | PLACE
)
TOOL_CALLS = st.fixed_dictionaries(
    {
        "kind": st.just("tool_call"),
        "tool_name": some("terminal", "browser"),
        "result_class": some("ok", "error", "timeout", "blocked"),
        "approval": some("denied", "approved"),
        "duration_ms": MS,
    }
    | PLACE
)
ERRORS = st.fixed_dictionaries(
    {
        "kind": st.just("error"),
        "error_class": some("auth", "network"),
        "subsystem": some("model"),
        "recovery": some("none", "retried"),
    }
    | PLACE
)
FLEETS = st.lists(st.one_of(RUNS, RUNS, MODEL_CALLS, TOOL_CALLS, ERRORS), min_size=6, max_size=30)
WINDOWS = st.builds(
    lambda hours, back: Window(END - (hours + back) * HOUR, END - back * HOUR),
    st.sampled_from([24, 95, 96, 100]),
    st.integers(0, 20),
)
FILTERS = st.builds(
    Filters,
    group_id=st.sampled_from([None, None, 0, 1]),
    agent_version=st.sampled_from(["", "", "1", "unknown"]),
    provider=st.sampled_from(["", "a"]),
    tool_name=st.sampled_from(["", "terminal"]),
)


def store(fleet: Rows) -> None:
    """The rows of a fleet through the real ingest, folded; nothing else is there."""
    for model in (*EVENT_MODELS, *CELL_MODELS, FillState, FirstSeen, TouchedHour):
        model._default_manager.all().delete()
    for number, install_id in enumerate(INSTALLS):
        records = [
            record(seq, dict(row)) for seq, row in enumerate(fleet) if row["install"] == number
        ]
        if records:
            make.push(*records, install_id=install_id, group_id=number % 2)
    fill_pending()


def record(seq: int, row: dict[str, Any]) -> dict[str, object]:
    kind, hours_ago = row.pop("kind"), row.pop("hours_ago")
    del row["install"]
    # Not before the hour, nor after now.
    start_ns = min(datetime_to_ns(END - hours_ago * HOUR), datetime_to_ns(now())) - make.S
    if kind == "run":
        took_ms = row.pop("took_ms")
        end_ns = None if took_ms is None else start_ns + int(took_ms * 1e6)
        row |= {"run_id": f"r{seq}", "start_ns": start_ns, "end_ns": end_ns}
    row["ts_ns" if kind == "error" else "start_ns"] = start_ns
    build: Callable[..., dict[str, object]] = getattr(make, kind)
    return build(seq + 1, **row)


def inside[Row: EventRow](model: type[Row], window: Window, group_id: int | None) -> list[Row]:
    rows = model._default_manager.filter(start_at__gte=window.start, start_at__lt=window.end)
    return list(rows if group_id is None else rows.filter(group_id=group_id))


def shown(value: str | None) -> str:
    return value or "unknown"


def near(found: Percentiles | None, values_ms: Iterable[float]) -> bool:
    """Whether three ranks are those of the values, at most 2.5 % off."""
    known = sorted(values_ms)
    if found is None or not known:
        return not known and (found is None or found.p50_ms is None)
    ranks = [known[max(1, math.ceil(q * len(known))) - 1] for q in (0.5, 0.95, 0.99)]
    asked = [found.p50_ms, found.p95_ms, found.p99_ms]
    return found.timed_count == len(known) and asked == pytest.approx(ranks, rel=0.025)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fleet=FLEETS, window=WINDOWS, filters=FILTERS)
def test_every_answer_is_what_the_rows_say(fleet: Rows, window: Window, filters: Filters) -> None:
    store(fleet)
    found = queries.overview(window, filters)
    check_runs(found, window, filters)
    check_calls(found, window, filters)
    check_installs(found, window, filters)


def runs_of(window: Window, filters: Filters) -> list[Run]:
    return [
        run
        for run in inside(Run, window, filters.group_id)
        if filters.agent_version in {"", shown(run.agent_version)}
    ]


def check_runs(found: Overview, window: Window, filters: Filters) -> None:
    for asked, part in (
        (found.runs.totals.value, window),
        (found.runs.totals.previous, window.previous),
    ):
        runs = runs_of(part, filters)
        priced = [run.estimated_cost_usd for run in runs if run.estimated_cost_usd is not None]
        ends = Counter(run.end_reason for run in runs)
        assert (asked.run_count, asked.priced_count) == (len(runs), len(priced))
        assert asked.cost.usd == (pytest.approx(sum(priced), abs=1e-8) if priced else None)
        assert (asked.completed_count, asked.open_count) == (ends["completed"], ends[None])
        assert asked.bad_count == sum(ends[end] for end in BAD_ENDS)
        assert asked.turn_count == sum(run.turn_count or 0 for run in runs)
        wasted = sum(run.estimated_cost_usd or 0 for run in runs if run.end_reason in BAD_ENDS)
        assert asked.failed_cost_nusd / 1e9 == pytest.approx(wasted, abs=1e-8)
    runs = runs_of(window, filters)
    took = [(run.end_ns - run.start_ns) / 1e6 for run in runs if run.end_ns is not None]
    assert found.runs.duration is not None
    assert near(found.runs.duration.value, took)
    buckets = Counter(window.bucket_of(floor_hour(run.start_at)) for run in runs)
    assert [point.runs for point in found.runs.series] == [buckets[at] for at in window.buckets()]
    versions = Counter(shown(run.agent_version) for run in runs)
    assert {line.name: line.runs for line in found.runs.versions} == versions
    hours = Counter((run.start_at.weekday(), run.start_at.hour) for run in runs)
    for day in range(7):
        assert found.heat.runs[day] == tuple(hours[day, hour] for hour in range(24))
    grouped = inside(Run, window, filters.group_id)
    statuses = Counter(shown(run.cost_status) for run in grouped)
    assert {line.cost_status: line.cost.count for line in found.costs.lines} == statuses


def check_calls(found: Overview, window: Window, filters: Filters) -> None:
    calls = [
        call
        for call in inside(ModelCall, window, filters.group_id)
        if filters.provider in {"", shown(call.provider)}
    ]
    sums = {name: sum(getattr(call, name) or 0 for call in calls) for name in TOKEN_FIELDS}
    assert found.models.tokens.value == Tokens(**sums)
    assert (
        sum(map(sum, (line.tokens for line in found.models.series))) == Tokens(**sums).total_tokens
    )
    assert found.models.calls.value == len(calls)
    for line in found.models.lines:
        of_line = [
            call
            for call in calls
            if (shown(call.provider), shown(call.model)) == (line.provider, line.model)
        ]
        assert line.calls == len(of_line)
        assert near(line.latency, (c.latency_ms for c in of_line if c.latency_ms is not None))
    tools = [
        call
        for call in inside(ToolCall, window, filters.group_id)
        if filters.tool_name in {"", shown(call.tool_name)}
    ]
    assert sum(found.tools.call_series) == found.tools.calls.value == len(tools)
    for tool in found.tools.lines:
        of_tool = [call for call in tools if shown(call.tool_name) == tool.tool_name]
        results = Counter(call.result_class for call in of_tool)
        failures = results["error"] + results["timeout"] + results["blocked"]
        assert (tool.calls, tool.failures) == (len(of_tool), failures)
        assert (tool.timeouts, tool.blocked) == (results["timeout"], results["blocked"])
        assert tool.denied == sum(call.approval == "denied" for call in of_tool)
        assert near(tool.duration, (c.duration_ms for c in of_tool if c.duration_ms is not None))
    errors = inside(ErrorEvent, window, filters.group_id)
    classes = Counter((shown(error.error_class), shown(error.subsystem)) for error in errors)
    lines = {(line.error_class, line.subsystem): line.errors for line in found.errors.lines}
    assert lines == classes
    assert found.errors.given_up.value == sum(error.recovery == "none" for error in errors)


def check_installs(found: Overview, window: Window, filters: Filters) -> None:
    for asked, part in (
        (found.installs.active.value, window),
        (found.installs.active.previous, window.previous),
    ):
        kinds: tuple[type[EventRow], ...] = (Run, ModelCall, ToolCall, ErrorEvent)
        active = {
            row.install_id for model in kinds for row in inside(model, part, filters.group_id)
        }
        assert asked == len(active)
    runs = Counter(run.install_id for run in inside(Run, window, filters.group_id))
    assert {line.install_id: line.runs for line in found.installs.by_runs} == runs


def test_an_install_quieter_than_ever_is_silent() -> None:
    quiet, steady, weekly = INSTALLS[:3]
    days = {quiet: (9, 8, 7, 5), steady: (4, 3, 2, 1, 0), weekly: (9, 5)}
    for install_id, ago in days.items():
        starts = (datetime_to_ns(now() - timedelta(days=day)) - make.S for day in ago)
        make.push(
            *(make.run(seq + 1, run_id=f"r{seq}", start_ns=at) for seq, at in enumerate(starts)),
            install_id=install_id,
        )
    fill_pending()
    found = queries.silence(queries.scope_of(Window.last(days=7)))
    (line,) = found.silent
    assert (line.install_id, line.active_days) == (quiet, 4)
    assert (line.longest_gap, line.usual_gap) == (timedelta(days=2), timedelta(days=4) / 3)
    assert timedelta(days=4, hours=22) < line.quiet < timedelta(days=5, hours=2)
    assert (found.judged_count, found.unjudged_count) == (2, 1)
