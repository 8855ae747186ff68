"""Exports on the console: ordered, followed, cancelled, downloaded; default deny; text as text."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings

from fleet.lib.clock import now
from fleet.models import ChangeRecord, ProcessBeat
from telemetry.exports.datasets import DATASETS
from telemetry.exports.orders import cancel_job
from telemetry.exports.run import run_job
from telemetry.models import ExportDestination, ExportFile, ExportJob, ExportSchedule, FirstSeen
from telemetry.pages.exports_form import PLANES
from telemetry.pages.exports_progress import progress_of
from telemetry.pages.exports_window import WINDOWS, window_named
from tests import builders
from tests.telemetry import builders as make
from tests.telemetry.export_jobs import done, order

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
LIST = "/telemetry/exportjob/"
ADD = "/telemetry/exportjob/add/"
SCRIPT = "<script>alert(1)</script>"
ALL = (
    *("view_exportjob", "add_exportjob", "cancel_exportjob", "download_exportjob"),
    *("view_run", "view_toolcall", "view_changerecord"),
)


@pytest.fixture(autouse=True)
def install_id() -> UUID:
    return builders.make_install(install_id=make.INSTALL, hostname="desk-7").pk


def client_of(*codenames: str, name: str = "somebody") -> Client:
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def text_of(client: Client, path: str) -> str:
    answer = client.get(path, follow=True)
    assert answer.status_code == 200
    return " ".join(str(answer.content.decode()).split())


def post(client: Client, path: str, **data: Any) -> str:  # noqa: ANN401 -- form values
    answer = client.post(path, data, follow=True)
    assert answer.status_code == 200
    return " ".join(str(answer.content.decode()).split())


def wanted(**values: Any) -> dict[str, Any]:  # noqa: ANN401 -- form values
    return {
        "datasets": ["tool_calls"],
        "fmt": "ndjson",
        "window": "24h",
        "keep_days": "7",
        **values,
    }


def test_an_empty_list_says_what_exports_are_for_and_has_the_button_for_who_may() -> None:
    shown = text_of(client_of(*ALL), LIST)
    assert "No export yet" in shown
    assert f'href="{ADD}"' in shown
    looking = text_of(client_of("view_exportjob", name="other"), LIST)
    assert f'class="hf-button hf-button-primary" href="{ADD}"' not in looking
    assert "Can add export" in looking


def test_every_plane_and_every_dataset_is_offered() -> None:
    assert {dataset.plane for dataset in DATASETS.values()} <= set(PLANES)
    shown = text_of(client_of(*ALL), ADD)
    for name in DATASETS:
        assert f'value="{name}"' in shown


def test_what_may_not_be_had_is_shown_with_its_reason_and_refused() -> None:
    client = client_of("view_exportjob", "add_exportjob", "view_run")
    shown = text_of(client, ADD)
    assert "needs a permission that you lack" in shown
    assert "Can view tool call" in shown
    refused = post(client, ADD, **wanted(datasets=["tool_calls", "runs"]))
    assert "You lack a permission: Can view tool call." in refused
    assert not ExportJob.objects.exists()


def test_an_order_is_written_with_its_audit_row_and_followed() -> None:
    group = builders.make_group("lab")
    shown = post(
        client_of(*ALL),
        ADD,
        **wanted(
            datasets=["runs", "tool_calls"],
            fmt="csv",
            is_gzipped="on",
            groups=[str(group.pk)],
            keep_days="3",
            reason="For the board",
        ),
    )
    job = ExportJob.objects.get()
    assert f"Export {job.pk}" in shown
    assert (job.datasets, job.fmt, job.is_gzipped) == (["runs", "tool_calls"], "csv", True)
    assert (job.chosen, job.keep_days) == ({"groups": [group.pk]}, 3)
    assert (job.actor, job.reason, job.state) == ("somebody", "For the board", "waiting")
    assert job.end_at - job.start_at == timedelta(hours=24)
    assert ChangeRecord.objects.filter(action="export.order", actor="somebody").count() == 1
    assert "lab" in shown


def test_an_error_keeps_what_was_typed_and_stands_at_its_input() -> None:
    values = wanted(installs="nowhere-9", tools="terminal", keep_days="0", reason="the board")
    shown = post(client_of(*ALL), ADD, **values)
    assert "There is no install &#x27;nowhere-9&#x27;." in shown
    assert "nowhere-9</textarea>" in shown
    assert "terminal</textarea>" in shown
    assert 'value="the board"' in shown
    assert 'value="tool_calls" checked' in shown
    assert not ExportJob.objects.exists()


def test_a_filter_that_a_dataset_cannot_follow_is_named() -> None:
    shown = post(client_of(*ALL), ADD, **wanted(datasets=["audit"], installs="desk-7"))
    assert "cannot be narrowed by installs" in shown
    assert not ExportJob.objects.exists()


def test_a_model_that_nobody_ever_sent_is_refused_by_name() -> None:
    FirstSeen.objects.all().delete()
    shown = post(client_of(*ALL), ADD, **wanted(tools=SCRIPT))
    assert "There is no tool" in shown
    assert SCRIPT not in shown


def test_a_name_of_two_installs_asks_for_the_id() -> None:
    builders.make_install(hostname="desk-7")
    shown = post(client_of(*ALL), ADD, **wanted(installs="desk-7"))
    assert "More than one install is called" in shown
    job_shown = post(client_of(*ALL, name="other"), ADD, **wanted(installs=str(make.INSTALL)))
    assert "desk-7" in job_shown
    assert ExportJob.objects.get().chosen == {"installs": [str(make.INSTALL)]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "Say when."),
        ({"start_at": "2026-02-02T00:00", "end_at": "2026-02-01T00:00"}, "later than the begin"),
        ({"start_at": "2999-02-02T00:00", "end_at": "2999-02-03T00:00"}, "still to come"),
        ({"start_at": "yesterday", "end_at": "2026-02-01T00:00"}, "valid date"),
    ],
)
def test_a_custom_window_that_makes_no_sense_is_said(values: dict[str, str], said: str) -> None:
    shown = post(client_of(*ALL), ADD, **wanted(window="custom", **values))
    assert said in shown
    assert not ExportJob.objects.exists()


def test_named_windows_have_their_ends() -> None:
    moment = now()
    for name, _title in WINDOWS[:-1]:
        start, end = window_named(name, moment)
        assert start < end <= moment
    start, end = window_named("last_month", moment)
    assert (start.day, end.day, end.month) == (1, 1, moment.month)


def test_content_needs_its_permission_the_setting_and_a_reason() -> None:
    client = client_of(*ALL, "export_content")
    content = wanted(datasets=["content_messages"], reason="short")
    with override_settings(FLEET_TRAJECTORIES=False):
        assert "FLEET_TRAJECTORIES is off" in text_of(client, ADD)
        post(client, ADD, **wanted(datasets=["content_messages"], reason="A good enough reason"))
        assert not ExportJob.objects.exists()
    with override_settings(FLEET_TRAJECTORIES=True):
        assert "Say why content is exported" in post(client, ADD, **content)
        assert not ExportJob.objects.exists()
        post(client, ADD, **wanted(datasets=["content_messages"], reason="Asked for by legal"))
    assert ExportJob.objects.get().reason == "Asked for by legal"
    without = client_of(*ALL, name="other")
    with override_settings(FLEET_TRAJECTORIES=True):
        assert "Can export content" in text_of(without, ADD)


def test_the_estimate_counts_before_anything_is_ordered() -> None:
    make.push(make.tool_call(1), make.tool_call(2), make.run(3))
    client = client_of(*ALL)
    part = post(client, f"{LIST}estimate/", **wanted(datasets=["tool_calls", "runs"]))
    assert '<p class="hf-stat-value">3' in part
    assert "≈" not in part
    whole = post(client, ADD, **wanted(estimate="yes"))
    assert '<p class="hf-stat-value">2' in whole
    assert not ExportJob.objects.exists()
    empty = post(client, f"{LIST}estimate/", **wanted(window="last_month"))
    assert "Nothing lies in this window" in empty


def test_a_guess_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.pages.exports_estimate.EXACT_ROWS", 1)
    make.push(make.tool_call(1), make.tool_call(2))
    part = post(client_of(*ALL), f"{LIST}estimate/", **wanted())
    assert "≈ 2" in part
    assert "a guess by the database" in part


def test_the_page_of_a_finished_export_has_files_digests_links_and_the_order() -> None:
    make.push(make.tool_call(1), make.run(2))
    job = done(order("tool_calls", "runs"))
    client = client_of(*ALL)
    shown = text_of(client, f"{LIST}{job.pk}/change/")
    for file in ExportFile.objects.all():
        assert file.sha256 in shown
        assert file.name in shown
    assert job.manifest_sha256 in shown
    assert "Download all (.zip)" in shown
    assert f"{ADD}?again={job.pk}" in shown
    assert "data-hf-live" not in shown
    link = shown.split('class="hf-mono"><a href="')[1].split('"')[0]
    answer = client.get(link)
    assert answer.status_code == 200
    row = json.loads(b"".join(answer.streaming_content).splitlines()[0])  # type: ignore[attr-defined]  # a streaming answer
    assert row["install_id"] == str(make.INSTALL)
    assert ChangeRecord.objects.filter(action="export.download", actor="somebody").count() == 1


@pytest.mark.parametrize("lacks", ["download_exportjob", "view_toolcall"])
def test_who_may_not_download_sees_why_and_no_link(lacks: str) -> None:
    make.push(make.tool_call(1))
    job = done(order("tool_calls"))
    client = client_of(*(name for name in ALL if name != lacks))
    shown = text_of(client, f"{LIST}{job.pk}/change/")
    assert "/api/v1/exports/download/" not in shown
    assert Permission.objects.get(codename=lacks).name in shown


def test_progress_is_told_in_parts_and_ends_when_the_export_does() -> None:
    make.push(make.tool_call(1))
    job = order("tool_calls")
    client = client_of(*ALL)
    page = text_of(client, f"{LIST}{job.pk}/change/")
    assert f'data-hf-live="{LIST}{job.pk}/progress/"' in page
    assert "Look again" in page, "without a script a link does what the script does"
    answer = client.get(f"{LIST}{job.pk}/progress/")
    assert answer.headers["X-Fleet-Done"] == "no"
    assert "no-store" in answer.headers["Cache-Control"]
    assert "Waiting" in answer.content.decode()
    assert "<html" not in answer.content.decode()
    run_job(job.pk)
    answer = client.get(f"{LIST}{job.pk}/progress/")
    assert answer.headers["X-Fleet-Done"] == "yes"
    assert "Done" in answer.content.decode()


def job_with(**values: Any) -> ExportJob:  # noqa: ANN401 -- columns
    job = order("tool_calls")
    ExportJob.objects.filter(pk=job.pk).update(**values)
    job.refresh_from_db()
    return job


def test_a_running_export_says_how_far_how_fast_and_who() -> None:
    job = job_with(
        state="running",
        started_at=now() - timedelta(seconds=10),
        total_count=1000,
        done_count=400,
        lease_owner="worker-3",
        lease_until=now() + timedelta(minutes=1),
    )
    progress = progress_of(job, now())
    assert progress.share == 0.4
    assert progress.per_s == pytest.approx(40, rel=0.05)
    assert progress.left_s == pytest.approx(15, rel=0.05)
    assert progress.worker == "worker-3"
    assert progress.notes == ()


def test_an_estimate_that_was_too_low_never_shows_more_than_all() -> None:
    job = job_with(state="running", started_at=now(), total_count=10, done_count=400)
    assert progress_of(job, now()).share == 0.99


def test_a_dead_worker_an_error_and_a_retry_are_said() -> None:
    past, soon = now() - timedelta(minutes=5), now() + timedelta(minutes=5)
    dead = job_with(state="running", started_at=past, lease_owner="w", lease_until=past)
    words = " ".join(text for _tone, text in progress_of(dead, now()).notes)
    assert "Its worker stopped" in words
    assert "not heard of since" in progress_of(dead, now()).worker
    retried = job_with(not_before=soon, last_error="The disk is full.")
    words = " ".join(text for _tone, text in progress_of(retried, now()).notes)
    assert "The disk is full." in words
    assert "tried again at" in words


def test_an_export_that_waits_without_a_worker_says_how_to_start_one() -> None:
    job = job_with(created_at=now() - timedelta(minutes=5))
    words = " ".join(text for _tone, text in progress_of(job, now()).notes)
    assert "No worker is running" in words
    assert "celery -A fleet.celery worker" in words
    ProcessBeat.objects.create(kind="worker", at=now())
    assert progress_of(job, now()).notes == ()


def test_a_failed_export_says_what_to_do_and_goes_on_when_asked() -> None:
    job = job_with(state="failed", last_error=f"The bucket {SCRIPT} is gone.", attempt_count=12)
    client = client_of(*ALL)
    shown = text_of(client, f"{LIST}{job.pk}/change/")
    assert "&lt;script&gt;alert(1)" in shown
    assert "Mend the cause" in shown
    assert "It goes on where it stopped." in post(client, f"{LIST}{job.pk}/retry/")
    assert ExportJob.objects.get().state == "waiting"
    assert "there is nothing to try again" in post(client, f"{LIST}{job.pk}/retry/")


def test_a_cancel_asks_first_and_is_audited() -> None:
    job = order("tool_calls")
    client = client_of(*ALL)
    path = f"{LIST}{job.pk}/cancel/"
    assert "Cancel export" in text_of(client, path)
    assert ExportJob.objects.get().cancel_asked_at is None
    shown = post(client, path)
    assert "Cancelled" in shown
    assert "data-hf-live" not in shown
    assert ExportJob.objects.get().cancel_asked_at is not None
    assert ChangeRecord.objects.filter(action="export.cancel", actor="somebody").count() == 1
    assert "It was over already" in post(client, path)


def test_ordered_again_the_form_has_all_that_was_chosen() -> None:
    make.push(make.tool_call(1))
    job = order("tool_calls", fmt="parquet", chosen={"installs": [str(make.INSTALL)]}, keep_days=9)
    shown = text_of(client_of(*ALL), f"{ADD}?again={job.pk}")
    assert 'value="tool_calls" checked' in shown
    assert '<option value="parquet" selected' in shown
    assert f"{make.INSTALL}</textarea>" in shown
    assert 'value="9"' in shown
    assert f"{job.start_at:%Y-%m-%dT%H:%M}" in shown
    for odd in ("x", "999999999999999999999", "0"):
        assert "New export" in text_of(client_of(*ALL, name=f"p{odd[:2]}"), f"{ADD}?again={odd}")


@pytest.mark.parametrize(
    ("lacks", "path", "method"),
    [
        ("view_exportjob", LIST, "get"),
        ("view_exportjob", f"{LIST}%s/change/", "get"),
        ("view_exportjob", f"{LIST}%s/progress/", "get"),
        ("view_exportjob", f"{LIST}%s/cancel/", "post"),
        ("add_exportjob", ADD, "get"),
        ("add_exportjob", ADD, "post"),
        ("add_exportjob", f"{LIST}estimate/", "post"),
        ("add_exportjob", f"{LIST}%s/retry/", "post"),
        ("cancel_exportjob", f"{LIST}%s/cancel/", "post"),
        ("view_toolcall", f"{LIST}%s/retry/", "post"),
    ],
)
def test_each_page_and_act_needs_its_permission(lacks: str, path: str, method: str) -> None:
    job = job_with(state="failed")
    has = [name for name in ALL if name != lacks]
    client = client_of(*(has if lacks != "add_exportjob" else [n for n in has if n != lacks]))
    url = path % job.pk if "%s" in path else path
    answer = client.get(url) if method == "get" else client.post(url, wanted())
    assert answer.status_code == 403
    assert ExportJob.objects.count() == 1
    job.refresh_from_db()
    assert (job.state, job.cancel_asked_at) == ("failed", None)


def test_acts_are_not_done_by_looking() -> None:
    job = job_with(state="failed")
    client = client_of(*ALL)
    assert client.get(f"{LIST}{job.pk}/retry/").status_code == 403
    assert client.get(f"{LIST}estimate/").status_code == 403
    client.get(f"{LIST}{job.pk}/cancel/")
    job.refresh_from_db()
    assert (job.state, job.cancel_asked_at) == ("failed", None)


def test_an_export_that_is_not_there_leads_back_to_the_list() -> None:
    client = client_of(*ALL)
    assert "does not exist" in text_of(client, f"{LIST}77/change/")
    assert "does not exist" in text_of(client, f"{LIST}77/cancel/")
    assert client.get(f"{LIST}77/progress/").status_code == 404


def test_hostile_names_are_text_on_every_page() -> None:
    place = ExportDestination.objects.create(name=SCRIPT, kind="folder", folder=f"/srv/{SCRIPT}")
    schedule = ExportSchedule.objects.create(
        name=SCRIPT, datasets=["runs", SCRIPT], fmt="csv", owner=SCRIPT, last_error=SCRIPT
    )
    group = builders.make_group(SCRIPT)
    job = job_with(
        actor=SCRIPT,
        reason=SCRIPT,
        destination=place,
        schedule=schedule,
        last_error=SCRIPT,
        lease_owner=SCRIPT,
        datasets=["runs", SCRIPT],
        chosen={"groups": [group.pk, 999], "tools": [SCRIPT], "models": [SCRIPT] * 9},
    )
    user = User.objects.create_superuser("root", "root@example.com", "x")
    client = Client()
    client.force_login(user)
    for path in (
        *(LIST, f"{LIST}{job.pk}/change/", f"{LIST}{job.pk}/progress/", f"{LIST}{job.pk}/cancel/"),
        *(ADD, f"{ADD}?again={job.pk}", "/telemetry/exportschedule/"),
        *(f"/telemetry/exportschedule/{schedule.pk}/change/", "/telemetry/exportdestination/"),
        *(f"/telemetry/exportschedule/{schedule.pk}/remove/",),
        f"/telemetry/exportdestination/{place.pk}/change/",
    ):
        shown = text_of(client, path)
        assert "<script>alert(1)" not in shown, path
        assert "&lt;script&gt;alert(1)" in shown, path


def test_the_list_asks_a_bounded_number_of_queries(
    django_assert_max_num_queries: Any,  # noqa: ANN401 -- pytest-django's own
) -> None:
    for _number in range(30):
        order("tool_calls")
    client = client_of(*ALL)
    text_of(client, LIST)
    with django_assert_max_num_queries(14):
        text_of(client, LIST)


def test_a_running_export_that_is_cancelled_is_shown_as_such() -> None:
    job = job_with(state="running", lease_owner="w", lease_until=now() + timedelta(minutes=1))
    cancel_job(job.pk, "manage.py")
    assert "It is being cancelled" in text_of(client_of(*ALL), f"{LIST}{job.pk}/change/")
