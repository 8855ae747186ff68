"""Exports in a real browser: ordered, followed as they go, downloaded, cancelled, scheduled."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from fleet.lib.clock import now
from fleet.models import ChangeRecord, ProcessBeat
from telemetry.exports.run import run_job
from telemetry.models import ExportDestination, ExportJob, ExportSchedule, ToolCall
from tests import builders
from tests.e2e.console import Console, make_operator
from tests.e2e.fleet_rows import IMAGE, LONG, SCRIPT
from tests.telemetry import builders as make
from tests.telemetry.export_jobs import done, order, push_calls

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
ADD = "/telemetry/exportjob/add/"


@pytest.fixture
def console(page: Page, live_server: LiveServer) -> Iterator[Console]:
    made = Console(page, live_server.url)
    made.sign_in(make_operator())
    ProcessBeat.objects.update_or_create(kind="worker", defaults={"at": now()})
    builders.make_install(install_id=make.INSTALL, hostname="desk-7")
    yield made
    assert made.faults == []


def keep_picture(console: Console, name: str) -> None:
    """For whoever wants to look: set HF_PICTURES to a folder."""
    if folder := os.environ.get("HF_PICTURES"):
        console.page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def order_by_hand(console: Console, *titles: str) -> ExportJob:
    console.open(ADD)
    for title in titles:
        console.page.get_by_role("checkbox", name=title, exact=True).check()
    console.page.get_by_role("button", name="Order the export").click()
    expect(console.page.get_by_text("This page follows it")).to_be_visible()
    return ExportJob.objects.latest("pk")


def test_an_export_is_ordered_followed_and_downloaded_and_its_rows_are_the_database_s(
    console: Console, tmp_path: Path
) -> None:
    push_calls(300)
    page = console.page
    console.open(ADD)
    page.get_by_role("checkbox", name="Tool calls", exact=True).check()
    expect(page.locator("#hf-estimate")).to_contain_text(re.compile(r"300\s*rows"))
    page.get_by_label("Reason").fill("For the board")
    page.get_by_role("button", name="Order the export").click()
    expect(page.get_by_text("Waiting", exact=True)).to_be_visible()
    job = ExportJob.objects.get()
    page.evaluate("window.untouched = true")
    run_job(job.pk)
    # Nobody touches the page: it asks by itself, and loads the finished one.
    expect(page.get_by_role("heading", name="Files")).to_be_visible()
    assert page.evaluate("window.untouched") is None
    name = job.files.get().name
    with page.expect_download() as found:
        page.get_by_role("link", name=name).click()
    path = tmp_path / name
    found.value.save_as(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    held = ToolCall.objects.order_by("span_id").values_list("span_id", "tool_name", "seq")
    assert sorted((row["span_id"], row["tool_name"], row["seq"]) for row in rows) == list(held)
    assert len(rows) == 300
    assert ChangeRecord.objects.filter(action="export.download", actor="operator").exists()


def test_a_whole_result_is_one_archive(console: Console, tmp_path: Path) -> None:
    push_calls(5)
    job = done(order("tool_calls", "audit"))
    console.open(f"/telemetry/exportjob/{job.pk}/change/")
    with console.page.expect_download() as found:
        console.page.get_by_role("link", name="Download all (.zip)").click()
    path = tmp_path / "all.zip"
    found.value.save_as(path)
    import zipfile

    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    assert names == {"manifest.json", *job.files.values_list("name", flat=True)}


def test_an_export_is_cancelled_after_a_question(console: Console) -> None:
    job = order_by_hand(console, "Runs")
    page = console.page
    page.get_by_role("link", name="Cancel…").click()
    expect(page.get_by_text("what was written so far is deleted")).to_be_visible()
    keep_picture(console, "cancel")
    page.get_by_role("button", name="Cancel the export").click()
    expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
    job.refresh_from_db()
    assert job.state == ExportJob.State.CANCELLED
    assert ChangeRecord.objects.filter(action="export.cancel", actor="operator").count() == 1


def test_a_running_export_s_numbers_move_by_themselves(console: Console) -> None:
    job = running()
    console.open(f"/telemetry/exportjob/{job.pk}/change/")
    expect(console.page.get_by_text("400,000", exact=True)).to_be_visible()
    keep_picture(console, "running")
    ExportJob.objects.filter(pk=job.pk).update(done_count=700_000)
    expect(console.page.get_by_text("700,000", exact=True)).to_be_visible()


def test_a_form_with_an_error_keeps_what_was_typed(console: Console) -> None:
    console.open(ADD)
    page = console.page
    page.get_by_role("checkbox", name="Audit trail", exact=True).check()
    page.get_by_text("Only some groups").click()
    page.get_by_label("Installs", exact=False).last.fill("desk-7")
    page.get_by_role("button", name="Order the export").click()
    expect(page.get_by_role("alert").first).to_contain_text("cannot be narrowed by installs")
    expect(page.get_by_role("checkbox", name="Audit trail", exact=True)).to_be_checked()
    expect(page.locator("#id_installs")).to_have_value("desk-7")
    keep_picture(console, "order-error")


def test_a_schedule_shows_its_next_times_while_it_is_typed_and_is_saved(console: Console) -> None:
    console.open("/telemetry/exportschedule/add/")
    page = console.page
    page.get_by_label("Name").fill("Every Monday")
    page.get_by_label("Every", exact=False).select_option("week")
    expect(page.get_by_label("At minute")).to_be_hidden()
    page.get_by_label("Time zone").fill("America/New_York")
    page.locator("#id_at_time").fill("06:30")
    runs = page.locator("#hf-upcoming li")
    expect(runs.first).to_contain_text(re.compile(r"Mon .* 06:30 E[SD]T"))
    expect(runs.first).to_contain_text("UTC")
    assert runs.count() == 5
    page.get_by_role("checkbox", name="Runs", exact=True).check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("You answer for it now")).to_be_visible()
    schedule = ExportSchedule.objects.get()
    assert (schedule.every, schedule.weekday, schedule.at_hour) == ("week", 0, 6)
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("This page follows it")).to_be_visible()
    assert ExportJob.objects.get().schedule == schedule


def test_a_destination_that_fails_is_explained_and_works_once_mended(
    console: Console,
    settings: Any,  # noqa: ANN401 -- pytest-django's
    tmp_path: Path,
) -> None:
    settings.FLEET_EXPORT_FOLDERS = [str(tmp_path)]
    console.open("/telemetry/exportdestination/add/")
    page = console.page
    page.get_by_label("Name").fill("Archive")
    expect(page.get_by_label("Bucket")).to_be_hidden()
    page.get_by_label("Folder", exact=False).last.fill(str(tmp_path / "archive"))
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_text("is not there. Is it mounted?").first).to_be_visible()
    keep_picture(console, "place-failed")
    job = order("installs", destination=ExportDestination.objects.get())
    run_job(job.pk)
    console.open(f"/telemetry/exportjob/{job.pk}/change/")
    expect(page.get_by_text("is not there. Is it mounted?")).to_be_visible()
    expect(page.get_by_text("It is tried again at")).to_be_visible()
    keep_picture(console, "job-retried")
    (tmp_path / "archive").mkdir()
    ExportJob.objects.update(not_before=now())
    run_job(job.pk)
    expect(page.get_by_role("heading", name="Files")).to_be_visible()
    expect(page.get_by_text(f"{tmp_path}/archive/")).to_be_visible()
    console.open(f"/telemetry/exportdestination/{job.destination_id}/change/")
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_text("It works")).to_be_visible()


def running() -> ExportJob:
    job = order("tool_calls", "runs")
    ExportJob.objects.filter(pk=job.pk).update(
        state="running",
        started_at=now() - timedelta(seconds=8),
        total_count=1_000_000,
        done_count=400_000,
        done_bytes=180_000_000,
        lease_owner="worker-1:4711",
        lease_until=now() + timedelta(minutes=10),
    )
    job.refresh_from_db()
    return job


def seed_pages(folder: Path) -> dict[str, str]:
    """Every page with rows of every state, hostile names included."""
    push_calls(40)
    place = ExportDestination.objects.create(
        name=IMAGE[:80], kind="folder", folder=str(folder), test_error=LONG, tested_at=now()
    )
    ExportDestination.objects.create(name="cold storage", kind="s3", bucket="fleet-exports")
    group = builders.make_group(IMAGE[:100])
    schedule = ExportSchedule.objects.create(
        name=SCRIPT,
        datasets=["runs"],
        fmt="csv",
        owner=IMAGE,
        last_error=LONG,
        left_out_count=4,
        left_out_at=now(),
        next_at=now() + timedelta(hours=3),
        time_zone="Europe/Berlin",
    )
    finished = done(order("tool_calls", "runs", "audit", reason="For the board"))
    failed = order("audit", actor=LONG)
    ExportJob.objects.filter(pk=failed.pk).update(
        state="failed",
        last_error=LONG,
        destination=place,
        schedule=schedule,
        reason=SCRIPT,
        chosen={"groups": [group.pk]},
    )
    return {
        "exports": "/telemetry/exportjob/",
        "new-export": ADD,
        "export-done": f"/telemetry/exportjob/{finished.pk}/change/",
        "export-failed": f"/telemetry/exportjob/{failed.pk}/change/",
        "export-running": f"/telemetry/exportjob/{running().pk}/change/",
        "export-cancel": f"/telemetry/exportjob/{failed.pk}/cancel/",
        "schedules": "/telemetry/exportschedule/",
        "new-schedule": "/telemetry/exportschedule/add/",
        "schedule": f"/telemetry/exportschedule/{schedule.pk}/change/",
        "destinations": "/telemetry/exportdestination/",
        "new-destination": "/telemetry/exportdestination/add/",
        "destination": f"/telemetry/exportdestination/{place.pk}/change/",
    }


def violations(console: Console) -> list[str]:
    console.page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[str] = console.page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact))"
        ".map(v => v.id + ': ' + v.nodes.slice(0, 2).map(n => n.html.slice(0, 160))))"
    )
    return found


@pytest.mark.parametrize("phone", [False, True], ids=["wide", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_readable_in_both_themes_and_widths(
    console: Console, theme: Literal["light", "dark"], phone: bool, tmp_path: Path
) -> None:
    paths = seed_pages(tmp_path)
    console.use(theme=theme, phone=phone)
    found: dict[str, object] = {}
    for name, path in paths.items():
        # A page that asks again and again is never quiet.
        console.page.goto(console.origin + path)
        console.page.wait_for_load_state("load")
        console.page.locator("#header-inner h1").wait_for()
        if name in {"new-export", "new-schedule"}:
            console.page.locator("[aria-busy]").wait_for(state="detached")
        keep_picture(console, f"{name}-{theme}-{'phone' if phone else 'wide'}")
        wrong = violations(console)
        if console.overflow_px() > 0:
            wrong.append(f"{console.overflow_px()} px wider than the screen")
        if console.page.locator("script", has_text="alert(1)").count():
            wrong.append("a name became a script")
        if console.page.locator("img[src=x]").count():
            wrong.append("a name became a picture")
        if wrong:
            found[name] = wrong
    assert found == {}


def test_empty_lists_say_what_they_are_for(console: Console) -> None:
    for path, said in (
        ("exportjob", "No export yet"),
        ("exportschedule", "No schedule yet"),
        ("exportdestination", "No destination yet"),
    ):
        console.open(f"/telemetry/{path}/")
        expect(console.page.get_by_text(said)).to_be_visible()
        keep_picture(console, f"empty-{path}")
