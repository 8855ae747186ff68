"""What dead processes left: their runs are closed once, the living are left alone."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent_client import closing
from agent_client.contract.events import Event
from agent_client.emitter import Emitter
from agent_client.files import telemetry_dir
from agent_client.ids import id_within
from agent_client.journal import Journal
from agent_client.recovery import RecoveryReport, recover
from agent_client.spool import Spool, dead_spools
from agent_client.store import DATABASE, Store, StoreError
from tests.agent_client.builders import (
    SECOND_NS,
    START_NS,
    Anything,
    all_rows,
    error_event,
    finish,
    happening,
    ledger,
    log_records,
    model_call,
    query,
    run_event,
    span_event,
    start,
    tool_call,
)

LATER_NS = START_NS + 5_000_000_000


def open_run(number: int = 0, **changes: object) -> Event:
    return run_event(number, end_ns=None, end_reason=None, **changes)


def killed(home: Path, *events: Event) -> None:
    """A process that emitted these and was gone."""
    recorder = Emitter(home)
    for event in events:
        recorder.emit(event)
    # As SIGKILL leaves it: the lock is free, the files are there, the writer stops.
    assert recorder.flush()
    recorder._stopping = True
    recorder._wake.put(None)
    assert recorder._thread is not None
    recorder._thread.join(10)
    recorder._journal.close()
    assert recorder._spool is not None
    recorder._spool.abandon()
    recorder._spool = None


def run_row(home: Path, number: int = 0) -> tuple[object, ...]:
    (row,) = query(
        home,
        "SELECT end_reason, end_ns, model_call_count, tool_call_count, error_count FROM tel_runs "
        "WHERE run_id = ?",
        f"run-{number}",
    )
    return row


def test_a_run_no_signal_closed_is_abandoned_at_its_last_event(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), model_call(), tool_call(end_ns=LATER_NS))
    assert recover(tmp_path).runs_closed == 1
    assert run_row(tmp_path) == ("abandoned", LATER_NS, 1, 1, 0)


def test_a_run_that_ended_in_a_given_up_request_has_failed(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), model_call(), error_event(ts_ns=LATER_NS))
    recover(tmp_path)
    assert run_row(tmp_path) == ("failed", LATER_NS, 1, 0, 1)


def test_a_run_that_went_on_after_an_error_is_abandoned(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), error_event(), model_call(end_ns=LATER_NS))
    recover(tmp_path)
    assert run_row(tmp_path) == ("abandoned", LATER_NS, 1, 0, 1)


def test_an_error_that_was_retried_does_not_fail_a_run(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), error_event(recovery="retried"))
    recover(tmp_path)
    assert run_row(tmp_path)[0] == "abandoned"


def test_failed_tools_count_as_errors_of_a_run_that_was_killed(tmp_path: Path) -> None:
    results = ("ok", "error", "timeout", "blocked")
    tools = [tool_call(n, result_class=result) for n, result in enumerate(results)]
    killed(tmp_path, open_run(), *tools, error_event())
    recover(tmp_path)
    assert run_row(tmp_path)[3:] == (4, 3)


def test_a_run_without_any_event_ends_where_it_began(tmp_path: Path) -> None:
    killed(tmp_path, open_run())
    recover(tmp_path)
    assert run_row(tmp_path)[:2] == ("abandoned", START_NS)


def test_a_run_that_outlived_the_rows_of_its_calls_keeps_its_counts(tmp_path: Path) -> None:
    killed(tmp_path, open_run(model_call_count=7, tool_call_count=5, error_count=2), model_call())
    recover(tmp_path)
    assert run_row(tmp_path)[2:] == (7, 5, 2)


def test_a_closed_run_is_left_as_it_is(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), run_event(end_reason="interrupted"))
    assert recover(tmp_path).runs_closed == 0
    assert run_row(tmp_path)[0] == "interrupted"


def test_a_run_of_a_living_process_is_left_open(tmp_path: Path) -> None:
    living = Emitter(tmp_path)
    living.emit(open_run())
    assert living.flush()
    assert recover(tmp_path) == RecoveryReport()
    assert run_row(tmp_path)[0] is None
    living.close()
    assert recover(tmp_path).runs_closed == 1


def test_a_process_that_begins_while_another_recovers_keeps_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newcomer = Emitter(tmp_path)

    def and_then_one_begins(folder: Path) -> object:
        yield from dead_spools(folder)
        newcomer.emit(open_run(1))
        assert newcomer.flush()

    killed(tmp_path, open_run())
    with monkeypatch.context() as patch:
        patch.setattr("agent_client.recovery.dead_spools", and_then_one_begins)
        newcomer._run = newcomer._drain  # type: ignore[method-assign,assignment]  # a writer that recovers nobody
        recover(tmp_path)
    assert run_row(tmp_path, 0)[0] == "abandoned"
    assert run_row(tmp_path, 1)[0] is None
    newcomer._stopping = True
    newcomer.close()


def test_an_open_run_whose_row_is_gone_is_forgotten(tmp_path: Path) -> None:
    killed(tmp_path, open_run())
    with Store(tmp_path) as store:
        store.connection.execute("DELETE FROM tel_runs")
    assert recover(tmp_path).runs_closed == 0
    assert query(tmp_path, "SELECT count(*) FROM tel_open_runs") == [(0,)]


def test_recovering_twice_changes_nothing_more(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), model_call())
    first = recover(tmp_path)
    records = log_records(tmp_path)
    assert recover(tmp_path) == RecoveryReport()
    assert (first.spools, first.runs_closed) == (1, 1)
    assert log_records(tmp_path) == records


def test_the_books_of_dead_processes_are_kept_when_their_rings_are_forgotten(
    tmp_path: Path,
) -> None:
    script = """
e = Emitter(home, capacity_bytes=1 << 18)
for n in range(2000): e.emit(model_call(n))
e.emit(object())
os._exit(0)
"""
    for _ in range(2):
        finish(start(tmp_path, script))
        recover(tmp_path)
    stored, lost = ledger(tmp_path)
    assert stored + lost["overflow"] == 4000
    assert lost["encode"] == 2
    assert query(tmp_path, "SELECT count(*) FROM tel_rings") == [(0,)]


def test_nothing_is_made_where_nothing_was_recorded(tmp_path: Path) -> None:
    assert recover(tmp_path) == RecoveryReport()
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    telemetry_dir(tmp_path).mkdir()
    (telemetry_dir(tmp_path) / DATABASE).mkdir()
    with pytest.raises(StoreError, match="doctor"):
        recover(tmp_path)


def test_a_spool_that_cannot_be_stored_is_kept_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(start(tmp_path, "Emitter(home).emit(model_call(1)); os._exit(0)"))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError):
            recover(tmp_path)
    assert recover(tmp_path).events == 1


def test_an_empty_spool_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    Spool(telemetry_dir(tmp_path) / "spool").abandon()
    assert recover(tmp_path) == RecoveryReport(spools=1)
    assert list((telemetry_dir(tmp_path) / "spool").iterdir()) == []


def turn_call(number: int = 0, turn: str = "turn-1", **changes: Anything) -> Event:
    return model_call(number, trace_id="trace-0", parent_span_id=turn, **changes)


SPANS = (
    "SELECT span_id, kind, status, run_id, trace_id, parent_span_id, start_ns, end_ns "
    "FROM tel_spans ORDER BY seq"
)


def test_a_turn_its_process_did_not_live_to_end_is_abandoned(tmp_path: Path) -> None:
    killed(
        tmp_path,
        open_run(),
        turn_call(0, start_ns=START_NS + 1, end_ns=START_NS + 2),
        tool_call(parent_span_id="turn-1", end_ns=LATER_NS),
        model_call(1, parent_span_id="run-0"),
    )
    recover(tmp_path)
    assert query(tmp_path, SPANS) == [
        ("turn-1", "turn", "abandoned", "run-0", "trace-0", "run-0", START_NS, LATER_NS)
    ]
    (attributes,) = query(tmp_path, "SELECT attrs_json FROM tel_spans")[0]
    assert json.loads(attributes) == {
        "end_reason": "abandoned",
        "model_call_count": 1,
        "tool_call_count": 1,
        "error_count": 0,
    }


def test_a_turn_that_ended_is_left_as_it_is(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), turn_call(), span_event(span_id="turn-1"), turn_call(1, "turn-2"))
    recover(tmp_path)
    spans = query(tmp_path, "SELECT span_id, status FROM tel_spans ORDER BY seq")
    assert spans == [("turn-1", "ok"), ("turn-2", "abandoned")]


def test_an_approval_or_a_message_alone_names_a_turn_too(tmp_path: Path) -> None:
    killed(
        tmp_path,
        open_run(),
        span_event(kind="approval", parent_span_id="turn-1"),
        happening("gateway", parent_span_id="turn-2"),
    )
    recover(tmp_path)
    turns = query(tmp_path, "SELECT span_id FROM tel_spans WHERE kind = 'turn' ORDER BY span_id")
    assert turns == [("turn-1",), ("turn-2",)]
    assert run_row(tmp_path)[:2] == ("abandoned", START_NS + SECOND_NS)


def gave_up(number: int = 0, **changes: Anything) -> Event:
    return error_event(number, trace_id="trace-0", parent_span_id="turn-1", **changes)


def failed_run(**changes: Anything) -> Event:
    return run_event(end_reason="failed", **changes)


def test_a_turn_that_gave_up_with_no_end_signal_at_all_is_an_error(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), gave_up(ts_ns=LATER_NS, start_ns=START_NS), failed_run())
    assert recover(tmp_path).runs_closed == 0
    assert query(tmp_path, SPANS) == [
        ("turn-1", "turn", "error", "run-0", "trace-0", "run-0", START_NS, LATER_NS)
    ]


def test_a_turn_that_gave_up_and_went_on_was_abandoned_later(tmp_path: Path) -> None:
    killed(tmp_path, open_run(), gave_up(), turn_call(end_ns=LATER_NS))
    recover(tmp_path)
    assert query(tmp_path, "SELECT status FROM tel_spans") == [("abandoned",)]


def test_a_living_process_may_yet_try_another_provider(tmp_path: Path) -> None:
    living = Emitter(tmp_path)
    now_ns = time.time_ns()
    for event in (open_run(), gave_up(ts_ns=now_ns), failed_run(end_ns=now_ns)):
        living.emit(event)
    assert living.flush()
    recover(tmp_path)
    assert query(tmp_path, SPANS) == []
    living.close()
    recover(tmp_path)
    assert query(tmp_path, "SELECT span_id, status FROM tel_spans") == [("turn-1", "error")]


def test_a_long_past_is_looked_at_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "MAX_LOOKS", 2)
    runs = [run_event(number) for number in range(5)]
    calls = [
        model_call(number, run_id=f"run-{number}", parent_span_id=f"turn-{number}")
        for number in range(5)
    ]
    killed(tmp_path, *calls, *runs)
    for _ in range(3):
        recover(tmp_path)
    assert query(tmp_path, "SELECT count(*) FROM tel_spans WHERE kind = 'turn'") == [(5,)]


def test_runs_that_ended_when_the_clock_was_ahead_hold_no_others_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "MAX_LOOKS", 2)
    ahead_ns = time.time_ns() + 365 * 86_400 * SECOND_NS
    killed(tmp_path, *(run_event(number, end_ns=ahead_ns) for number in range(3)))
    killed(tmp_path, model_call(run_id="run-9", parent_span_id="turn-9"), run_event(9))
    living = Emitter(tmp_path)
    living.emit(open_run(10))
    assert living.flush()
    for _ in range(3):
        recover(tmp_path)
    living.close()
    assert query(tmp_path, "SELECT span_id FROM tel_spans WHERE kind = 'turn'") == [("turn-9",)]


def test_a_subagent_that_died_with_its_parent_is_a_span_of_the_parents_turn(
    tmp_path: Path,
) -> None:
    child = open_run(1, trace_id="trace-0", parent_run_id="run-0", start_ns=START_NS + 1)
    killed(tmp_path, open_run(), turn_call(), child, model_call(2, run_id="run-1", end_ns=LATER_NS))
    recover(tmp_path)
    assert query(tmp_path, SPANS)[1:] == [
        (
            id_within("run-1", "subagent"),
            "subagent",
            "abandoned",
            "run-0",
            "trace-0",
            "turn-1",
            START_NS + 1,
            LATER_NS,
        )
    ]


def test_a_subagent_that_stopped_is_not_told_of_again(tmp_path: Path) -> None:
    child = open_run(1, trace_id="trace-0", parent_run_id="run-0")
    stopped = span_event(span_id=id_within("run-1", "subagent"), kind="subagent")
    killed(tmp_path, open_run(), child, stopped)
    recover(tmp_path)
    assert query(tmp_path, "SELECT status FROM tel_spans") == [("ok",)]


def test_recovered_spans_are_made_once_by_however_many_and_survive_a_rebuild(
    tmp_path: Path,
) -> None:
    child = open_run(1, trace_id="trace-0", parent_run_id="run-0")
    killed(tmp_path, open_run(), turn_call(), child, turn_call(1))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: recover(tmp_path), range(8)))
    rows, records = all_rows(tmp_path), log_records(tmp_path)
    assert len(rows["tel_spans"]) == 2
    assert len([record for record in records if record["event"] == "span"]) == 2
    journal = Journal(tmp_path)
    journal.rebuild()
    journal.close()
    assert all_rows(tmp_path) == rows
    recover(tmp_path)
    assert log_records(tmp_path) == records
