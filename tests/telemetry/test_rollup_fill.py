"""Rollups: exact under late, duplicate and merged rows; safe to kill, to repeat, in parallel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.lib.clock import floor_hour, ns_to_datetime
from fleet.models import Install, InstallGroup
from telemetry.models import (
    CELL_MODELS,
    EVENT_MODELS,
    ErrorCell,
    FillState,
    IngestBatch,
    InstallHour,
    ModelCell,
    RunCell,
    ToolCell,
    TouchedHour,
)
from telemetry.rollup import fill
from telemetry.rollup.fill import fill_hour, fill_pending, pending_hours, verify_hour
from telemetry.rollup.histogram import Histogram, bucket_of
from telemetry.rollup.tasks import fill_touched
from telemetry.store.retention import unfinished_days
from tests.telemetry import builders as make

both_engines = pytest.mark.both_engines
committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db
AT_NS = make.recent_ns(2 * 3600)
HOUR = floor_hour(ns_to_datetime(AT_NS))
S = make.S


def grouped_install() -> tuple[UUID, int]:
    group = InstallGroup.objects.create(name="Lab")
    install = Install.objects.create(pk=uuid4(), machine_id="m", group=group)
    return install.pk, group.pk


@both_engines
def test_runs_are_counted_by_how_they_ended() -> None:
    ends = ["completed", "completed", "failed", "timeout", None, "odd"]
    make.push(
        *(
            make.run(at, run_id=f"r{at}", start_ns=AT_NS, end_reason=end)
            for at, end in enumerate(ends)
        )
    )
    fill_pending()
    cell = RunCell.objects.get()
    assert (cell.hour, cell.entrypoint, cell.agent_version) == (HOUR, "cli", "0.19.0")
    assert (cell.run_count, cell.completed_count, cell.failed_count) == (6, 2, 1)
    assert (cell.timeout_count, cell.open_count, cell.other_count) == (1, 1, 1)
    assert cell.duration_sum_ms == 12_000
    assert cell.duration_hist == {str(bucket_of(2000.0)): 6}


@both_engines
def test_model_calls_are_summed_with_the_coverage_of_their_cost() -> None:
    make.push(
        make.model_call(1, start_ns=AT_NS, end_reason="completed"),
        make.model_call(2, start_ns=AT_NS, estimated_cost_usd=None, cache_read_tokens=7),
        make.model_call(3, start_ns=AT_NS, model=None, end_reason="failed", latency_ms=None),
    )
    fill_pending()
    known = ModelCell.objects.get(model="m-1")
    assert (known.call_count, known.priced_count, known.cost_usd) == (2, 1, 0.5)
    assert (known.input_tokens, known.output_tokens, known.cache_read_tokens) == (200, 20, 7)
    unknown = ModelCell.objects.get(model="")
    assert (unknown.failed_count, unknown.latency_hist) == (1, {})


@both_engines
def test_tool_calls_are_counted_by_result_and_approval() -> None:
    results = ["ok", "error", "timeout", "blocked", None]
    make.push(
        *(
            make.tool_call(at, start_ns=AT_NS, result_class=result, duration_ms=float(at))
            for at, result in enumerate(results)
        ),
        make.tool_call(9, start_ns=AT_NS, result_class="blocked", approval="denied"),
    )
    fill_pending()
    cell = ToolCell.objects.get()
    counts = (cell.ok_count, cell.error_count, cell.timeout_count, cell.blocked_count)
    assert counts == (1, 1, 1, 2)
    assert (cell.call_count, cell.other_count, cell.denied_count) == (6, 1, 1)
    assert cell.duration_hist == Histogram.of([0, 1, 2, 3, 4, 20]).to_json()


@both_engines
def test_errors_and_the_installs_own_hour_are_counted() -> None:
    make.push(
        make.run(start_ns=AT_NS, end_reason="failed", estimated_cost_usd=0.75),
        make.model_call(start_ns=AT_NS),
        make.tool_call(start_ns=AT_NS, result_class="blocked"),
        make.error(1, ts_ns=AT_NS),
        make.error(2, ts_ns=AT_NS, recovery="none"),
    )
    fill_pending()
    cell = ErrorCell.objects.get()
    assert (cell.error_class, cell.error_count, cell.given_up_count) == ("rate_limit", 2, 1)
    hour = InstallHour.objects.get()
    assert (hour.install_id, hour.run_count, hour.failed_run_count) == (make.INSTALL, 1, 1)
    assert (hour.model_call_count, hour.tool_failure_count, hour.error_count) == (1, 1, 2)
    assert (hour.priced_run_count, hour.cost_usd) == (1, 0.75)
    run = RunCell.objects.get()
    assert (run.run_count, run.priced_count, run.cost_usd) == (1, 1, 0.75)


@both_engines
def test_cells_are_kept_by_group() -> None:
    install_id, group_id = grouped_install()
    make.push(make.run(start_ns=AT_NS), install_id=install_id)
    make.push(make.run(start_ns=AT_NS))
    fill_pending()
    assert set(RunCell.objects.values_list("group_id", "run_count")) == {(group_id, 1), (0, 1)}
    assert InstallHour.objects.get(install_id=install_id).group_id == group_id


@both_engines
def test_a_late_row_and_a_merged_run_leave_the_cells_exact() -> None:
    make.push(make.run(1, start_ns=AT_NS, end_ns=None, end_reason=None))
    fill_pending()
    assert RunCell.objects.get().open_count == 1
    make.push(make.run(2, start_ns=AT_NS), make.run(3, run_id="late", start_ns=AT_NS))
    assert fill_pending() == 1
    cell = RunCell.objects.get()
    assert (cell.run_count, cell.open_count, cell.completed_count) == (2, 0, 2)
    assert verify_hour(HOUR) == []


@both_engines
def test_an_hour_with_only_uncounted_kinds_is_filled_and_holds_nothing_back() -> None:
    make.push(make.span(1, start_ns=AT_NS), make.record("tel_skill_events", 2, ts_ns=AT_NS))
    assert unfinished_days() == {HOUR.date()}
    assert (fill_pending(), pending_hours(), unfinished_days()) == (1, [], frozenset())
    assert FillState.objects.get().state == FillState.State.DONE
    assert not any(model.objects.exists() for model in CELL_MODELS)
    assert verify_hour(HOUR) == []
    call_command("telemetry_rollup", "--verify")


@both_engines
def test_what_was_filled_is_not_filled_again() -> None:
    make.push(make.run(start_ns=AT_NS))
    assert (fill_touched(), fill_touched()) == (1, 0)
    assert not fill_hour(HOUR) or FillState.objects.get().fill_count <= 2
    assert FillState.objects.get().state == FillState.State.DONE


@both_engines
def test_a_started_hour_found_is_filled_anew() -> None:
    make.push(make.run(start_ns=AT_NS))
    fill_pending()
    RunCell.objects.update(run_count=99)
    FillState.objects.update(state=FillState.State.STARTED)
    assert pending_hours() == [HOUR]
    fill_pending()
    assert RunCell.objects.get().run_count == 1


@both_engines
@committed
def test_a_fill_killed_in_the_middle_leaves_only_its_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make.push(make.run(start_ns=AT_NS), make.tool_call(start_ns=AT_NS))
    real = fill._replace

    def fail(model: type, hour: datetime, cells: object) -> None:
        if model is ToolCell:
            raise RuntimeError("killed here")
        real(model, hour, cells)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(fill, "_replace", fail)
    with pytest.raises(RuntimeError):
        fill_pending()
    assert not RunCell.objects.exists()
    assert FillState.objects.get().state == FillState.State.STARTED
    monkeypatch.undo()
    assert fill_pending() == 1
    assert (RunCell.objects.count(), verify_hour(HOUR)) == (1, [])


@both_engines
@committed
def test_a_batch_that_commits_during_a_fill_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make.push(make.run(start_ns=AT_NS))
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer: nothing commits during a fill")
    real = fill.count_cells

    def push_meanwhile(hour: datetime) -> object:
        counted = real(hour)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(push_and_close).result()
        return counted

    def push_and_close() -> None:
        make.push(make.run(2, run_id="b", start_ns=AT_NS))
        connection.close()

    monkeypatch.setattr(fill, "count_cells", push_meanwhile)
    fill_pending()
    monkeypatch.undo()
    assert pending_hours() == [HOUR]
    fill_pending()
    assert RunCell.objects.get().run_count == 2


@both_engines
@committed
def test_parallel_fills_of_one_hour_make_the_cells_once() -> None:
    make.push(*(make.tool_call(seq, start_ns=AT_NS) for seq in range(50)))

    def fill_and_close(_: int) -> bool:
        try:
            return fill_hour(HOUR)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        assert any(pool.map(fill_and_close, range(6)))
    assert ToolCell.objects.get().call_count == 50
    assert not TouchedHour.objects.exists()
    assert FillState.objects.get().state == FillState.State.DONE


@both_engines
def test_hostile_numbers_do_not_stop_an_hour() -> None:
    make.push(
        *(make.model_call(seq, start_ns=AT_NS, input_tokens=2**53) for seq in range(1100)),
        make.model_call(2000, start_ns=AT_NS, latency_ms=1e12, estimated_cost_usd=1e9),
        make.run(start_ns=AT_NS, end_ns=0),
    )
    fill_pending()
    assert ModelCell.objects.get().input_tokens == 1100 * 10**9 + 100
    assert RunCell.objects.get().duration_hist == {}


@both_engines
def test_a_cell_that_is_wrong_missing_or_left_over_is_found() -> None:
    make.push(make.run(start_ns=AT_NS), make.tool_call(start_ns=AT_NS), make.error(ts_ns=AT_NS))
    fill_pending()
    assert verify_hour(HOUR) == []
    RunCell.objects.update(run_count=2)
    ToolCell.objects.all().delete()
    ErrorCell.objects.create(hour=HOUR, error_class="left over", error_count=1)
    assert {found.cell for found in verify_hour(HOUR)} == {"RunCell", "ToolCell", "ErrorCell"}


@both_engines
def test_a_changed_group_is_no_difference() -> None:
    install_id, _ = grouped_install()
    make.push(make.run(start_ns=AT_NS), make.model_call(start_ns=AT_NS), install_id=install_id)
    make.push(make.run(start_ns=AT_NS))
    fill_pending()
    Install.objects.update(group=None)
    assert verify_hour(HOUR) == []


@both_engines
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 4),
                st.integers(0, 3),
                st.sampled_from(["completed", "failed", None]),
                st.integers(0, 2),
            ),
            min_size=1,
            max_size=6,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_cells_are_exact_whatever_comes_in_whatever_order(
    batches: list[list[tuple[int, int, str | None, int]]],
) -> None:
    for table in (*EVENT_MODELS, *CELL_MODELS, TouchedHour, FillState, IngestBatch):
        table._default_manager.all().delete()
    model: dict[int, tuple[int, str | None]] = {}
    for at, batch in enumerate(batches):
        for number, seq, end, _ in batch:
            if number not in model or seq > model[number][0]:
                model[number] = (seq, end)
        make.push(
            *(
                make.run(
                    seq,
                    run_id=f"r{number}",
                    # The hour belongs to the run: its start never changes.
                    start_ns=AT_NS + (number % 2) * 3600 * S,
                    end_reason=end,
                    end_ns=AT_NS + 7200 * S if end else None,
                )
                for number, seq, end, _ in batch
            )
        )
        if at % 2:
            fill_pending()
    fill_pending()
    for odd in (0, 1):
        hour = floor_hour(ns_to_datetime(AT_NS + odd * 3600 * S))
        ends = [end for number, (_, end) in model.items() if number % 2 == odd]
        cell = RunCell.objects.filter(hour=hour).first()
        assert (cell.run_count if cell else 0) == len(ends)
        assert (cell.completed_count if cell else 0) == ends.count("completed")
        assert verify_hour(hour) == []


@both_engines
def test_a_second_worker_goes_home(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from telemetry.rollup import tasks

    monkeypatch.setattr(tasks, "try_session_lock", lambda _: nullcontext(False))
    make.push(make.run(start_ns=AT_NS))
    assert fill_touched() == 0
    assert TouchedHour.objects.exists()
