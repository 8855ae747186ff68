"""Schedules and destinations on the console: typed, previewed, tested; default deny."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from fleet.models import ChangeRecord
from telemetry.admin import exports_schedules as pages
from telemetry.models import ExportDestination, ExportJob, ExportSchedule
from telemetry.pages.exports_place import env_fault
from tests.telemetry.test_export_pages import client_of, post, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
SCHEDULES = "/telemetry/exportschedule/"
PLACES = "/telemetry/exportdestination/"
OF_SCHEDULES = (
    *("view_exportschedule", "add_exportschedule", "change_exportschedule"),
    *("delete_exportschedule", "add_exportjob", "view_exportjob", "view_run"),
)
OF_PLACES = (
    *("view_exportdestination", "add_exportdestination", "change_exportdestination"),
    "test_exportdestination",
)


def rhythm(**values: Any) -> dict[str, Any]:  # noqa: ANN401 -- form values
    return {
        "name": "nightly",
        "every": "day",
        "at_time": "02:30",
        "at_minute": "15",
        "weekday": "0",
        "day_of_month": "1",
        "time_zone": "Europe/Berlin",
        "settle_minutes": "10",
        "catch_up": "last",
        "is_enabled": "on",
        "datasets": ["runs"],
        "fmt": "parquet",
        "keep_days": "30",
        **values,
    }


def place(**values: Any) -> dict[str, Any]:  # noqa: ANN401 -- form values
    return {"name": "archive", "kind": "folder", "is_enabled": "on", **values}


def s3(**values: Any) -> dict[str, Any]:  # noqa: ANN401 -- form values
    return place(
        kind="s3",
        bucket="fleet-exports",
        prefix="daily",
        key_id_env="FLEET_S3_KEY_ID",
        secret_env="FLEET_S3_SECRET",
        **values,
    )


def changes(action: str, kind: str) -> list[ChangeRecord]:
    return list(ChangeRecord.objects.filter(action=action, object_type=kind).order_by("id"))


def test_empty_lists_say_what_they_are_for() -> None:
    client = client_of(*OF_SCHEDULES, *OF_PLACES)
    assert "No schedule yet" in text_of(client, SCHEDULES)
    assert "No destination yet" in text_of(client, PLACES)


def test_a_schedule_is_saved_as_typed_answered_for_and_audited() -> None:
    client = client_of(*OF_SCHEDULES)
    shown = post(client, f"{SCHEDULES}add/", **rhythm())
    schedule = ExportSchedule.objects.get()
    assert (schedule.every, schedule.at_hour, schedule.at_minute) == ("day", 2, 30)
    assert (schedule.time_zone, schedule.settle_minutes) == ("Europe/Berlin", 10)
    assert (schedule.owner, schedule.datasets, schedule.fmt) == ("somebody", ["runs"], "parquet")
    assert schedule.next_at is not None
    assert "You answer for it now" in shown
    assert "each day at 02:30, Europe/Berlin" in shown
    assert [record.actor for record in changes("create", "exportschedule")] == ["somebody"]
    listed = text_of(client, SCHEDULES)
    assert "nightly" in listed
    assert "Runs" in listed


def test_the_preview_shows_local_time_utc_and_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "now", lambda: datetime(2026, 3, 27, 12, 0, tzinfo=UTC))
    client = client_of(*OF_SCHEDULES)
    shown = post(client, f"{SCHEDULES}preview/", **rhythm(datasets=[]))
    assert shown.count("<li>") == 5
    assert "Sat 2026-03-28 02:30 CET" in shown
    assert "2026-03-28 01:30:00 UTC" in shown
    # The night without a half past two: it runs when the clocks have leapt.
    assert "Sun 2026-03-29 03:00 CEST" in shown
    assert "Mon 2026-03-30 02:30 CEST" in shown
    assert "covers from 2026-03-29 01:00" in shown
    assert "ordered at 01:40" in shown
    by_button = post(client, f"{SCHEDULES}add/", **rhythm(preview="yes"))
    assert "Sun 2026-03-29 03:00 CEST" in by_button
    assert not ExportSchedule.objects.exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"time_zone": "Atlantis/Sunken"}, "There is no such time zone"),
        ({"time_zone": "../../etc/passwd"}, "There is no such time zone"),
        ({"at_time": ""}, "Say at what time."),
        ({"at_time": "25:00"}, "valid time"),
        ({"every": "month", "day_of_month": "32"}, "less than or equal to 31"),
        ({"settle_minutes": "9999"}, "less than or equal to 1440"),
        ({"datasets": []}, "Choose at least one."),
    ],
)
def test_what_makes_no_sense_is_said_at_its_input_and_the_rest_is_kept(
    values: dict[str, Any], said: str
) -> None:
    shown = post(client_of(*OF_SCHEDULES), f"{SCHEDULES}add/", **rhythm(name="keep me", **values))
    assert said in shown
    assert 'value="keep me"' in shown
    assert not ExportSchedule.objects.exists()


def test_an_hourly_schedule_needs_no_time_of_day() -> None:
    values = rhythm(every="hour", at_time="", at_minute="7")
    post(client_of(*OF_SCHEDULES), f"{SCHEDULES}add/", **values)
    assert ExportSchedule.objects.get().at_minute == 7


def test_a_name_is_taken_once_but_keeps_for_its_own() -> None:
    client = client_of(*OF_SCHEDULES)
    post(client, f"{SCHEDULES}add/", **rhythm())
    assert "Another schedule has this name." in post(client, f"{SCHEDULES}add/", **rhythm())
    schedule = ExportSchedule.objects.get()
    post(client, f"{SCHEDULES}{schedule.pk}/change/", **rhythm(keep_days="31"))
    assert ExportSchedule.objects.get().keep_days == 31
    record = changes("update", "exportschedule")[-1]
    assert json.loads(record.pre_json)["keep_days"] == 30


def test_who_changes_a_schedule_cannot_order_more_than_they_may() -> None:
    owner = client_of(*OF_SCHEDULES, "view_toolcall", name="owner")
    post(owner, f"{SCHEDULES}add/", **rhythm(datasets=["runs", "tool_calls"]))
    schedule = ExportSchedule.objects.get()
    path = f"{SCHEDULES}{schedule.pk}/change/"
    other = client_of(*OF_SCHEDULES)
    assert "You lack a permission" in post(
        other, path, **rhythm(datasets=["runs", "tool_calls"], name="taken over")
    )
    assert ExportSchedule.objects.get().owner == "owner"
    assert "Run now" not in text_of(other, path)
    run = other.post(f"{SCHEDULES}{schedule.pk}/run/", follow=True)
    assert "You may not export Tool calls." in run.content.decode()
    assert not ExportJob.objects.exists()
    post(other, path, **rhythm(datasets=["runs"]))
    assert ExportSchedule.objects.get().owner == "somebody"


def test_run_now_switch_and_delete() -> None:
    client = client_of(*OF_SCHEDULES)
    post(client, f"{SCHEDULES}add/", **rhythm())
    pk = ExportSchedule.objects.get().pk
    shown = post(client, f"{SCHEDULES}{pk}/run/")
    job = ExportJob.objects.get()
    assert f"Export {job.pk}" in shown
    assert (job.schedule_id, job.actor, job.slot_at) == (pk, "somebody", None)
    assert f"/telemetry/exportjob/{job.pk}/change/" in text_of(client, f"{SCHEDULES}{pk}/change/")
    assert "Switched off" in post(client, f"{SCHEDULES}{pk}/switch/", to="off")
    assert ExportSchedule.objects.get().next_at is None
    assert "It was so already." in post(client, f"{SCHEDULES}{pk}/switch/", to="off")
    assert "Switched on" in post(client, f"{SCHEDULES}{pk}/switch/", to="on")
    assert "Delete the schedule nightly?" in text_of(client, f"{SCHEDULES}{pk}/remove/")
    assert "Say why" in post(client, f"{SCHEDULES}{pk}/remove/", reason=" ")
    assert "Deleted" in post(client, f"{SCHEDULES}{pk}/remove/", reason="over")
    assert not ExportSchedule.objects.exists()
    assert [record.reason for record in changes("delete", "exportschedule")] == ["over"]


def test_what_is_wrong_and_what_was_left_out_is_said() -> None:
    schedule = ExportSchedule.objects.create(
        name="nightly",
        datasets=["runs"],
        fmt="csv",
        owner="olga",
        last_error="Its owner olga lacks: Can view run.",
        left_out_count=5,
        left_out_at=datetime(2026, 3, 4, 2, 15, tzinfo=UTC),
        time_zone="Gone/Away",
    )
    client = client_of(*OF_SCHEDULES)
    shown = text_of(client, f"{SCHEDULES}{schedule.pk}/change/")
    assert "lacks: Can view run." in shown
    assert "5 times were left out" in shown
    assert "2026-03-04 02:15:00 UTC" in shown
    assert "Cannot order" in text_of(client, SCHEDULES)


@pytest.mark.parametrize(
    ("lacks", "path", "method"),
    [
        ("view_exportschedule", SCHEDULES, "get"),
        ("add_exportschedule", f"{SCHEDULES}add/", "post"),
        ("change_exportschedule", f"{SCHEDULES}%s/change/", "post"),
        ("change_exportschedule", f"{SCHEDULES}%s/switch/", "post"),
        ("add_exportjob", f"{SCHEDULES}%s/run/", "post"),
        ("delete_exportschedule", f"{SCHEDULES}%s/remove/", "post"),
        ("view_exportdestination", PLACES, "get"),
        ("add_exportdestination", f"{PLACES}add/", "post"),
        ("change_exportdestination", f"{PLACES}%s/change/", "post"),
        ("test_exportdestination", f"{PLACES}%s/test/", "post"),
    ],
)
def test_each_act_needs_its_permission(lacks: str, path: str, method: str) -> None:
    schedule = ExportSchedule.objects.create(name="a", datasets=["runs"], fmt="csv", owner="o")
    destination = ExportDestination.objects.create(name="b", kind="folder", folder="/srv/b")
    # Whoever may change something may see it, so that a list is closed to those who may neither.
    lost = {lacks, lacks.replace("view_", "change_")}
    client = client_of(*(name for name in (*OF_SCHEDULES, *OF_PLACES) if name not in lost))
    url = path % (schedule.pk if "schedule" in path else destination.pk) if "%s" in path else path
    data = {**rhythm(), **place(folder="/tmp/x"), "reason": "because", "to": "off"}
    answer = client.get(url) if method == "get" else client.post(url, data)
    assert answer.status_code == 403
    assert not ExportJob.objects.exists()
    held = ExportSchedule.objects.get()
    assert (held.name, held.is_enabled) == ("a", True)
    assert ExportDestination.objects.get().tested_at is None
    assert not ChangeRecord.objects.exists()


@pytest.mark.parametrize("act", [f"{SCHEDULES}%s/run/", f"{SCHEDULES}%s/switch/"])
def test_acts_are_not_done_by_looking(act: str) -> None:
    schedule = ExportSchedule.objects.create(name="a", datasets=["runs"], fmt="csv", owner="o")
    client = client_of(*OF_SCHEDULES)
    assert client.get(act % schedule.pk).status_code == 403
    assert client.get(f"{SCHEDULES}preview/").status_code == 403
    text_of(client, f"{SCHEDULES}{schedule.pk}/remove/")
    assert ExportSchedule.objects.get().is_enabled
    assert not ExportJob.objects.exists()


def test_a_folder_is_saved_tested_and_a_failing_one_explained(
    settings: Any,  # noqa: ANN401 -- pytest-django's
    tmp_path: Path,
) -> None:
    settings.FLEET_EXPORT_FOLDERS = [str(tmp_path)]
    client = client_of(*OF_PLACES)
    folder = tmp_path / "archive"
    shown = post(client, f"{PLACES}add/", **place(folder=str(folder)))
    destination = ExportDestination.objects.get()
    assert "Test it before an export needs it" in shown
    assert "Never tested" in shown
    failed = post(client, f"{PLACES}{destination.pk}/test/")
    assert "is not there. Is it mounted?" in failed
    assert "Test failed" in text_of(client, PLACES)
    folder.mkdir()
    works = post(client, f"{PLACES}{destination.pk}/test/")
    assert "It works" in works
    assert list(folder.iterdir()) == []
    assert "The last test failed" not in works
    problems = [
        json.loads(r.post_json)["problem"]
        for r in changes("exportdestination.test", "exportdestination")
    ]
    assert problems[0]
    assert problems[1] == ""
    post(client, f"{PLACES}{destination.pk}/change/", **place(folder=str(tmp_path / "other")))
    assert ExportDestination.objects.get().tested_at is None


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("/etc", "must lie below one of FLEET_EXPORT_FOLDERS"),
        ("exports", "absolute path"),
        ("/srv/exports/../../etc", "absolute path"),
        ("", "absolute path"),
    ],
)
def test_a_folder_elsewhere_is_refused(
    settings: Any,  # noqa: ANN401 -- pytest-django's
    folder: str,
    said: str,
) -> None:
    settings.FLEET_EXPORT_FOLDERS = ["/srv/exports"]
    assert said in post(client_of(*OF_PLACES), f"{PLACES}add/", **place(folder=folder))
    assert not ExportDestination.objects.exists()


def test_without_an_allowed_folder_it_says_which_setting_is_missing(
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    settings.FLEET_EXPORT_FOLDERS = []
    shown = post(client_of(*OF_PLACES), f"{PLACES}add/", **place(folder="/srv/x"))
    assert "set FLEET_EXPORT_FOLDERS" in shown


def test_a_bucket_keeps_names_of_variables_and_never_a_key(
    settings: Any,  # noqa: ANN401 -- pytest-django's
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.FLEET_S3_HOSTS = ["minio.example.com"]
    monkeypatch.setenv("FLEET_S3_SECRET", "the-secret-itself")
    client = client_of(*OF_PLACES)
    post(client, f"{PLACES}add/", **s3(endpoint="https://minio.example.com", folder="/etc"))
    destination = ExportDestination.objects.get()
    assert (destination.secret_env, destination.folder) == ("FLEET_S3_SECRET", "")
    shown = text_of(client, f"{PLACES}{destination.pk}/change/")
    assert "FLEET_S3_SECRET" in shown
    assert "the-secret-itself" not in shown
    assert "the-secret-itself" not in changes("create", "exportdestination")[0].post_json


def test_a_key_that_was_typed_for_a_name_is_not_kept_nor_audited() -> None:
    key = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
    shown = post(client_of(*OF_PLACES), f"{PLACES}add/", **s3() | {"secret_env": key})
    assert "never the key itself" in shown
    assert not ExportDestination.objects.exists()
    assert not ChangeRecord.objects.exists()
    for name in (key, "PATH", "FLEET_SECRET_KEY", "FLEET_S3_HOSTS", "FLEET_S3_X_FILE", ""):
        assert env_fault(name)
    assert env_fault("FLEET_S3_ARCHIVE_SECRET") == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"endpoint": "https://169.254.169.254"}, "not in FLEET_S3_HOSTS"),
        ({"endpoint": "http://minio.example.com"}, "without TLS"),
        ({"endpoint": "https://user:pw@minio.example.com"}, "Only scheme, host and port"),
        ({"bucket": "Not A Bucket"}, "small letters"),
        ({"prefix": "../x"}, "hyphens and slashes"),
        ({"region": "EU WEST"}, "Small letters"),
    ],
)
def test_an_object_store_that_may_not_be_used_is_refused_in_words(
    settings: Any,  # noqa: ANN401 -- pytest-django's
    values: dict[str, str],
    said: str,
) -> None:
    settings.FLEET_S3_HOSTS = ["minio.example.com"]
    assert said in post(client_of(*OF_PLACES), f"{PLACES}add/", **s3() | values)
    assert not ExportDestination.objects.exists()


def test_who_may_only_look_is_offered_no_form_and_no_button() -> None:
    schedule = ExportSchedule.objects.create(name="a", datasets=["runs"], fmt="csv", owner="o")
    destination = ExportDestination.objects.create(name="b", kind="folder", folder="/srv/b")
    client = client_of("view_exportschedule", "view_exportdestination")
    for path in (f"{SCHEDULES}{schedule.pk}/change/", f"{PLACES}{destination.pk}/change/"):
        shown = text_of(client, path)
        assert "You may look at it" in shown
        assert ">Save<" not in shown
        assert ">Test<" not in shown
        assert "Switch off" not in shown


def test_superusers_need_no_more_than_being_so() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    post(client, f"{SCHEDULES}add/", **rhythm())
    assert Permission.objects.filter(codename="test_exportdestination").exists()
    assert ExportSchedule.objects.get().owner == "root"
