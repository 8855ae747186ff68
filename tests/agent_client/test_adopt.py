"""The reference's rows in ``state.db`` become ours: each once, placed in time, only read there."""

from __future__ import annotations

import io
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent_client import adopt as adopt_module
from agent_client import cli
from agent_client.adopt import adopt
from agent_client.contract.tables import BY_NAME, EVENT_TABLES
from agent_client.export import export, next_batch
from agent_client.hostdb import STATE_DB
from agent_client.insights import overview
from agent_client.journal import Journal
from agent_client.recovery import recover
from agent_client.store import Store, StoreError, database_path
from tests.agent_client.builders import (
    SECOND_NS,
    START_NS,
    all_rows,
    error_event,
    finish,
    log_records,
    query,
    start,
    store_events,
)
from tests.agent_client.host_state import insert
from tests.agent_client.seed_state import (
    add_error,
    add_model_call,
    add_run,
    add_tool_call,
    seed_database,
)


def filled(home: Path) -> Path:
    """A row in each of the reference's ten tables."""
    with seed_database(home) as host:
        add_run(host)
        add_model_call(host)
        add_tool_call(host)
        add_error(host)
        insert(host, "tel_spans", span_id="span-0", run_id="run-0", start_ns=START_NS, name="turn")
        for table in EVENT_TABLES[5:]:
            insert(host, table.name, run_id="run-0", ts_ns=START_NS)
    return home


def count(home: Path, table: str) -> int:
    return int(query(home, f"SELECT count(*) FROM {table}")[0][0])


def record_of(home: Path, kind: str) -> dict[str, Any]:
    """The one record of its kind in an export."""
    out = io.BytesIO()
    export(out, home=home, config={})
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    (found,) = [record for record in records if record["_kind"] == kind]
    return dict(found)


def test_every_table_of_the_references_is_exported_and_pushed(tmp_path: Path) -> None:
    recover(filled(tmp_path))
    out = io.BytesIO()
    assert export(out, home=tmp_path, config={}).counts == dict.fromkeys(BY_NAME, 1)
    with Store(tmp_path) as store:
        batch = next_batch(store, after_seq=0)
    assert batch is not None
    assert sorted(batch.body.splitlines()) == sorted(out.getvalue().splitlines())


def test_calls_stand_where_their_run_began_and_happenings_get_ids(tmp_path: Path) -> None:
    recover(filled(tmp_path))
    call = record_of(tmp_path, "tel_model_calls")
    assert (call["span_id"], call["start_ns"]) == ("call-0", START_NS)
    assert (call["trace_id"], call["parent_span_id"]) == ("trace-0", "run-0")
    error = record_of(tmp_path, "tel_error_events")
    assert (error["span_id"], error["ts_ns"]) == ("seed-1", START_NS)


def test_insights_say_of_adopted_rows_what_they_say_of_the_references(tmp_path: Path) -> None:
    with seed_database(tmp_path) as host:
        for number in range(6):
            add_run(host, number, end_reason="failed" if number % 2 else "completed")
            add_model_call(host, number, run_id=f"run-{number}", cache_read_tokens=number)
            add_tool_call(host, number, run_id=f"run-{number}", result_class="error")
            add_error(host, run_id=f"run-{number}", ts_ns=START_NS + number * SECOND_NS)
    recover(tmp_path)
    for since_ns in (None, START_NS + 3 * SECOND_NS):
        theirs = overview(tmp_path / STATE_DB, since_ns)
        assert overview(database_path(tmp_path), since_ns) == theirs


def test_adopting_again_changes_nothing(tmp_path: Path) -> None:
    recover(filled(tmp_path))
    rows, log = all_rows(tmp_path), log_records(tmp_path)
    recover(tmp_path)
    assert (all_rows(tmp_path), log_records(tmp_path)) == (rows, log)


def test_new_rows_are_adopted_later_and_old_ones_not_again(tmp_path: Path) -> None:
    recover(filled(tmp_path))
    with seed_database(tmp_path) as host:
        add_run(host, 1)
        add_model_call(host, 1)
        add_error(host)
    recover(tmp_path)
    assert [count(tmp_path, name) for name in BY_NAME] == [2, 2, 1, 2, 1, 1, 1, 1, 1, 1]
    assert len(log_records(tmp_path)) == 13


def test_a_run_that_was_open_gets_its_end(tmp_path: Path) -> None:
    with seed_database(tmp_path) as host:
        add_run(host, end_ns=None, end_reason=None)
        recover(tmp_path)
        recover(tmp_path)
        host.execute("UPDATE tel_runs SET end_ns = start_ns + 5, end_reason = 'completed'")
        recover(tmp_path)
    run = record_of(tmp_path, "tel_runs")
    assert (run["end_ns"], run["end_reason"]) == (START_NS + 5, "completed")
    assert len(log_records(tmp_path)) == 2


def test_many_rows_are_adopted_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopt_module, "PAGE_ROWS", 3)
    with seed_database(tmp_path) as host:
        add_run(host)
        for number in range(10):
            add_model_call(host, number)
    recover(tmp_path)
    spans = query(tmp_path, "SELECT span_id FROM tel_model_calls ORDER BY seq")
    assert [row[0] for row in spans] == [f"call-{number}" for number in range(10)]


def test_a_death_between_log_and_cursor_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adopt_module, "put_state", die)
        with pytest.raises(KeyboardInterrupt):
            recover(tmp_path)
    assert len(log_records(tmp_path)) == 10  # appended, and nothing committed
    recover(tmp_path)
    assert [count(tmp_path, name) for name in BY_NAME] == [1] * 10
    assert len(log_records(tmp_path)) == 10


def test_a_lost_database_doubles_nothing(tmp_path: Path) -> None:
    recover(filled(tmp_path))
    for path in database_path(tmp_path).parent.glob("telemetry.db*"):
        path.unlink()
    recover(tmp_path)
    assert [count(tmp_path, name) for name in BY_NAME] == [1] * 10
    assert len(log_records(tmp_path)) == 10


ADOPT = """
from agent_client.recovery import recover
print(recover(home).events, flush=True)
"""


def test_processes_that_adopt_at_once_double_nothing(tmp_path: Path) -> None:
    with seed_database(tmp_path) as host:
        add_run(host)
        host.executemany(
            "INSERT INTO tel_model_calls (span_id, run_id) VALUES (?, 'run-0')",
            [(f"call-{number}",) for number in range(5_000)],
        )
    processes = [start(tmp_path, ADOPT) for _ in range(3)]
    adopted = [int(finish(process)) for process in processes]
    assert sum(adopted) == 5_001
    assert len(log_records(tmp_path)) == 5_001
    assert count(tmp_path, "tel_model_calls") == 5_000


def test_threads_that_adopt_at_once_double_nothing(tmp_path: Path) -> None:
    filled(tmp_path)

    def take(_: int) -> int:
        journal = Journal(tmp_path)
        try:
            return adopt(tmp_path, journal)
        finally:
            journal.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 10
    assert len(log_records(tmp_path)) == 10


def test_the_same_number_of_another_row_hides_nothing(tmp_path: Path) -> None:
    store_events(tmp_path, error_event(span_id="seed-1", ts_ns=7, error_class="network"))
    recover(filled(tmp_path))
    recover(tmp_path)
    found = query(tmp_path, "SELECT span_id, error_class FROM tel_error_events ORDER BY seq")
    assert found == [("seed-1", "network"), (f"seed-1-{START_NS}", "auth")]


def test_another_state_database_begins_anew(tmp_path: Path) -> None:
    recover(filled(tmp_path))
    for path in list(tmp_path.glob("state.db*")):
        path.rename(path.with_name("old-" + path.name))
    with seed_database(tmp_path) as host:
        add_run(host, 1)
        add_error(host, ts_ns=START_NS + 9)
    recover(tmp_path)
    errors = query(tmp_path, "SELECT span_id FROM tel_error_events ORDER BY seq")
    assert [row[0] for row in errors] == ["seed-1", f"seed-1-{START_NS + 9}"]
    assert count(tmp_path, "tel_runs") == 2


def test_a_table_that_was_emptied_is_read_from_its_start(tmp_path: Path) -> None:
    with seed_database(tmp_path) as host:
        add_run(host)
        for number in range(5):
            add_model_call(host, number)
        recover(tmp_path)
        host.execute("DELETE FROM tel_model_calls")
        add_model_call(host, 9)
        recover(tmp_path)
    assert count(tmp_path, "tel_model_calls") == 6


def test_a_row_without_a_run_or_a_time_is_kept_near_its_neighbours(tmp_path: Path) -> None:
    with seed_database(tmp_path) as host:
        add_run(host)
        add_model_call(host, 0)
        add_model_call(host, 1, run_id=None)
        add_model_call(host, 2, run_id="not-written-yet")
        add_error(host, run_id=None, ts_ns=None)
    recover(tmp_path)
    calls = query(tmp_path, "SELECT run_id, start_ns FROM tel_model_calls ORDER BY seq")
    assert calls == [("run-0", START_NS), ("unknown", START_NS), ("not-written-yet", START_NS)]
    ((at_ns,),) = query(tmp_path, "SELECT ts_ns FROM tel_error_events")
    assert at_ns > START_NS  # nothing says when: it is from now


def test_values_that_do_not_fit_cost_no_row(tmp_path: Path) -> None:
    with seed_database(tmp_path) as host:
        add_run(host, entrypoint=b"\xff", session_id="s" * 900, schema_v="x", error_count=2.0)
        add_run(host, 1, run_id=None)
        add_model_call(host, input_tokens="many", latency_ms=float("inf"), model="m" * 900)
        insert(host, "tel_gateway_events", run_id="run-0", ts_ns="soon", voice=1, attachments=-3)
    recover(tmp_path)
    run = record_of(tmp_path, "tel_runs")
    assert (run["schema_v"], run["error_count"], len(run["session_id"])) == (1, 2, 200)
    call = record_of(tmp_path, "tel_model_calls")
    assert (call["input_tokens"], call["latency_ms"], len(call["model"])) == (None, None, 200)
    event = record_of(tmp_path, "tel_gateway_events")
    assert (event["voice"], event["attachments"], event["ts_ns"] > START_NS) == (1, None, True)


def test_no_address_or_text_that_could_be_content_is_taken(tmp_path: Path) -> None:
    attributes = {"tokens": 7, "is_new": True, "text": "CANARY", "a b": 1, "big": 10**400}
    with seed_database(tmp_path) as host:
        add_run(host)
        add_model_call(host, base_url="https://user:CANARY@api.example.org/v1?key=CANARY")
        for number, stored in enumerate((json.dumps(attributes), "CANARY", '["CANARY"]')):
            insert(host, "tel_spans", span_id=number, run_id="run-0", attrs_json=stored)
    recover(tmp_path)
    assert record_of(tmp_path, "tel_model_calls")["base_url"] == "api.example.org"
    spans = query(tmp_path, "SELECT attrs_json FROM tel_spans ORDER BY seq")
    assert spans == [('{"tokens":7,"is_new":true}',), (None,), (None,)]
    assert "CANARY" not in json.dumps(log_records(tmp_path))


def test_the_hosts_file_is_not_touched(tmp_path: Path) -> None:
    with seed_database(tmp_path) as host:
        add_run(host)
        files = [tmp_path / STATE_DB, tmp_path / (STATE_DB + "-wal")]
        before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
        recover(tmp_path)
        assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before


@pytest.mark.parametrize("stored", [b"", b"no database" * 500])
def test_without_rows_to_adopt_no_folder_is_made(tmp_path: Path, stored: bytes) -> None:
    (tmp_path / STATE_DB).write_bytes(stored)
    recover(tmp_path)
    assert not database_path(tmp_path).exists()


def test_a_state_database_that_fails_while_it_is_read_is_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)

    def fail(*args: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(adopt_module, "_page", fail)
        assert recover(tmp_path).events == 0
    assert recover(tmp_path).events == 10


def test_an_export_takes_over_by_itself(tmp_path: Path) -> None:
    assert record_of(filled(tmp_path), "tel_runs")["run_id"] == "run-0"
    assert record_of(tmp_path, "tel_model_calls")["start_ns"] == START_NS


def test_a_journal_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (filled(tmp_path) / "telemetry").write_bytes(b"in the way")
    with pytest.raises(StoreError, match="cannot be taken over"):
        record_of(tmp_path, "tel_runs")


def test_a_verb_shows_what_only_the_reference_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HERMES_HOME", str(filled(tmp_path)))
    assert cli.main(["insights", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workflows"]["total"] == 1
