"""Insights: asked of cells only, with window, freshness and coverage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from uuid import uuid4

import pytest

from fleet.lib.clock import floor_hour, ns_to_datetime
from fleet.models import Install, InstallGroup
from telemetry.insight.answers import Cost, InstallLine, Tokens
from telemetry.insight.queries import install_activity, overview, top_installs
from telemetry.insight.window import Window
from telemetry.models import EVENT_MODELS
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
                estimated_cost_usd=None if at == 3 else 1.5,
            )
            for at, end in enumerate(ends)
        ),
        make.run(9, run_id="old", start_ns=AT_NS - DAY_NS),
        *(make.model_call(at, start_ns=AT_NS, model=f"m-{at}", input_tokens=at) for at in range(8)),
        make.model_call(20, start_ns=AT_NS, model="m-7", estimated_cost_usd=None),
        make.tool_call(1, start_ns=AT_NS),
        make.tool_call(2, start_ns=AT_NS, result_class="timeout"),
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
    assert (found.runs.value, found.runs.previous) == (4, 1)
    assert (found.active_installs.value, found.active_installs.previous) == (1, 1)
    assert (found.success_rate.value, found.success_rate.previous) == (0.75, 1.0)
    assert found.tool_failure_rate.value == pytest.approx(2 / 3)
    assert found.tool_failure_rate.previous == 0.0
    assert (found.errors.value, found.errors.previous) == (3, 0)
    assert found.p50_ms.value == pytest.approx(2000, rel=0.025)
    assert found.p95_ms.value == pytest.approx(4000, rel=0.025)


def test_cost_says_how_much_of_it_is_known() -> None:
    day_of_data()
    cost = overview(Window.last(hours=24)).cost
    assert cost.value == Cost(4.5, 3, 4)
    assert cost.value.coverage == 0.75
    assert cost.previous == Cost(None, 0, 1)
    assert cost.previous.coverage == 0.0


def test_the_series_adds_up_to_the_totals() -> None:
    day_of_data()
    window = Window.last(hours=24)
    found = overview(window)
    assert [point.start for point in found.series] == list(window.buckets())
    assert sum(point.runs for point in found.series) == 4
    assert sum(point.failed_runs for point in found.series) == 1
    assert sum(point.tool_errors for point in found.series) == 2
    assert sum(point.errors for point in found.series) == 3
    busy = next(point for point in found.series if point.runs)
    assert (busy.start, busy.cost_usd) == (floor_hour(ns_to_datetime(AT_NS)), 4.5)
    assert all(point.cost_usd is None for point in found.series if point is not busy)


def test_the_window_before_is_laid_over_the_same_buckets() -> None:
    day_of_data()
    found = overview(Window.last(hours=24))
    (busy,) = [at for at, point in enumerate(found.series) if point.runs]
    assert found.previous_runs == tuple(int(at == busy) for at in range(24))


def test_tokens_are_split_by_the_top_models_and_all_others() -> None:
    day_of_data()
    lines = overview(Window.last(hours=24)).tokens_by_model
    assert [line.model for line in lines] == ["m-7", "m-6", "m-5", "m-4", "m-3", "other"]
    assert sum(map(sum, (line.tokens for line in lines))) == sum(range(8)) + 8 * 10 + 110


def test_tables_name_what_fails() -> None:
    day_of_data()
    found = overview(Window.last(hours=24))
    terminal, browser = found.tools
    assert (terminal.tool_name, terminal.calls, terminal.failures) == ("terminal", 2, 1)
    assert (terminal.failure_rate, browser.blocked) == (0.5, 1)
    assert terminal.p95_ms == pytest.approx(20, rel=0.025)
    auth = found.error_lines[0]
    assert (auth.error_class, auth.errors, auth.given_up) == ("auth", 2, 1)
    assert found.models[0].model == "m-7"
    assert found.models[0].cost.coverage == 0.5
    assert found.end_reasons == (("completed", 3), ("failed", 1))
    assert found.entrypoints == (("cli", 4),)
    assert found.versions == (("0.19.0", 4),)


def test_an_install_whose_cost_nobody_knows_is_not_free() -> None:
    make.push(make.run(start_ns=AT_NS, estimated_cost_usd=None))
    fill_pending()
    (line,) = top_installs(Window.last(hours=24))
    assert (line.runs, line.cost_usd) == (1, None)


def test_the_heat_map_holds_every_run() -> None:
    day_of_data()
    heat = overview(Window.last(hours=24)).heat
    at = ns_to_datetime(AT_NS)
    assert (len(heat), {len(row) for row in heat}) == (7, {24})
    assert heat[at.weekday()][at.hour] == 4


def test_top_installs_are_those_with_the_most_runs() -> None:
    busy, calm = uuid4(), uuid4()
    for install_id, runs in ((busy, 3), (calm, 1)):
        make.push(
            *(make.run(at, run_id=f"r{at}", start_ns=AT_NS) for at in range(runs)),
            install_id=install_id,
        )
    fill_pending()
    window = Window.last(hours=24)
    assert [line.install_id for line in top_installs(window)] == [busy, calm]
    assert top_installs(window, limit=1)[0].runs == 3
    assert install_activity([calm, uuid4()], window) == {
        calm: InstallLine(calm, 1, 0, 0, 0, 0, None)
    }


def test_a_group_sees_only_its_own() -> None:
    group = InstallGroup.objects.create(name="Lab")
    install = Install.objects.create(pk=uuid4(), machine_id="m", group=group)
    make.push(make.run(start_ns=AT_NS), install_id=install.pk)
    day_of_data()
    found = overview(Window.last(hours=24), group_id=group.pk)
    assert (found.runs.value, found.active_installs.value, found.errors.value) == (1, 1, 0)


def test_an_answer_says_how_fresh_it_is() -> None:
    day_of_data()
    make.push(make.run(30, run_id="new", start_ns=AT_NS))
    fresh = overview(Window.last(hours=24)).freshness
    assert fresh.pending_hours == 1
    assert fresh.last_filled_at is not None


def test_nothing_at_all_is_unknown_and_not_zero() -> None:
    found = overview(Window.last(days=30))
    assert (found.success_rate.value, found.p95_ms.value, found.cost.value.usd) == (None,) * 3
    assert found.tokens.value.cache_hit_rate is None
    assert (found.tools, found.tokens_by_model, found.end_reasons) == ((), (), ())
    assert found.freshness.last_filled_at is None


@pytest.mark.parametrize("days", [1, 30])
def test_an_overview_costs_eight_queries(days: int, django_assert_num_queries: Queries) -> None:
    day_of_data()
    with django_assert_num_queries(8):
        overview(Window.last(days=days))


def test_the_share_of_the_cache_is_that_of_the_prompt() -> None:
    tokens = Tokens(30, 5, 10, 2, 1)
    assert (tokens.cache_hit_rate, tokens.total_tokens) == (0.25, 47)


def test_long_windows_have_daily_buckets() -> None:
    window = Window(make.hour_at(2026, 3, 1, 5), make.hour_at(2026, 3, 31, 5))
    assert window.unit == "day"
    assert (len(window.buckets()), window.buckets()[0]) == (31, make.hour_at(2026, 3, 1))
    assert window.previous.end == window.start


@pytest.mark.parametrize("length", [timedelta(0), timedelta(minutes=90)])
def test_a_window_is_made_of_whole_hours(length: timedelta) -> None:
    start = make.hour_at(2026, 3, 1)
    with pytest.raises(ValueError, match="window"):
        Window(start, start + length)
