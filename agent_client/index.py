"""The index of the log: upserts of events into their tables, a batch at a time.

Rows of a batch go in table by table, and a ring's cursor moves once: that is what makes the
writer fast. Indexing a line again changes nothing but its ring's counts; the log's place in
``tel_state`` keeps a line from being counted twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from agent_client.contract.events import fault_of
from agent_client.contract.tables import (
    BY_EVENT,
    COUNT_MAX,
    EVENT_TABLES,
    MS_MAX,
    RUNS,
    TIME_MAX_NS,
    USD_MAX,
    Column,
    Table,
)
from agent_client.eventlog import UNREADABLE, Line
from agent_client.guard import note_fault
from agent_client.store import add_to_state

MAX_SHAPES: Final = 1024
"""Shapes of rows remembered a table; a recorder makes a dozen, a hostile one no more than this."""

_NUMBER_MAX: Final = {"count": COUNT_MAX, "time": TIME_MAX_NS, "ms": MS_MAX, "usd": USD_MAX}
_NUMBERS: Final = {"count": (int,), "time": (int,), "ms": (int, float), "usd": (int, float)}

Values = tuple[object, ...]


def index(connection: sqlite3.Connection, lines: Sequence[Line]) -> None:
    """Upsert the lines' rows and move their rings' cursors; a bad row is counted, not raised.

    Errors: sqlite3.OperationalError (full, locked); the caller's transaction is then void.
    """
    invalid = 0
    by_table: dict[str, list[Line]] = {}
    for line in lines:
        by_table.setdefault(str(line.event.get("event")), []).append(line)
    for kind, of_kind in by_table.items():
        if kind == UNREADABLE:
            invalid += len(of_kind)
        elif kind in BY_EVENT:
            invalid += _upsert(connection, BY_EVENT[kind], of_kind)
    if invalid:
        add_to_state(connection, "loss.invalid", invalid)
    _move_cursors(connection, lines)


def values_of(table: Table, event: dict[str, object]) -> Values:
    """An event's columns in storage order."""
    return tuple(map(event.get, table.column_names()))


def _upsert(connection: sqlite3.Connection, table: Table, lines: list[Line]) -> int:
    """Store the valid rows; returns how many are not."""
    checker, valid, rows = _CHECKERS[table.name], list[Line](), list[Values]()
    for line in lines:
        values = line.values if line.values is not None else values_of(table, line.event)
        if checker.is_valid(values):
            valid.append(line)
            rows.append((*values, line.seq))
    try:
        connection.executemany(_UPSERTS[table.name], rows)
    except sqlite3.OperationalError:
        raise
    except (sqlite3.Error, ValueError, OverflowError):
        # Which of them it was, one at a time tells: to upsert a row again changes nothing.
        pairs = zip(valid, rows, strict=True)
        valid = [line for line, row in pairs if _is_stored(connection, table, row)]
    if table is RUNS:
        _note_open(connection, valid)
    return len(lines) - len(valid)


def _is_stored(connection: sqlite3.Connection, table: Table, row: Values) -> bool:
    try:
        connection.execute(_UPSERTS[table.name], row)
    except sqlite3.OperationalError:
        raise
    except (sqlite3.Error, ValueError, OverflowError) as error:
        note_fault("journal.row", error)
        return False
    return True


def _note_open(connection: sqlite3.Connection, runs: Iterable[Line]) -> None:
    """Remember which process has which runs open; the last event of a run decides."""
    owners = {
        line.event["run_id"]: line.ring_id.partition(".")[0]
        if line.event.get("end_ns") is None
        else ""
        for line in runs
    }
    connection.executemany(
        "INSERT OR REPLACE INTO tel_open_runs VALUES (?, ?)",
        [(run_id, owner) for run_id, owner in owners.items() if owner],
    )
    connection.executemany(
        "DELETE FROM tel_open_runs WHERE run_id = ?",
        [(run_id,) for run_id, owner in owners.items() if not owner],
    )


def _move_cursors(connection: sqlite3.Connection, lines: Iterable[Line]) -> None:
    rings: dict[str, list[int]] = {}
    for line in lines:
        if line.ring_id:
            rings.setdefault(line.ring_id, []).append(line.k)
    for ring_id, numbers in rings.items():
        first, last, count = min(numbers), max(numbers), len(numbers)
        connection.execute(
            # A gap is what overflowed: frames are numbered without one. It is counted here too
            # because a kill after the append undoes what the writer counted.
            "INSERT INTO tel_rings VALUES (:ring, :next, :count, :first + :gaps, 0, 0) "
            "ON CONFLICT(ring_id) DO UPDATE SET "
            "overflow = overflow + max(0, :first - next_k) + :gaps, "
            "next_k = max(next_k, excluded.next_k), stored = stored + :count",
            {
                "ring": ring_id,
                "next": last + 1,
                "count": count,
                "first": first,
                "gaps": last - first + 1 - count,
            },
        )


class _Checker:
    """Whether rows of a table may be stored, as ``fault_of`` says, at a tenth of its cost.

    Rows have few shapes (the types of their values). What is left to look at in each, bounds of
    numbers and lengths, is worked out once a shape; a shape that is no plain one is asked about
    column by column each time.
    """

    def __init__(self, table: Table) -> None:
        self._columns = table.columns
        self._shapes: dict[tuple[type, ...], _Bounds | None] = {}

    def is_valid(self, values: Values) -> bool:
        shape = tuple(map(type, values))
        try:
            bounds = self._shapes[shape]
        except KeyError:
            bounds = _bounds_of(self._columns, shape)
            if len(self._shapes) < MAX_SHAPES:
                self._shapes[shape] = bounds
        if bounds is None:
            return not any(map(fault_of, self._columns, values))
        numbers, texts = bounds
        for place, high in numbers:
            if not 0 <= values[place] <= high:  # type: ignore[operator]  # a number by its shape
                return False
        for place, low, high in texts:  # noqa: SIM110  # a generator costs as much as the check
            if not low <= len(values[place]) <= high:  # type: ignore[arg-type]  # str by its shape
                return False
        return True


_Bounds = tuple[list[tuple[int, float]], list[tuple[int, int, int]]]


def _bounds_of(columns: Sequence[Column], shape: tuple[type, ...]) -> _Bounds | None:
    """What to look at in rows of a shape; None when only ``fault_of`` can tell."""
    numbers: list[tuple[int, float]] = []
    texts: list[tuple[int, int, int]] = []
    for place, (column, kind) in enumerate(zip(columns, shape, strict=True)):
        if kind is type(None) and not column.required:
            continue
        if kind is str and column.max_chars:
            texts.append((place, int(column.required), column.max_chars))
        elif kind in _NUMBERS.get(column.kind, ()):
            numbers.append((place, _NUMBER_MAX[column.kind]))
        elif not (kind is bool and column.kind == "flag"):
            return None
    return numbers, texts


def _upsert_sql(table: Table) -> str:
    names = table.column_names()
    insert = (
        f"INSERT INTO {table.name} ({', '.join(names)}, seq) "
        f"VALUES ({', '.join('?' * (len(names) + 1))}) "
    )
    if not table.merges:
        return insert + "ON CONFLICT DO NOTHING"
    # A recorder's later event knows no cost; one that was reconciled stays.
    kept = {
        "estimated_cost_usd": "coalesce(excluded.estimated_cost_usd, estimated_cost_usd)",
        "cost_status": "coalesce(excluded.cost_status, cost_status)",
    }
    sets = ", ".join(
        f"{name} = {kept.get(name, f'excluded.{name}')}"
        for name in (*names, "seq")
        if name != table.key
    )
    return insert + (
        f"ON CONFLICT({table.key}) DO UPDATE SET {sets} "
        f"WHERE excluded.seq > coalesce({table.name}.seq, 0)"
    )


_UPSERTS: Final = {table.name: _upsert_sql(table) for table in EVENT_TABLES}
_CHECKERS: Final = {table.name: _Checker(table) for table in EVENT_TABLES}
