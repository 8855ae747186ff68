"""Results that go: in time, with an erased install, and never what is the operator's."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from pathlib import Path
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.exports.retention import expire_erased, expire_results, going, prune_jobs
from telemetry.exports.run import run_job
from telemetry.exports.tasks import expire_exports, run_exports
from telemetry.models import ExportDestination, ExportFile, ExportJob
from telemetry.store.erase import erase_install, resume_erasures, set_tombstone
from tests import builders
from tests.telemetry import builders as make
from tests.telemetry import export_jobs as exports
from tests.telemetry.export_jobs import Settings

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
State = ExportJob.State
OTHER = UUID("01890000-0000-7000-8000-000000000002")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, settings: Settings) -> Path:
    settings.FLEET_HOME = tmp_path / "home"
    settings.FLEET_EXPORT_FOLDERS = [str(tmp_path)]
    (tmp_path / "nas").mkdir()
    builders.make_install(install_id=make.INSTALL)
    builders.make_install(install_id=OTHER)
    return tmp_path


def nas(home: Path) -> ExportDestination:
    return ExportDestination.objects.create(name="nas", kind="folder", folder=str(home / "nas"))


def command(*words: str) -> str:
    out = StringIO()
    call_command("fleet_export", *words, stdout=out, stderr=out)
    return out.getvalue()


def test_a_result_goes_when_its_time_is_over_and_a_dry_run_says_so_before() -> None:
    exports.push_calls(3)
    job = exports.finished(keep_days=3)
    later = now() + timedelta(days=3, minutes=1)
    assert (going(), expire_results()) == ([], [])
    (item,) = going(later)
    assert (item.job_id, item.file_count, item.is_own) == (job.pk, 1, True)
    assert item.size_bytes == job.done_bytes
    assert exports.folder(job).exists()
    assert expire_results(later) == [job.pk]
    assert expire_results(later) == []
    assert not exports.folder(job).exists()
    job.refresh_from_db()
    assert job.state == State.EXPIRED
    assert ChangeRecord.objects.filter(action="export.expire").count() == 1


def test_what_lies_in_a_folder_of_the_operators_stays(home: Path) -> None:
    job = exports.finished(destination=nas(home))
    assert expire_results(now() + timedelta(days=8)) == [job.pk]
    assert len(list((home / "nas").rglob("*.ndjson"))) == 1


def test_the_row_of_an_expired_export_is_forgotten_with_the_rows() -> None:
    exports.finished()
    expire_results(now() + timedelta(days=8))
    assert prune_jobs(now() + timedelta(days=89)) == 0
    assert prune_jobs(now() + timedelta(days=91)) == 1
    assert ExportJob.objects.count() == ExportFile.objects.count() == 0
    assert expire_exports() == "expired 0 results, forgot 0 exports"


def test_an_erasure_takes_the_results_that_may_hold_the_install(home: Path) -> None:
    exports.push_calls(3)
    held = [
        exports.finished(),
        exports.finished(chosen={"installs": [str(make.INSTALL)]}),
        exports.finished("tool_calls", "runs_by_day", destination=nas(home)),
    ]
    free = [
        exports.finished(chosen={"installs": [str(OTHER)]}),
        exports.finished("runs_by_day"),
        exports.finished("audit"),
    ]
    assert expire_erased() == []
    erase_install(make.INSTALL, actor="owner", reason="asked for by its owner")
    later = exports.finished()
    assert set(expire_erased()) == {job.pk for job in held}
    states = {job.pk: job.state for job in ExportJob.objects.all()}
    assert {states[job.pk] for job in held} == {State.EXPIRED}
    assert {states[job.pk] for job in (*free, later)} == {State.DONE}
    assert not exports.folder(held[0]).exists()


def test_an_export_that_runs_while_an_install_is_erased_does_not_keep_it() -> None:
    exports.push_calls(3)
    job = exports.order()
    erase_install(make.INSTALL, actor="owner", reason="asked for by its owner")
    exports.done(job)
    run_exports()
    job.refresh_from_db()
    assert job.state == State.EXPIRED


def test_an_export_ordered_while_an_erasure_is_under_way_does_not_keep_it_either() -> None:
    exports.push_calls(3)
    set_tombstone(make.INSTALL, actor="owner", reason="asked for by its owner")
    job = exports.finished()
    assert len(exports.read(job)) == 3
    resume_erasures()
    assert expire_erased() == [job.pk]
    assert not exports.folder(job).exists()


def test_an_erasure_reaches_the_places_of_the_operator_and_says_which_it_did_not(
    home: Path,
) -> None:
    exports.push_calls(3)
    (home / "usb").mkdir()
    usb = ExportDestination.objects.create(name="usb", kind="folder", folder=str(home / "usb"))
    near, away = exports.finished(destination=nas(home)), exports.finished(destination=usb)
    (home / "usb").rename(home / "unplugged")
    erase_install(make.INSTALL, actor="owner", reason="asked for by its owner")
    assert set(expire_erased()) == {near.pk, away.pk}
    assert list((home / "nas").rglob("*")) == []
    reasons = {
        row.object_id: row.reason for row in ChangeRecord.objects.filter(action="export.expire")
    }
    assert "Is it mounted" in reasons[str(away.pk)]
    assert "usb" in reasons[str(away.pk)]
    assert "removed there as well" in reasons[str(near.pk)]


# ---------------------------------------------------------------------------------- the command


def test_an_export_is_ordered_carried_out_and_listed_from_the_shell() -> None:
    exports.push_calls(3)
    make.push(make.tool_call(900, tool_name="browser"))
    said = command(
        "tool_calls", "--format", "csv", "--gzip", "--install", str(make.INSTALL), "--wait"
    )
    job = ExportJob.objects.get()
    assert said.splitlines()[0] == str(job.pk)
    assert "Done: 4 rows" in said
    assert job.manifest_sha256 in said
    assert (job.fmt, job.is_gzipped, job.actor.split()[0]) == ("csv", True, "manage.py")
    assert len(exports.read(job)) == 4
    assert f"{job.pk}  done" in command("--list")


def test_a_window_is_given_in_days_or_by_its_ends() -> None:
    command("runs", "--from", "2026-11-01", "--to", "2026-11-02T06:00:00Z")
    job = ExportJob.objects.get()
    assert (job.start_at.isoformat(), job.end_at.isoformat()) == (
        *("2026-11-01T00:00:00+00:00", "2026-11-02T06:00:00+00:00"),
    )
    command("runs", "--days", "3")
    job = ExportJob.objects.order_by("-pk")[0]
    assert job.end_at - job.start_at == timedelta(days=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "no dataset named 'nonsense'"),
        ([], "at least one dataset"),
        (["runs", "--group", "nobody"], "no group 'nobody'"),
        (["runs", "--from", "yesterday"], "--from: write"),
        (["runs", "--destination", "nowhere"], "no destination"),
        (["content_messages"], "FLEET_TRAJECTORIES is off"),
        (["--cancel", "4711"], "no such export"),
        (["--retry", "4711"], "no such export"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_ordered(words: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        command(*words)
    assert ExportJob.objects.count() == 0


def test_an_export_is_cancelled_and_one_that_failed_goes_on_from_the_shell(home: Path) -> None:
    pk = command("runs").strip()
    assert "It stops." in command("--cancel", pk)
    job = exports.order(destination=nas(home))
    (home / "nas").rmdir()
    ExportJob.objects.filter(pk=job.pk).update(attempt_count=100)
    assert run_job(job.pk).state == State.FAILED
    with pytest.raises(CommandError, match="Is it mounted"):
        command_failing(job.pk)
    (home / "nas").mkdir()
    assert "Done" in command("--retry", str(job.pk), "--wait")


def command_failing(pk: int) -> None:
    """Retry when one more attempt is the last."""
    from telemetry.exports import run

    limit = run.MAX_ATTEMPTS
    try:
        run.MAX_ATTEMPTS = 1  # type: ignore[misc]  # in this test only
        command("--retry", str(pk), "--wait")
    finally:
        run.MAX_ATTEMPTS = limit  # type: ignore[misc]  # as it was


def test_the_shell_says_what_would_go_and_removes_nothing(home: Path) -> None:
    own, there = exports.finished(), exports.finished(destination=nas(home))
    ExportJob.objects.update(expires_at=now())
    said = command("--expiring")
    assert f"export {own.pk} " in said
    assert "the console's store" in said
    assert f"export {there.pk} " in said
    assert "kept where they are" in said
    assert ExportJob.objects.filter(state=State.DONE).count() == 2
