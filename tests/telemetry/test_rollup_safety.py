"""Rollups when something goes wrong: killed, refused by the database, full, too old."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from fleet.lib.clock import floor_hour, now, ns_to_datetime
from fleet.lib.sql import session_lock, transaction_lock
from telemetry.checks import check_rollup_lag
from telemetry.health import rollups_probe
from telemetry.models import (
    ALL_GROUPS,
    EVENT_MODELS,
    FillState,
    HistogramCell,
    ReplacedRun,
    Run,
    RunsCell,
    ToolCallsCell,
    TouchedHour,
)
from telemetry.rollup import refill
from telemetry.rollup.fill import fill_hour, fill_pending, fill_round, pending_hours
from telemetry.rollup.fold import fold_touched, snapshot
from telemetry.rollup.histogram import bucket_of
from telemetry.rollup.lag import failed_batches, lag_s
from telemetry.rollup.stats import SUM_MAX
from telemetry.rollup.tasks import fill_touched
from telemetry.rollup.verify import verify_cells
from telemetry.store import retention
from telemetry.store.locks import ROLLUP_LOCK
from telemetry.store.old_cells import drop_old_cells
from tests.telemetry import builders as make
from tests.telemetry.recount import counted, stored

both_engines = pytest.mark.both_engines
committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db
AT_NS = make.recent_ns(2 * 3600)
HOUR = floor_hour(ns_to_datetime(AT_NS))
DAY = timedelta(days=1)
OLD_NS = make.recent_ns(50 * 86_400)


# ------------------------------------------------------------------------------------ killed

KILL = """
import os, signal, sys
import django
django.setup()
from telemetry.rollup import fill, fold, histograms, refill

module, name = sys.argv[1].rsplit(".", 1)
place = {"fold": fold, "refill": refill}[module]
real = getattr(place, name)
def dies(*arguments, **named):
    if sys.argv[2] == "after":
        real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(place, name, dies)
if module == "fold":
    fill.fill_pending()
else:
    from datetime import datetime
    fill.fill_hour(datetime.fromisoformat(sys.argv[3]))
"""


def killed(where: str, when: str) -> int:
    """The exit status of a process that folds or refills, and dies at this point."""
    return subprocess.run(
        [sys.executable, "-c", KILL, where, when, HOUR.isoformat()], env=environment(), check=False
    ).returncode


def environment() -> dict[str, str]:
    """Of a console on the database of this test."""
    values = connection.settings_dict
    if connection.vendor == "postgresql":
        place = f"{values['USER']}:{values['PASSWORD']}@{values['HOST']}:{values['PORT']}"
        url = f"postgresql://{place}/{values['NAME']}"
    else:
        url = f"sqlite:///{values['NAME']}"
    return {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "fleet.settings"}


@both_engines
@committed
@pytest.mark.parametrize(
    ("where", "when"),
    [
        ("fold.take", "after"),
        ("fold.add_to_histograms", "before"),
        ("fold.add_to_histograms", "after"),
        ("fold.forget_replaced", "after"),
        ("fold._note_filled", "after"),
        ("refill._sum_hours", "before"),
        ("refill._sum_hours", "after"),
    ],
)
def test_whoever_is_killed_leaves_exactness_to_the_next(where: str, when: str) -> None:
    make.push(make.run(1, start_ns=AT_NS, end_reason=None), make.tool_call(1, start_ns=AT_NS))
    fill_pending()
    make.push(make.run(2, start_ns=AT_NS), make.tool_call(2, start_ns=AT_NS))
    before = stored()
    assert killed(where, when) == -signal.SIGKILL
    assert stored() == before
    assert TouchedHour.objects.count() == 1
    fill_pending()
    assert stored() == counted() != before
    assert not ReplacedRun.objects.exists()


# ------------------------------------------------------------------------------- refused data


@contextmanager
def refusing_tool(name: str) -> Iterator[None]:
    """A database that refuses cells of this tool, as one with a fault of its own would."""
    table = ToolCallsCell._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT refuses CHECK (tool_name <> '{name}')"
            )
        else:
            cursor.execute(
                f"CREATE TRIGGER refuses BEFORE INSERT ON {table} WHEN NEW.tool_name = '{name}' "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
    yield
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT refuses")
        else:
            cursor.execute("DROP TRIGGER refuses")


@both_engines
@committed
def test_a_batch_that_the_database_refuses_holds_up_no_other() -> None:
    for seq in range(7):
        tool = "poison" if seq == 3 else "terminal"
        make.push(make.tool_call(seq, start_ns=AT_NS, tool_name=tool), batch_id=uuid4())
    with refusing_tool("poison"):
        fill_round()
        cell = ToolCallsCell.objects.get(unit="h", group_id=ALL_GROUPS)
        assert (cell.tool_name, cell.call_count) == ("terminal", 6)
        touch = TouchedHour.objects.get()
        assert touch.failed_at is not None
        assert "Error" in touch.fault
        assert (failed_batches(), lag_s()) == (1, None)
        assert rollups_probe().state == "warn"
        assert "telemetry.W004" in {found.id for found in check_rollup_lag(None, ["default"])}
        assert verify_cells(HOUR, HOUR + DAY).differences == []
        fill_round()
        assert TouchedHour.objects.get().failed_at == touch.failed_at
    fill_pending()
    assert stored() == counted()
    assert failed_batches() == 0
    assert rollups_probe().state == "ok"


@both_engines
def test_sums_that_lag_show_on_the_health_page() -> None:
    make.push(make.tool_call(1, start_ns=AT_NS))
    assert rollups_probe().state == "ok"
    TouchedHour.objects.update(touched_at=now() - timedelta(minutes=5))
    assert rollups_probe().state == "warn"
    fill_touched()
    assert rollups_probe().state == "ok"


@both_engines
@committed
def test_a_fold_leaves_its_session_as_it_was() -> None:
    make.push(make.tool_call(1, start_ns=AT_NS))
    names = ("enable_sort", "jit", "work_mem")

    def session() -> list[object]:
        if connection.vendor != "postgresql":
            return []
        with connection.cursor() as cursor:
            cursor.execute("SELECT setting FROM pg_settings WHERE name = ANY(%s)", [list(names)])
            return list(cursor.fetchall())

    before = session()
    fill_touched()
    assert stored() == counted()
    assert session() == before


@both_engines
@committed
def test_an_hour_that_cannot_be_made_again_holds_up_no_fold() -> None:
    make.push(make.tool_call(1, start_ns=AT_NS, tool_name="poison"))
    TouchedHour.objects.update(batch_id=None)
    make.push(make.tool_call(2, start_ns=AT_NS - 86_400 * make.S))
    with refusing_tool("poison"):
        fill_round()
        assert ToolCallsCell.objects.get(unit="h", group_id=ALL_GROUPS).tool_name == "terminal"
        assert pending_hours() == [HOUR]
    fill_round()
    assert stored() == counted() != {}
    assert not pending_hours()


@both_engines
def test_a_refused_batch_is_tried_again_after_an_hour() -> None:
    make.push(make.tool_call(1, start_ns=AT_NS))
    TouchedHour.objects.update(failed_at=now() - timedelta(minutes=50), fault="DataError")
    fill_touched()
    assert failed_batches() == 1
    TouchedHour.objects.update(failed_at=now() - timedelta(minutes=70))
    fill_touched()
    assert failed_batches() == 0
    assert stored() == counted()


# --------------------------------------------------------------------------------------- full


@both_engines
def test_a_sum_that_is_full_stays_full_and_stops_nothing() -> None:
    make.push(make.run(1, start_ns=AT_NS, estimated_cost_usd=5.0))
    fill_pending()
    RunsCell.objects.update(cost_nusd=SUM_MAX - 1)
    make.push(make.run(2, start_ns=AT_NS, estimated_cost_usd=1e9))
    fill_pending()
    cells = RunsCell.objects.values_list("cost_nusd", "run_count")
    assert set(cells) == {(SUM_MAX, 1)}
    report = verify_cells(HOUR, HOUR + DAY)
    assert report.saturated_count == 4
    assert {found.cell for found in report.differences} == set()
    fill_hour(HOUR)
    assert stored() == counted()


@both_engines
def test_a_replaced_run_takes_its_bucket_away_and_an_empty_histogram_goes() -> None:
    ends = {"end_ns": AT_NS + make.S, "agent_version": "1"}
    make.push(make.run(1, start_ns=AT_NS, **ends))
    make.push(make.run(1, run_id="other", start_ns=AT_NS, agent_version="2"))
    fill_pending()
    make.push(make.run(2, start_ns=AT_NS, **ends | {"end_ns": None, "end_reason": None}))
    fill_pending()
    fleet = HistogramCell.objects.filter(unit="h", group_id=ALL_GROUPS)
    assert fleet.get(kind="run").counts == {str(bucket_of(2000.0)): 1}
    assert [cell.name for cell in fleet.filter(kind="run_version")] == ["2"]
    assert stored() == counted()


# ------------------------------------------------------------------------------------ too old


@both_engines
def test_hours_go_and_their_day_stays_exact_whatever_comes_late() -> None:
    make.push(make.run(1, start_ns=OLD_NS), make.tool_call(1, start_ns=OLD_NS))
    fill_pending()
    dropped = drop_old_cells()
    assert (dropped.hours_of_days, drop_old_cells().hours_of_days) == (1, 0)
    assert {cell[1] for cell in stored()} == {"d"}
    make.push(make.run(2, start_ns=OLD_NS), make.run(3, run_id="late", start_ns=OLD_NS + 1_000))
    fill_pending()
    days = {key: cell for key, cell in counted().items() if key[1] == "d"}
    assert stored() == days
    day = ns_to_datetime(OLD_NS)
    assert verify_cells(day, day + timedelta(hours=1)).differences == []
    RunsCell.objects.update(run_count=99)
    assert verify_cells(day, day + timedelta(hours=1)).difference_count == 2
    fill_hour(floor_hour(day))
    assert stored() == days


@both_engines
def test_a_day_that_waits_for_a_fold_keeps_its_hours() -> None:
    make.push(make.run(1, start_ns=OLD_NS))
    fill_pending()
    make.push(make.tool_call(1, start_ns=OLD_NS))
    assert drop_old_cells().hours_of_days == 0
    fill_pending()
    assert drop_old_cells().hours_of_days == 1


@both_engines
def test_days_go_in_the_end_but_never_before_their_rows() -> None:
    make.push(make.run(1, start_ns=OLD_NS))
    fill_pending()
    with override_settings(FLEET_DAILY_DAYS=40):
        drop_old_cells()
        assert RunsCell.objects.exists()
        with override_settings(FLEET_RETENTION_DAYS=30):
            drop_old_cells()
    assert not RunsCell.objects.exists()
    assert not FillState.objects.exists()


@both_engines
def test_an_expired_hour_takes_part_in_its_day_when_another_is_verified() -> None:
    make.push(make.run(1, start_ns=AT_NS))
    make.push(make.tool_call(1, start_ns=AT_NS))
    fill_pending()
    FillState.objects.update(state=FillState.State.EXPIRED)
    for model in EVENT_MODELS:
        model.objects.all().delete()
    report = verify_cells(HOUR, HOUR + timedelta(hours=1))
    assert (report.differences, report.skipped_hours) == ([], 1)
    assert not fill_hour(HOUR)
    assert RunsCell.objects.filter(unit="d").exists()


# ---------------------------------------------------------------------------------- two at once


@pytest.mark.postgres
@committed
def test_a_fold_that_meets_an_erasure_gives_way_and_is_made_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from telemetry.rollup import fold, histograms

    make.push(make.run(1, start_ns=AT_NS))
    real = histograms.add_to_histograms

    def erase_meanwhile(deltas: object) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(erase_and_close).result()
        real(deltas)  # type: ignore[arg-type]  # handed through

    def erase_and_close() -> None:
        with transaction_lock("an erasure"):
            Run.objects.all().delete()
            TouchedHour.objects.all().delete()
            TouchedHour.objects.create(hour=HOUR, touched_at=now())
        connection.close()

    monkeypatch.setattr(fold, "add_to_histograms", erase_meanwhile)
    assert fold_touched() == 0
    monkeypatch.undo()
    assert stored() == {}
    fill_pending()
    assert stored() == counted() == {}


@both_engines
def test_lag_is_the_age_of_the_oldest_touch() -> None:
    assert lag_s() is None
    make.push(make.run(1, start_ns=AT_NS))
    TouchedHour.objects.update(touched_at=now() - timedelta(seconds=90))
    found = lag_s()
    assert found is not None
    assert 90 <= found < 120
    fill_pending()
    assert lag_s() is None


@both_engines
def test_verification_is_exact_while_batches_wait() -> None:
    make.push(make.run(1, start_ns=AT_NS, end_reason=None), make.tool_call(1, start_ns=AT_NS))
    fill_pending()
    make.push(make.run(2, start_ns=AT_NS))
    report = verify_cells(HOUR, HOUR + timedelta(hours=1))
    assert (report.differences, report.waiting_touches, report.hour_count) == ([], 1, 1)
    call_command("telemetry_rollup", "--verify", verbosity=0)


@pytest.mark.postgres
@committed
def test_a_refill_that_an_erasure_overtakes_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    make.push(make.run(1, start_ns=AT_NS), make.run(2, run_id="other", start_ns=AT_NS))
    make_cells, tries = refill._make, list[int]()

    def erase() -> None:
        try:
            TouchedHour.objects.all().delete()
            Run.objects.filter(run_id="other").delete()
            TouchedHour.objects.create(hour=HOUR, touched_at=now())
        finally:
            connection.close()

    def make_overtaken(*arguments: Any) -> None:  # noqa: ANN401 -- passed on as they are
        tries.append(1)
        if len(tries) == 1:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(erase).result()
        make_cells(*arguments)

    monkeypatch.setattr(refill, "_make", make_overtaken)
    assert fill_hour(HOUR)
    assert len(tries) == 2
    assert stored() == counted() != {}


@both_engines
def test_a_refill_that_retention_overtakes_leaves_the_cells_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make.push(make.run(1, start_ns=AT_NS))
    fill_pending()
    before = stored()

    @contextmanager
    def after_retention() -> Iterator[None]:
        Run.objects.all().delete()
        FillState.objects.update(state=FillState.State.EXPIRED)
        with snapshot():
            yield

    monkeypatch.setattr(refill, "snapshot", after_retention)
    assert not fill_hour(HOUR)
    assert stored() == before != {}


@pytest.mark.postgres
@committed
def test_no_day_is_dropped_while_cells_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    make.push(make.run(1, start_ns=make.recent_ns(80 * 86_400)))
    fill_pending()

    def drop() -> None:
        try:
            retention.maintain()
        finally:
            connection.close()

    with time_machine.travel(now() + timedelta(days=12), tick=False):
        plan = retention.current_plan()
        monkeypatch.setattr(retention, "current_plan", lambda: replace(plan, create=()))
        with ThreadPoolExecutor(1) as pool:
            with session_lock(ROLLUP_LOCK):
                dropped = pool.submit(drop)
                wait([dropped], timeout=2)
                held = Run.objects.count()
            dropped.result()
    assert (held, Run.objects.count()) == (1, 0)
