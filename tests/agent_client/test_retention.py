"""Retention: what is too old goes, from every file, and nothing else, whatever comes between."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_client import eventlog, health, logtrim, pruner, push, retention
from agent_client.contract.tables import RUNS
from agent_client.emitter import Emitter
from agent_client.files import telemetry_dir
from agent_client.journal import Journal
from agent_client.outbox import Outbox, outbox_path, push_dir
from agent_client.progress import load_progress
from agent_client.pruner import Pruner, PruneReport
from agent_client.push_send import PlanePush
from agent_client.retention import prune
from agent_client.store import DATABASE, LOG, Store, StoreError
from agent_client.upkeep import DAY_NS
from tests.agent_client.builders import (
    Anything,
    all_rows,
    call_ids,
    happening,
    log_records,
    one_of_each,
    query,
    run_event,
    span_ids,
    store_events,
)
from tests.agent_client.homes import enrolled
from tests.agent_client.loopback_console import FLEET_ID, LoopbackConsole
from tests.agent_client.retention_home import NEW_NS, NOW_NS, OLD_NS, call, fill

CANARY = "canary-of-someone"


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many segments, pages and batches of a few rows."""
    monkeypatch.setattr(eventlog, "SEGMENT_BYTES", 2000)
    monkeypatch.setattr(logtrim, "STEP_BYTES", 700)
    monkeypatch.setattr(pruner, "PAGE_ROWS", 3)
    monkeypatch.setattr(pruner, "BATCH_ROWS", 2)


def pruned(home: Path, **changes: Anything) -> PruneReport:
    return prune(home, **{"retention_days": 30, "now_ns": NOW_NS, **changes})


def rebuild(home: Path) -> None:
    journal = Journal(home)
    journal.rebuild()
    journal.close()


def bytes_of(home: Path) -> bytes:
    files = [path for path in telemetry_dir(home).rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


def assert_whole(home: Path) -> None:
    """Rows and lines of what is kept, nothing of what is not; a rebuild agrees."""
    assert span_ids(home) == call_ids(20, 40)
    lines = [r["span_id"] for r in log_records(home) if r["event"] == "model_call"]
    assert lines == call_ids(20, 40)
    runs = query(home, "SELECT run_id, end_reason, estimated_cost_usd FROM tel_runs ORDER BY seq")
    assert runs[-1] == ("run-100", "failed", 0.5)
    assert [run[0] for run in runs[:-1]] == [f"run-{n}" for n in range(20, 40, 4)]
    rows = all_rows(home)
    rebuild(home)
    assert all_rows(home) == rows


def test_what_is_too_old_goes_from_rows_and_log_and_a_rebuild_agrees(
    tmp_path: Path, small_steps: None
) -> None:
    fill(tmp_path)
    before = len(bytes_of(tmp_path))
    report = pruned(tmp_path)
    assert (report.rows["tel_runs"], report.rows["tel_model_calls"]) == (5, 20)
    assert (report.unsent_rows, report.oldest_kept_ns, report.hold) == (25, NEW_NS, "")
    assert report.log_files > 3
    assert 0 < report.log_bytes < before
    assert_whole(tmp_path)


def test_pruning_again_finds_nothing_and_reads_no_segment_again(
    tmp_path: Path, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    pruned(tmp_path)
    read: list[Path] = []

    def reading(trim: logtrim.SegmentTrim) -> Iterator[None]:
        read.append(trim._path)
        return iter(())

    monkeypatch.setattr(logtrim.SegmentTrim, "read", reading)
    again = pruned(tmp_path)
    assert (sum(again.rows.values()), again.log_files) == (0, 0)
    # But that of the run that began long ago: its early lines are old, and stay.
    assert len(read) <= 1


def test_every_table_is_pruned(tmp_path: Path) -> None:
    store_events(tmp_path, *one_of_each())
    report = pruned(tmp_path, now_ns=NOW_NS + 365 * DAY_NS, force=True)
    assert set(report.rows.values()) == {1}
    assert all(rows == [] for rows in all_rows(tmp_path).values())
    assert log_records(tmp_path) == []


def test_nothing_of_it_is_left_readable_in_any_file(tmp_path: Path, small_steps: None) -> None:
    events = [call(n, OLD_NS, provider=f"{CANARY}-{n}") for n in range(60)]
    store_events(tmp_path, *events[:30])
    store_events(tmp_path, call(99, NEW_NS), *events[30:], call(100, NEW_NS))
    assert CANARY.encode() in bytes_of(tmp_path)
    pruned(tmp_path)
    assert CANARY.encode() not in bytes_of(tmp_path)
    assert span_ids(tmp_path) == ["call-99", "call-100"]


def test_a_record_stays_readable_for_retention_and_a_day_at_most(tmp_path: Path) -> None:
    """Recovered late, it stands in a young segment; its age is its own all the same."""
    for day in range(5):
        at_ns = NOW_NS - (33 - day) * DAY_NS
        store_events(tmp_path, call(day, at_ns), call(100 + day, NEW_NS))
        log = telemetry_dir(tmp_path) / LOG
        os.utime(log, ns=(0, NOW_NS - (6 - day) * DAY_NS))
    for day in range(4):
        now_ns = NOW_NS + day * DAY_NS
        pruned(tmp_path, now_ns=now_ns)
        oldest_ns = min(record["end_ns"] for record in log_records(tmp_path))
        assert oldest_ns >= now_ns - 30 * DAY_NS
        store_events(tmp_path)
    assert [n for n in span_ids(tmp_path) if len(n) == 8] == call_ids(100, 105)


def test_the_database_gives_its_pages_back(tmp_path: Path) -> None:
    store_events(tmp_path, *(call(n, OLD_NS) for n in range(5000)))
    store_events(tmp_path, call(5000, NEW_NS))
    pruned(tmp_path)
    database = telemetry_dir(tmp_path) / DATABASE
    assert query(tmp_path, "PRAGMA freelist_count") == [(0,)]
    assert database.stat().st_size < 500_000


def test_an_open_run_of_a_living_process_stays_with_its_lines(
    tmp_path: Path, small_steps: None
) -> None:
    living = Emitter(tmp_path)
    living.emit(run_event(1, start_ns=OLD_NS, end_ns=None, end_reason=None))
    living.emit(call(1, OLD_NS))
    living.emit(call(2, NEW_NS))
    assert living.flush()
    pruned(tmp_path)
    assert query(tmp_path, "SELECT run_id FROM tel_runs") == [("run-1",)]
    assert span_ids(tmp_path) == ["call-2"]
    rows = all_rows(tmp_path)
    rebuild(tmp_path)
    assert all_rows(tmp_path) == rows
    living.close()


def test_lines_that_are_no_rows_are_as_old_as_they_say_or_as_their_segment(
    tmp_path: Path,
) -> None:
    folder = telemetry_dir(tmp_path)
    store_events(tmp_path, call(1, NEW_NS))
    (folder / f"events-{0:020}.jsonl").write_text(
        f'{{"event":"of_tomorrow","start_ns":{OLD_NS},"seq":0}}\n'
        f'{{"event":"of_tomorrow","start_ns":{NEW_NS},"seq":0}}\n'
        '{"event":"timeless","seq":0}\n{"event":"run","start_ns":"no","seq":0}\n{"event":"to'
    )
    os.utime(folder / f"events-{0:020}.jsonl", ns=(0, NEW_NS))
    pruned(tmp_path)
    kept = (folder / f"events-{0:020}.jsonl").read_text()
    assert kept.count("\n") == 3
    assert kept.endswith('{"event":"to')
    assert str(OLD_NS) not in kept
    pruned(tmp_path, now_ns=NOW_NS + 29 * DAY_NS)
    assert not (folder / f"events-{0:020}.jsonl").exists()


def test_dry_run_tells_the_same_and_changes_nothing(tmp_path: Path, small_steps: None) -> None:
    fill(tmp_path)
    store_events(tmp_path, call(200, NEW_NS))
    Journal(tmp_path).close()
    rows, log = all_rows(tmp_path), log_records(tmp_path)
    told = pruned(tmp_path, dry_run=True)
    assert (all_rows(tmp_path), log_records(tmp_path)) == (rows, log)
    assert pruned(tmp_path) == told


def test_a_home_where_nothing_was_recorded_stays_so(tmp_path: Path) -> None:
    assert pruned(tmp_path) == PruneReport()
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_as_it_goes(tmp_path: Path, small_steps: None) -> None:
    fill(tmp_path)
    told: list[PruneReport] = []
    report = pruned(tmp_path, progress=told.append)
    counts = [sum(step.rows.values()) for step in told]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5
    assert told[-1] == report


def test_what_was_set_aside_goes_at_the_same_age(tmp_path: Path) -> None:
    store_events(tmp_path, call(1, NEW_NS))
    push_dir(tmp_path).mkdir()
    folder = telemetry_dir(tmp_path)
    for path, at_ns in (
        (folder / f"{DATABASE}.corrupt-1", OLD_NS),
        (folder / f"{DATABASE}.corrupt-1-wal", OLD_NS),
        (folder / f"{DATABASE}.corrupt-2", NEW_NS),
        (push_dir(tmp_path) / "outbox.damaged", OLD_NS),
        (push_dir(tmp_path) / "outbox.mismatch", NEW_NS),
    ):
        path.write_bytes(b"evidence")
        os.utime(path, ns=(at_ns, at_ns))
    assert pruned(tmp_path, dry_run=True).set_aside_files == 3
    assert pruned(tmp_path).set_aside_files == 3
    assert [path.name for path in folder.glob("*.corrupt-*")] == [f"{DATABASE}.corrupt-2"]
    assert [path.name for path in push_dir(tmp_path).glob("outbox*")] == ["outbox.mismatch"]


# -- a kill, or another process, in between ----------------------------------------------------


def cutoff(home: Path) -> Pruner:
    return Pruner(Journal(home), NOW_NS - 30 * DAY_NS)


def test_a_prune_that_stops_anywhere_is_finished_by_the_next(
    tmp_path: Path, small_steps: None
) -> None:
    whole = tmp_path / "whole"
    fill(whole)
    steps = sum(1 for _ in cutoff_on_copy(whole, tmp_path / "counted"))
    assert steps > 40
    for stop in range(1, steps, 5):
        home = tmp_path / str(stop)
        for number, _ in enumerate(cutoff_on_copy(whole, home), start=1):
            if number == stop:
                break
        if stop % 2:
            rebuild(home)  # may bring rows back whose lines had not gone yet
        pruned(home)
        assert_whole(home)
        with Store(home) as store:
            assert health.expired(store.connection) >= 25


def cutoff_on_copy(home: Path, copy: Path) -> Iterator[bool]:
    shutil.copytree(home, copy)
    return cutoff(copy).steps()


def test_others_write_and_prune_between_two_steps(tmp_path: Path, small_steps: None) -> None:
    fill(tmp_path)
    one, other = cutoff(tmp_path).steps(), cutoff(tmp_path).steps()
    for number in range(1000, 1040):
        next(one, None), next(other, None)
        store_events(tmp_path, call(number, NEW_NS))
    for _ in itertools.zip_longest(one, other):
        pass
    assert span_ids(tmp_path) == call_ids(20, 40) + call_ids(1000, 1040)
    before = all_rows(tmp_path)
    rebuild(tmp_path)
    assert all_rows(tmp_path) == before
    assert not list(telemetry_dir(tmp_path).glob(".events-*"))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_segment_that_another_prune_made_shorter_is_left_to_it(
    tmp_path: Path, small_steps: None, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    monkeypatch.setattr(eventlog, "SEGMENT_BYTES", 50_000)
    calls = [call(n, NEW_NS if is_first == (n < 20) else OLD_NS) for n in range(40)]
    store_events(tmp_path, *calls)
    journal = Journal(tmp_path)
    with journal.locked() as connection:
        journal.rotate(connection)
    slow = cutoff(tmp_path)
    (segment,) = slow._segments()
    steps = slow._prune_segment(segment)
    for _ in range(12):
        next(steps)
    pruned(tmp_path, force=True)
    states = query(tmp_path, "SELECT * FROM tel_state WHERE key LIKE 'retention.oldest%'")
    assert len(list(itertools.islice(steps, 200))) < 200
    kept = call_ids(0, 20) if is_first else call_ids(20, 40)
    assert [record["span_id"] for record in log_records(tmp_path)] == kept
    assert states == query(tmp_path, "SELECT * FROM tel_state WHERE key LIKE 'retention.oldest%'")
    assert not list(telemetry_dir(tmp_path).glob(".events-*"))


def test_a_segment_that_is_gone_between_two_steps_stops_no_prune(
    tmp_path: Path, small_steps: None
) -> None:
    fill(tmp_path)
    working = cutoff(tmp_path)
    steps = working.steps()
    while not working.report.log_files:
        next(steps)
    for segment in eventlog.closed_segments(telemetry_dir(tmp_path))[:-2]:
        segment.path.unlink()
    for _ in steps:
        pass
    assert pruned(tmp_path).rows == dict.fromkeys(working.report.rows, 0)


def test_a_run_that_goes_on_while_it_is_pruned_stays(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(1, start_ns=OLD_NS, end_ns=OLD_NS + 1))
    working = cutoff(tmp_path)
    assert working._delete(RUNS, [99])
    store_events(tmp_path, run_event(1, start_ns=OLD_NS, end_ns=NEW_NS))
    assert working._delete(RUNS, [1])
    assert query(tmp_path, "SELECT end_ns FROM tel_runs") == [(NEW_NS,)]
    assert sum(working.report.rows.values()) == 0


def test_a_rewrite_that_a_kill_left_is_removed_once_it_is_nobodys(tmp_path: Path) -> None:
    store_events(tmp_path, call(1, NEW_NS))
    left = [telemetry_dir(tmp_path) / f".events-{n}.jsonl.1.tmp" for n in range(2)]
    for path in left:
        path.write_text("half")
    os.utime(left[0], (0, 0))
    pruned(tmp_path)
    assert [path.exists() for path in left] == [False, True]


# -- the ledger ----------------------------------------------------------------------------


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


def test_what_expired_before_it_was_pushed_is_in_the_ledger_and_is_told(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    store_events(tmp_path, *(call(n, OLD_NS) for n in range(4)))
    enrolled(tmp_path, console)
    assert push.push_once(tmp_path).rows == 4
    store_events(tmp_path, *(call(n, OLD_NS) for n in range(4, 9)), call(9, NEW_NS))
    report = pruned(tmp_path)
    assert (report.rows["tel_model_calls"], report.unsent_rows) == (9, 5)
    with Store(tmp_path) as store:
        cursor = load_progress(store, FLEET_ID).cursor
        acknowledged, pending = cursor, store.pending_count(cursor)
        assert acknowledged + pending + health.expired(store.connection) == store.last_seq()
        assert health.losses(store) == {"expired": 5}
        assert health.totals(store.connection) == {}
    assert push.push_once(tmp_path).rows == 1
    with Store(tmp_path) as store:
        assert health.losses(store) == {}
    told = console.sent("/api/v1/telemetry")[-1].headers["telemetry-losses"]
    assert told == '{"expired":5}'


def test_a_batch_on_its_way_with_expired_rows_goes_anew_without_them(
    tmp_path: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_events(tmp_path, call(0, OLD_NS), call(1, NEW_NS))
    enrolled(tmp_path, console)
    with monkeypatch.context() as patch:
        patch.setattr(PlanePush, "_deliver", lambda *_: push.PushResult("later", 5))
        push.push_once(tmp_path)
    assert outbox_path(tmp_path).exists()
    assert pruned(tmp_path).unsent_rows == 1
    assert not outbox_path(tmp_path).exists()
    assert push.push_once(tmp_path).rows == 1
    assert [row["span_id"] for row in console.rows.values()] == ["call-1"]


def test_a_summary_on_its_way_of_an_expired_run_does_not_leave(
    tmp_path: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("telemetry: {consent_state: aggregate}\n")
    enrolled(tmp_path, console)
    push.push_once(tmp_path)
    began_ns = time.time_ns() + DAY_NS
    store_events(tmp_path, run_event(start_ns=began_ns, end_ns=began_ns))
    deliver = PlanePush._deliver

    def only_rows(self: PlanePush, outbox: Outbox) -> push.PushResult | None:
        is_summary = self.plane.name == "aggregate"
        return push.PushResult("later", 5) if is_summary else deliver(self, outbox)

    with monkeypatch.context() as patch:
        patch.setattr(PlanePush, "_deliver", only_rows)
        push.push_once(tmp_path)
    assert outbox_path(tmp_path, "aggregate").exists()
    prune(tmp_path, retention_days=1, now_ns=began_ns + 3 * DAY_NS, force=True)
    assert not outbox_path(tmp_path, "aggregate").exists()


def test_a_batch_on_its_way_without_expired_rows_is_left_alone(
    tmp_path: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_events(tmp_path, call(0, OLD_NS))
    enrolled(tmp_path, console)
    push.push_once(tmp_path)
    store_events(tmp_path, call(1, NEW_NS))
    with monkeypatch.context() as patch:
        patch.setattr(PlanePush, "_deliver", lambda *_: push.PushResult("later", 5))
        push.push_once(tmp_path)
    assert pruned(tmp_path).rows["tel_model_calls"] == 1
    assert outbox_path(tmp_path).exists()


def test_a_push_that_runs_holds_a_prune_up_and_nothing_is_miscounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BUSY_S", 0.1)
    fill(tmp_path)
    push_dir(tmp_path).mkdir()
    fd = os.open(push_dir(tmp_path) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    report = pruned(tmp_path)
    assert (report.hold, sum(report.rows.values())) == ("push", 0)
    os.close(fd)
    assert pruned(tmp_path).hold == ""
    assert_whole(tmp_path)


def test_a_database_that_cannot_be_pruned_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    monkeypatch.setattr(pruner, "_PAGES", dict.fromkeys(pruner._PAGES, "SELECT nothing"))
    with pytest.raises(StoreError, match="doctor"):
        pruned(tmp_path)


def test_the_time_of_a_happening_is_its_moment(tmp_path: Path) -> None:
    store_events(tmp_path, happening("cron", 1, ts_ns=OLD_NS), happening("cron", 2, ts_ns=NEW_NS))
    pruned(tmp_path)
    assert query(tmp_path, "SELECT span_id FROM tel_cron_events") == [("cron-2",)]
    assert [record["span_id"] for record in log_records(tmp_path)] == ["cron-2"]
