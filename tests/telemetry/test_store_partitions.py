"""Partitions: a plan one can print; nothing goes before its rollups are done."""

from __future__ import annotations

from datetime import date, timedelta
from uuid import uuid4

import pytest
import time_machine
from django.db import connection
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from fleet.lib.clock import floor_hour, now, ns_to_datetime
from telemetry.models import EVENT_MODELS, FillState, QuarantinedLine, Run, RunsCell, TouchedHour
from telemetry.rollup.fill import fill_hour, fill_pending
from telemetry.store import retention
from telemetry.store.partitions import (
    CONTENT_PARENTS,
    PARENTS,
    Partition,
    create_partitions,
    drop_partitions,
    ensure_partitions,
    existing_partitions,
    missing_days,
    partition_of,
    plan_partitions,
)
from telemetry.store.retention import current_plan, keep_from, maintain, unfinished_days
from telemetry.store.tasks import maintain_partitions
from tests.telemetry import builders as make

DAY = date(2026, 3, 1)
DAYS = st.dates(DAY - timedelta(days=60), DAY + timedelta(days=20))
PARTITIONS = st.builds(Partition, DAYS, st.sampled_from(PARENTS))
both_engines = pytest.mark.both_engines


@given(
    existing=st.sets(PARTITIONS),
    unfinished=st.sets(DAYS),
    kept_days=st.integers(0, 60),
    ahead_days=st.integers(0, 10),
)
def test_a_plan_makes_all_days_ahead_and_drops_only_finished_old_ones(
    existing: set[Partition], unfinished: set[date], kept_days: int, ahead_days: int
) -> None:
    keep = DAY - timedelta(days=kept_days)
    plan = plan_partitions(
        today=DAY, existing=existing, keep_from=keep, unfinished=unfinished, ahead_days=ahead_days
    )
    after = (existing | set(plan.create)) - set(plan.drop)
    ahead = {DAY + timedelta(days=offset) for offset in range(ahead_days + 1)}
    assert {Partition(day, parent) for day in ahead for parent in PARENTS} <= after
    assert not set(plan.create) & existing
    rows = {part for part in after | set(plan.drop) if part.parent not in CONTENT_PARENTS}
    assert all(part.day < keep for part in plan.drop)
    assert not any(part.day in unfinished for part in rows & set(plan.drop))
    assert all(part.day in unfinished for part in rows & after if part.day < keep)
    again = plan_partitions(
        today=DAY, existing=after, keep_from=keep, unfinished=unfinished, ahead_days=ahead_days
    )
    assert (again.create, again.drop) == ((), ())


@given(existing=st.sets(PARTITIONS), unfinished=st.sets(DAYS), kept_days=st.integers(0, 60))
def test_content_goes_at_its_own_time_and_no_rollup_holds_it(
    existing: set[Partition], unfinished: set[date], kept_days: int
) -> None:
    keep = DAY - timedelta(days=kept_days)
    plan = plan_partitions(
        today=DAY,
        existing=existing,
        keep_from=DAY - timedelta(days=60),
        unfinished=unfinished,
        content_keep_from=keep,
    )
    content = {part for part in existing if part.parent in CONTENT_PARENTS}
    assert {part for part in content if part.day < keep} == content & set(plan.drop)
    assert not any(part.parent in CONTENT_PARENTS for part in plan.held)


def test_a_plan_prints_one_line_a_partition() -> None:
    old, held = Partition(date(2026, 1, 1), PARENTS[0]), Partition(date(2026, 1, 2), PARENTS[0])
    plan = plan_partitions(
        today=DAY, existing={old, held}, keep_from=DAY, unfinished={held.day}, ahead_days=0
    )
    lines = plan.lines()
    assert "create telemetry_run_20260301" in lines
    assert "drop   telemetry_run_20260101" in lines
    assert any(line.startswith("hold   telemetry_run_20260102") for line in lines)


@pytest.mark.parametrize("name", ["telemetry_run_20261301", "other_20260101", "telemetry_run_x"])
def test_foreign_tables_are_no_partitions(name: str) -> None:
    assert partition_of(name) is None


@pytest.mark.postgres
@pytest.mark.django_db
def test_days_are_made_once_and_dropped_with_their_rows() -> None:
    made = {Partition(DAY, parent) for parent in PARENTS}
    assert ensure_partitions(made) == len(PARENTS)
    assert ensure_partitions(made) == 0
    assert made <= existing_partitions()
    assert drop_partitions(made) == len(PARENTS)
    assert not made & existing_partitions()


@pytest.mark.postgres
@pytest.mark.django_db
def test_ingest_makes_only_the_days_of_the_tables_that_a_batch_has_rows_of() -> None:
    old_ns = make.recent_ns(60 * 86_400)
    make.push(make.run(start_ns=old_ns), make.span(2, start_ns=old_ns))
    day = ns_to_datetime(old_ns).date()
    made = {part.parent for part in existing_partitions() if part.day == day}
    assert made == {"telemetry_run", "telemetry_span"}


@pytest.mark.postgres
@pytest.mark.django_db
def test_a_partition_holds_exactly_its_utc_day() -> None:
    create_partitions([Partition(DAY, PARENTS[0])])
    with connection.cursor() as cursor, timezone.override("Asia/Tokyo"):
        cursor.execute(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s",
            ["telemetry_run_20260301"],
        )
        (bound,) = cursor.fetchone()
    assert "2026-03-01 00:00:00+00" in bound
    assert "2026-03-02 00:00:00+00" in bound


@both_engines
@pytest.mark.django_db
def test_maintenance_makes_the_days_ahead() -> None:
    maintain()
    assert missing_days(7) == []
    assert "created 0" in maintain_partitions()


@both_engines
@pytest.mark.django_db
def test_expired_rows_go_only_after_their_rollups_are_done() -> None:
    old_ns = make.recent_ns(80 * 86_400)
    make.push(*make.one_of_each(old_ns), make.run(99, run_id="new"))
    with time_machine.travel(now() + timedelta(days=12), tick=False):
        maintain()
        assert Run.objects.count() == 2
        assert fill_pending() == 2
        maintain()
        assert [run.run_id for run in Run.objects.all()] == ["new"]
        assert not any(model.objects.exists() for model in EVENT_MODELS[1:])
        hour = floor_hour(ns_to_datetime(old_ns))
        assert FillState.objects.get(hour=hour).state == FillState.State.EXPIRED


@both_engines
@pytest.mark.django_db
def test_the_cells_of_an_expired_hour_are_frozen() -> None:
    make.push(make.run(start_ns=make.recent_ns(80 * 86_400)))
    hour = TouchedHour.objects.get().hour
    fill_pending()
    FillState.objects.update(state=FillState.State.EXPIRED)
    Run.objects.all().delete()
    TouchedHour.objects.create(hour=hour, touched_at=now())
    assert not fill_hour(hour)
    fill_pending()
    assert set(RunsCell.objects.values_list("run_count", flat=True)) == {1}
    assert not TouchedHour.objects.exists()


@both_engines
@pytest.mark.django_db
def test_a_started_hour_holds_its_day() -> None:
    hour = floor_hour(now())
    FillState.objects.create(hour=hour, state=FillState.State.STARTED, started_at=now())
    assert unfinished_days() == {hour.date()}


@both_engines
@pytest.mark.django_db
def test_old_quarantine_goes_with_retention() -> None:
    old = now() - timedelta(days=200)
    for line, moment in enumerate((old, now())):
        QuarantinedLine.objects.create(
            install_id=make.INSTALL, batch_id=uuid4(), line=line, code="x", received_at=moment
        )
    maintain()
    assert QuarantinedLine.objects.get().line == 1


def test_a_day_is_kept_a_day_longer_than_its_times_are_accepted() -> None:
    moment = make.hour_at(2026, 6, 1, 12)
    assert keep_from(moment) == date(2026, 3, 2)


@pytest.mark.postgres
@pytest.mark.django_db
def test_a_day_that_a_batch_reached_after_the_plan_is_not_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make.push(make.run(start_ns=make.recent_ns(80 * 86_400)))
    hour = TouchedHour.objects.get().hour
    fill_pending()
    with time_machine.travel(now() + timedelta(days=12), tick=False):
        plan = current_plan()
        assert hour.date() in {partition.day for partition in plan.drop}
        TouchedHour.objects.create(hour=hour, touched_at=now())
        monkeypatch.setattr(retention, "current_plan", lambda: plan)
        states = FillState.objects.filter(hour=hour).values_list("state", flat=True)
        maintain()
        assert (Run.objects.count(), *states) == (1, FillState.State.DONE)
        TouchedHour.objects.all().delete()
        maintain()
        assert (Run.objects.count(), *states.all()) == (0, FillState.State.EXPIRED)
