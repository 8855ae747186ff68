"""Replay and discard: by today's rules, once, whoever asks how often and whatever is killed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import DataError, connection
from django.test import override_settings

from fleet.lib.clock import now
from fleet.models import ChangeRecord, Install
from telemetry.ingest import quarantine
from telemetry.ingest.quarantine import Choice, open_jobs, order_job, preview, run_job
from telemetry.ingest.scrub import QUARANTINE_CHARS
from telemetry.ingest.tasks import run_quarantine_jobs
from telemetry.models import (
    AggregateRecord,
    IngestBatch,
    InstallIntake,
    QuarantinedLine,
    QuarantineJob,
    Run,
    ToolCall,
    TouchedHour,
)
from tests import builders
from tests.telemetry import builders as make
from tests.telemetry.test_api_batch import SUMMARY

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
committed = pytest.mark.django_db(transaction=True)
REPLAY, PURGE = QuarantineJob.Action.REPLAY, QuarantineJob.Action.PURGE
DONE = QuarantineJob.State.DONE
TOKEN = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"
OLD_S = 60 * 86_400.0


@pytest.fixture(autouse=True)
def install_id() -> UUID:
    return builders.make_install(install_id=make.INSTALL).pk


def too_old(number: int, **values: Any) -> dict[str, object]:  # noqa: ANN401 -- columns
    """A call that a retention of 30 days refuses and one of 90 takes."""
    return make.tool_call(number, start_ns=make.recent_ns(OLD_S), **values)


def refuse(*records: dict[str, object] | bytes, **values: object) -> None:
    """Push what comes into quarantine under a short retention."""
    with override_settings(FLEET_RETENTION_DAYS=30):
        make.push(*records, **values)


def replay(**choice: Any) -> QuarantineJob:  # noqa: ANN401 -- fields of a choice
    job = order_job(REPLAY, Choice(**choice), actor="somebody", reason="mended")
    return run_job(job.pk)


def counts_of(job: QuarantineJob) -> tuple[int, int, int]:
    return job.stored_count, job.duplicate_count, job.kept_count


def test_what_is_accepted_now_is_stored_as_a_batch_of_its_own_and_leaves_quarantine() -> None:
    refuse(too_old(1), too_old(2))
    job = replay()
    assert (job.state, counts_of(job)) == (DONE, (2, 0, 0))
    assert (ToolCall.objects.count(), QuarantinedLine.objects.count()) == (2, 0)
    batch = IngestBatch.objects.get(source="replay")
    assert (batch.received_count, batch.inserted_count, batch.rejected_count) == (2, 2, 0)
    assert set(ToolCall.objects.values_list("batch_id", flat=True)) == {batch.batch_id}
    assert TouchedHour.objects.filter(batch_id=batch.batch_id).exists()
    assert InstallIntake.objects.get().stored_count == 2


def test_what_is_refused_again_stays_with_its_new_reason() -> None:
    refuse(too_old(1, duration_ms="long"), too_old(2))
    QuarantinedLine.objects.update(code="time_too_old", detail="start_ns")
    assert counts_of(replay()) == (1, 0, 1)
    line = QuarantinedLine.objects.get()
    assert (line.code, line.detail) == ("wrong_type", "duration_ms")


def test_a_replay_of_the_same_lines_again_does_nothing_again() -> None:
    refuse(too_old(1), b"{")
    replay()
    assert counts_of(replay()) == (0, 0, 1)
    assert (ToolCall.objects.count(), IngestBatch.objects.filter(source="replay").count()) == (1, 1)


def test_rows_that_are_there_already_are_duplicates() -> None:
    call = too_old(1)
    refuse(call)
    make.push(call)
    assert counts_of(replay()) == (0, 1, 0)
    assert (ToolCall.objects.count(), QuarantinedLine.objects.count()) == (1, 0)


def test_a_line_that_was_cut_or_scrubbed_is_never_replayed() -> None:
    secret, long = too_old(1, tool_name=TOKEN), too_old(2, args_shape="x" * QUARANTINE_CHARS)
    refuse(secret, long, too_old(3))
    found = QuarantinedLine.objects.order_by("line").values_list("is_replayable", flat=True)
    assert list(found) == [False, False, True]
    job = replay()
    assert (job.total_count, counts_of(job)) == (1, (1, 0, 0))
    assert QuarantinedLine.objects.count() == 2
    assert ToolCall.objects.get().tool_name == "terminal"


@pytest.mark.parametrize("raw", [b'{"a\x00":1}', b"{\xff\xfe", '{"x": "caf\u00e9"}'.encode()])
def test_a_line_is_replayable_only_when_its_text_is_its_bytes(raw: bytes) -> None:
    make.push(raw)
    line = QuarantinedLine.objects.get()
    assert line.is_replayable == (line.raw_text.encode() == raw)


@pytest.mark.parametrize("raw", [b"", b"(a span)", b'{"otlp_span":{"trace_id":"x"}}'])
def test_what_only_describes_a_line_is_not_replayable(raw: bytes) -> None:
    from telemetry.ingest.spool import quarantined_text
    from telemetry.ingest.validate import Refused

    assert not quarantined_text(Refused(1, "wrong_type", "", raw)).is_replayable


def test_lines_of_another_install_are_not_mixed_in() -> None:
    other = builders.make_install(machine_id=builders.OTHER_MACHINE).pk
    refuse(too_old(1), too_old(2))
    refuse(too_old(1), install_id=other)
    refuse(too_old(3))
    assert counts_of(replay()) == (4, 0, 0)
    assert ToolCall.objects.filter(install_id=other).count() == 1
    assert ToolCall.objects.filter(install_id=make.INSTALL).count() == 3


def test_a_replayed_row_has_the_group_the_install_has_now() -> None:
    group = builders.make_group()
    refuse(too_old(1))
    Install.objects.filter(pk=make.INSTALL).update(group=group)
    replay()
    assert ToolCall.objects.get().group_id == group.pk


def test_a_plane_that_is_closed_now_takes_nothing_back() -> None:
    line = {**SUMMARY, "occurred_ns": make.recent_ns(OLD_S)}
    refuse(make.line(line), plane="aggregate")
    assert counts_of(replay()) == (0, 0, 1)
    assert (AggregateRecord.objects.count(), QuarantinedLine.objects.count()) == (0, 1)


def test_a_summary_is_replayed_while_its_owner_consents() -> None:
    Install.objects.update(consent_state="aggregate")
    line = {**SUMMARY, "occurred_ns": make.recent_ns(OLD_S)}
    refuse(make.line(line), plane="aggregate")
    assert counts_of(replay()) == (1, 0, 0)
    assert AggregateRecord.objects.exists()


def test_lines_of_an_install_that_is_gone_stay() -> None:
    refuse(too_old(1), install_id=uuid4())
    assert counts_of(replay()) == (0, 0, 1)


def test_the_install_s_last_push_is_not_a_replay() -> None:
    refuse(too_old(1))
    before = Install.objects.get().last_push_at
    replay()
    assert Install.objects.get().last_push_at == before


def test_a_choice_narrows_by_everything_it_names() -> None:
    refuse(too_old(1), too_old(2, duration_ms="x"), b"{", batch_id=UUID(int=5))
    first = QuarantinedLine.objects.order_by("pk")[0]

    def number(**choice: Any) -> int:  # noqa: ANN401 -- fields of a choice
        return Choice(**choice).lines().count()

    assert number() == 3
    assert number(code="malformed_line") == 1
    assert number(detail="duration_ms") == 1
    assert number(detail="-") == 1
    assert number(install=str(make.INSTALL)) == 3
    assert number(install="nonsense") == number(install=str(uuid4())) == 0
    assert number(day=f"{now():%Y-%m-%d}") == 3
    assert number(day="2020-01-01") == number(day="someday") == 0
    assert number(search=str(UUID(int=5))) == number(search=str(make.INSTALL)) == 3
    assert number(search="duration_ms") == 1
    assert number(replayable="no") == 0
    assert number(line_ids=(first.pk,), code=first.code) == 1


def test_lines_that_come_in_after_the_order_are_not_meant() -> None:
    refuse(too_old(1))
    job = order_job(PURGE, Choice(), actor="somebody", reason="noise")
    refuse(too_old(2))
    assert run_job(job.pk).removed_count == 1
    assert QuarantinedLine.objects.count() == 1


def test_an_order_and_its_end_are_audited() -> None:
    refuse(too_old(1), b"{")
    replay(code="time_too_old")
    end, begin = ChangeRecord.objects.all()
    assert (begin.action, begin.actor, begin.reason) == ("quarantine.replay", "somebody", "mended")
    assert (begin.pre, begin.post) == ({"lines": 1}, {"code": "time_too_old"})
    assert end.action == "quarantine.replay.done"
    assert end.post == {"stored": 1, "duplicate": 0, "kept": 0, "removed": 0}


def test_a_preview_says_what_a_replay_would_do_and_changes_nothing() -> None:
    refuse(too_old(1), too_old(2, duration_ms="x"), too_old(3, tool_name=TOKEN))
    found = preview(Choice())
    assert (found.total, found.replayable, found.judged, found.accepted) == (3, 2, 2, 1)
    assert found.refused == {"wrong_type": 1}
    assert QuarantinedLine.objects.count() == 3


def test_an_order_is_done_in_steps_and_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quarantine, "STEP_LINES", 2)
    refuse(*(too_old(seq) for seq in range(1, 8)))
    job = order_job(REPLAY, Choice(), actor="somebody", reason="mended")
    assert run_job(job.pk, budget_s=0).state == QuarantineJob.State.WAITING
    real, calls = quarantine._replay, iter(range(100))

    def twice(*args: Any) -> None:  # noqa: ANN401 -- passed through
        if next(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(quarantine, "_replay", twice)
    with pytest.raises(KeyboardInterrupt):
        run_job(job.pk)
    assert ToolCall.objects.count() == 4
    assert open_jobs() == []  # its lease runs
    QuarantineJob.objects.update(lease_until=now() - timedelta(seconds=1))
    run_quarantine_jobs()
    job.refresh_from_db()
    assert (job.state, job.stored_count, ToolCall.objects.count()) == (DONE, 7, 7)


@committed
def test_a_death_before_the_commit_of_a_step_leaves_it_to_be_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse(too_old(1))
    job = order_job(REPLAY, Choice(), actor="somebody", reason="mended")

    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(quarantine, "_advance", die)
        with pytest.raises(KeyboardInterrupt):
            run_job(job.pk)
    assert (ToolCall.objects.count(), QuarantinedLine.objects.count()) == (0, 1)
    assert run_job(job.pk).stored_count == 1
    assert not IngestBatch.objects.filter(source="replay").exclude(inserted_count=1).exists()


@committed
def test_an_order_that_runs_in_parallel_does_each_line_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quarantine, "STEP_LINES", 3)
    refuse(*(too_old(seq) for seq in range(1, 30)))
    job = order_job(REPLAY, Choice(), actor="somebody", reason="mended")

    def one(_: int) -> str:
        try:
            return run_job(job.pk).state
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(one, range(4)))
    job.refresh_from_db()
    assert (set(states), counts_of(job)) == ({DONE}, (29, 0, 0))
    assert (ToolCall.objects.count(), QuarantinedLine.objects.count()) == (29, 0)
    assert ChangeRecord.objects.filter(action="quarantine.replay.done").count() == 1


@committed
def test_two_orders_over_the_same_lines_store_each_once() -> None:
    refuse(*(too_old(seq) for seq in range(1, 20)))
    jobs = [order_job(REPLAY, Choice(), actor="somebody", reason="x") for _ in range(2)]

    def one(job: QuarantineJob) -> int:
        try:
            return run_job(job.pk).stored_count
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(one, jobs)) == 19
    assert ToolCall.objects.count() == 19


def test_lines_that_cannot_be_stored_stay_and_hold_up_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = builders.make_install(machine_id=builders.OTHER_MACHINE).pk
    refuse(too_old(1))
    refuse(too_old(2), install_id=other)
    real = quarantine._stored

    def fail(step: Any, lines: Any) -> Any:  # noqa: ANN401 -- passed through
        if lines[0].install_id == make.INSTALL:
            raise DataError("value of a row")
        return real(step, lines)

    monkeypatch.setattr(quarantine, "_stored", fail)
    job = replay()
    assert (job.state, counts_of(job), job.last_error) == (DONE, (1, 0, 1), "DataError")
    assert QuarantinedLine.objects.get().install_id == make.INSTALL


# ---------------------------------------------------------------------------- the command line


def run(*args: str) -> str:
    out = StringIO()
    call_command("telemetry_quarantine", *args, stdout=out)
    return out.getvalue()


def test_the_command_counts_by_reason_and_shows_a_line_without_control_characters() -> None:
    refuse(too_old(1), too_old(2), b'{"x":"\x1b[31mred"')
    listed = run("list")
    assert "2  time_too_old  start_ns" in listed
    assert "3 lines" in listed
    line = QuarantinedLine.objects.get(code="malformed_line")
    assert f"{line.pk}  " in run("list", "--lines", "--code", "malformed_line")
    shown = run("show", str(line.pk))
    assert "\\x1b[31mred" in shown
    assert "\x1b" not in shown
    with pytest.raises(CommandError, match="No such line"):
        run("show", "0")


def test_the_command_says_what_it_would_do_and_does_it_only_when_told() -> None:
    refuse(too_old(1), b"{")
    with pytest.raises(CommandError, match="Nothing was done"):
        run("replay", "--yes")
    assert QuarantinedLine.objects.count() == 2
    said = run("replay", "--yes", "--reason", "console upgraded")
    assert "2 lines, 2 of them can be replayed; of the first 2 today's rules accept 1" in said
    assert "1 rows stored, 0 were there already, 1 lines stay" in said
    assert "1 lines discarded" in run("purge", "--yes", "--reason", "noise")
    assert (Run.objects.count(), QuarantinedLine.objects.count()) == (0, 0)
