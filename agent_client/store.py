"""The SQLite plane: connection rules, state, and the rows a cursor has not passed yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent_client import schema
from agent_client.contract.tables import EVENT_TABLES, RUNS, Table
from agent_client.files import make_private_dir, make_private_file, telemetry_dir

BUSY_TIMEOUT_S: Final = 5.0
"""Six processes share one database: without it four in five writes were lost, with it none."""
DATABASE: Final = "telemetry.db"
LOG: Final = "events.jsonl"

_SEQS: Final = " UNION ALL ".join(
    f"SELECT * FROM (SELECT seq FROM {table.name} WHERE seq > :after ORDER BY seq LIMIT :most)"
    for table in EVENT_TABLES
)
_LAST_SEQ: Final = f"SELECT max(seq) FROM (SELECT seq FROM ({_SEQS}) ORDER BY seq LIMIT :most)"
_ROWS: Final = tuple(
    (
        table,
        f"SELECT seq, {names} FROM {table.name} WHERE seq > ? AND seq <= ?",
    )
    for table in EVENT_TABLES
    for names in (", ".join(table.column_names()),)
)


class StoreError(Exception):
    """The local plane cannot be opened or written; the message says what to do, never content."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stored row as the contract has it: values in column order."""

    table: Table
    seq: int
    values: tuple[object, ...]

    def record(self) -> dict[str, object]:
        """The export's form: ``_kind``, ``seq`` and every column."""
        names = self.table.column_names()
        return {
            "_kind": self.table.name,
            "seq": self.seq,
            **dict(zip(names, self.values, strict=True)),
        }


def make_folder(home: Path) -> Path:
    """The local plane's folder, made when missing. Errors: OSError."""
    folder = telemetry_dir(home)
    make_private_dir(folder)
    return folder


def database_path(home: Path) -> Path:
    """Where the SQLite plane lies, whether it is there or not."""
    return telemetry_dir(home) / DATABASE


def connect(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode with explicit transactions; the file is 0600 from its first byte.

    Errors: sqlite3.Error, OSError.
    """
    # Not opened to be made: this process may have another connection, whose locks that would drop.
    # A process that then closes takes itself for the last, and deletes the WAL we commit to.
    make_private_file(path)
    is_new = not path.stat().st_size
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        if is_new:  # on a file that is in use it would be a write, and wait for every other
            # Costs inserts 3 %; without it what retention deletes frees no disk.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        # WAL + NORMAL: a killed process loses nothing; only a power cut can take the last commits.
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


class Store:
    """The open local plane of one HERMES_HOME; a context manager.

    Errors: StoreError when it cannot be opened.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        try:
            self.path = make_folder(home) / DATABASE
            self.connection = connect(self.path)
            schema.migrate(self.connection)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"{database_path(home)} cannot be opened ({type(error).__name__}); "
                "run 'hermes-telemetry doctor'"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; later calls fail."""
        self.connection.close()

    def state_get(self, key: str) -> str | None:
        """A value of our bookkeeping."""
        return get_state(self.connection, key)

    def state_set(self, values: Mapping[str, str | None]) -> None:
        """Set (or, with None, delete) several keys in one transaction. Errors: StoreError."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            put_state(self.connection, values)
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise StoreError(f"state not saved ({type(error).__name__})") from error

    def state_keys(self, name: str) -> list[str]:
        """The bookkeeping keys that are ``name`` or begin with it and a dot."""
        rows = self.connection.execute(
            "SELECT key FROM tel_state WHERE key = ? OR substr(key, 1, ?) = ?",
            (name, len(name) + 1, f"{name}."),
        )
        return [str(row[0]) for row in rows]

    def last_seq(self) -> int:
        """The highest ``seq`` given out; 0 before the first row."""
        return int(self.state_get("seq") or 0)

    def counts(self) -> dict[str, int]:
        """Rows by table."""
        return {
            table.name: int(
                self.connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
            )
            for table in EVENT_TABLES
        }

    def pending_count(self, after_seq: int) -> int:
        """Rows a cursor at ``after_seq`` has not passed."""
        return sum(
            int(
                self.connection.execute(
                    f"SELECT count(*) FROM {table.name} WHERE seq > ?", (after_seq,)
                ).fetchone()[0]
            )
            for table in EVENT_TABLES
        )

    def rows_after(self, after_seq: int, max_rows: int) -> list[Row]:
        """The next rows of all tables in ``seq`` order, at most ``max_rows``."""
        bounds = {"after": after_seq, "most": max_rows}
        # Found in the indexes first, so that no row is read to be thrown away.
        last_seq = self.connection.execute(_LAST_SEQ, bounds).fetchone()[0]
        found = [
            Row(table, values[0], values[1:])
            for table, query in _ROWS
            for values in self.connection.execute(query, (after_seq, last_seq))
        ]
        found.sort(key=attrgetter("seq"))
        return found

    def rows_since(self, table: Table, since_ns: int | None) -> Iterator[Row]:
        """A table's rows from ``since_ns`` on, streamed in ``seq`` order."""
        names = ", ".join(table.column_names())
        cursor = self.connection.execute(
            f"SELECT seq, {names} FROM {table.name} WHERE ? IS NULL OR {table.time} >= ? "
            "ORDER BY seq",
            (since_ns, since_ns),
        )
        for values in cursor:
            yield Row(table, values[0], values[1:])


def get_state(connection: sqlite3.Connection, key: str) -> str | None:
    """A bookkeeping value."""
    row = connection.execute("SELECT value FROM tel_state WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def add_to_state(connection: sqlite3.Connection, key: str, count: int) -> None:
    """Add to a bookkeeping counter inside the caller's transaction."""
    connection.execute(
        "INSERT INTO tel_state VALUES (?, ?) ON CONFLICT(key) "
        "DO UPDATE SET value = CAST(value AS INTEGER) + excluded.value",
        (key, count),
    )


def run_event(connection: sqlite3.Connection, run_id: str) -> dict[str, object] | None:
    """A stored run as the event that would make it; change what has changed and log it again."""
    names = RUNS.column_names()
    row = connection.execute(
        f"SELECT {', '.join(names)} FROM tel_runs WHERE run_id = ?", (run_id,)
    ).fetchone()
    return None if row is None else {"event": RUNS.event, **dict(zip(names, row, strict=True))}


def put_state(connection: sqlite3.Connection, values: Mapping[str, str | None]) -> None:
    """Set or delete bookkeeping keys inside the caller's transaction."""
    for key, value in values.items():
        if value is None:
            connection.execute("DELETE FROM tel_state WHERE key = ?", (key,))
        else:
            connection.execute("INSERT OR REPLACE INTO tel_state VALUES (?, ?)", (key, value))
