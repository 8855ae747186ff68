"""The SQLite plane: state, cursors, counts, and plain words when it cannot be opened."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from agent_client.contract.tables import BY_NAME, EVENT_TABLES, MODEL_CALLS, RUNS
from agent_client.store import DATABASE, Store, StoreError, connect, make_folder
from tests.agent_client.builders import (
    START_NS,
    error_event,
    model_call,
    one_of_each,
    run_event,
    store_events,
    tool_call,
)


def filled(home: Path) -> Path:
    store_events(home, run_event(), model_call(), tool_call(), error_event(), run_event())
    return home


def test_state_is_set_read_and_deleted(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.state_get("a") is None
        store.state_set({"a": "1", "b": "2"})
        store.state_set({"a": None, "b": "3"})
        assert (store.state_get("a"), store.state_get("b")) == (None, "3")


def test_state_that_cannot_be_saved_changes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.state_set({"a": "1"})
        bad: dict[str, str | None] = {"a": "2", "b": object()}  # type: ignore[dict-item]  # the point
        with pytest.raises(StoreError, match="state not saved"):
            store.state_set(bad)
        assert store.state_get("a") == "1"


def test_an_empty_home_has_no_rows_and_no_seq(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert (store.last_seq(), store.pending_count(0), store.rows_after(0, 10)) == (0, 0, [])


def test_counts_and_cursor_see_every_row_once(tmp_path: Path) -> None:
    with Store(filled(tmp_path)) as store:
        first = dict.fromkeys([table.name for table in EVENT_TABLES[:4]], 1)
        assert store.counts() == {**dict.fromkeys(BY_NAME, 0), **first}
        assert store.last_seq() == 5
        assert [store.pending_count(seq) for seq in (0, 2, 5)] == [4, 3, 0]


def test_rows_come_in_seq_order_over_all_tables(tmp_path: Path) -> None:
    with Store(filled(tmp_path)) as store:
        kinds = [(row.seq, row.table.event) for row in store.rows_after(0, 10)]
        assert kinds == [(2, "model_call"), (3, "tool_call"), (4, "error"), (5, "run")]
        assert [row.seq for row in store.rows_after(2, 2)] == [3, 4]


def test_rows_since_a_time_are_those_of_the_window(tmp_path: Path) -> None:
    store_events(tmp_path, model_call(0), model_call(1, start_ns=START_NS + 10))
    with Store(tmp_path) as store:
        seqs = [
            [row.seq for row in store.rows_since(MODEL_CALLS, since_ns)]
            for since_ns in (None, START_NS, START_NS + 1, START_NS + 11)
        ]
    assert seqs == [[1, 2], [1, 2], [2], []]


def test_a_record_names_its_table_its_seq_and_every_column(tmp_path: Path) -> None:
    with Store(filled(tmp_path)) as store:
        record = store.rows_after(4, 1)[0].record()
    assert list(record) == ["_kind", "seq", *RUNS.column_names()]
    assert (record["_kind"], record["seq"], record["run_id"]) == ("tel_runs", 5, "run-0")


def test_the_database_is_in_wal_mode_and_the_owners_alone(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store.path == tmp_path / "telemetry" / DATABASE
    assert store.path.stat().st_mode & 0o777 == 0o600


def garble(path: Path) -> None:
    path.write_bytes(b"no database" * 200)


def obstruct(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("damage", [garble, obstruct])
def test_a_database_that_cannot_be_opened_says_what_to_do(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    damage(make_folder(tmp_path) / DATABASE)
    with pytest.raises(StoreError, match="hermes-telemetry doctor"):
        Store(tmp_path)


def test_an_open_store_lets_others_write(tmp_path: Path) -> None:
    with Store(filled(tmp_path)) as store:
        store.rows_after(0, 10)
        store_events(tmp_path, model_call(9))
        assert store.last_seq() == 6
        with closing(sqlite3.connect(store.path)) as other:
            assert other.execute("SELECT count(*) FROM tel_model_calls").fetchone() == (2,)


@pytest.mark.parametrize("most", [1, 3, 10, 1000])
@pytest.mark.parametrize("after", [0, 4, 25, 30])
def test_the_next_rows_are_the_first_of_all_tables_together(
    tmp_path: Path, after: int, most: int
) -> None:
    for number in range(2):
        store_events(tmp_path, *one_of_each(), model_call(number), run_event(number))
    with Store(tmp_path) as store:
        every = [row for table in EVENT_TABLES for row in store.rows_since(table, None)]
        wanted = sorted((row for row in every if row.seq > after), key=lambda row: row.seq)
        assert store.rows_after(after, most) == wanted[:most]


@pytest.mark.parametrize("system", ["linux", "macos"])
def test_a_second_connection_gives_up_no_lock_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError  # said before it is looked whether the file is there

    if system == "macos":
        monkeypatch.setattr(os, "mknod", refuse)
    path = make_folder(tmp_path) / DATABASE
    other = f"import sqlite3; sqlite3.connect({str(path)!r}).execute('SELECT * FROM a').connection"
    with closing(connect(path)) as first:
        first.execute("CREATE TABLE a (b)")
        connect(path).close()
        # A process that takes itself for the last one deletes the WAL when it closes.
        subprocess.run([sys.executable, "-c", f"{other}.close()"], check=True)
        first.execute("INSERT INTO a VALUES (1)")
        with closing(sqlite3.connect(path)) as second:
            assert second.execute("SELECT b FROM a").fetchall() == [(1,)]
        seen = "import sqlite3; print(sqlite3.connect({!r}).execute('SELECT b FROM a').fetchall())"
        printed = subprocess.check_output([sys.executable, "-c", seen.format(str(path))])
    assert printed == b"[(1,)]\n"


def test_a_system_that_makes_no_such_files_for_us_still_gets_a_private_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "mknod", refuse)
    connect(tmp_path / DATABASE).close()
    assert stat.S_IMODE((tmp_path / DATABASE).stat().st_mode) == 0o600
