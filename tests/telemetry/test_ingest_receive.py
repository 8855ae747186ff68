"""receive_batch(): one batch, one effect, one receipt."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext

from agent_client.contract.wire import Receipt
from fleet.lib.clock import ns_to_datetime
from telemetry.ingest import receive, scrub
from telemetry.ingest.decode import IngestError
from telemetry.ingest.receive import Outcome, clock_skew_ms, receive_batch
from telemetry.models import (
    IngestBatch,
    InstallIntake,
    QuarantinedLine,
    Run,
    ToolCall,
    TouchedHour,
)
from telemetry.store.partitions import Partition, drop_partitions
from tests.telemetry import builders as make

both_engines = pytest.mark.both_engines
committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db
TOKEN = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"


def receipt_of(outcome: Outcome) -> Receipt:
    return Receipt.from_dict(outcome.receipt)


@both_engines
def test_the_receipt_balances_and_says_what_was_stored() -> None:
    call = make.tool_call(2)
    receipt = receipt_of(make.push(make.run(), call, call, b"{", policy_etag='"e"'))
    assert receipt.received == 4
    assert receipt.accepted == {"tel_runs": 1, "tel_tool_calls": 1}
    assert (receipt.duplicates, receipt.rejected_counts) == (1, {"malformed_line": 1})
    assert (receipt.rejected[0].line, receipt.policy_etag) == (4, '"e"')


@both_engines
def test_the_ledger_keeps_what_was_said_and_what_became_of_it() -> None:
    batch_id = uuid4()
    make.push(make.run(), b"{", batch_id=batch_id, losses={"full": 3}, first_seq=1, last_seq=9)
    batch = IngestBatch.objects.get(batch_id=batch_id)
    counts = (batch.received_count, batch.inserted_count, batch.rejected_count)
    assert counts == (2, 1, 1)
    assert (batch.losses, batch.first_seq, batch.last_seq) == ({"full": 3}, 1, 9)
    assert batch.decoded_bytes > 100
    assert batch.ruleset_version


@both_engines
def test_the_same_batch_again_gets_the_same_receipt_and_nothing_new() -> None:
    header, body = make.header(), make.body(make.run(), make.tool_call())
    first, again = receive_batch(header, body), receive_batch(header, body)
    assert (again.receipt, again.is_replay) == (first.receipt, True)
    assert (Run.objects.count(), IngestBatch.objects.count(), TouchedHour.objects.count()) == (
        1,
        1,
        1,
    )


@both_engines
def test_the_same_content_compressed_anew_is_the_same_batch() -> None:
    header, run = make.header(), make.run()
    receive_batch(header, make.body(run))
    assert receive_batch(header, make.body(run, encoding="gzip")).is_replay


@both_engines
def test_other_content_under_a_used_batch_id_is_a_mismatch() -> None:
    header = make.header()
    receive_batch(header, make.body(make.run()))
    with pytest.raises(IngestError) as refused:
        receive_batch(header, make.body(make.run(2)))
    assert refused.value.code == "batch_mismatch"
    assert Run.objects.get().seq == 1


@both_engines
def test_another_install_may_use_the_same_batch_id() -> None:
    batch_id, body = uuid4(), make.body(make.run())
    for install_id in (uuid4(), uuid4()):
        outcome = receive_batch(make.header(batch_id=batch_id, install_id=install_id), body)
        assert not outcome.is_replay


@both_engines
def test_overlapping_batches_store_each_row_once() -> None:
    calls = [make.tool_call(seq) for seq in range(6)]
    make.push(*calls[:4])
    receipt = receipt_of(make.push(*calls[2:]))
    assert (receipt.accepted, receipt.duplicates) == ({"tel_tool_calls": 2}, 2)
    assert ToolCall.objects.count() == 6


@both_engines
def test_a_batch_touches_the_hours_of_its_rows() -> None:
    old = make.recent_ns(40 * 86_400)
    make.push(make.run(start_ns=old), make.run(2, run_id="b", start_ns=old + 3600 * make.S))
    hours = {touched.hour for touched in TouchedHour.objects.all()}
    assert len(hours) == 2
    assert all(hour.minute == hour.second == hour.microsecond == 0 for hour in hours)


@both_engines
def test_a_batch_of_nothing_new_touches_no_hour() -> None:
    run = make.run()
    make.push(run)
    TouchedHour.objects.all().delete()
    make.push(run)
    make.push(b"{")
    assert not TouchedHour.objects.exists()


@both_engines
def test_an_empty_batch_has_a_receipt() -> None:
    assert receipt_of(make.push()).received == 0


@both_engines
@committed
def test_a_failure_in_the_middle_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("killed here")

    monkeypatch.setattr(receive, "keep_beside", fail)
    with pytest.raises(RuntimeError):
        make.push(make.run(), b"{")
    for model in (Run, IngestBatch, QuarantinedLine, TouchedHour, InstallIntake):
        assert not model._default_manager.exists()


@pytest.mark.postgres
@committed
def test_a_session_killed_between_copy_and_commit_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header, body = make.header(), make.body(make.run(), make.tool_call())

    def kill(*_: object, **__: object) -> None:
        assert Run.objects.exists()  # copied, and seen by this session alone
        connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patch:
        patch.setattr(receive, "keep_beside", kill)
        with pytest.raises(DatabaseError):
            receive_batch(header, body)
    connection.close()
    for model in (Run, ToolCall, IngestBatch, TouchedHour, InstallIntake):
        assert not model._default_manager.exists()
    assert not receive_batch(header, body).is_replay
    assert (Run.objects.count(), ToolCall.objects.count()) == (1, 1)


@pytest.mark.postgres
@committed
def test_a_day_that_was_dropped_since_is_made_again() -> None:
    start_ns = make.recent_ns(30 * 86_400)
    day = Partition(ns_to_datetime(start_ns).date(), Run.table_name())
    make.push(make.run(1, start_ns=start_ns))
    drop_partitions([day])
    assert not Run.objects.exists()
    receipt = receipt_of(make.push(make.run(2, start_ns=start_ns), make.tool_call()))
    assert receipt.accepted == {"tel_runs": 1, "tel_tool_calls": 1}
    assert (Run.objects.get().seq, ToolCall.objects.count()) == (2, 1)
    drop_partitions([day])


def statements_of(work: Callable[[], object]) -> list[str]:
    with CaptureQueriesContext(connection) as context:
        work()
    return [str(query["sql"]) for query in context.captured_queries]


@pytest.mark.postgres
def test_a_merged_run_does_not_send_its_children_through_the_stage() -> None:
    start_ns = make.recent_ns()
    make.push(make.run(1, start_ns=start_ns, end_ns=None, end_reason=None))
    statements = statements_of(lambda: make.push(make.run(2, start_ns=start_ns), make.tool_call(3)))
    assert any("telemetry_run_stage" in text for text in statements)
    assert not any("telemetry_toolcall_stage" in text for text in statements)
    assert (Run.objects.get().end_reason, ToolCall.objects.count()) == ("completed", 1)


@pytest.mark.postgres
@committed
def test_a_batch_of_new_rows_costs_few_statements_however_many_tables() -> None:
    make.push(*make.one_of_each(make.recent_ns()))
    statements = statements_of(lambda: make.push(*make.one_of_each(make.recent_ns())))
    # known? · begin · lock · erased? · known? · two savepoints · ledger · commit
    copies = [text for text in statements if "COPY" in text]
    assert (len(copies), len(statements) - len(copies)) == (10, 9)


@pytest.mark.postgres
@committed
def test_no_receipt_leaves_before_the_commit() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE 'no commit'; END $$"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON telemetry_ingestbatch "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse()"
        )
    try:
        with pytest.raises(Exception, match="no commit"):
            make.push(make.run())
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse ON telemetry_ingestbatch")
    assert not Run.objects.exists()


@both_engines
@committed
def test_fifty_parallel_repeats_of_a_batch_have_one_effect() -> None:
    header = make.header(losses={"full": 1})
    body = make.body(*(make.tool_call(seq) for seq in range(50)), make.run())

    def push_once(_: int) -> Outcome:
        try:
            return receive_batch(header, body)
        finally:
            connection.close()

    with ThreadPoolExecutor(50) as pool:
        outcomes = list(pool.map(push_once, range(50)))
    assert sum(not outcome.is_replay for outcome in outcomes) == 1
    assert len({str(outcome.receipt) for outcome in outcomes}) == 1
    assert (ToolCall.objects.count(), IngestBatch.objects.count()) == (50, 1)
    assert InstallIntake.objects.get().lost_count == 1


@pytest.mark.postgres
@committed
def test_parallel_batches_with_the_same_rows_do_not_deadlock() -> None:
    calls = [make.tool_call(seq) for seq in range(200)]
    orders = [calls, calls[::-1]] * 4

    def push_once(order: list[dict[str, object]]) -> int:
        try:
            return sum(receipt_of(make.push(*order)).accepted.values())
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(push_once, orders)) == 200


@both_engines
def test_secrets_are_scrubbed_again_and_counted() -> None:
    make.push(make.tool_call(1, tool_name=f"token {TOKEN}"), make.tool_call(2, tool_name="ok"))
    names = set(ToolCall.objects.values_list("tool_name", flat=True))
    assert not any(TOKEN in str(name) for name in names)
    assert "ok" in names
    assert IngestBatch.objects.get().scrubbed_count == 1


@both_engines
def test_a_refused_line_is_kept_bounded_and_scrubbed() -> None:
    junk = b'{"token": "' + TOKEN.encode() + b'", "x": "\x00\xff' + b"y" * 20_000
    make.push(junk)
    kept = QuarantinedLine.objects.get()
    assert (kept.line, kept.code) == (1, "invalid_text")
    assert TOKEN not in kept.raw_text
    assert "\\x00" in kept.raw_text
    assert len(kept.raw_text) <= scrub.QUARANTINE_CHARS


@both_engines
def test_a_flood_of_bad_lines_is_counted_in_full_and_kept_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receive, "MAX_QUARANTINED", 3)
    receipt = receipt_of(make.push(*[b"{"] * 150))
    assert (receipt.rejected_counts, len(receipt.rejected)) == ({"malformed_line": 150}, 100)
    assert QuarantinedLine.objects.count() == IngestBatch.objects.get().quarantined_count == 3


@both_engines
def test_sums_of_an_install_add_up_over_its_batches() -> None:
    make.push(make.run(), losses={"full": 2, "oversize": 1}, last_seq=5)
    make.push(make.run(2, run_id="b"), b"{", losses={"full": 1}, last_seq=3)
    intake = InstallIntake.objects.get(install_id=make.INSTALL)
    assert (intake.batch_count, intake.stored_count, intake.rejected_count) == (2, 2, 1)
    assert (intake.losses, intake.lost_count) == ({"full": 3, "oversize": 1}, 4)
    assert intake.last_seq == 5


@both_engines
@pytest.mark.parametrize(
    ("seqs", "last"), [((None, None), None), ((None, 4), 4), ((4, None), 4), ((2, 4), 4)]
)
def test_the_last_seq_is_the_highest_that_was_said(
    seqs: tuple[int | None, ...], last: int | None
) -> None:
    for seq in seqs:
        make.push(last_seq=seq)
    assert InstallIntake.objects.get().last_seq == last


def test_skew_comes_from_a_time_ordered_batch_id_only() -> None:
    ahead_ms = (make.recent_ns(-60) // 1_000_000) << 80 | 7 << 76 | 2 << 62
    skew_ms = clock_skew_ms(UUID(int=ahead_ms))
    assert skew_ms is not None
    assert 50_000 < skew_ms <= 60_000
    assert clock_skew_ms(uuid4()) is None


def test_clean_names_are_remembered_and_the_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scrub, "MAX_REMEMBERED", 2)
    for name in ("a1", "b2", "c3", "x" * 100):
        scrub.scrub_rows({"tel_tool_calls": [make.row(make.tool_call(tool_name=name))]})
    assert len(scrub._clean) <= 2
