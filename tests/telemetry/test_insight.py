"""Insights: asked of cells only, with window, freshness and coverage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from uuid import uuid4

import pytest

from fleet.lib.clock import datetime_to_ns, floor_hour, now, ns_to_datetime
from fleet.lib.sql import is_postgres
from fleet.models import Install, InstallGroup
from telemetry.insight.answers import Cost, InstallLine, Tokens
from telemetry.insight.boards import BOARD_HOURS, count_boards, refresh_boards
from telemetry.insight.filters import Filters
from telemetry.insight.queries import (
    compare_groups,
    compare_versions,
    heat,
    install_activity,
    install_days,
    installs,
    overview,
    runs,
    scope_of,
)
from telemetry.insight.window import Window
from telemetry.models import ALL_GROUPS, EVENT_MODELS, FirstSeen, InstallBoard
from telemetry.rollup.fill import fill_pending
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
AT_NS = make.recent_ns(2 * 3600)
DAY_NS = 86_400 * make.S
Queries = Callable[[int], AbstractContextManager[object]]


def day_of_data() -> None:
    """Four runs now and one the day before, with calls, tools and errors; rows removed after."""
    ends = ["completed", "completed", "completed", "failed"]
    make.push(
        *(
            make.run(
                at,
                run_id=f"r{at}",
                start_ns=AT_NS,
                end_ns=AT_NS + (at + 1) * make.S,
                end_reason=end,
                estimated_cost_usd=None if at == 0 else 1.5,
                cost_status="estimated" if at else None,
            )
            for at, end in enumerate(ends)
        ),
        make.run(9, run_id="old", start_ns=AT_NS - DAY_NS),
        *(make.model_call(at, start_ns=AT_NS, model=f"m-{at}", input_tokens=at) for at in range(8)),
        make.model_call(20, start_ns=AT_NS, model="m-7", estimated_cost_usd=None),
        make.tool_call(1, start_ns=AT_NS),
        make.tool_call(2, start_ns=AT_NS, result_class="timeout", approval="denied"),
        make.tool_call(3, start_ns=AT_NS, tool_name="browser", result_class="blocked"),
        make.tool_call(4, start_ns=AT_NS - DAY_NS),
        make.error(1, ts_ns=AT_NS),
        make.error(2, ts_ns=AT_NS, error_class="auth", recovery="none"),
        make.error(3, ts_ns=AT_NS, error_class="auth"),
    )
    fill_pending()
    for model in EVENT_MODELS:
        model._default_manager.all().delete()


def test_headline_numbers_come_with_those_of_the_window_before() -> None:
    day_of_data()
    found = overview(Window.last(hours=24))
    current, before = found.runs.totals.value, found.runs.totals.previous
    assert (current.run_count, before.run_count) == (4, 1)
    assert (found.installs.active.value, found.installs.active.previous) == (1, 1)
    assert (current.success.value, before.success.value) == (0.75, 1.0)
    assert found.tools.failure.value.value == pytest.approx(2 / 3)
    assert found.tools.failure.previous.value == 0.0
    assert (found.errors.total.value, found.errors.total.previous) == (3, 0)
    assert found.runs.duration is not None
    duration = found.runs.duration.value
    assert duration.p50_ms == pytest.approx(2000, rel=0.025)
    assert duration.p95_ms == pytest.approx(4000, rel=0.025)
    assert (duration.timed_count, duration.coverage) == (4, 1.0)


def test_cost_says_how_much_of_it_is_known() -> None:
    day_of_data()
    found = overview(Window.last(hours=24))
    cost = found.runs.totals.value.cost
    assert (cost.usd, cost.coverage) == (4.5, 0.75)
    before = found.runs.totals.previous.cost
    assert before == Cost(0, 0, 1)
    assert (before.usd, before.coverage) == (None, 0.0)
    assert [(line.cost_status, line.cost.usd) for line in found.costs.lines] == [
        ("estimated", 4.5),
        ("unknown", None),
    ]
    assert found.costs.total.value == cost


def test_a_successful_run_pays_for_the_failed_ones() -> None:
    day_of_data()
    totals = runs(scope_of(Window.last(hours=24))).totals.value
    assert totals.failed_usd == 1.5
    assert totals.failed_cost_share == pytest.approx(1 / 3)
    assert totals.usd_per_success == pytest.approx(1.5 * 4 / 3)
    nothing = runs(scope_of(Window.last(hours=24).previous)).totals.value
    assert (nothing.run_count, nothing.usd_per_success) == (1, None)


def test_the_series_adds_up_to_the_totals() -> None:
    day_of_data()
    window = Window.last(hours=24)
    found = overview(window)
    series = found.runs.series
    assert [point.start for point in series] == list(window.buckets())
    assert sum(point.runs for point in series) == 4
    assert sum(point.failed_runs for point in series) == 1
    assert (sum(found.tools.series), sum(found.errors.series)) == (2, 3)
    busy = next(point for point in series if point.runs)
    assert (busy.start, busy.cost_usd) == (floor_hour(ns_to_datetime(AT_NS)), 4.5)
    assert all(point.cost_usd is None for point in series if point is not busy)


def test_the_window_before_is_laid_over_the_same_buckets() -> None:
    day_of_data()
    found = runs(scope_of(Window.last(hours=24)))
    (busy,) = [at for at, point in enumerate(found.series) if point.runs]
    assert found.previous_runs == tuple(int(at == busy) for at in range(24))


def test_tokens_are_split_by_the_top_models_and_all_others() -> None:
    day_of_data()
    lines = overview(Window.last(hours=24)).models.series
    assert [line.model for line in lines] == ["m-7", "m-6", "m-5", "m-4", "m-3", "other"]
    assert sum(map(sum, (line.tokens for line in lines))) == sum(range(8)) + 8 * 10 + 110


def test_tables_name_what_fails() -> None:
    day_of_data()
    found = overview(Window.last(hours=24))
    terminal, browser = found.tools.lines
    assert (terminal.tool_name, terminal.calls, terminal.failures) == ("terminal", 2, 1)
    assert (terminal.failure_rate, browser.blocked) == (0.5, 1)
    assert (terminal.timeout.value, terminal.denial.value) == (0.5, 0.5)
    assert (terminal.previous_calls, terminal.previous_failures) == (1, 0)
    assert terminal.duration is not None
    assert terminal.duration.p95_ms == pytest.approx(20, rel=0.025)
    auth = found.errors.lines[0]
    assert (auth.error_class, auth.errors, auth.given_up) == ("auth", 2, 1)
    assert found.models.lines[0].model == "m-7"
    assert found.models.lines[0].cost.coverage == 0.5
    assert [(line.name, line.runs) for line in found.runs.entrypoints] == [("cli", 4)]
    assert [(line.name, line.runs) for line in found.runs.platforms] == [("unknown", 4)]
    assert [(line.name, line.runs) for line in found.runs.versions] == [("0.19.0", 4)]


def test_an_install_whose_cost_nobody_knows_is_not_free() -> None:
    make.push(make.run(start_ns=AT_NS, estimated_cost_usd=None))
    fill_pending()
    found = installs(scope_of(Window.last(hours=24)))
    (line,) = found.by_runs
    assert (line.runs, line.cost_usd) == (1, None)
    assert found.by_cost == ()


@pytest.mark.parametrize("days", [1, 7])
def test_the_heat_map_holds_every_run(days: int) -> None:
    day_of_data()
    found = heat(scope_of(Window.last(days=days))).runs
    at = ns_to_datetime(AT_NS)
    assert (len(found), {len(row) for row in found}) == (7, {24})
    assert found[at.weekday()][at.hour] == 4
    filtered = scope_of(Window.last(days=days), Filters(entrypoint="cli"))
    assert heat(filtered).runs == found


def test_top_installs_are_those_with_the_most_runs() -> None:
    busy, calm = uuid4(), uuid4()
    for install_id, count in ((busy, 3), (calm, 1)):
        make.push(
            *(make.run(at, run_id=f"r{at}", start_ns=AT_NS) for at in range(count)),
            install_id=install_id,
        )
    fill_pending()
    window = Window.last(hours=24)
    scope = scope_of(window)
    assert [line.install_id for line in installs(scope).by_runs] == [busy, calm]
    assert installs(scope, limit=1).by_runs[0].runs == 3
    assert install_activity([calm, uuid4()], window) == {
        calm: InstallLine(calm, 1, 0, 0, 0, 0, 0, None)
    }
    assert sum(line.runs for _, line in install_days(busy, window)) == 3


def test_a_board_answers_what_counting_on_the_spot_answers() -> None:
    day_of_data()
    scopes = [scope_of(Window.last(hours=hours)) for hours in BOARD_HOURS]
    counted = [installs(scope) for scope in scopes]
    assert refresh_boards() == len(BOARD_HOURS)
    kept = [installs(scope) for scope in scopes]
    for one, other in zip(counted, kept, strict=True):
        assert (one.active, one.by_runs, one.by_cost) == (
            other.active,
            other.by_runs,
            other.by_cost,
        )
        assert other.counted_at >= one.counted_at


def test_a_board_is_counted_again_when_cells_have_changed() -> None:
    day_of_data()
    refresh_boards()
    assert refresh_boards() == 0
    InstallBoard.objects.update(counted_at=now() - timedelta(minutes=6))
    make.push(make.run(40, run_id="late", start_ns=AT_NS), install_id=uuid4())
    fill_pending()
    assert refresh_boards() == len(BOARD_HOURS)
    assert installs(scope_of(Window.last(hours=24))).active.value == 2


def test_a_group_sees_only_its_own() -> None:
    group = InstallGroup.objects.create(name="Lab")
    other = InstallGroup.objects.create(name="Quiet")
    install = Install.objects.create(pk=uuid4(), machine_id="m", group=group)
    make.push(make.run(start_ns=AT_NS), install_id=install.pk, group_id=group.pk)
    make.push(make.run(2, run_id="r2", start_ns=AT_NS), make.error(2, ts_ns=AT_NS))
    fill_pending()
    for _ in range(2):
        found = overview(Window.last(hours=24), Filters(group_id=group.pk))
        assert (found.runs.totals.value.run_count, found.installs.active.value) == (1, 1)
        assert found.errors.total.value == 0
        assert overview(Window.last(hours=24)).runs.totals.value.run_count == 2
        assert (
            installs(scope_of(Window.last(hours=24), Filters(group_id=other.pk))).active.value == 0
        )
        refresh_boards()
    compared = compare_groups(scope_of(Window.last(hours=24)), [0, group.pk, other.pk])
    assert {line.name: line.totals.run_count for line in compared.lines} == {
        "0": 1,
        str(group.pk): 1,
    }
    assert all(line.duration.p50_ms == pytest.approx(2000, rel=0.025) for line in compared.lines)


def test_a_filter_narrows_what_carries_it_and_is_named_where_nothing_does() -> None:
    make.push(
        make.run(1, run_id="a", start_ns=AT_NS, agent_version="1", entrypoint="cli"),
        make.run(2, run_id="b", start_ns=AT_NS, agent_version="2", entrypoint=None),
        make.tool_call(1, start_ns=AT_NS),
    )
    fill_pending()
    window = Window.last(hours=24)
    found = overview(window, Filters(agent_version="2", entrypoint="unknown"))
    assert found.runs.totals.value.run_count == 1
    assert (found.runs.scope.ignored, found.tools.calls.value) == ((), 1)
    assert found.tools.scope.ignored == ("entrypoint", "agent_version")
    assert found.runs.duration is None
    by_version = runs(scope_of(window, Filters(agent_version="2")))
    assert by_version.duration is not None
    assert by_version.duration.value.timed_count == 1


def test_versions_stand_side_by_side_with_their_bounds() -> None:
    make.push(
        *(
            make.run(
                at,
                run_id=f"r{at}",
                start_ns=AT_NS,
                agent_version="1" if at < 8 else "2",
                end_reason="failed" if at in {0, 8} else "completed",
            )
            for at in range(12)
        )
    )
    fill_pending()
    old, new = compare_versions(scope_of(Window.last(hours=24))).lines
    assert (old.name, old.totals.run_count, new.name, new.totals.run_count) == ("1", 8, "2", 4)
    assert (old.totals.success.value, new.totals.success.value) == (7 / 8, 3 / 4)
    assert new.totals.success.low is not None
    assert new.totals.success.low < 3 / 4
    assert old.duration.timed_count == 8


def test_first_seen_values_are_those_of_the_window() -> None:
    window = Window.last(hours=24)
    for value, at in (("new", window.start), ("old", window.start - timedelta(seconds=1))):
        FirstSeen.objects.create(kind="model", value=value, first_at=at, install_id=uuid4())
    assert [line.value for line in overview(window).first_seen] == ["new"]


def test_an_answer_says_how_fresh_it_is() -> None:
    day_of_data()
    make.push(make.run(30, run_id="new", start_ns=AT_NS))
    fresh = overview(Window.last(hours=24)).scope.freshness
    assert fresh.waiting_count == 1
    assert 0 <= fresh.lag_s < 60
    assert fresh.last_filled_at is not None


def test_an_earlier_window_counts_only_when_the_data_goes_back_to_it() -> None:
    day_of_data()
    assert scope_of(Window.last(hours=1)).has_earlier
    assert not scope_of(Window.last(days=7)).has_earlier


def test_nothing_at_all_is_unknown_and_not_zero() -> None:
    found = overview(Window.last(days=30))
    totals = found.runs.totals.value
    assert (totals.success.value, totals.cost.usd, totals.failed_cost_share) == (None,) * 3
    assert found.runs.duration is not None
    assert found.runs.duration.value.p95_ms is None
    assert found.models.tokens.value.cache_hit_rate is None
    assert (found.tools.lines, found.models.series, found.installs.by_runs) == ((), (), ())
    assert found.scope.freshness.last_filled_at is None


@pytest.mark.parametrize(("days", "queries"), [(1, 18), (30, 18)])
def test_an_overview_costs_few_queries(
    days: int, queries: int, django_assert_num_queries: Queries
) -> None:
    day_of_data()
    refresh_boards()
    # One more says how PostgreSQL is to read them.
    with django_assert_num_queries(queries + is_postgres()):
        overview(Window.last(days=days))


def test_the_share_of_the_cache_is_that_of_the_prompt() -> None:
    tokens = Tokens(30, 5, 10, 2, 1)
    assert (tokens.cache_hit_rate, tokens.total_tokens) == (0.25, 47)


def test_hours_taken_out_of_a_day_leave_no_install_in_the_group_it_has_left() -> None:
    end = floor_hour(now()).replace(hour=0)
    window = Window(end - timedelta(days=5) + timedelta(hours=5), end)
    for hour, group_id in ((3, 1), (10, 2)):
        start_ns = datetime_to_ns(end - timedelta(days=5) + timedelta(hours=hour))
        make.push(make.run(run_id=f"r{hour}", start_ns=start_ns), group_id=group_id)
    fill_pending()
    boards = count_boards(window)
    active = {level: board.active_count for level, board in boards.items() if board.active_count}
    assert active == {ALL_GROUPS: 1, 2: 1}
