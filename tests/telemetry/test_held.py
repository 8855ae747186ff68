"""What is held of installs: counted, and deleted without a trace in the cells."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from fleet.models import ChangeRecord
from telemetry.models import (
    AggregateRecord,
    FirstSeen,
    IngestBatch,
    InstallCell,
    InstallIntake,
    QuarantinedLine,
    Run,
    Span,
    TouchedHour,
)
from telemetry.rollup.fill import fill_pending
from telemetry.store.held import Held, count_held, count_spooled, remove_held
from tests import builders as fleet
from tests.telemetry import builders as make
from tests.telemetry import otlp_builders as otlp
from tests.telemetry.recount import counted, stored
from tests.telemetry.test_commands import say

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]

OTHER = UUID("01890000-0000-7000-8000-000000000002")


def listed(tmp_path: Path, *install_ids: UUID) -> str:
    path = tmp_path / "installs.json"
    path.write_text(json.dumps([str(each) for each in install_ids]))
    return str(path)


def test_rows_are_counted_by_table_install_and_mark() -> None:
    make.push(make.run(run_id="aa1"), make.run(2, run_id="bb1"), make.model_call(run_id="aa1"))
    make.push(make.run(run_id="aa1"), install_id=OTHER)
    assert count_held([make.INSTALL])["tel_runs"] == Held(2, 2)
    assert count_held([make.INSTALL, OTHER])["tel_runs"] == Held(3, 3)
    assert count_held([make.INSTALL], "aa")["tel_runs"] == Held(1, 1)
    assert count_held([])["tel_model_calls"] == Held(0, 0)


def test_a_row_that_stands_on_two_days_is_seen_as_doubled() -> None:
    day_ns = 86_400 * make.S
    make.push(make.model_call(span_id="same"))
    make.push(make.model_call(span_id="same", start_ns=make.recent_ns() - 2 * day_ns))
    assert count_held([make.INSTALL])["tel_model_calls"] == Held(2, 1)


def test_removal_takes_rows_ledger_and_quarantine_and_nobody_elses() -> None:
    for install_id in (make.INSTALL, OTHER):
        make.push(make.run(), make.model_call(), b"{", install_id=install_id)
    assert remove_held([make.INSTALL]) == 2
    for model in (Run, IngestBatch, QuarantinedLine, InstallIntake):
        held = set(model.objects.values_list("install_id", flat=True))
        assert held == {OTHER}, model
    assert not AggregateRecord.objects.filter(install_id=make.INSTALL).exists()
    assert remove_held([make.INSTALL]) == 0


def test_the_hours_of_removed_rows_are_made_again_without_them() -> None:
    start_ns = make.recent_ns()
    for install_id in (make.INSTALL, OTHER):
        make.push(make.run(start_ns=start_ns), install_id=install_id)
    say("telemetry_rollup")
    remove_held([make.INSTALL])
    assert list(TouchedHour.objects.values_list("batch_id", flat=True)) == [None]
    say("telemetry_rollup")
    assert "1 hours are exact." in say("telemetry_rollup", verify=True)
    assert set(InstallCell.objects.values_list("install_id", flat=True)) == {OTHER}


def test_an_hour_that_a_run_has_left_since_the_last_fold_is_made_again_too() -> None:
    begin_ns = make.recent_ns(3 * 3600)
    otlp.push(otlp.agent(start_ns=begin_ns + 3600 * make.S))
    fill_pending()
    Span.objects.all().delete()
    otlp.push(otlp.agent(span_id="aa" * 8, start_ns=begin_ns))
    make.push(make.run(start_ns=begin_ns), install_id=OTHER)
    remove_held([make.INSTALL])
    fill_pending()
    assert stored() == counted() != {}


def test_what_others_use_too_stays_in_the_register_of_first_uses() -> None:
    make.push(make.model_call(model="common"), make.model_call(2, model="own"))
    make.push(make.model_call(model="common"), install_id=OTHER)
    say("telemetry_rollup")
    remove_held([make.INSTALL])
    seen = FirstSeen.objects.filter(kind=FirstSeen.Kind.MODEL)
    assert list(seen.values_list("value", "install_id")) == [("common", OTHER)]


def test_rows_in_the_spool_are_counted_and_go_too(settings: Settings) -> None:
    settings.FLEET_VALVE = "open"
    make.push(make.run(), make.model_call())
    assert count_spooled([make.INSTALL]) == 2
    assert count_spooled([OTHER]) == 0
    remove_held([make.INSTALL])
    assert count_spooled([make.INSTALL]) == 0


def test_the_command_counts_and_deletes_only_when_it_is_told_twice(tmp_path: Path) -> None:
    make.push(make.run())
    path = listed(tmp_path, make.INSTALL)
    assert json.loads(say("telemetry_held", path))["tables"]["tel_runs"] == {
        "rows": 1,
        "distinct": 1,
    }
    with pytest.raises(CommandError, match="of 1 installs for good"):
        call_command("telemetry_held", path, remove=True)
    assert json.loads(say("telemetry_held", path, remove=True, yes=True)) == {"removed": 1}
    assert not Run.objects.exists()


def test_an_install_that_can_still_push_is_left_to_an_erasure(tmp_path: Path) -> None:
    fleet.enroll_one(install_id=make.INSTALL)
    make.push(make.run())
    path = listed(tmp_path, make.INSTALL)
    with pytest.raises(CommandError, match="fleet_erase"):
        call_command("telemetry_held", path, remove=True, yes=True)
    assert Run.objects.exists()


def test_what_was_deleted_is_on_record(tmp_path: Path) -> None:
    make.push(make.run())
    say("telemetry_held", listed(tmp_path, make.INSTALL), remove=True, yes=True)
    record = ChangeRecord.objects.get(action="remove_held")
    assert json.loads(record.pre_json) == {"first": [str(make.INSTALL)], "installs": 1, "rows": 1}


def test_a_file_that_lists_no_installs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    path.write_text('["not an id"]')
    with pytest.raises(CommandError, match=r"ids\.json is no JSON list of install ids"):
        call_command("telemetry_held", str(path))
