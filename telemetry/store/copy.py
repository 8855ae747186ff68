"""copy_batch(), copy_rows(): rows into the event tables, each stored once, at the speed of COPY.

PostgreSQL: binary COPY straight into the partitioned parents, inside a savepoint. Only when that
meets a duplicate key the rows go through staging tables, which costs about 1.5 times as much.
SQLite: the twin behind the same function, with the same results.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg
from django.db import IntegrityError, connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg import sql

from agent_client.contract.tables import BY_NAME, ColumnKind, Table
from fleet.lib.clock import ns_to_datetime
from telemetry.models import ReplacedRun
from telemetry.models.events import MODEL_OF
from telemetry.store.pack import (
    Kind,
    Packer,
    Value,
    Values,
    int_field,
    time_field,
    uuid_field,
)

type Stored = Value | UUID | datetime
type Row = tuple[Value, ...]
"""A row's columns in the contract's storage order, then its ``seq``."""
type Columns = Sequence[Values]
"""The rows of one table, column by column, in the order of ``Row``."""

_KINDS: Final[dict[ColumnKind, Kind]] = {
    "id": "text",
    "name": "text",
    "json": "text",
    "count": "int8",
    "time": "int8",
    "ms": "float8",
    "usd": "float8",
    "flag": "bool",
}
REPLACED_TABLE: Final = ReplacedRun._meta.db_table
_STAMPED: Final = ("batch_id", "received_at", "group_id")
_REPLACED: Final = (
    "install_id",
    "start_at",
    "run_id",
    "group_id",
    "entrypoint",
    "platform",
    "agent_version",
    "start_ns",
    "end_ns",
    "end_reason",
    "model_call_count",
    "tool_call_count",
    "error_count",
    "turn_count",
    "estimated_cost_usd",
    "cost_status",
    "batch_id",
    "received_at",
)
"""What is kept of a run that is replaced: a fold takes it out of the cells again."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all rows of one batch share."""

    install_id: UUID
    batch_id: UUID
    received_at: datetime
    group_id: int = 0


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """What became of the rows of one table: inserted + merged + duplicate = rows given.

    ``merged``: replaced an older copy (runs). ``duplicate``: there already, or older.
    """

    inserted: int = 0
    merged: int = 0
    duplicate: int = 0


def copy_rows(table: Table, rows: Sequence[Row], stamp: Stamp) -> CopyCounts:
    """Store the rows of one table of one batch: ``copy_batch`` for a caller that has rows."""
    if not rows:
        return CopyCounts()
    return copy_batch({table.name: columns_of(rows)}, stamp)[table.name]


def columns_of(rows: Sequence[Row]) -> Columns:
    """Rows turned into columns; of no rows, no columns."""
    return tuple(zip(*rows, strict=True))


def copy_batch(columns: Mapping[str, Columns], stamp: Stamp) -> dict[str, CopyCounts]:
    """Store the columns of each table of one batch; must run inside a transaction.

    Steps: 1. COPY (PostgreSQL) or, on a duplicate key and on SQLite, 2. insert what is not there,
    3. where the table merges, replace what is there with an older ``seq``. A table that merges
    meets duplicates every day and has a savepoint of its own; all others share one, because they
    meet them only when a batch comes again in another cut.
    Shape: counts by table, of every table given; a table without rows has no columns.
    Errors: IntegrityError when a row's day has no partition.
    """
    counts = {name: CopyCounts() for name in columns}
    full = {name: found for name, found in columns.items() if found}
    if connection.vendor != "postgresql":
        for name, found in full.items():
            counts[name] = _insert_sqlite(_target_of(BY_NAME[name]), found, stamp)
        return counts
    merging = [[name] for name in full if BY_NAME[name].merges]
    for names in (*merging, [name for name in full if not BY_NAME[name].merges]):
        counts |= _copy_or_stage({name: full[name] for name in names}, stamp)
    return counts


def _copy_or_stage(columns: Mapping[str, Columns], stamp: Stamp) -> dict[str, CopyCounts]:
    """Step 1 for some tables, in one savepoint; steps 2 and 3 when it meets a duplicate."""
    if not columns:
        return {}
    targets = {name: _target_of(BY_NAME[name]) for name in columns}
    # Not an atomic block: that would release the savepoint, a round trip that the commit makes
    # superfluous.
    savepoint = transaction.savepoint_create()
    try:
        with connection.cursor() as cursor:
            for name, target in targets.items():
                _copy(cursor, target.statement, target.packed(columns[name], stamp))
    except IntegrityError as error:
        transaction.savepoint_rollback(savepoint)
        if not isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise
        return {
            name: _insert_staged(target, columns[name], stamp) for name, target in targets.items()
        }
    return {name: CopyCounts(inserted=len(found[0])) for name, found in columns.items()}


class _Target:
    """What is fixed of one event table: looked up once a process."""

    def __init__(self, table: Table) -> None:
        names = table.column_names()
        self.name = MODEL_OF[table.name].table_name()
        self.key = table.key
        self.merges = table.merges
        self.columns = ("install_id", "start_at", *names, "seq", *_STAMPED)
        self.kinds: tuple[Kind, ...] = (*(_KINDS[column.kind] for column in table.columns), "int8")
        self.time_index = names.index(table.time)
        self.key_index = names.index(table.key)
        self.statement = _copy_statement(self.name, self.columns)

    def packed(self, columns: Columns, stamp: Stamp, *, is_numbered: bool = False) -> bytes:
        """All rows as binary COPY reads them; ``is_numbered``: each with its line from 0 on."""
        row_count = len(columns[0])
        packer = Packer(row_count, len(self.columns) + is_numbered)
        packer.add_constant(uuid_field(stamp.install_id))
        packer.add_times(columns[self.time_index])  # type: ignore[arg-type]  # required: all are int
        for kind, values in zip(self.kinds, columns, strict=True):
            packer.add(kind, values)
        packer.add_constant(
            uuid_field(stamp.batch_id) + time_field(stamp.received_at) + int_field(stamp.group_id)
        )
        if is_numbered:
            packer.add("int8", range(row_count))
        return packer.data()

    def records(self, rows: Iterable[Row], stamp: Stamp) -> Iterator[tuple[Stored, ...]]:
        """Each row with what the batch adds to it, in the order of ``columns``."""
        at = self.time_index
        tail = (stamp.batch_id, stamp.received_at, stamp.group_id)
        for row in rows:
            time_ns = row[at]
            assert isinstance(time_ns, int)  # noqa: S101 -- a required column, held by validate
            yield (stamp.install_id, ns_to_datetime(time_ns), *row, *tail)


_target_of: Final = functools.cache(_Target)


def _copy_statement(name: str, columns: Sequence[str]) -> str:
    return (
        sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)")
        .format(sql.Identifier(name), _names(columns))
        .as_string(None)
    )


def _copy(cursor: CursorWrapper, statement: str, data: bytes) -> None:
    with connection.wrap_database_errors, cursor.copy(statement) as copy:
        copy.write(data)


def _names(columns: Sequence[str], prefix: str = "") -> sql.Composed:
    if prefix:
        return sql.SQL(", ").join(sql.Identifier(prefix, name) for name in columns)
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _insert_staged(target: _Target, columns: Columns, stamp: Stamp) -> CopyCounts:
    """Step 2 and 3 on PostgreSQL.

    Two statements instead of one ON CONFLICT DO UPDATE: their row counts are the exact numbers of
    inserted and merged rows, on partitioned tables too. In between nobody else writes rows of this
    install: ingest holds its lock. Of several copies in one batch the highest seq, then the first
    line, stands for all.
    """
    stage, names = sql.Identifier(f"{target.name}_stage"), _names(target.columns)
    newest = sql.SQL(
        "SELECT DISTINCT ON (start_at, {key}) {columns} FROM {stage} "
        "ORDER BY start_at, {key}, {newest_first} line"
    ).format(
        key=sql.Identifier(target.key),
        columns=names,
        stage=stage,
        newest_first=sql.SQL("seq DESC,") if target.merges else sql.SQL(""),
    )
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}, line bigint)").format(
                stage, sql.Identifier(target.name)
            )
        )
        _copy(
            cursor,
            _copy_statement(f"{target.name}_stage", (*target.columns, "line")),
            target.packed(columns, stamp, is_numbered=True),
        )
        cursor.execute(
            sql.SQL("INSERT INTO {} ({}) {} ON CONFLICT DO NOTHING").format(
                sql.Identifier(target.name), names, newest
            )
        )
        inserted = cursor.rowcount
        merged = _merge_staged(cursor, target, newest, stamp) if target.merges else 0
        cursor.execute(sql.SQL("DROP TABLE {}").format(stage))
    return CopyCounts(inserted, merged, len(columns[0]) - inserted - merged)


def _merge_staged(
    cursor: CursorWrapper, target: _Target, newest: sql.Composed, stamp: Stamp
) -> int:
    cursor.execute(sql.SQL("SELECT min(start_at), max(start_at) FROM ({}) s").format(newest))
    first, last = cursor.fetchone()
    cursor.execute(
        sql.SQL(
            "INSERT INTO {replaced} ({columns}, replaced_by) "
            "SELECT {values}, %s FROM {table} t JOIN ({newest}) s "
            "ON t.start_at = s.start_at AND t.{key} = s.{key} AND t.seq < s.seq "
            "WHERE t.install_id = %s AND t.start_at BETWEEN %s AND %s"
        ).format(
            replaced=sql.Identifier(REPLACED_TABLE),
            columns=_names(_REPLACED),
            values=_names(_REPLACED, "t"),
            table=sql.Identifier(target.name),
            newest=newest,
            key=sql.Identifier(target.key),
        ),
        [stamp.batch_id, stamp.install_id, first, last],
    )
    kept = [name for name in target.columns[2:] if name != target.key]
    cursor.execute(
        # The constants let the planner open only the days of this batch.
        sql.SQL(
            "UPDATE {table} t SET ({names}) = ROW({values}) FROM ({newest}) s "
            "WHERE t.install_id = %s AND t.start_at BETWEEN %s AND %s "
            "AND t.start_at = s.start_at AND t.{key} = s.{key} AND t.seq < s.seq"
        ).format(
            table=sql.Identifier(target.name),
            names=_names(kept),
            values=_names(kept, "s"),
            newest=newest,
            key=sql.Identifier(target.key),
        ),
        [stamp.install_id, first, last],
    )
    return int(cursor.rowcount)


def _insert_sqlite(target: _Target, columns: Columns, stamp: Stamp) -> CopyCounts:
    """Step 2 and 3 on SQLite; the transaction is IMMEDIATE, so nobody writes in between."""
    rows = list(zip(*columns, strict=True))
    newest = _newest(target, rows) if target.merges else rows
    records = [_adapt(record) for record in target.records(newest, stamp)]
    quote = connection.ops.quote_name
    marks = ", ".join(["%s"] * len(target.columns))
    names = ", ".join(map(quote, target.columns))
    table = quote(target.name)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608 -- names of the contract
            records,
        )
        inserted = cursor.rowcount
        merged = _merge_sqlite(cursor, target, records, stamp) if target.merges else 0
    return CopyCounts(inserted, merged, len(rows) - inserted - merged)


def _merge_sqlite(
    cursor: CursorWrapper, target: _Target, records: Sequence[tuple[Stored, ...]], stamp: Stamp
) -> int:
    quote, columns = connection.ops.quote_name, target.columns
    key, seq = columns.index(target.key), columns.index("seq")
    kept = [at for at in range(2, len(columns)) if at != key]
    sets = ", ".join(f"{quote(columns[at])} = %s" for at in kept)
    replaced = ", ".join(map(quote, _REPLACED))
    places = [(record[0], record[1], record[key], record[seq]) for record in records]
    cursor.executemany(
        f"INSERT INTO {quote(REPLACED_TABLE)} ({replaced}, replaced_by) "  # noqa: S608 -- names of our own models
        f"SELECT {replaced}, %s FROM {quote(target.name)} WHERE install_id = %s AND start_at = %s "
        f"AND {quote(target.key)} = %s AND seq < %s",
        [(stamp.batch_id.hex, *place) for place in places],
    )
    cursor.executemany(
        f"UPDATE {quote(target.name)} SET {sets} WHERE install_id = %s AND start_at = %s "  # noqa: S608 -- names of the contract
        f"AND {quote(target.key)} = %s AND seq < %s",
        [
            (*(record[at] for at in kept), *place)
            for record, place in zip(records, places, strict=True)
        ],
    )
    return int(cursor.rowcount)


def _newest(target: _Target, rows: Sequence[Row]) -> list[Row]:
    """Of several copies in one batch the highest seq, then the first line."""
    best: dict[tuple[int, Value], Row] = {}
    for row in rows:
        time_ns, seq = row[target.time_index], row[-1]
        assert isinstance(time_ns, int)  # noqa: S101 -- required columns, held by validate
        assert isinstance(seq, int)  # noqa: S101
        place = (time_ns // 1000, row[target.key_index])
        known = best.get(place)
        if known is None or seq > int(known[-1] or 0):
            best[place] = row
    return list(best.values())


def _adapt(record: tuple[Stored, ...]) -> tuple[Stored, ...]:
    """The values as Django itself writes and reads them on SQLite."""
    adapted: list[Stored] = []
    for value in record:
        if isinstance(value, UUID):
            adapted.append(value.hex)
        elif isinstance(value, datetime):
            adapted.append(connection.ops.adapt_datetimefield_value(value))
        else:
            adapted.append(value)
    return tuple(adapted)
