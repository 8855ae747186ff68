"""Takes what the reference's own telemetry left in ``state.db`` into our log, each row once.

Rows are appended as events, so that export, push and insights know them as ours. The reference
numbers its happenings, and its calls have neither time nor trace: they get ids of their number and
stand where their run began. A cursor moves with the rows, in one transaction under the journal's
lock; what a killed process had appended already is recognized by its id. ``state.db`` is only read,
and never while the lock is held.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client.contract.events import fault_of
from agent_client.contract.otlp_names import host_of
from agent_client.contract.tables import COUNT_MAX, EVENT_TABLES, RUNS, Column, Table
from agent_client.guard import note_fault
from agent_client.hostdb import STATE_DB
from agent_client.journal import Journal
from agent_client.source import Reader, open_source
from agent_client.store import StoreError, get_state, put_state, run_event

PAGE_ROWS: Final = 2_000
"""Rows of one table and transaction: a moment under the journal's lock."""
OPEN_RUNS: Final = 500
"""Adopted runs without an end that are looked at again, the latest first."""
_FACT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,59}")
NO_RUN: Final = "unknown"
"""The run of a row that names none; the contract asks for one."""
_CURSOR: Final = "adopt.cursor"
_OPEN_RUNS: Final = f"""
SELECT run_id FROM tel_runs WHERE end_ns IS NULL
AND run_id NOT IN (SELECT run_id FROM tel_open_runs) ORDER BY start_ns DESC LIMIT {OPEN_RUNS}
"""

Event = dict[str, object]


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one table as events, and the row number after which to go on.

    ``guessed``: ids of rows whose time nothing says.
    """

    table: Table
    events: list[Event]
    last_row: int
    guessed: frozenset[object]


def has_rows(home: Path) -> bool:
    """Whether ``state.db`` holds runs of the reference's telemetry. Never raises."""
    try:
        with _open(home) as reader:
            return RUNS.name in reader.columns and any(
                row[0] for row in reader.rows(f"SELECT EXISTS (SELECT 1 FROM {RUNS.name})")
            )
    except (sqlite3.Error, OSError):
        return False


def adopt(home: Path, journal: Journal) -> int:
    """Append what is new in ``state.db``; the number of rows. Twice, or at once, doubles nothing.

    A ``state.db`` that cannot be read is left for the next time. Errors: as `Journal.locked`.
    """
    adopted = 0
    while has_rows(home):
        with journal.locked() as connection:
            stored = get_state(connection, _CURSOR)
            open_runs = [str(row[0]) for row in connection.execute(_OPEN_RUNS)]
        try:
            at, pages = _read(home, stored, open_runs)
        except (sqlite3.Error, OSError) as error:
            note_fault("adopt.read", error)
            break
        moved = json.dumps({**at, **{page.table.name: page.last_row for page in pages}})
        with journal.locked() as connection:
            if get_state(connection, _CURSOR) != stored:
                continue  # another process was faster
            fresh = [event for page in pages for event in _fresh(connection, page)]
            journal.append_events(connection, fresh)
            put_state(connection, {_CURSOR: moved})
        adopted += len(fresh)
        if moved == stored:
            break
    return adopted


def adopt_from_host(home: Path) -> None:
    """`adopt` for a reader that opens no journal of its own. Errors: StoreError."""
    if not has_rows(home):
        return
    journal = Journal(home)
    try:
        adopt(home, journal)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"rows of {home / STATE_DB} cannot be taken over ({type(error).__name__}); "
            "run 'hermes-telemetry doctor'"
        ) from error
    finally:
        journal.close()


def _open(home: Path) -> AbstractContextManager[Reader]:
    path = home / STATE_DB
    if not path.is_file():
        raise FileNotFoundError(path)
    return open_source(path)


def _read(
    home: Path, stored: str | None, open_runs: Sequence[str]
) -> tuple[dict[str, object], list[Page]]:
    """Which file this is, and the next page of each of its tables past the cursor.

    The cursor is of one file: in another, as after a restored backup, numbers mean other rows.
    """
    file = (home / STATE_DB).stat()
    at: dict[str, object] = {"file": f"{file.st_dev}:{file.st_ino}"}
    known = json.loads(stored) if stored else {}
    if known.get("file") != at["file"]:
        known = {}
    with _open(home) as reader:
        pages = [
            _page(reader, table, int(known.get(table.name, 0)))
            for table in EVENT_TABLES
            if table.name in reader.columns
        ]
        if RUNS.name in reader.columns:
            pages[0].events.extend(_ended(reader, open_runs))
    return at, pages


def _page(reader: Reader, table: Table, after: int) -> Page:
    names = [name for name in table.column_names() if name in reader.columns[table.name]]
    newest = next(reader.rows(f"SELECT max(rowid) FROM {table.name}"))[0]
    if not isinstance(newest, int) or newest < after:
        after = 0  # the table was emptied, and its numbers begin anew
    sql = _select(reader, table, names, f"t.rowid > {after} ORDER BY t.rowid LIMIT {PAGE_ROWS}")
    events: list[Event] = []
    guessed: set[object] = set()
    last_ns = 0
    for rowid, at_ns, trace_id, *values in reader.rows(sql):
        after = int(rowid)  # type: ignore[call-overload]  # SQLite's own number
        found: Event = {"trace_id": trace_id, **dict(zip(names, values, strict=True))}
        is_known, last_ns = _place(table, found, at_ns, last_ns)
        event = _event(table, found, after)
        events.append(event)
        if not is_known:
            guessed.add(event[table.key])
    return Page(table, events, after, frozenset(guessed))


def _ended(reader: Reader, run_ids: Sequence[str]) -> Iterator[Event]:
    """Runs that were adopted while they were running, and have an end by now."""
    names = [name for name in RUNS.column_names() if name in reader.columns[RUNS.name]]
    if not {"run_id", "end_ns"} <= set(names):
        return
    marks = ", ".join("?" * len(run_ids))
    where = f"t.run_id IN ({marks}) AND t.end_ns IS NOT NULL"
    cursor = reader.connection.execute(_select(reader, RUNS, names, where), list(run_ids))
    for rowid, at_ns, _, *values in cursor:
        found = dict(zip(names, values, strict=True))
        _place(RUNS, found, at_ns, 0)
        yield _event(RUNS, found, rowid)


def _select(reader: Reader, table: Table, names: Sequence[str], where: str) -> str:
    shown = ", ".join(f"t.{name}" for name in names)
    trace = "NULL" if table is RUNS else reader.of_run(table, "trace_id")
    return (
        f"SELECT t.rowid, {reader.time_of(table)}, {trace}, {shown} FROM {table.name} t "
        f"WHERE {where}"
    )


def _place(table: Table, found: Event, at_ns: object, last_ns: int) -> tuple[bool, int]:
    """Set the row's time: its own, its run's, or that of the row before; whether it is known.

    A call whose run is not written yet happened after the row before it, or just now.
    """
    known_ns = _fitted(_COLUMNS[table.name][table.time], at_ns)
    is_known = isinstance(known_ns, int)
    placed_ns = known_ns if isinstance(known_ns, int) else last_ns or time.time_ns()
    found[table.time] = placed_ns
    return is_known, placed_ns


def _event(table: Table, found: Event, rowid: int) -> Event:
    """A row as the event that would make it; its number is its id where it has none."""
    event: Event = {"event": table.event}
    for column in table.columns:
        event[column.name] = _fitted(column, found.get(column.name))
    event[table.key] = event[table.key] or f"seed-{rowid}"
    if table.time == "ts_ns":
        event["start_ns"] = event["start_ns"] or event["ts_ns"]
    if table is RUNS:
        event |= {name: event[name] or 0 for name in _COUNTERS}
        event["schema_v"] = event["schema_v"] or 1
    else:
        event["run_id"] = event["run_id"] or NO_RUN
        event["parent_span_id"] = event["parent_span_id"] or event["run_id"]
    return event


def _fitted(column: Column, value: object) -> object:
    """A stored value where it fits the contract's column, else None: a bad one costs no row."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if column.name == "base_url":
        value = host_of(value)
    elif column.kind == "json":
        value = _facts(value)
    elif column.max_chars and value is not None:
        value = str(value)[: column.max_chars]
    elif isinstance(value, float) and column.kind not in {"ms", "usd"}:
        value = int(value) if math.isfinite(value) and value == int(value) else None
    return None if fault_of(column, value) else value


def _facts(value: object) -> str | None:
    """Of a span's attributes, the numbers and flags: a text could be content."""
    try:
        found = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    kept = {
        name: inner
        for name, inner in found.items()
        if _FACT.fullmatch(name) and isinstance(inner, int | float) and abs(inner) < COUNT_MAX
    }
    return json.dumps(kept, separators=(",", ":")) if kept else None


def _fresh(connection: sqlite3.Connection, page: Page) -> list[Event]:
    """The page's events that are not stored yet."""
    if page.table is RUNS:
        return [event for event in page.events if _merge(connection, event)]
    if page.table.time != "ts_ns":
        known = _known(connection, page.table, [event["span_id"] for event in page.events])
        return [event for event in page.events if event["span_id"] not in known]
    numbered = {event["span_id"]: f"{event['span_id']}-{event['ts_ns']}" for event in page.events}
    known = _known(connection, page.table, [*numbered, *numbered.values()])
    fresh: list[Event] = []
    for event in page.events:
        taken = known.get(event["span_id"])
        is_other = taken is not None and (
            taken[0] != event["run_id"]
            or (taken[1] != event["ts_ns"] and event["span_id"] not in page.guessed)
        )
        if is_other:  # numbers began anew, in state.db or in an older database of ours
            event["span_id"] = numbered[event["span_id"]]
            taken = known.get(event["span_id"])
        if taken is None:
            fresh.append(event)
    return fresh


def _known(
    connection: sqlite3.Connection, table: Table, span_ids: Sequence[object]
) -> dict[object, tuple[object, object]]:
    """Run and time of the rows that are stored under these ids."""
    rows = connection.execute(
        f"SELECT span_id, run_id, {table.time} FROM {table.name} "
        f"WHERE span_id IN ({', '.join('?' * len(span_ids))})",
        list(span_ids),
    )
    return {span_id: (run_id, at_ns) for span_id, run_id, at_ns in rows}


def _merge(connection: sqlite3.Connection, event: Event) -> bool:
    """Fill a run's event with what is stored beyond it; whether that changes what is stored."""
    stored = run_event(connection, str(event["run_id"])) or {}
    for name, value in stored.items():
        if event[name] is None:
            event[name] = value
    return event != stored


_COLUMNS: Final = {
    table.name: {column.name: column for column in table.columns} for table in EVENT_TABLES
}
_COUNTERS: Final = ("model_call_count", "tool_call_count", "error_count", "turn_count")
