"""Exports: complete, once, redacted, whatever happens to the worker and to the place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.exports import destinations, parts, run
from telemetry.exports.datasets import DATASETS
from telemetry.exports.orders import MAX_OPEN, cancel_job, open_jobs, retry_job
from telemetry.exports.run import run_job
from telemetry.exports.tasks import run_exports
from telemetry.models import ExportDestination, ExportFile, ExportJob, Run, ToolCall
from tests import builders
from tests.telemetry import builders as make
from tests.telemetry import export_jobs as exports
from tests.telemetry.export_jobs import Settings

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
committed = pytest.mark.django_db(transaction=True)
State = ExportJob.State
TOKEN = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, settings: Settings) -> Path:
    settings.FLEET_HOME = tmp_path / "home"
    builders.make_install(install_id=make.INSTALL)
    return tmp_path


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of twenty rows, pages of ten: forty rows meet every edge that a million would."""
    from dataclasses import replace

    small = {name: replace(one, page_rows=10) for name, one in DATASETS.items()}
    monkeypatch.setattr(parts, "PART_ROWS", 20)
    monkeypatch.setattr("telemetry.exports.choice.DATASETS", small)


def folder_destination(path: Path, settings: Settings) -> ExportDestination:
    settings.FLEET_EXPORT_FOLDERS = [str(path.parent)]
    return ExportDestination.objects.create(name="nas", kind="folder", folder=str(path))


def stop_at(point: str, monkeypatch: pytest.MonkeyPatch, *, times: int = 1) -> None:
    """Leave the work at a point as a death would: nothing after it runs, nothing is noted."""
    left = [times]

    def reached(at: str) -> None:
        if at == point and left[0]:
            left[0] -= 1
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "reached", reached)


def lapse(job: ExportJob) -> None:
    ExportJob.objects.filter(pk=job.pk).update(lease_until=now() - timedelta(seconds=1))


def due(job: ExportJob) -> None:
    ExportJob.objects.filter(pk=job.pk).update(not_before=now() - timedelta(seconds=1))


# ------------------------------------------------------------------------------------- the result


def test_every_row_of_every_event_table_is_in_its_file() -> None:
    make.push(*make.one_of_each())
    names = [name for name, one in DATASETS.items() if one.is_partitioned][:10]
    job = exports.finished(*names)
    assert {name: len(exports.read(job, name)) for name in names} == dict.fromkeys(names, 1)
    assert job.done_count == job.total_count == 10


def test_the_manifest_names_every_file_as_it_lies_there() -> None:
    exports.push_calls(3)
    job = exports.finished("tool_calls", "runs", fmt="csv", is_gzipped=True)
    data = (exports.folder(job) / "manifest.json").read_bytes()
    manifest = json.loads(data)
    assert hashlib.sha256(data).hexdigest() == job.manifest_sha256
    for file in manifest["files"]:
        lies = (exports.folder(job) / file["name"]).read_bytes()
        assert (len(lies), hashlib.sha256(lies).hexdigest()) == (file["size_bytes"], file["sha256"])
    assert {file["name"] for file in manifest["files"]} | {"manifest.json"} == set(
        exports.names_in(exports.folder(job))
    )
    assert (manifest["row_count"], manifest["ordered_by"]) == (3, exports.ACTOR)
    assert manifest["product_version"]
    assert [one["name"] for one in manifest["schema"]["runs"]["columns"]][:3] == [
        *("install_id", "group_id", "start_at")
    ]


def test_a_dataset_without_rows_has_a_file_with_its_header() -> None:
    job = exports.finished("errors_by_day", fmt="csv")
    (file,) = job.files.all()
    assert file.row_count == 0
    assert exports.data_of(file).startswith(b"at,group_id,error_class,subsystem,")


def test_the_window_is_half_open_on_the_rows_own_time() -> None:
    start_ns = make.recent_ns(3600) // 1_000_000_000 * 1_000_000_000
    make.push(*(make.tool_call(n, start_ns=start_ns + n * make.S) for n in range(5)))
    first = ToolCall.objects.order_by("start_at").first()
    assert first is not None
    job = exports.finished(
        start_at=first.start_at + timedelta(seconds=1), end_at=first.start_at + timedelta(seconds=3)
    )
    assert {row["span_id"] for row in exports.read(job)} == {"span-1", "span-2"}


def test_what_arrives_after_the_order_is_not_in_it() -> None:
    exports.push_calls(2)
    job = exports.order()
    exports.push_calls(2, first=100)
    assert len(exports.read(exports.done(job))) == 2


def test_a_run_that_went_on_after_the_order_is_there_as_it_is_now() -> None:
    make.push(make.run(1, run_id="r", start_ns=make.recent_ns(3600)))
    job = exports.order("runs")
    before = Run.objects.get()
    make.push(make.run(2, run_id="r", start_ns=before.start_ns, end_reason="failed"))
    assert [row["end_reason"] for row in exports.read(exports.done(job))] == ["failed"]


def test_rows_are_redacted_again_by_todays_rules() -> None:
    exports.push_calls(3)
    ToolCall.objects.filter(span_id=f"{1:016x}").update(tool_name=f"curl {TOKEN}", backend=TOKEN)
    job = exports.finished()
    text = b"".join(exports.data_of(file) for file in job.files.all()).decode()
    assert TOKEN not in text
    assert "[REDACTED:" in text
    assert job.redacted_count == 2


def test_nothing_is_written_when_secrets_cannot_be_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "telemetry.exports.rows.redact_text", lambda _text: "[redaction-unavailable]"
    )
    job = run_job(exports.order().pk)
    assert (job.state, job.files.count()) == (State.WAITING, 0)
    assert "Secrets cannot be removed" in job.last_error


def test_results_are_private(home: Path) -> None:
    job = exports.finished()
    assert destinations.is_private(destinations.own_folder())
    assert destinations.is_private(exports.folder(job))
    assert all(destinations.is_private(path) for path in exports.folder(job).iterdir())


# ----------------------------------------------------------------------------- deaths and doubles


@pytest.mark.parametrize("point", ["taken", "written", "recorded", "named", "part"])
@committed
def test_a_job_that_was_left_at_any_point_ends_as_if_it_had_not_been(
    point: str, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.push_calls(45)
    undisturbed = exports.finished("tool_calls", "runs")
    ExportJob.objects.filter(pk=undisturbed.pk).update(created_at=now())
    job = exports.order("tool_calls", "runs", end_at=undisturbed.end_at)
    ExportJob.objects.filter(pk=job.pk).update(start_at=undisturbed.start_at)
    for _ in range(2):
        stop_at(point, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            run_job(job.pk)
        lapse(job)
    monkeypatch.undo()
    monkeypatch.setattr(parts, "PART_ROWS", 20)
    from dataclasses import replace

    small = {name: replace(one, page_rows=10) for name, one in DATASETS.items()}
    monkeypatch.setattr("telemetry.exports.choice.DATASETS", small)
    job = exports.done(job)
    assert exports.digests(job) == exports.digests(undisturbed)
    assert len(exports.read(job)) == job.done_count == 45
    left = set(exports.names_in(exports.folder(job)))
    assert left == {*exports.digests(job), "manifest.json"}


@committed
def test_a_job_that_dies_before_it_is_done_is_done_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exports.push_calls(3)
    job = exports.order()
    monkeypatch.setattr(run, "manifest_of", lambda *_: 1 / 0)
    assert run_job(job.pk).state == State.WAITING
    monkeypatch.undo()
    due(job)
    assert len(exports.read(exports.done(job))) == 3


@pytest.mark.slow
@committed
def test_the_same_task_in_parallel_does_each_part_once(small_parts: None) -> None:
    exports.push_calls(45)
    jobs = [exports.order() for _ in range(5)]
    pks = [job.pk for job in jobs]

    def work(at: int) -> None:
        try:
            run_job(pks[at % 5])
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(50)))
    for job in jobs:
        assert len(exports.read(exports.done(job))) == 45
        assert job.files.count() == 3
    assert len({json.dumps(sorted(exports.digests(job).items())) for job in jobs}) == 1
    assert ChangeRecord.objects.filter(action="export.done").count() == 5


def test_a_task_that_comes_again_changes_nothing() -> None:
    exports.push_calls(3)
    job = exports.finished()
    before = exports.digests(job), job.manifest_sha256
    for _ in range(50):
        run_job(job.pk)
    run_exports()
    job.refresh_from_db()
    assert (exports.digests(job), job.manifest_sha256) == before


def test_a_job_that_somebody_holds_is_left_alone(small_parts: None) -> None:
    exports.push_calls(3)
    job = exports.order()
    ExportJob.objects.filter(pk=job.pk).update(
        state=State.RUNNING, lease_owner="another", lease_until=now() + timedelta(minutes=1)
    )
    assert job.pk not in open_jobs()
    assert run_job(job.pk).lease_owner == "another"
    assert ExportFile.objects.count() == 0


def test_one_that_failed_while_it_was_being_cancelled_goes_on_when_that_is_asked_for() -> None:
    exports.push_calls(3)
    job = exports.order()
    ExportJob.objects.filter(pk=job.pk).update(state=State.FAILED, cancel_asked_at=now())
    assert retry_job(job.pk, "tester")
    assert len(exports.read(exports.done(job))) == 3


@committed
def test_a_part_that_goes_up_for_longer_than_a_lease_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exports.push_calls(3)
    job, complete = exports.order(), destinations._FolderFile.complete
    seen: list[bool] = []

    def slow(file: destinations._FolderFile) -> None:
        if not seen:
            lapse(job)
            ends_at_s = time.monotonic() + 60
            while job.pk in open_jobs() and time.monotonic() < ends_at_s:
                time.sleep(0.02)
            seen.append(job.pk in open_jobs())
        complete(file)

    monkeypatch.setattr(run, "KEEP_EVERY_S", 0.02)
    monkeypatch.setattr(destinations._FolderFile, "complete", slow)
    exports.done(job)
    assert seen == [False]


def test_a_worker_that_was_thought_dead_writes_over_nothing(
    small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.push_calls(45)
    job = exports.order()

    def meanwhile(point: str) -> None:
        if point == "written":  # suspended here for so long that another did the whole job
            monkeypatch.setattr(run, "reached", lambda _point: None)
            lapse(job)
            exports.done(job)

    monkeypatch.setattr(run, "reached", meanwhile)
    run_job(job.pk)
    job.refresh_from_db()
    assert job.state == State.DONE
    assert len(exports.read(job)) == 45
    assert set(exports.names_in(exports.folder(job))) == {*exports.digests(job), "manifest.json"}


def test_a_budget_ends_a_turn_and_the_next_goes_on(small_parts: None) -> None:
    exports.push_calls(45)
    job = exports.order()
    turns = 0
    while run_job(job.pk, budget_s=0).is_open:
        turns += 1
    assert turns == 2
    assert len(exports.read(job)) == 45


def test_a_part_that_ends_its_worker_each_time_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = exports.order()
    stop_at("taken", monkeypatch, times=100)
    for _ in range(run.MAX_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            run_job(job.pk)
        lapse(job)
    monkeypatch.undo()
    job = run_job(job.pk)
    assert job.state == State.FAILED
    assert "died 12 times" in job.last_error


# ----------------------------------------------------------------------------------- cancellation


def test_a_job_that_waits_is_cancelled_at_once() -> None:
    job = exports.order()
    assert cancel_job(job.pk, "somebody")
    assert not cancel_job(job.pk, "somebody")
    job.refresh_from_db()
    assert job.state == State.CANCELLED
    assert run_job(job.pk).state == State.CANCELLED
    assert ChangeRecord.objects.get(action="export.cancel").actor == "somebody"


def test_a_job_that_runs_stops_within_a_page_and_leaves_nothing(
    small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.push_calls(100)
    job = exports.order()
    pages = []
    real = run._Hold.on_page

    def on_page(hold: Any, row_count: int) -> None:  # noqa: ANN401 -- the hold
        pages.append(row_count)
        if len(pages) == 5:
            cancel_job(job.pk, "somebody")
        real(hold, row_count)

    monkeypatch.setattr(run._Hold, "on_page", on_page)
    done = run_job(job.pk)
    assert (done.state, len(pages)) == (State.CANCELLED, 5)
    assert done.files.count() == done.done_count == 0
    assert not exports.folder(job).exists()


def test_a_cancelled_job_whose_worker_died_is_cleared_by_the_next(
    small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.push_calls(45)
    job = exports.order()
    stop_at("part", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_job(job.pk)
    monkeypatch.undo()
    cancel_job(job.pk, "somebody")
    lapse(job)
    assert run_job(job.pk).state == State.CANCELLED
    assert not exports.folder(job).exists()


# ------------------------------------------------------------------------------- places that fail


def test_a_destination_that_is_away_is_explained_and_gone_on_with(
    home: Path, settings: Settings, small_parts: None
) -> None:
    exports.push_calls(45)
    nas = home / "mnt" / "nas"
    nas.mkdir(parents=True)
    job = exports.order(destination=folder_destination(nas, settings))
    run_job(job.pk, budget_s=0)
    (away := home / "mnt" / "elsewhere").mkdir()
    nas.rename(away / "nas")
    held = run_job(job.pk)
    assert (held.state, held.files.count()) == (State.WAITING, 1)
    assert "is not there. Is it mounted?" in held.last_error
    assert held.not_before is not None
    assert job.pk not in open_jobs()
    (away / "nas").rename(nas)
    due(job)
    job = exports.done(job)
    assert (job.done_count, job.last_error) == (45, "")
    lies = nas / destinations.folder_name(job)
    assert len(list(lies.iterdir())) == 4
    assert lies.stat().st_mode & 0o007 == 0


def test_a_full_disk_is_explained_leaves_no_half_file_and_is_gone_on_with(
    small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.push_calls(45)
    job = exports.order()
    real, writes = os.write, [0]

    def write(handle: int, data: Any) -> int:  # noqa: ANN401 -- a buffer
        writes[0] += 1
        if writes[0] > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr("telemetry.exports.destinations.os.write", write)
    held = run_job(job.pk)
    assert (held.state, held.files.count()) == (State.WAITING, 1)
    assert "is full" in held.last_error
    assert not [name for name in exports.names_in(exports.folder(job)) if name.endswith(".part")]
    monkeypatch.setattr("telemetry.exports.destinations.os.write", real)
    due(job)
    assert len(exports.read(exports.done(job))) == 45


def test_a_place_that_stays_away_is_given_up_after_an_hour_and_can_be_tried_again(
    home: Path, settings: Settings
) -> None:
    (home / "mnt").mkdir()
    job = exports.order(destination=folder_destination(home / "mnt" / "nas", settings))
    waited = timedelta()
    while (held := run_job(job.pk)).state == State.WAITING:
        assert held.not_before is not None
        waited += held.not_before - now()
        due(job)
    assert held.state == State.FAILED
    assert held.attempt_count == run.MAX_ATTEMPTS
    assert timedelta(hours=1) < waited < timedelta(hours=2)
    (home / "mnt" / "nas").mkdir()
    assert retry_job(job.pk, "somebody")
    assert exports.done(job).last_error == ""


def test_a_fault_is_told_without_any_value(monkeypatch: pytest.MonkeyPatch) -> None:
    exports.push_calls(1)
    ToolCall.objects.update(tool_name="very-private-name")

    def fail(*_: object) -> None:
        raise ValueError("very-private-name is bad")

    monkeypatch.setattr(parts, "page_of", fail)
    job = run_job(exports.order().pk)
    assert job.last_error == "A row could not be written (ValueError)."


def test_no_more_than_so_many_exports_wait() -> None:
    job = exports.order()
    job.pk = None
    ExportJob.objects.bulk_create(
        ExportJob(
            datasets=["runs"],
            fmt="csv",
            start_at=job.start_at,
            end_at=job.end_at,
            actor="x",
            created_at=now(),
        )
        for _ in range(MAX_OPEN)
    )
    with pytest.raises(ValueError, match="Cancel some first"):
        exports.order()
