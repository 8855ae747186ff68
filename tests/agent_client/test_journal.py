"""Log and database: written once, in order, rebuilt to the same rows."""

from __future__ import annotations

import itertools
import marshal
import os
import shutil
from pathlib import Path

import pytest

from agent_client import spool
from agent_client.contract.tables import TOOL_CALLS
from agent_client.eventlog import closed_segments
from agent_client.files import telemetry_dir
from agent_client.frames import decode
from agent_client.journal import Journal, oldest_chunks, set_database_aside
from agent_client.retention import prune
from agent_client.spool import Chunk, Ring, Spool
from agent_client.store import DATABASE, LOG
from tests.agent_client.builders import (
    Anything,
    all_rows,
    error_event,
    intake,
    ledger,
    log_records,
    model_call,
    query,
    run_event,
    span_ids,
    store_events,
    tool_call,
)


def frame(event: Anything) -> bytes:
    return marshal.dumps((0, event.to_dict()), 2)


def write(home: Path, *intakes: Anything) -> list[dict[str, object]]:
    journal = Journal(home)
    try:
        return journal.write(list(intakes))
    finally:
        journal.close()


def test_frames_given_twice_are_stored_once(tmp_path: Path) -> None:
    again = intake(frame(model_call(0)), frame(model_call(1)))
    assert len(write(tmp_path, again)) == 2
    assert write(tmp_path, again) == []
    assert span_ids(tmp_path) == ["call-0", "call-1"]
    assert len(log_records(tmp_path)) == 2


def test_a_gap_in_a_rings_numbers_is_what_overflowed(tmp_path: Path) -> None:
    write(tmp_path, intake(frame(model_call(0))))
    write(tmp_path, intake(frame(model_call(5)), first_k=5))
    write(tmp_path, intake(first_k=9))
    assert ledger(tmp_path) == (2, {"overflow": 7})


def test_frames_of_several_rings_are_stored_in_emit_order(tmp_path: Path) -> None:
    one = intake(frame(model_call(2)), ring="p.0", first_k=2)
    two = intake(frame(model_call(0)), frame(model_call(1)), ring="p.1")
    write(tmp_path, one, two)
    assert span_ids(tmp_path) == ["call-0", "call-1", "call-2"]


@pytest.mark.parametrize(
    "payload",
    [b"garbage", marshal.dumps(7), marshal.dumps((99, (1,))), marshal.dumps((0, (1,)))],
)
def test_a_frame_that_is_no_event_is_logged_and_counted(tmp_path: Path, payload: bytes) -> None:
    write(tmp_path, intake(payload, frame(model_call(1))))
    assert [record["event"] for record in log_records(tmp_path)] == ["unreadable", "model_call"]
    assert ledger(tmp_path) == (2, {"invalid": 1})


def test_a_frame_by_position_is_read_as_its_kind() -> None:
    values: Anything = tuple(tool_call().to_dict()[name] for name in TOOL_CALLS.column_names())
    assert decode(marshal.dumps((2, values), 2)).event == tool_call().to_dict()


def test_a_later_row_of_a_run_wins_and_a_known_cost_stays(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(estimated_cost_usd=0.5, cost_status="estimated"))
    store_events(tmp_path, run_event(end_reason="failed"))
    assert query(tmp_path, "SELECT end_reason, estimated_cost_usd, seq FROM tel_runs") == [
        ("failed", 0.5, 2)
    ]


def test_a_child_row_is_inserted_once(tmp_path: Path) -> None:
    store_events(tmp_path, model_call(model="first"))
    store_events(tmp_path, model_call(model="second"))
    assert query(tmp_path, "SELECT model FROM tel_model_calls") == [("first",)]


def fill(home: Path) -> None:
    events = [run_event(), model_call(), tool_call(), error_event(), run_event(end_reason="failed")]
    write(home, intake(*map(frame, events), b"garbage", encode=3))


def test_a_ring_that_overflows_while_it_is_read_overtakes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MAX_FRAMES", 4)
    fast, slow = (rings := Spool(tmp_path)).new_ring(), rings.new_ring()
    for ring in (fast, fast, fast, fast, slow, slow, slow):
        ring.append(b"payload")
    looks = itertools.count()

    def read(ring: Ring, max_frames: int) -> Chunk:
        if next(looks) == 2:  # between the look and the reading
            for _ in range(4):
                fast.append(b"payload")
        return whole(ring, max_frames)

    whole = Ring.read
    monkeypatch.setattr(Ring, "read", read)
    first = [frame.n for chunk in oldest_chunks([fast, slow], 6) for frame in chunk.frames]
    assert first == []  # 0 to 3 are gone, and 7 to 10 come after 4 to 6
    for ring, chunk in zip((fast, slow), chunks := oldest_chunks([fast, slow], 8), strict=True):
        ring.release(chunk)
    assert sorted(frame.n for chunk in chunks for frame in chunk.frames) == [4, 5, 6, 7, 8, 9, 10]
    rings.remove()


def test_rebuild_gives_the_same_rows_and_leaves_the_books_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    rows, books = all_rows(tmp_path), ledger(tmp_path)
    journal = Journal(tmp_path)
    assert journal.rebuild() == 6
    assert journal.rebuild() == 6
    journal.close()
    assert all_rows(tmp_path) == rows
    assert ledger(tmp_path) == books == (6, {"encode": 3, "invalid": 1})


def test_rebuild_keeps_rows_that_the_log_no_longer_has(tmp_path: Path) -> None:
    store_events(tmp_path, model_call(0))
    (telemetry_dir(tmp_path) / LOG).write_bytes(b"")
    journal = Journal(tmp_path)
    assert journal.rebuild() == 0
    store_events(tmp_path, model_call(1))
    assert journal.rebuild() == 1
    journal.close()
    assert query(tmp_path, "SELECT seq FROM tel_model_calls ORDER BY seq") == [(1,), (2,)]


def test_rebuild_keeps_rows_of_a_segment_that_other_hands_deleted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        store_events(tmp_path, model_call(number))
        with journal.locked() as connection:
            journal.rotate(connection)
    segments = closed_segments(telemetry_dir(tmp_path))
    segments[1].path.unlink()
    before = all_rows(tmp_path)
    assert journal.rebuild() == 2
    journal.close()
    assert all_rows(tmp_path) == before


def test_a_database_that_is_gone_is_filled_from_the_log(tmp_path: Path) -> None:
    fill(tmp_path)
    rows = all_rows(tmp_path)
    assert set_database_aside(tmp_path) is not None
    write(tmp_path, intake())
    assert all_rows(tmp_path) == rows
    assert set_database_aside(tmp_path / "nowhere") is None


def test_what_retention_took_is_no_overflow_to_a_new_database(tmp_path: Path) -> None:
    calls = [frame(model_call(n, start_ns=1, end_ns=2)) for n in range(10)]
    write(tmp_path, intake(*calls), intake(*map(frame, [model_call(90)]), ring="p.1"))
    write(tmp_path, intake(frame(model_call(91)), first_k=13))
    assert ledger(tmp_path)[1] == {"overflow": 3}
    assert prune(tmp_path, retention_days=30, force=True).rows["tel_model_calls"] == 10
    set_database_aside(tmp_path)
    write(tmp_path, intake())
    assert span_ids(tmp_path) == ["call-90", "call-91"]
    assert ledger(tmp_path) == (2, {"overflow": 3})


def test_a_log_cut_by_other_hands_loses_no_row_and_goes_on(tmp_path: Path) -> None:
    store_events(tmp_path, model_call(0), model_call(1))
    os.truncate(telemetry_dir(tmp_path) / LOG, 10)
    store_events(tmp_path, model_call(2))
    assert span_ids(tmp_path) == ["call-0", "call-1", "call-2"]
    assert log_records(tmp_path)[-1]["seq"] == 3


def test_a_folder_emptied_under_a_running_writer_is_written_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write([intake(frame(model_call(0)))])
    shutil.rmtree(telemetry_dir(tmp_path))
    journal.write([intake(frame(model_call(1)), first_k=1)])
    journal.close()
    assert span_ids(tmp_path) == ["call-1"]
    assert [record["span_id"] for record in log_records(tmp_path)] == ["call-1"]


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    store_events(tmp_path, model_call(0))
    with (telemetry_dir(tmp_path) / LOG).open("ab") as log:
        log.write(b'[]\n{}\n{"seq": "x"}\nnull\n' + b"[" * 100_000 + b"\n\xff\n")
    store_events(tmp_path, model_call(1))
    assert span_ids(tmp_path) == ["call-0", "call-1"]


def test_a_log_of_many_blocks_is_read_whole(tmp_path: Path) -> None:
    long = dict.fromkeys(("provider", "model", "base_url", "response_model"), "x" * 200)
    events = [model_call(number, **long) for number in range(1000)]
    store_events(tmp_path, *events)
    assert (telemetry_dir(tmp_path) / LOG).stat().st_size > 1 << 20
    set_database_aside(tmp_path)
    write(tmp_path, intake())
    assert len(span_ids(tmp_path)) == 1000


def test_a_line_that_json_cannot_write_is_replaced_and_counted(tmp_path: Path) -> None:
    payload = marshal.dumps((0, {"event": "run", "run_id": "r", "start_ns": 10**5000}), 2)
    write(tmp_path, intake(payload))
    assert [record["event"] for record in log_records(tmp_path)] == ["unreadable"]
    assert ledger(tmp_path) == (1, {"invalid": 1})


def test_a_forked_childs_journal_closes_files_and_not_the_database(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write([intake(frame(model_call()))])
    connection, fd = journal._connection, journal.log._fd
    journal.forget()
    assert connection is not None
    assert connection.execute("SELECT count(*) FROM tel_model_calls").fetchone() == (1,)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    connection.close()


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in telemetry_dir(tmp_path).iterdir()}
    assert telemetry_dir(tmp_path).stat().st_mode & 0o777 == 0o700
    assert {modes[LOG], modes[DATABASE], modes["journal.lock"]} == {0o600}
