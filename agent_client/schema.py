"""SQLite schema of the local plane as small numbered migrations.

``m001`` is the reference design's schema, column for column; what we add comes
after it, so a database of that first version opens and is carried forward. Each
migration and its row in ``tel_schema`` share one transaction.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final

from agent_client.contract.tables import (
    CRON_EVENTS,
    ERRORS,
    FEEDBACK_EVENTS,
    GATEWAY_EVENTS,
    MEMORY_EVENTS,
    MODEL_CALLS,
    RUNS,
    SKILL_EVENTS,
    SPANS,
    TOOL_CALLS,
    Table,
)

# A migration names its tables: the contract's list grows, what was migrated does not.
_FIRST: Final = (RUNS, MODEL_CALLS, TOOL_CALLS, ERRORS)
_HAPPENINGS: Final = (GATEWAY_EVENTS, CRON_EVENTS, SKILL_EVENTS, MEMORY_EVENTS, FEEDBACK_EVENTS)

_SEED: Final = """
CREATE TABLE IF NOT EXISTS tel_runs (
  run_id TEXT PRIMARY KEY, trace_id TEXT, session_id TEXT, profile_id TEXT, entrypoint TEXT,
  platform TEXT, start_ns INTEGER, end_ns INTEGER, end_reason TEXT,
  model_call_count INTEGER DEFAULT 0, tool_call_count INTEGER DEFAULT 0,
  error_count INTEGER DEFAULT 0, estimated_cost_usd REAL, cost_status TEXT,
  schema_v INTEGER DEFAULT 1);
CREATE TABLE IF NOT EXISTS tel_spans (
  span_id TEXT PRIMARY KEY, trace_id TEXT, run_id TEXT, parent_span_id TEXT, name TEXT,
  kind TEXT, start_ns INTEGER, end_ns INTEGER, status TEXT, attrs_json TEXT);
CREATE TABLE IF NOT EXISTS tel_model_calls (
  span_id TEXT PRIMARY KEY, run_id TEXT, provider TEXT, model TEXT, base_url TEXT,
  input_tokens INTEGER, output_tokens INTEGER, cache_read_tokens INTEGER,
  cache_write_tokens INTEGER, reasoning_tokens INTEGER, latency_ms REAL, ttft_ms REAL,
  estimated_cost_usd REAL, cost_status TEXT, cost_source TEXT, end_reason TEXT,
  retry_count INTEGER);
CREATE TABLE IF NOT EXISTS tel_tool_calls (
  span_id TEXT PRIMARY KEY, run_id TEXT, tool_name TEXT, backend TEXT, duration_ms REAL,
  result_class TEXT, retry_count INTEGER, approval TEXT);
CREATE TABLE IF NOT EXISTS tel_error_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, ts_ns INTEGER, error_class TEXT,
  subsystem TEXT, recovery TEXT);
CREATE TABLE IF NOT EXISTS tel_gateway_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, ts_ns INTEGER, platform TEXT,
  direction TEXT, result TEXT, voice INTEGER, attachments INTEGER);
CREATE TABLE IF NOT EXISTS tel_cron_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, ts_ns INTEGER, kind TEXT, result TEXT);
CREATE TABLE IF NOT EXISTS tel_skill_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, ts_ns INTEGER, action TEXT,
  skill_name TEXT);
CREATE TABLE IF NOT EXISTS tel_memory_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, ts_ns INTEGER, action TEXT, result TEXT);
CREATE TABLE IF NOT EXISTS tel_feedback_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, ts_ns INTEGER, kind TEXT);
CREATE INDEX IF NOT EXISTS idx_tel_runs_trace ON tel_runs(trace_id);
CREATE INDEX IF NOT EXISTS idx_tel_runs_session ON tel_runs(session_id);
CREATE INDEX IF NOT EXISTS idx_tel_runs_start ON tel_runs(start_ns);
CREATE INDEX IF NOT EXISTS idx_tel_spans_run ON tel_spans(run_id);
CREATE INDEX IF NOT EXISTS idx_tel_spans_trace ON tel_spans(trace_id);
CREATE INDEX IF NOT EXISTS idx_tel_model_calls_run ON tel_model_calls(run_id);
CREATE INDEX IF NOT EXISTS idx_tel_tool_calls_run ON tel_tool_calls(run_id);
"""

_BOOKKEEPING: Final = """
CREATE TABLE tel_state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tel_rings (
  ring_id TEXT PRIMARY KEY, next_k INTEGER NOT NULL, stored INTEGER NOT NULL,
  overflow INTEGER NOT NULL, encode INTEGER NOT NULL, too_large INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tel_open_runs (
  run_id TEXT PRIMARY KEY, process_id TEXT NOT NULL) WITHOUT ROWID;
"""


def m001_seed(connection: sqlite3.Connection) -> None:
    """The ten tables and indexes of the reference design."""
    _run(connection, _SEED)


def m002_added_columns(connection: sqlite3.Connection) -> None:
    """Columns past the reference: place in time and trace, lineage, and the ``seq`` cursor."""
    for table in _FIRST:
        _add_columns(connection, table)
    for name in _all_tables(connection):
        if "seq" not in _columns_of(connection, name):
            connection.execute(f"ALTER TABLE {name} ADD COLUMN seq INTEGER")
        connection.execute(f"CREATE INDEX IF NOT EXISTS idx_{name}_seq ON {name}(seq)")
    connection.execute("CREATE UNIQUE INDEX idx_tel_error_events_span ON tel_error_events(span_id)")
    connection.execute("CREATE INDEX idx_tel_error_events_run ON tel_error_events(run_id)")


def m003_bookkeeping(connection: sqlite3.Connection) -> None:
    """State, the cursor of each ring, and which process owns each open run."""
    _run(connection, _BOOKKEEPING)


def m004_adopt_rows(connection: sqlite3.Connection) -> None:
    """Rows of a first-version database get a ``seq``, and errors an identity and a time."""
    connection.execute("INSERT INTO tel_state VALUES ('seq', '0')")
    _identify(connection, ERRORS)
    for table in _FIRST:
        _adopt(connection, table)


def m005_happenings(connection: sqlite3.Connection) -> None:
    """Spans and the five tables of happenings get what the first four got."""
    for table in (SPANS, *_HAPPENINGS):
        _add_columns(connection, table)
    for table in _HAPPENINGS:
        _identify(connection, table)
        connection.execute(f"CREATE UNIQUE INDEX idx_{table.name}_span ON {table.name}(span_id)")
        connection.execute(f"CREATE INDEX idx_{table.name}_run ON {table.name}(run_id)")
    for table in (SPANS, *_HAPPENINGS):
        _adopt(connection, table)


def _add_columns(connection: sqlite3.Connection, table: Table) -> None:
    present = _columns_of(connection, table.name)
    for column in table.columns:
        if column.name not in present:
            connection.execute(
                f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.sqlite_type}"
            )


def _identify(connection: sqlite3.Connection, table: Table) -> None:
    """The reference numbers these rows; a number that a rebuild changes identifies nothing."""
    connection.execute(
        f"UPDATE {table.name} SET span_id = 'seed-' || id, start_ns = ts_ns WHERE span_id IS NULL"
    )


def _adopt(connection: sqlite3.Connection, table: Table) -> None:
    """Rows without a ``seq`` get one, behind all that was given out."""
    seq = int(connection.execute("SELECT value FROM tel_state WHERE key = 'seq'").fetchone()[0])
    for (rowid,) in connection.execute(
        f"SELECT rowid FROM {table.name} WHERE seq IS NULL ORDER BY rowid"
    ).fetchall():
        seq += 1
        connection.execute(f"UPDATE {table.name} SET seq = ? WHERE rowid = ?", (seq, rowid))
    _place_children(connection, table)
    connection.execute("UPDATE tel_state SET value = ? WHERE key = 'seq'", (str(seq),))


def _place_children(connection: sqlite3.Connection, table: Table) -> None:
    """The reference's model and tool rows have no time: their run's start is the nearest known."""
    if table.time == "start_ns" and not table.merges:
        connection.execute(
            f"UPDATE {table.name} SET start_ns = coalesce((SELECT start_ns FROM tel_runs r "
            f"WHERE r.run_id = {table.name}.run_id), 0) WHERE start_ns IS NULL"
        )


MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (
    m001_seed,
    m002_added_columns,
    m003_bookkeeping,
    m004_adopt_rows,
    m005_happenings,
)


def migrate(connection: sqlite3.Connection) -> int:
    """Apply what is missing; returns the version now in force. Twice is a no-op.

    Errors: sqlite3.Error; the failed migration leaves nothing behind.
    """
    version = _version(connection)
    for number, migration in enumerate(MIGRATIONS, start=1):
        if number > version:
            _apply(connection, number, migration)
    return max(version, len(MIGRATIONS))


def _version(connection: sqlite3.Connection) -> int:
    try:
        row = connection.execute("SELECT max(version) FROM tel_schema").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return 0
    return int(row[0] or 0)


def _apply(
    connection: sqlite3.Connection, number: int, migration: Callable[[sqlite3.Connection], None]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS tel_schema "
            "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_ns INTEGER NOT NULL)"
        )
        # Another process may have applied it between our look and our lock.
        if _version(connection) < number:
            migration(connection)
            connection.execute(
                "INSERT INTO tel_schema VALUES (?, ?, ?)",
                (number, migration.__name__, time.time_ns()),
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _run(connection: sqlite3.Connection, script: str) -> None:
    # executescript() would commit the surrounding transaction.
    for statement in script.split(";"):
        if statement.strip():
            connection.execute(statement)


def _columns_of(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def _all_tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'tel!_%' ESCAPE '!' "
        "AND name NOT IN ('tel_schema', 'tel_state', 'tel_rings', 'tel_open_runs')"
    )
    return [row[0] for row in rows]
