"""What is counted of each kind of row, and the state of each hour's filling."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from fleet.lib.clock import floor_hour, now, ns_to_datetime
from telemetry.models import (
    ALL_GROUPS,
    CELL_MODELS,
    CostsCell,
    ErrorsCell,
    FillState,
    FirstSeen,
    HistogramCell,
    InstallCell,
    ModelCallsCell,
    RunsCell,
    ToolCallsCell,
    TouchedHour,
)
from telemetry.rollup import fill, refill, tasks
from telemetry.rollup.fill import fill_hour, fill_pending, pending_hours
from telemetry.rollup.histogram import Histogram, bucket_of
from telemetry.rollup.tasks import fill_touched
from telemetry.store.retention import unfinished_days
from tests.telemetry import builders as make
from tests.telemetry.recount import counted, stored

both_engines = pytest.mark.both_engines
committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db
AT_NS = make.recent_ns(2 * 3600)
HOUR = floor_hour(ns_to_datetime(AT_NS))
FLEET_HOUR: dict[str, Any] = {"unit": "h", "group_id": ALL_GROUPS}


@both_engines
def test_runs_are_counted_by_how_they_ended() -> None:
    ends = ["completed", "completed", "failed", "timeout", None, "odd"]
    make.push(
        *(
            make.run(at, run_id=f"r{at}", start_ns=AT_NS, end_reason=end, turn_count=2)
            for at, end in enumerate(ends)
        )
    )
    fill_pending()
    cell = RunsCell.objects.get(**FLEET_HOUR)
    assert (cell.at, cell.entrypoint, cell.agent_version) == (HOUR, "cli", "0.19.0")
    assert (cell.run_count, cell.completed_count, cell.failed_count) == (6, 2, 1)
    assert (cell.timeout_count, cell.open_count, cell.other_count) == (1, 1, 1)
    assert (cell.timed_count, cell.duration_sum_us, cell.turn_count) == (6, 12_000_000, 12)
    for kind, name in (("run", ""), ("run_version", "0.19.0")):
        histogram = HistogramCell.objects.get(**FLEET_HOUR, kind=kind, name=name)
        assert histogram.counts == {str(bucket_of(2000.0)): 6}


@both_engines
def test_costs_are_counted_by_how_they_are_known_and_what_failed_runs_cost() -> None:
    make.push(
        make.run(1, run_id="a", start_ns=AT_NS, estimated_cost_usd=0.25, cost_status="estimated"),
        make.run(2, run_id="b", start_ns=AT_NS, estimated_cost_usd=1.5, end_reason="timeout"),
        make.run(3, run_id="c", start_ns=AT_NS, cost_status="estimated"),
    )
    fill_pending()
    cell = RunsCell.objects.get(**FLEET_HOUR)
    assert (cell.cost_nusd, cell.failed_cost_nusd) == (1_750_000_000, 1_500_000_000)
    known = CostsCell.objects.get(**FLEET_HOUR, cost_status="estimated")
    assert (known.run_count, known.priced_count, known.cost_nusd) == (2, 1, 250_000_000)
    assert CostsCell.objects.get(**FLEET_HOUR, cost_status="").cost_nusd == 1_500_000_000


@both_engines
def test_model_calls_are_summed_with_the_coverage_of_their_cost() -> None:
    make.push(
        make.model_call(1, start_ns=AT_NS, end_reason="completed", ttft_ms=90.0),
        make.model_call(2, start_ns=AT_NS, estimated_cost_usd=None, cache_read_tokens=7),
        make.model_call(3, start_ns=AT_NS, model=None, end_reason="failed", latency_ms=None),
    )
    fill_pending()
    known = ModelCallsCell.objects.get(**FLEET_HOUR, model="m-1")
    assert (known.call_count, known.priced_count, known.cost_nusd) == (2, 1, 500_000_000)
    assert (known.input_tokens, known.output_tokens, known.cache_read_tokens) == (200, 20, 7)
    assert (known.timed_count, known.latency_sum_us) == (2, 1_000_000)
    first_token = HistogramCell.objects.get(**FLEET_HOUR, kind="model_ttft")
    assert (first_token.name, first_token.detail) == ("openrouter", "m-1")
    assert first_token.counts == {str(bucket_of(90.0)): 1}
    unknown = ModelCallsCell.objects.get(**FLEET_HOUR, model="")
    assert (unknown.failed_count, unknown.timed_count) == (1, 0)


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
    cell = ToolCallsCell.objects.get(**FLEET_HOUR)
    counts = (cell.ok_count, cell.error_count, cell.timeout_count, cell.blocked_count)
    assert counts == (1, 1, 1, 2)
    assert (cell.call_count, cell.other_count, cell.denied_count) == (6, 1, 1)
    histogram = HistogramCell.objects.get(**FLEET_HOUR, kind="tool", name="terminal")
    assert histogram.counts == Histogram.of([0, 1, 2, 3, 4, 20]).to_json()


@both_engines
def test_errors_and_the_installs_own_hour_and_day_are_counted() -> None:
    make.push(
        make.run(start_ns=AT_NS, end_reason="failed", estimated_cost_usd=0.75),
        make.model_call(start_ns=AT_NS, cache_read_tokens=5, reasoning_tokens=3),
        make.tool_call(start_ns=AT_NS, result_class="blocked"),
        make.error(1, ts_ns=AT_NS),
        make.error(2, ts_ns=AT_NS, recovery="none"),
        group_id=3,
    )
    fill_pending()
    cell = ErrorsCell.objects.get(**FLEET_HOUR)
    assert (cell.error_class, cell.error_count, cell.given_up_count) == ("rate_limit", 2, 1)
    for unit, at in (("h", HOUR), ("d", HOUR.replace(hour=0))):
        own = InstallCell.objects.get(unit=unit, install_id=make.INSTALL)
        assert (own.at, own.group_id, own.run_count, own.failed_run_count) == (at, 3, 1, 1)
        assert (own.model_call_count, own.token_count) == (1, 115)
        assert (own.tool_call_count, own.tool_failure_count, own.error_count) == (1, 1, 2)
        assert (own.priced_run_count, own.cost_nusd) == (1, 750_000_000)


@both_engines
def test_cells_are_kept_by_the_group_at_the_time_and_for_all_together() -> None:
    make.push(make.run(1, run_id="a", start_ns=AT_NS), group_id=7)
    make.push(make.run(2, run_id="b", start_ns=AT_NS))
    fill_pending()
    for unit in ("h", "d"):
        cells = RunsCell.objects.filter(unit=unit).values_list("group_id", "run_count")
        assert set(cells) == {(7, 1), (0, 1), (ALL_GROUPS, 2)}


@both_engines
def test_what_is_new_is_noted_with_its_first_time_and_install() -> None:
    make.push(make.model_call(1, start_ns=AT_NS), make.tool_call(1, start_ns=AT_NS))
    fill_pending()
    earlier = make.header().batch_id
    make.push(make.tool_call(2, start_ns=AT_NS - make.S), install_id=earlier)
    fill_pending()
    seen = {(row.kind, row.value): row for row in FirstSeen.objects.all()}
    assert seen.keys() == {("model", "m-1"), ("provider", "openrouter"), ("tool", "terminal")}
    assert seen["tool", "terminal"].first_at == ns_to_datetime(AT_NS - make.S)
    assert seen["tool", "terminal"].install_id == earlier
    assert seen["model", "m-1"].install_id == make.INSTALL


@both_engines
def test_an_hour_with_only_uncounted_kinds_is_filled_and_holds_nothing_back() -> None:
    make.push(make.span(1, start_ns=AT_NS), make.record("tel_skill_events", 2, ts_ns=AT_NS))
    assert unfinished_days() == {HOUR.date()}
    assert (fill_pending(), pending_hours(), unfinished_days()) == (1, [], frozenset())
    assert FillState.objects.get().state == FillState.State.DONE
    assert not any(model._default_manager.exists() for model in CELL_MODELS)
    call_command("telemetry_rollup", "--verify")


@both_engines
def test_what_was_filled_is_not_filled_again() -> None:
    make.push(make.run(start_ns=AT_NS))
    assert (fill_touched(), fill_touched()) == (1, 0)
    state = FillState.objects.get()
    assert (state.state, state.fill_count) == (FillState.State.DONE, 1)


@both_engines
def test_a_started_hour_found_is_made_anew() -> None:
    make.push(make.run(start_ns=AT_NS))
    fill_pending()
    RunsCell.objects.update(run_count=99)
    FillState.objects.update(state=FillState.State.STARTED)
    assert pending_hours() == [HOUR]
    fill_pending()
    assert stored() == counted()
    assert FillState.objects.get().state == FillState.State.DONE


@both_engines
@committed
def test_a_refill_killed_in_the_middle_leaves_only_its_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make.push(make.run(start_ns=AT_NS), make.tool_call(start_ns=AT_NS))
    fill_pending()
    before = stored()

    def fail(*_: object) -> None:
        raise RuntimeError("killed here")

    monkeypatch.setattr(refill, "_sum_installs", fail)
    with pytest.raises(RuntimeError):
        fill_hour(HOUR)
    assert stored() == before
    assert FillState.objects.get().state == FillState.State.STARTED
    monkeypatch.undo()
    assert fill_pending() == 1
    assert (stored(), FillState.objects.get().state) == (before, FillState.State.DONE)


@both_engines
@committed
def test_a_batch_that_commits_during_a_fold_is_neither_lost_nor_doubled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer: nothing commits during a fold")
    from telemetry.rollup import fold

    make.push(make.run(1, start_ns=AT_NS, end_reason=None, end_ns=None))
    real = fold.take

    def push_meanwhile(limit: int) -> object:
        taken = real(limit)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(push_and_close).result()
        return taken

    def push_and_close() -> None:
        make.push(make.run(2, start_ns=AT_NS), make.run(3, run_id="b", start_ns=AT_NS))
        connection.close()

    monkeypatch.setattr(fold, "take", push_meanwhile)
    assert fold.fold_touched() == 1
    assert RunsCell.objects.get(**FLEET_HOUR).open_count == 1
    monkeypatch.undo()
    assert pending_hours() == [HOUR]
    fill_pending()
    assert RunsCell.objects.get(**FLEET_HOUR).completed_count == 2
    assert stored() == counted()


@both_engines
@committed
def test_many_workers_at_once_make_the_cells_once() -> None:
    for seq in range(12):
        make.push(make.tool_call(seq, start_ns=AT_NS))

    def fill_and_close(at: int) -> None:
        try:
            fill_touched() if at % 2 else fill_pending()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill_and_close, range(4)))
    assert ToolCallsCell.objects.get(**FLEET_HOUR).call_count == 12
    assert not TouchedHour.objects.exists()
    assert stored() == counted()


@both_engines
def test_hostile_numbers_do_not_stop_a_fold() -> None:
    make.push(
        *(make.model_call(seq, start_ns=AT_NS, input_tokens=2**53) for seq in range(1100)),
        make.model_call(2000, start_ns=AT_NS, latency_ms=1e12, estimated_cost_usd=1e9),
        make.run(1, start_ns=AT_NS, end_ns=0, turn_count=2**53),
        make.run(2, run_id="b", start_ns=AT_NS, end_ns=2**63 - 1),
    )
    fill_pending()
    cell = ModelCallsCell.objects.get(**FLEET_HOUR)
    assert cell.input_tokens == 1100 * 10**9 + 100
    assert cell.cost_nusd == 10**15 + 1100 * 500_000_000
    assert stored() == counted()


@both_engines
def test_a_second_worker_goes_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "try_session_lock", lambda _: nullcontext(False))
    make.push(make.run(start_ns=AT_NS))
    assert fill_touched() == 0
    assert TouchedHour.objects.exists()


@both_engines
def test_a_touch_without_a_batch_makes_the_hour_again() -> None:
    make.push(make.run(start_ns=AT_NS))
    fill_pending()
    RunsCell.objects.update(run_count=5)
    TouchedHour.objects.create(hour=HOUR, touched_at=now())
    assert (fill.hours_to_refill(), fill_pending()) == ([HOUR], 1)
    assert stored() == counted()
