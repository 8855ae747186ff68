"""Disks that are full, read-only, locked, corrupt or hung: emit goes on, the books balance."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent_client import emitter as emitter_module
from agent_client import journal as journal_module
from agent_client import store as store_module
from agent_client.emitter import Emitter
from agent_client.files import telemetry_dir
from agent_client.journal import LOCK
from agent_client.recovery import recover
from agent_client.store import DATABASE, LOG, make_folder
from tests.agent_client.builders import (
    all_rows,
    call_ids,
    ledger,
    log_records,
    model_call,
    run_event,
    span_ids,
    wait_until,
)

MAX_FRAMES = 10_000


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitter_module, "RETRY_S", (0.01,))
    monkeypatch.setattr(emitter_module, "GATHER_S", 0)


@contextmanager
def hung_disk(home: Path) -> Iterator[None]:
    """The journal's lock held by somebody else: every write waits."""
    fd = os.open(make_folder(home) / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def test_a_hung_disk_bounds_the_queue_and_the_oldest_go_first(
    emitter: Emitter, tmp_path: Path
) -> None:
    with hung_disk(tmp_path):
        for number in range(MAX_FRAMES + 500):
            emitter.emit(model_call(number))
        stats = emitter.stats()
        assert (stats.emitted, stats.queued, stats.written) == (10_500, 10_000, 0)
        assert stats.dropped["overflow"] == 500
        assert not emitter.flush(0.01)
    assert emitter.flush(30)
    assert span_ids(tmp_path) == call_ids(500, 10_500)
    assert ledger(tmp_path) == (10_000, {"overflow": 500})


def test_the_books_balance_when_the_disk_hangs_now_and_then(tmp_path: Path) -> None:
    small = Emitter(tmp_path, capacity_bytes=1 << 18)
    for burst in range(6):
        with hung_disk(tmp_path):
            for number in range(2000):
                small.emit(model_call(2000 * burst + number))
        wait_until(lambda burst=burst: small.stats().written > 100 * burst)  # type: ignore[misc]  # bound now
    small.close(20)
    stored, lost = ledger(tmp_path)
    assert lost["overflow"] > 0
    assert stored + lost["overflow"] == 12_000
    assert len(span_ids(tmp_path)) == len(set(span_ids(tmp_path))) == stored
    stats = small.stats()
    assert (stats.written, stats.dropped["overflow"]) == (stored, lost["overflow"])


def test_closing_on_a_hung_disk_keeps_the_events_for_the_next_process(tmp_path: Path) -> None:
    stuck = Emitter(tmp_path)
    with hung_disk(tmp_path):
        stuck.emit(model_call(1))
        stuck.close(0.05)
        assert stuck._thread is not None
        assert stuck._thread.is_alive()
    stuck._thread.join(10)
    assert not stuck._thread.is_alive()
    # What this process holds it holds to its end; a later close lets go.
    stuck.close()
    recover(tmp_path)
    assert span_ids(tmp_path) == ["call-1"]
    assert ledger(tmp_path) == (1, {})


def test_a_folder_that_cannot_be_made_loses_no_emit(tmp_path: Path) -> None:
    (tmp_path / "telemetry").write_text("in the way")
    made = Emitter(tmp_path)
    made.emit(model_call(1))
    assert not made.flush(0.05)
    (tmp_path / "telemetry").unlink()
    assert made.flush()
    made.close()
    assert span_ids(tmp_path) == ["call-1"]


@pytest.mark.parametrize("is_made", [True, False])
def test_a_living_process_without_a_spool_folder_is_booked_on_where_it_was(
    tmp_path: Path, is_made: bool
) -> None:
    spool = telemetry_dir(tmp_path) / "spool"
    if not is_made:
        spool.parent.mkdir()
        spool.write_text("in the way")
    recorder = Emitter(tmp_path)
    recorder.emit(model_call(0))
    assert recorder.flush()
    if is_made:
        shutil.rmtree(spool)
    recover(tmp_path)  # another process takes it for dead
    recorder.emit(model_call(1))
    assert recorder.flush()
    recorder.close()
    assert ledger(tmp_path) == (2, {})


def test_a_full_disk_under_the_log_leaves_no_torn_line(
    emitter: Emitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitter.emit(model_call(0))
    assert emitter.flush()
    before = (tmp_path / "telemetry" / LOG).read_bytes()
    write, log_fd = os.write, emitter._journal.log._fd

    def full(fd: int, data: bytes) -> int:
        if fd != log_fd:
            return write(fd, data)
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:30])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        emitter.emit(model_call(1))
        wait_until(lambda: not emitter.flush(0.02))
        emitter.emit(model_call(2))
    assert emitter.flush()
    assert (tmp_path / "telemetry" / LOG).read_bytes().startswith(before)
    assert span_ids(tmp_path) == call_ids(0, 3)
    assert len(log_records(tmp_path)) == 3


def test_a_full_disk_under_the_spool_still_stores_events(
    emitter: Emitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    emitter.emit(model_call(1))
    assert emitter.flush()
    assert span_ids(tmp_path) == ["call-1"]


def test_a_locked_database_is_waited_for(
    emitter: Emitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.02)
    emitter.emit(model_call(0))
    assert emitter.flush()
    path = tmp_path / "telemetry" / DATABASE
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        emitter.emit(model_call(1))
        assert not emitter.flush(0.1)
        emitter.emit(model_call(2))
        other.execute("ROLLBACK")
    assert emitter.flush()
    assert span_ids(tmp_path) == call_ids(0, 3)
    assert len(log_records(tmp_path)) == 3


def test_a_commit_that_fails_after_the_log_was_written_stores_once(
    emitter: Emitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter(range(3))
    put_int = journal_module._put_int

    def failing(connection: sqlite3.Connection, key: str, value: int) -> None:
        if key == "log_offset" and next(failures, None) is not None:
            raise sqlite3.OperationalError("disk I/O error")
        put_int(connection, key, value)

    monkeypatch.setattr(journal_module, "_put_int", failing)
    for number in range(300):
        emitter.emit(model_call(number))
    assert emitter.flush()
    assert span_ids(tmp_path) == call_ids(0, 300)
    assert len(log_records(tmp_path)) == 300
    assert ledger(tmp_path) == (300, {})


def test_a_corrupt_database_is_set_aside_and_filled_again_from_the_log(
    emitter: Emitter, tmp_path: Path
) -> None:
    for number in range(20):
        emitter.emit(model_call(number))
        emitter.emit(run_event(number % 5))
    emitter.close()
    before = all_rows(tmp_path)
    database = tmp_path / "telemetry" / DATABASE
    database.write_bytes(b"not a database at all" * 1000)
    for suffix in ("-wal", "-shm"):
        database.with_name(DATABASE + suffix).unlink(missing_ok=True)
    recover(tmp_path)
    assert all_rows(tmp_path) == before
    assert ledger(tmp_path) == (40, {})
    (aside,) = (tmp_path / "telemetry").glob(f"{DATABASE}.corrupt-*")
    assert aside.read_bytes().startswith(b"not a database")


def test_a_database_that_turns_corrupt_under_a_running_writer_loses_nothing(
    emitter: Emitter, tmp_path: Path
) -> None:
    emitter.emit(model_call(0))
    assert emitter.flush()
    database = tmp_path / "telemetry" / DATABASE
    replaced = database.with_name("other")
    replaced.write_bytes(b"not a database at all" * 1000)
    replaced.rename(database)
    for suffix in ("-wal", "-shm"):
        database.with_name(DATABASE + suffix).unlink(missing_ok=True)
    emitter.emit(model_call(1))
    assert emitter.flush()
    assert span_ids(tmp_path) == call_ids(0, 2)


def test_a_database_that_was_deleted_is_made_again(emitter: Emitter, tmp_path: Path) -> None:
    emitter.emit(model_call(0))
    assert emitter.flush()
    for path in (tmp_path / "telemetry").glob(f"{DATABASE}*"):
        path.unlink()
    emitter.emit(model_call(1))
    assert emitter.flush()
    assert span_ids(tmp_path) == call_ids(0, 2)


def test_a_torn_last_line_does_not_swallow_the_next_record(
    emitter: Emitter, tmp_path: Path
) -> None:
    emitter.emit(model_call(0))
    assert emitter.flush()
    with (tmp_path / "telemetry" / LOG).open("ab") as log:
        log.write(b'{"event": "model_call", "span_id": "to')
    emitter.emit(model_call(1))
    assert emitter.flush()
    assert span_ids(tmp_path) == call_ids(0, 2)
    assert [record["span_id"] for record in log_records(tmp_path)] == call_ids(0, 2)


def test_a_writer_that_cannot_recover_others_still_writes(
    emitter: Emitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("anything")

    monkeypatch.setattr(emitter_module, "recover", broken)
    emitter.emit(model_call(1))
    assert emitter.flush()
    assert span_ids(tmp_path) == ["call-1"]


def test_without_threads_events_wait_in_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_: object) -> None:
        raise RuntimeError("can't start new thread")

    made = Emitter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        made.emit(model_call(1))
        assert not made.flush(0.01)
        made.close(0.01)
    assert recover(tmp_path).events == 1
    assert span_ids(tmp_path) == ["call-1"]
