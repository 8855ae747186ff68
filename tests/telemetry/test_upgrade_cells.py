"""The hourly cells of the release before, carried into cells of hours and days."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps as django_apps
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import StateApps
from django.test import override_settings

from fleet.lib.clock import floor_hour, now
from telemetry.ingest.drain import drain
from telemetry.models import (
    ALL_GROUPS,
    CostsCell,
    ErrorsCell,
    FillState,
    HistogramCell,
    InstallCell,
    ModelCallsCell,
    RunsCell,
    ToolCallsCell,
)
from telemetry.rollup.fill import fill_pending
from telemetry.rollup.verify import verify_cells
from tests.telemetry import builders as make
from tests.telemetry.recount import counted, stored

pytestmark = [pytest.mark.both_engines, pytest.mark.django_db(transaction=True)]
NOON = floor_hour(now() - timedelta(days=3)).replace(hour=12)
HOURS = (NOON, NOON + timedelta(hours=1))
DAY = NOON.replace(hour=0)
INSTALL = UUID("01890000-0000-7000-8000-0000000000aa")


def old_models() -> StateApps:
    return MigrationExecutor(connection).loader.project_state([("telemetry", "0006_content")]).apps


@pytest.fixture(autouse=True)
def _last_release() -> Iterator[None]:
    """The database as 0006 left it, with cells of two hours of one day, one of them expired."""
    call_command("migrate", "telemetry", "0006", verbosity=0)
    apps = old_models()
    for hour, group_id, state in zip(HOURS, (0, 7), ("done", "expired"), strict=True):
        place = {"hour": hour, "group_id": group_id}
        add(apps, "FillState", hour=hour, state=state, started_at=hour)
        add(
            apps,
            "RunCell",
            **place,
            entrypoint="cli",
            agent_version="1",
            run_count=3,
            completed_count=2,
            failed_count=1,
            priced_count=2,
            cost_usd=0.1 + 0.2,
            duration_sum_ms=2000.5,
            duration_hist={"zero": 1, "175": 1},
        )
        hist = {"latency_sum_ms": 10.0, "latency_hist": {"53": 4}}
        add(apps, "ModelCell", **place, model="m", call_count=4, input_tokens=9, **hist)
        add(apps, "ToolCell", **place, tool_name="t", call_count=2, ok_count=2)
        add(apps, "ErrorCell", **place, error_class="auth", error_count=5, given_up_count=1)
        add(apps, "InstallHour", **place, install_id=INSTALL, run_count=3, cost_usd=0.3)
    yield
    call_command("migrate", "telemetry", verbosity=0)


def add(apps: StateApps, name: str, **values: Any) -> None:  # noqa: ANN401 -- fields of any model
    apps.get_model("telemetry", name).objects.create(**values)


def test_hours_are_moved_for_their_group_and_for_all_and_days_are_their_sum() -> None:
    call_command("migrate", "telemetry", verbosity=0)
    runs = {
        (cell.unit, cell.at.astimezone(UTC), cell.group_id): cell for cell in RunsCell.objects.all()
    }
    first, second = HOURS
    places: set[tuple[str, datetime, int]] = {
        *(("h", first, group) for group in (0, ALL_GROUPS)),
        *(("h", second, group) for group in (7, ALL_GROUPS)),
        *(("d", DAY, group) for group in (0, 7, ALL_GROUPS)),
    }
    assert runs.keys() == places
    day = runs["d", DAY, ALL_GROUPS]
    assert (day.run_count, day.completed_count, day.failed_count) == (6, 4, 2)
    assert (day.cost_nusd, day.duration_sum_us, day.timed_count) == (600_000_000, 4_001_000, 4)
    fleet: dict[str, Any] = {"unit": "d", "group_id": ALL_GROUPS}
    assert CostsCell.objects.get(**fleet).cost_nusd == 600_000_000
    assert ModelCallsCell.objects.get(**fleet).input_tokens == 18
    assert ToolCallsCell.objects.get(**fleet).ok_count == 4
    assert ErrorsCell.objects.get(**fleet).given_up_count == 2
    assert HistogramCell.objects.get(**fleet, kind="run").counts == {"zero": 2, "175": 2}
    assert HistogramCell.objects.get(**fleet, kind="run_version").name == "1"
    assert HistogramCell.objects.get(**fleet, kind="model").counts == {"53": 8}
    own = InstallCell.objects.get(unit="d")
    assert (own.group_id, own.run_count, own.cost_nusd) == (7, 6, 600_000_000)


def test_what_comes_after_is_added_and_an_expired_hour_stays_so() -> None:
    call_command("migrate", "telemetry", verbosity=0)
    states = set(FillState.objects.values_list("state", flat=True))
    assert states == {FillState.State.MOVED, FillState.State.EXPIRED}
    at_ns = int(NOON.timestamp()) * make.S
    make.push(make.run(1, start_ns=at_ns, entrypoint="cli", agent_version="1"))
    fill_pending()
    fleet = RunsCell.objects.filter(group_id=ALL_GROUPS)
    assert fleet.get(unit="h", at=NOON).run_count == 4
    assert fleet.get(unit="d").run_count == 7
    report = verify_cells(DAY, DAY + timedelta(days=1))
    assert (report.differences, report.skipped_hours) == ([], 2)


def test_the_way_back_leaves_empty_tables_that_the_old_release_fills() -> None:
    call_command("migrate", "telemetry", verbosity=0)
    call_command("migrate", "telemetry", "0006", verbosity=0)
    apps = old_models()
    assert not apps.get_model("telemetry", "RunCell").objects.exists()
    assert not apps.get_model("telemetry", "RunsCell").objects.exists()
    states = apps.get_model("telemetry", "FillState").objects.values_list("state", flat=True)
    assert set(states) == {"done", "expired"}


def test_cells_come_back_from_their_rows_after_the_way_back_and_forth() -> None:
    call_command("migrate", "telemetry", verbosity=0)
    make.push(make.run(1), make.tool_call(2))
    fill_pending()
    before = counted()
    call_command("migrate", "telemetry", "0006", verbosity=0)
    call_command("migrate", "telemetry", verbosity=0)
    fill_pending()
    assert stored() == counted() == before != {}


def test_no_way_back_loses_what_waits_in_the_spool() -> None:
    call_command("migrate", "telemetry", verbosity=0)
    with override_settings(FLEET_VALVE="open"):
        make.push(make.run())
    valve = import_module("telemetry.migrations.0005_valve")
    with pytest.raises(RuntimeError, match="1 acknowledged batches wait in the spool"):
        valve.keep_the_spool(django_apps, None)
    drain()
    valve.keep_the_spool(django_apps, None)
