"""The drainer: each spooled batch once, whatever is killed, repeated, poisoned or in parallel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.db.models import F
from django.test import override_settings

from fleet.lib.clock import now
from fleet.models import Install
from telemetry.ingest import drain as draining
from telemetry.ingest import receive
from telemetry.ingest.drain import DIED, MAX_TRIES, drain, try_again
from telemetry.ingest.receive import Outcome
from telemetry.ingest.tasks import drain_spool
from telemetry.models import (
    AggregateRecord,
    IngestBatch,
    InstallIntake,
    QuarantinedLine,
    Run,
    SpooledBatch,
    ToolCall,
    TouchedHour,
)
from telemetry.store.locks import install_transaction
from tests.builders import make_install
from tests.telemetry import builders as make

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
committed = pytest.mark.django_db(transaction=True)


def spool(*records: dict[str, object] | bytes, **values: object) -> Outcome:
    with override_settings(FLEET_VALVE="open"):
        return make.push(*records, **values)


def due() -> None:
    """All pauses are over."""
    SpooledBatch.objects.update(not_before=now())


def balance(batch: IngestBatch) -> int:
    """Rows of the account that are in no place: always 0."""
    places = ("inserted", "merged", "duplicate", "rejected", "spooled", "expired")
    return batch.received_count - sum(int(getattr(batch, f"{name}_count")) for name in places)


def test_a_drained_batch_is_as_if_it_had_been_stored_at_once() -> None:
    call = make.tool_call(2)
    first = spool(make.run(), call, call, b"{", losses={"full": 2})
    assert (drain().batch_count, SpooledBatch.objects.count()) == (1, 0)
    batch = IngestBatch.objects.get()
    counts = (batch.inserted_count, batch.duplicate_count, batch.spooled_count, balance(batch))
    assert counts == (2, 1, 0, 0)
    assert (batch.receipt, batch.drained_at is not None) == (first.receipt, True)
    assert (Run.objects.count(), ToolCall.objects.count()) == (1, 1)
    assert (QuarantinedLine.objects.count(), TouchedHour.objects.count()) == (1, 1)
    intake = InstallIntake.objects.get()
    assert (intake.batch_count, intake.stored_count, intake.lost_count) == (1, 2, 2)


def test_what_was_spooled_before_says_nothing_newer_than_what_came_after() -> None:
    spool(make.run(), clock_skew_ms=9000)
    make.push(make.run(2, run_id="later"), clock_skew_ms=10)
    last_at = IngestBatch.objects.latest("received_at").received_at
    drain()
    intake = InstallIntake.objects.get()
    assert (intake.batch_count, intake.clock_skew_ms, intake.last_batch_at) == (2, 10, last_at)


def test_touched_hours_and_rows_carry_the_moment_of_the_draining() -> None:
    spool(make.run())
    drain()
    touched, run = TouchedHour.objects.get(), Run.objects.get()
    assert (touched.touched_at, touched.batch_id) == (run.received_at, run.batch_id)
    assert run.received_at > IngestBatch.objects.get().received_at


def test_rows_keep_the_group_that_the_install_had_when_they_came() -> None:
    spool(make.run(), group_id=7)
    drain()
    assert Run.objects.get().group_id == 7


def test_overlaps_are_counted_in_the_ledger_when_they_are_seen() -> None:
    calls = [make.tool_call(seq) for seq in range(6)]
    spool(*calls[:4])
    spool(*calls[2:])
    assert drain().row_count == 8
    newest = IngestBatch.objects.latest("pk")
    assert (newest.inserted_count, newest.duplicate_count) == (2, 2)
    assert ToolCall.objects.count() == 6


def test_summaries_of_the_aggregate_plane_are_drained_too() -> None:
    from tests.telemetry.test_api_batch import SUMMARY

    line = make.line({**SUMMARY, "occurred_ns": make.recent_ns()})
    outcome = spool(line, plane="aggregate")
    assert outcome.receipt["accepted"] == {"workflow_completed": 1}
    drain()
    record = AggregateRecord.objects.get()
    batch = IngestBatch.objects.get(batch_id=record.batch_id)
    assert (batch.inserted_count, balance(batch)) == (1, 0)


def test_a_batch_of_refused_lines_only_is_drained_too() -> None:
    spool(b"{", b"nonsense")
    drain()
    assert (QuarantinedLine.objects.count(), SpooledBatch.objects.count()) == (2, 0)


def test_consent_counts_from_the_arrival_and_is_not_set_back_by_the_draining() -> None:
    install = make_install()
    spool(make.run(), install_id=install.pk, consent={"consent_state": "aggregate"})
    make.push(make.run(2), install_id=install.pk, consent={"consent_state": "local"})
    drain()
    install.refresh_from_db()
    assert install.consent_state == "local"
    assert Install.objects.get().last_push_at == IngestBatch.objects.latest("pk").received_at


def test_the_older_copy_of_a_run_does_not_win_because_it_was_spooled() -> None:
    start_ns = make.recent_ns()
    spool(make.run(1, start_ns=start_ns, end_reason=None, end_ns=None))
    make.push(make.run(5, start_ns=start_ns))
    drain()
    assert (Run.objects.get().seq, Run.objects.get().end_reason) == (5, "completed")


def test_an_install_s_batches_are_stored_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    batch_ids = [uuid4() for _ in range(5)]
    for seq, batch_id in enumerate(batch_ids, start=1):
        spool(make.tool_call(seq), batch_id=batch_id)
    order: list[UUID] = []
    real = receive.store_spooled

    def noted(batch: IngestBatch, *args: object) -> None:
        order.append(batch.batch_id)
        real(batch, *args)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(draining, "store_spooled", noted)
    drain()
    assert order == batch_ids


def poison(batch_id: UUID) -> None:
    SpooledBatch.objects.filter(batch_id=batch_id).update(payload=b"no payload")


def test_a_poisoned_batch_is_set_aside_with_its_reason_and_holds_up_nobody_else() -> None:
    bad, later, other = uuid4(), uuid4(), uuid4()
    spool(make.tool_call(1), batch_id=bad)
    poison(bad)
    spool(make.tool_call(2), batch_id=later)
    spool(make.tool_call(3), batch_id=other, install_id=uuid4())
    assert (drain().batch_count, drain().failed_count) == (1, 0)  # the pause holds
    for _ in range(MAX_TRIES):
        due()
        drain()
    row = SpooledBatch.objects.get()
    assert (row.batch_id, row.attempts, row.set_aside_at is not None) == (bad, MAX_TRIES, True)
    assert "ZstdError" in row.last_error
    assert ToolCall.objects.count() == 2
    assert IngestBatch.objects.get(batch_id=bad).spooled_count == 1


def test_what_was_set_aside_is_stored_when_it_is_mended_and_tried_again() -> None:
    batch_id = uuid4()
    spool(make.run(), batch_id=batch_id)
    good = bytes(SpooledBatch.objects.get().payload)
    poison(batch_id)
    for _ in range(MAX_TRIES):
        due()
        drain()
    assert drain().failed_count == 0
    SpooledBatch.objects.update(payload=good)
    assert try_again(SpooledBatch.objects.get().pk)
    assert (drain().batch_count, Run.objects.count()) == (1, 1)


def test_a_database_that_locks_or_fills_costs_no_try(monkeypatch: pytest.MonkeyPatch) -> None:
    spool(make.run())

    def full(*_: object) -> None:
        raise OperationalError("disk full: value of a row")

    monkeypatch.setattr(draining, "store_spooled", full)
    for _ in range(MAX_TRIES + 2):
        due()
        drain()
    row = SpooledBatch.objects.get()
    assert (row.attempts, row.set_aside_at, row.last_error) == (0, None, "OperationalError")


def test_an_error_s_text_with_a_row_s_value_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import DataError

    spool(make.run())

    def fail(*_: object) -> None:
        raise DataError("value too long: 'the value'")

    monkeypatch.setattr(draining, "store_spooled", fail)
    drain()
    assert SpooledBatch.objects.get().last_error == "DataError"


def test_rows_of_days_that_were_dropped_meanwhile_do_not_come_back() -> None:
    age_s = (settings.FLEET_RETENTION_DAYS - 1) * 86_400.0
    spool(make.run(start_ns=make.recent_ns(age_s)), make.run(2, run_id="b"))
    with override_settings(FLEET_RETENTION_DAYS=30):
        drain()
    batch = IngestBatch.objects.get()
    assert (batch.inserted_count, batch.expired_count, balance(batch)) == (1, 1, 0)
    assert Run.objects.get().run_id == "b"


def test_the_task_says_what_it_did_and_stops_when_its_time_is_up() -> None:
    for seq in range(3):
        spool(make.tool_call(seq))
    assert drain(budget_s=0).batch_count == 0
    assert drain_spool() == "stored 3 batches, 3 rows, failed 0"
    assert drain_spool() == "stored 0 batches, 0 rows, failed 0"


@committed
def test_parallel_drainers_store_each_batch_once() -> None:
    installs = [uuid4() for _ in range(4)]
    for seq in range(24):
        spool(make.tool_call(seq), install_id=installs[seq % 4])

    def one(_: int) -> int:
        try:
            return sum(drain().batch_count for _ in range(3))
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(one, range(4)))
    done += drain().batch_count
    assert (done, ToolCall.objects.count(), SpooledBatch.objects.count()) == (24, 24, 0)
    assert all(balance(batch) == 0 for batch in IngestBatch.objects.all())
    per_install = Counter(InstallIntake.objects.values_list("stored_count", flat=True))
    assert per_install == {6: 4}


@committed
@pytest.mark.postgres
def test_an_install_that_pushes_just_now_is_passed_over_without_waiting() -> None:
    install_id, held, release = uuid4(), threading.Event(), threading.Event()
    spool(make.tool_call(1), install_id=install_id)
    spool(make.tool_call(2), install_id=uuid4())

    def hold() -> None:
        with install_transaction(install_id):
            held.set()
            release.wait(20)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    done = drain()
    release.set()
    thread.join(20)
    assert (done.batch_count, done.failed_count) == (1, 0)
    assert SpooledBatch.objects.get().attempts == 0
    assert drain().batch_count == 1


KILLED_AT = {
    "claimed": "draining._store = die",
    "stored, not committed": "draining.store_spooled = then_die(draining.store_spooled)",
    "committed": "draining._store = then_die(draining._store)",
}
CHILD = """
import os, signal
import django
django.setup()
from telemetry.ingest import drain as draining

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(real):
    def both(*args):
        real(*args)
        die()
    return both

{setup}
draining.drain()
"""


def database_url() -> str:
    held = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{held['NAME']}"
    return "postgres://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**held)


@committed
@pytest.mark.parametrize("point", KILLED_AT)
def test_a_drainer_killed_at_any_point_loses_and_doubles_nothing(point: str) -> None:
    spool(make.run(), make.tool_call(2), losses={"full": 1})
    spool(make.tool_call(3))
    environ = {
        **{name: os.environ[name] for name in ("PATH", "FLEET_HOME")},
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
    }
    child = CHILD.format(setup=KILLED_AT[point])
    died = subprocess.run(
        [sys.executable, "-c", child], cwd=ROOT, env=environ, timeout=90, check=False
    )
    assert died.returncode == -signal.SIGKILL
    while SpooledBatch.objects.exists():
        due()
        drain()
    assert (Run.objects.count(), ToolCall.objects.count()) == (1, 2)
    assert all(balance(batch) == 0 for batch in IngestBatch.objects.all())
    intake = InstallIntake.objects.get()
    assert (intake.batch_count, intake.stored_count, intake.lost_count) == (2, 3, 1)


def test_a_batch_that_kills_its_drainer_every_time_is_set_aside_in_the_end() -> None:
    spool(make.run())
    SpooledBatch.objects.update(attempts=F("attempts") + MAX_TRIES)
    drain()
    row = SpooledBatch.objects.get()
    assert (row.set_aside_at is not None, row.last_error) == (True, DIED)


def test_the_spool_s_age_is_that_of_the_oldest_that_waits() -> None:
    from telemetry.ingest.spool import spool_state

    spool(make.run())
    SpooledBatch.objects.update(received_at=now() - timedelta(hours=1))
    spool(make.tool_call(2))
    state = spool_state()
    assert (state.batch_count, state.row_count, state.waiting_count) == (2, 2, 2)
    assert state.oldest_at is not None
    assert now() - state.oldest_at >= timedelta(hours=1)
