"""Any file with ``tel_*`` tables as a source to read: ours, or the reference's in ``state.db``.

The reference's tables have fewer columns, and its calls have no time; tables may be missing. What
is missing reads as NULL, and a row without a time stands where its run began.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent_client.contract.tables import RUNS, Table
from agent_client.hostdb import connect

Source = str | Path | sqlite3.Connection
_COLUMNS = """
SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c
WHERE m.type IN ('table', 'view') AND m.name LIKE 'tel!_%' ESCAPE '!'
"""


@dataclass(frozen=True, slots=True)
class Reader:
    """A source that is open, and the columns its tables have."""

    connection: sqlite3.Connection
    columns: dict[str, frozenset[str]]

    def rows(self, sql: str, since_ns: int | None = None) -> Iterator[tuple[object, ...]]:
        """A query's rows as plain tuples, streamed; ``:since`` is the window's start."""
        cursor = self.connection.cursor()
        cursor.row_factory = None
        cursor.execute(sql, {"since": since_ns})
        return iter(cursor)

    def relation(self, table: Table, *names: str) -> str:
        """A table's columns within the window ``:since``, as a subquery for FROM."""
        present = self.columns.get(table.name)
        if present is None:
            return f"(SELECT {', '.join(f'NULL AS {name}' for name in names)} WHERE 0)"
        shown = ", ".join(f"t.{name}" if name in present else f"NULL AS {name}" for name in names)
        at_ns = self.time_of(table)
        return f"(SELECT {shown} FROM {table.name} t WHERE :since IS NULL OR {at_ns} >= :since)"

    def time_of(self, table: Table) -> str:
        """SQL of the time at which a row ``t`` of the table stands; NULL where none is known."""
        present = self.columns.get(table.name, frozenset())
        own = f"t.{table.time}" if table.time in present else "NULL"
        start = self.of_run(table, "start_ns")
        return own if table is RUNS else f"coalesce({own}, {start})"

    def of_run(self, table: Table, name: str) -> str:
        """SQL of a column of the run that a row ``t`` belongs to; NULL where there is none."""
        runs = self.columns.get(RUNS.name, frozenset())
        if "run_id" not in self.columns.get(table.name, ()) or not {"run_id", name} <= runs:
            return "NULL"
        return f"(SELECT r.{name} FROM {RUNS.name} r WHERE r.run_id = t.run_id)"


@contextmanager
def open_source(source: Source) -> Iterator[Reader]:
    """A reader of an open connection, or of a file, which is opened for reading only.

    Errors: sqlite3.Error.
    """
    if isinstance(source, sqlite3.Connection):
        yield _reader(source)
        return
    connection = connect(Path(source))
    try:
        yield _reader(connection)
    finally:
        connection.close()


def _reader(connection: sqlite3.Connection) -> Reader:
    cursor = connection.cursor()
    cursor.row_factory = None
    found: dict[str, set[str]] = {}
    for table, column in cursor.execute(_COLUMNS):
        found.setdefault(table, set()).add(column)
    return Reader(connection, {table: frozenset(names) for table, names in found.items()})
