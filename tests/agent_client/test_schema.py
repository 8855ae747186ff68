"""Migrations: the first version is carried forward, twice is a no-op, two at once are one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent_client import schema
from agent_client.contract.tables import EVENT_TABLES
from agent_client.journal import Journal
from agent_client.store import DATABASE, Store, make_folder
from tests.agent_client.builders import finish, model_call, query, start, store_events


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        yield made


def first_version(path: Path) -> None:
    """A database as the reference design makes and fills it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.m001_seed(connection)
        connection.execute(
            "INSERT INTO tel_runs (run_id, start_ns, end_ns, end_reason) "
            "VALUES ('r', 10, 20, 'completed')"
        )
        connection.execute("INSERT INTO tel_model_calls (span_id, run_id) VALUES ('m', 'r')")
        connection.execute("INSERT INTO tel_tool_calls (span_id, run_id) VALUES ('t', 'gone')")
        connection.execute("INSERT INTO tel_error_events (run_id, ts_ns) VALUES ('r', 15)")
        connection.execute("INSERT INTO tel_error_events (run_id, ts_ns) VALUES ('r', 16)")


def test_a_first_version_database_opens_with_its_rows(tmp_path: Path) -> None:
    first_version(make_folder(tmp_path) / DATABASE)
    with Store(tmp_path) as store:
        assert store.last_seq() == 5
        rows = [(row.table.event, row.seq, row.record()) for row in store.rows_after(0, 100)]
    assert [(event, seq) for event, seq, _ in rows] == [
        ("run", 1),
        ("model_call", 2),
        ("tool_call", 3),
        ("error", 4),
        ("error", 5),
    ]
    assert [record["start_ns"] for _, _, record in rows] == [10, 10, 0, 15, 16]
    assert [record["span_id"] for _, _, record in rows[3:]] == ["seed-1", "seed-2"]


def test_a_carried_forward_database_takes_new_rows_after_the_old(tmp_path: Path) -> None:
    first_version(make_folder(tmp_path) / DATABASE)
    store_events(tmp_path, model_call())
    assert query(tmp_path, "SELECT seq FROM tel_model_calls ORDER BY seq") == [(2,), (6,)]


def test_rebuild_keeps_the_rows_of_a_first_version_database(tmp_path: Path) -> None:
    first_version(make_folder(tmp_path) / DATABASE)
    store_events(tmp_path, model_call())
    journal = Journal(tmp_path)
    assert journal.rebuild() == 1
    journal.close()
    assert query(tmp_path, "SELECT seq FROM tel_model_calls ORDER BY seq") == [(2,), (6,)]


def test_migrating_twice_is_a_no_op(connection: sqlite3.Connection) -> None:
    assert schema.migrate(connection) == len(schema.MIGRATIONS)
    before = list(connection.iterdump())
    assert schema.migrate(connection) == len(schema.MIGRATIONS)
    assert list(connection.iterdump()) == before


def test_every_migration_is_recorded_under_its_name(connection: sqlite3.Connection) -> None:
    schema.migrate(connection)
    rows = connection.execute("SELECT version, name FROM tel_schema ORDER BY version").fetchall()
    assert rows == [(n, m.__name__) for n, m in enumerate(schema.MIGRATIONS, start=1)]


def test_the_tables_have_the_contracts_columns(connection: sqlite3.Connection) -> None:
    schema.migrate(connection)
    for table in EVENT_TABLES:
        info = {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table.name})")}
        assert {column.name: column.sqlite_type for column in table.columns}.items() <= info.items()
        assert info["seq"] == "INTEGER"


def test_the_first_migration_is_the_references_schema(connection: sqlite3.Connection) -> None:
    schema.m001_seed(connection)
    for table in EVENT_TABLES:
        found = [row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")]
        assert [name for name in found if name != "id" or table.merges] == [
            column.name for column in table.columns if column.seed and column.name != "id"
        ]


def test_a_migration_that_fails_leaves_nothing_behind(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half_made (x)")
        raise sqlite3.OperationalError("no more")

    monkeypatch.setattr(schema, "MIGRATIONS", (schema.m001_seed, half))
    with pytest.raises(sqlite3.OperationalError, match="no more"):
        schema.migrate(connection)
    assert schema._version(connection) == 1
    assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'half_made'").fetchall()


def test_a_database_of_a_later_version_is_left_alone(connection: sqlite3.Connection) -> None:
    schema.migrate(connection)
    connection.execute("INSERT INTO tel_schema VALUES (99, 'm099', 1)")
    assert schema.migrate(connection) == 99


def test_what_is_no_database_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"no database" * 200)
    with (
        closing(sqlite3.connect(path)) as connection,
        pytest.raises(sqlite3.DatabaseError, match="not a database"),
    ):
        schema.migrate(connection)


def test_processes_that_open_a_new_home_at_once_make_one_database(tmp_path: Path) -> None:
    first_version(make_folder(tmp_path) / DATABASE)
    script = "from agent_client.store import Store\nwith Store(home) as s: print(s.last_seq())"
    processes = [start(tmp_path, script) for _ in range(3)]
    assert [finish(process) for process in processes] == [b"5\n"] * 3
    assert query(tmp_path, "SELECT count(*) FROM tel_schema") == [(len(schema.MIGRATIONS),)]
