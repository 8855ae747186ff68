"""Segments: when they close, what a kill in between leaves, and that they read as one log."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agent_client import eventlog, health
from agent_client.eventlog import closed_segments, log_files
from agent_client.files import telemetry_dir
from agent_client.journal import Journal, set_database_aside
from agent_client.recovery import recover
from agent_client.store import LOG
from tests.agent_client.builders import (
    Anything,
    all_rows,
    call_ids,
    finish,
    ledger,
    log_records,
    model_call,
    run_event,
    span_ids,
    start,
    store_events,
)

DAY_S = 86_400


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "SEGMENT_BYTES", 1000)


def names(home: Path) -> list[str]:
    return [path.name for path in log_files(telemetry_dir(home))]


def age(path: Path, seconds: float) -> None:
    made_s = path.stat().st_mtime - seconds
    os.utime(path, (made_s, made_s))


def rebuild(home: Path) -> int:
    journal = Journal(home)
    try:
        return journal.rebuild()
    finally:
        journal.close()


def test_a_full_segment_is_closed_under_the_seq_of_its_first_record(
    tmp_path: Path, small_segments: None
) -> None:
    for number in range(5):
        store_events(tmp_path, *(model_call(10 * number + n) for n in range(10)))
    assert names(tmp_path) == [f"events-{first:020}.jsonl" for first in (1, 11, 21, 31)] + [LOG]
    assert [record["seq"] for record in log_records(tmp_path)] == list(range(1, 51))


def test_the_first_event_of_a_day_begins_a_new_segment(tmp_path: Path) -> None:
    store_events(tmp_path, model_call(0))
    store_events(tmp_path, model_call(1))
    assert names(tmp_path) == [LOG]
    age(telemetry_dir(tmp_path) / LOG, DAY_S)
    store_events(tmp_path, model_call(2))
    assert names(tmp_path) == [f"events-{1:020}.jsonl", LOG]
    assert span_ids(tmp_path) == call_ids(0, 3)


def test_closed_segments_are_the_owners_alone(tmp_path: Path, small_segments: None) -> None:
    for number in range(2):
        store_events(tmp_path, *(model_call(10 * number + n) for n in range(10)))
    assert {path.stat().st_mode & 0o777 for path in log_files(telemetry_dir(tmp_path))} == {0o600}


def fill(home: Path) -> None:
    for number in range(4):
        store_events(home, run_event(end_reason="failed", estimated_cost_usd=number or None))
        store_events(home, *(model_call(10 * number + n) for n in range(10)))


def test_rebuild_reads_all_segments_to_the_same_rows(tmp_path: Path, small_segments: None) -> None:
    fill(tmp_path)
    rows = all_rows(tmp_path)
    assert len(names(tmp_path)) > 3
    assert rebuild(tmp_path) == 44
    assert all_rows(tmp_path) == rows


def test_a_database_that_is_gone_is_filled_from_all_segments(
    tmp_path: Path, small_segments: None
) -> None:
    fill(tmp_path)
    rows = all_rows(tmp_path)
    set_database_aside(tmp_path)
    store_events(tmp_path)
    assert all_rows(tmp_path) == rows


def rotate(home: Path) -> None:
    journal = Journal(home)
    with journal.locked() as connection:
        journal.rotate(connection)
    journal.close()


def test_a_log_whose_last_segment_was_just_closed_is_read_whole(tmp_path: Path) -> None:
    fill(tmp_path)
    rotate(tmp_path)
    rows = all_rows(tmp_path)
    assert rebuild(tmp_path) == 44
    assert all_rows(tmp_path) == rows


def test_a_database_that_is_gone_after_a_rotation_gives_no_seq_twice(tmp_path: Path) -> None:
    store_events(tmp_path, *(model_call(n) for n in range(5)))
    rotate(tmp_path)
    set_database_aside(tmp_path)
    store_events(tmp_path, model_call(5))
    assert span_ids(tmp_path) == call_ids(0, 6)
    assert [record["seq"] for record in log_records(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_torn_tail_of_a_closed_segment_swallows_nothing(
    tmp_path: Path, small_segments: None
) -> None:
    fill(tmp_path)
    rows = all_rows(tmp_path)
    for segment in closed_segments(telemetry_dir(tmp_path)):
        with segment.path.open("ab") as file:
            file.write(b'{"event": "model_call", "span_id": "to')
    assert rebuild(tmp_path) == 44
    assert all_rows(tmp_path) == rows


def test_a_segment_with_nothing_but_garbage_is_not_closed(
    tmp_path: Path, small_segments: None
) -> None:
    store_events(tmp_path)
    (telemetry_dir(tmp_path) / LOG).write_bytes(b"x" * 2000)
    store_events(tmp_path, model_call(0))
    assert names(tmp_path) == [LOG]
    store_events(tmp_path, model_call(1))
    assert names(tmp_path) == [f"events-{1:020}.jsonl", LOG]
    assert rebuild(tmp_path) == 2


def test_a_segment_whose_name_is_taken_is_gone_on_with(
    tmp_path: Path, small_segments: None
) -> None:
    store_events(tmp_path, *map(model_call, range(10)))
    taken = telemetry_dir(tmp_path) / f"events-{1:020}.jsonl"
    taken.write_bytes(b"somebody's")
    store_events(tmp_path, model_call(10))
    assert taken.read_bytes() == b"somebody's"
    assert span_ids(tmp_path) == call_ids(0, 11)


def test_a_place_of_the_first_version_is_understood_after_a_rotation(tmp_path: Path) -> None:
    store_events(tmp_path, *map(model_call, range(3)))
    with Journal(tmp_path).locked() as connection:
        connection.execute("DELETE FROM tel_state WHERE key = 'log_segment'")
    folder = telemetry_dir(tmp_path)
    (folder / LOG).rename(folder / f"events-{1:020}.jsonl")
    with Journal(tmp_path).locked() as connection:
        connection.execute("DELETE FROM tel_model_calls")
    store_events(tmp_path, model_call(3))
    assert span_ids(tmp_path) == ["call-3"]  # nothing before the place was read again


DIE_AT = {
    "before the rename": "Path.rename = die",
    "after the rename": "EventLog.close = die",
    "after the new file": "eventlog._write_all = die",
    "in the middle of the append": "eventlog._write_all = half_then_die",
    "before the commit": "journal._put_place = die",
}


@pytest.mark.parametrize("moment", DIE_AT)
def test_a_kill_around_a_rotation_loses_and_doubles_nothing(tmp_path: Path, moment: str) -> None:
    script = f"""
from agent_client import eventlog, journal
from agent_client.eventlog import EventLog
eventlog.SEGMENT_BYTES = 5000
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def half_then_die(fd, data):
    os.write(fd, data[: len(data) // 2])
    die()
def arm():
    {DIE_AT[moment]}
rotate, rotations = EventLog.rotate, []
def rotating(log):
    rotations.append(1)
    if len(rotations) == 3 and "the rename" in "{moment}":
        arm()
    done = rotate(log)
    if len(rotations) == 3:
        arm()
    return done
EventLog.rotate = rotating
e = Emitter(home)
for n in range(300):
    e.emit(model_call(n))
    if n % 30 == 0:
        e.flush()
e.flush()
"""
    finish(start(tmp_path, script), returncode=-signal.SIGKILL)
    recover(tmp_path)
    found = span_ids(tmp_path)
    assert len(found) > 60
    assert found == call_ids(0, len(found))
    assert ledger(tmp_path) == (len(found), {})
    assert [record["seq"] for record in log_records(tmp_path)] == list(range(1, len(found) + 1))
    rows = all_rows(tmp_path)
    rebuild(tmp_path)
    assert all_rows(tmp_path) == rows


def test_processes_that_rotate_under_each_other_write_one_log(tmp_path: Path) -> None:
    script = """
from agent_client import eventlog
eventlog.SEGMENT_BYTES = 3000
e = Emitter(home)
for n in range(1000 * INDEX, 1000 * INDEX + 200):
    e.emit(model_call(n))
    if n % 20 == 0:
        e.flush()
e.close(20)
"""
    for process in [start(tmp_path, script.replace("INDEX", str(i))) for i in range(4)]:
        finish(process)
    assert len(names(tmp_path)) > 10
    assert [record["seq"] for record in log_records(tmp_path)] == list(range(1, 801))
    expected = [name for i in range(4) for name in call_ids(1000 * i, 1000 * i + 200)]
    assert sorted(span_ids(tmp_path)) == sorted(expected)
    assert ledger(tmp_path) == (800, {})


def test_the_size_of_the_log_is_that_of_all_segments(tmp_path: Path, small_segments: None) -> None:
    fill(tmp_path)
    sizes: list[Anything] = [path.stat().st_size for path in log_files(telemetry_dir(tmp_path))]
    assert health.snapshot(tmp_path).log_bytes == sum(sizes) > max(sizes)
