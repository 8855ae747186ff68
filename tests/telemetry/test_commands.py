"""The management commands and the numbered checks."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connection

from agent_client.contract import wire
from fleet.lib.clock import now
from fleet.models import Install
from telemetry import checks
from telemetry.models import IngestBatch, QuarantinedLine, Run, RunsCell, TouchedHour
from telemetry.store.partitions import PARENTS, Partition, create_partitions, drop_partitions
from telemetry.store.retention import maintain
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def say(*arguments: str, **options: Any) -> str:  # noqa: ANN401 -- as call_command takes them
    out = io.StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def ids_of_checks() -> set[str]:
    return {
        str(found.id)
        for found in run_checks(databases=["default"])
        if str(found.id).startswith("telemetry.")
    }


def test_the_partition_plan_is_printed_and_applied() -> None:
    say("telemetry_partitions", "apply")
    planned = say("telemetry_partitions")
    assert "Nothing to do." in planned or "SQLite has no partitions" in planned


@pytest.mark.postgres
def test_a_plan_lists_what_is_missing() -> None:
    today = Partition(now().date(), PARENTS[0])
    drop_partitions([today])
    assert f"create {today.name}" in say("telemetry_partitions", "plan")


def test_rollups_are_filled_and_verified_by_hand() -> None:
    make.push(make.run())
    assert "filled 1 hours" in say("telemetry_rollup")
    assert "1 hours are exact." in say("telemetry_rollup", verify=True)


def test_a_wrong_cell_fails_the_verification_and_is_mended() -> None:
    make.push(make.run())
    say("telemetry_rollup")
    RunsCell.objects.filter(unit="h", group_id=0).update(run_count=5)
    with pytest.raises(CommandError, match="1 cells differ"):
        say("telemetry_rollup", verify=True)
    assert "filled" in say("telemetry_rollup", all=True, hours=3)
    assert "exact" in say("telemetry_rollup", verify=True)


def test_a_verification_says_as_json_what_differs() -> None:
    make.push(make.run())
    say("telemetry_rollup")
    RunsCell.objects.filter(unit="d", group_id=0).delete()
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("telemetry_rollup", verify=True, json=True, stdout=out)
    report = json.loads(out.getvalue())
    assert (report["hour_count"], report["difference_count"]) == (1, 1)
    assert report["differences"][0]["cell"] == "RunsCell"
    assert report["differences"][0]["stored"] is None


def test_one_hour_is_made_again_by_hand() -> None:
    make.push(make.run())
    say("telemetry_rollup")
    hour = RunsCell.objects.filter(unit="h")[0].at
    RunsCell.objects.update(run_count=5)
    assert "filled 1 hours" in say("telemetry_rollup", hour=hour)
    assert "exact" in say("telemetry_rollup", verify=True)


def test_a_rollup_wants_a_positive_number_of_hours() -> None:
    with pytest.raises(CommandError, match="from 1"):
        say("telemetry_rollup", hours=0)


def exported(tmp_path: Path, *records: dict[str, object] | bytes) -> Path:
    file = tmp_path / "export.ndjson"
    file.write_bytes(make.ndjson(*records))
    return file


def test_an_export_file_is_loaded_once_however_often_it_is_given(tmp_path: Path) -> None:
    install = Install.objects.create(pk=uuid4(), machine_id="m")
    file = exported(tmp_path, make.run(), make.tool_call(), b"{")
    first = say("telemetry_load", str(file), install=install.pk)
    assert first.strip() == "received 3, accepted 2, duplicates 0, rejected 1"
    assert say("telemetry_load", str(file), install=install.pk) == first
    assert IngestBatch.objects.get().source == IngestBatch.Source.FILE
    assert Run.objects.get().install_id == install.pk


def test_a_large_file_is_loaded_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install = Install.objects.create(pk=uuid4(), machine_id="m")
    monkeypatch.setattr("telemetry.management.commands.telemetry_load.BATCH_BYTES", 1500)
    file = exported(tmp_path, *(make.run(at, run_id=f"r{at}") for at in range(10)))
    assert "accepted 10" in say("telemetry_load", str(file), install=install.pk)
    assert IngestBatch.objects.count() > 2


def test_the_sessions_of_an_export_with_content_are_not_even_quarantined(tmp_path: Path) -> None:
    install = Install.objects.create(pk=uuid4(), machine_id="m")
    words = b"what the user said " * (wire.MAX_LINE_BYTES // 6)  # three pieces of a line
    sessions = [b'{"_kind":"session","title":"' + text + b'"}' for text in (b"short", words)]
    file = exported(tmp_path, *sessions, make.run(), sessions[0])
    said = say("telemetry_load", str(file), install=install.pk)
    assert said.strip() == "received 1, accepted 1, duplicates 0, rejected 0"
    assert not QuarantinedLine.objects.exists()


def test_an_endless_line_of_a_file_is_refused_and_the_rest_loaded(tmp_path: Path) -> None:
    install = Install.objects.create(pk=uuid4(), machine_id="m")
    file = exported(tmp_path, b"x" * (wire.MAX_LINE_BYTES + 100), make.run())
    assert "accepted 1" in say("telemetry_load", str(file), install=install.pk)
    assert QuarantinedLine.objects.filter(code="line_too_long").exists()


def test_a_file_for_nobody_or_from_nowhere_is_refused(tmp_path: Path) -> None:
    file = exported(tmp_path, make.run())
    with pytest.raises(CommandError, match="No such install"):
        say("telemetry_load", str(file), install=uuid4())
    install = Install.objects.create(pk=uuid4(), machine_id="m")
    with pytest.raises(CommandError, match="No such file"):
        say("telemetry_load", str(tmp_path / "none"), install=install.pk)


def test_a_kept_house_passes_its_checks() -> None:
    maintain()
    assert ids_of_checks() == set()


@pytest.mark.postgres
def test_a_missing_day_is_an_error() -> None:
    maintain()
    drop_partitions([Partition(now().date(), PARENTS[0])])
    assert ids_of_checks() == {"telemetry.E001"}


def test_a_rollup_that_lags_is_a_warning() -> None:
    maintain()
    TouchedHour.objects.create(hour=now(), touched_at=now() - timedelta(hours=1))
    assert ids_of_checks() == {"telemetry.W002"}


@pytest.mark.postgres
def test_a_day_that_is_held_is_a_warning() -> None:
    maintain()
    old = now() - timedelta(days=200)
    create_partitions([Partition(old.date(), PARENTS[0])])
    TouchedHour.objects.create(hour=old, touched_at=now())
    assert ids_of_checks() == {"telemetry.W003"}


def test_checks_keep_quiet_before_the_first_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection.introspection, "table_names", list)
    assert ids_of_checks() == set()
    assert checks.check_partitions(None) == []
