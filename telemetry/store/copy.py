"""copy_rows(): rows into an event table, each stored once, at the speed of COPY.

PostgreSQL: binary COPY straight into the partitioned parent, inside a savepoint. Only when that
meets a duplicate key the rows go through a staging table, which costs about 1.5 times as much.
SQLite: the twin behind the same function, with the same results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg
from django.db import IntegrityError, connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg import sql

from agent_client.contract.tables import ColumnKind, Table
from fleet.lib.clock import ns_to_datetime
from telemetry.models import ReplacedRun
from telemetry.models.events import MODEL_OF

type Value = str | int | float | bool | None
type Stored = Value | UUID | datetime
type Row = tuple[Value, ...]
"""A row's columns in the contract's storage order, then its ``seq``."""

_POSTGRES_TYPES: Final[dict[ColumnKind, str]] = {
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
    """Store the rows of one table of one batch; must run inside a transaction.

    Steps: 1. COPY (PostgreSQL) or, on a duplicate key and on SQLite, 2. insert what is not there,
    3. where the table merges, replace what is there with an older ``seq``.
    Errors: IntegrityError when a row's day has no partition.
    """
    if not rows:
        return CopyCounts()
    target = _Target(table, stamp)
    if connection.vendor != "postgresql":
        return _insert_sqlite(target, rows)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            _copy(cursor, target.name, target.columns, target.types, target.records(rows))
    except IntegrityError as error:
        if not isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise
        return _insert_staged(target, rows)
    return CopyCounts(inserted=len(rows))


class _Target:
    """One event table, seen by one batch."""

    def __init__(self, table: Table, stamp: Stamp) -> None:
        names = table.column_names()
        self.name = MODEL_OF[table.name].table_name()
        self.key = table.key
        self.merges = table.merges
        self.columns = ("install_id", "start_at", *names, "seq", *_STAMPED)
        kinds = (_POSTGRES_TYPES[column.kind] for column in table.columns)
        self.types = ("uuid", "timestamptz", *kinds, "int8", "uuid", "timestamptz", "int8")
        self.time_index = names.index(table.time)
        self.key_index = names.index(table.key)
        self.stamp = stamp

    def records(self, rows: Sequence[Row]) -> Iterator[tuple[Stored, ...]]:
        """Each row with what the batch adds to it, in the order of ``columns``."""
        stamp, at = self.stamp, self.time_index
        tail = (stamp.batch_id, stamp.received_at, stamp.group_id)
        for row in rows:
            time_ns = row[at]
            assert isinstance(time_ns, int)  # noqa: S101 -- a required column, held by validate
            yield (stamp.install_id, ns_to_datetime(time_ns), *row, *tail)


def _copy(
    cursor: CursorWrapper,
    name: str,
    columns: Sequence[str],
    types: Sequence[str],
    records: Iterator[tuple[Stored, ...]],
) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(name), _names(columns)
    )
    with connection.wrap_database_errors, cursor.copy(statement) as copy:
        copy.set_types(types)
        for record in records:
            copy.write_row(record)


def _names(columns: Sequence[str], prefix: str = "") -> sql.Composed:
    if prefix:
        return sql.SQL(", ").join(sql.Identifier(prefix, name) for name in columns)
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _insert_staged(target: _Target, rows: Sequence[Row]) -> CopyCounts:
    """Step 2 and 3 on PostgreSQL.

    Two statements instead of one ON CONFLICT DO UPDATE: their row counts are the exact numbers of
    inserted and merged rows, on partitioned tables too. In between nobody else writes rows of this
    install: ingest holds its lock. Of several copies in one batch the highest seq, then the first
    line, stands for all.
    """
    stage, columns = sql.Identifier(f"{target.name}_stage"), target.columns
    newest = sql.SQL(
        "SELECT DISTINCT ON (start_at, {key}) {columns} FROM {stage} "
        "ORDER BY start_at, {key}, {newest_first} line"
    ).format(
        key=sql.Identifier(target.key),
        columns=_names(columns),
        stage=stage,
        newest_first=sql.SQL("seq DESC,") if target.merges else sql.SQL(""),
    )
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}, line bigint)").format(
                stage, sql.Identifier(target.name)
            )
        )
        numbered = ((*record, line) for line, record in enumerate(target.records(rows)))
        _copy(
            cursor,
            f"{target.name}_stage",
            (*target.columns, "line"),
            (*target.types, "int8"),
            numbered,
        )
        cursor.execute(
            sql.SQL("INSERT INTO {} ({}) {} ON CONFLICT DO NOTHING").format(
                sql.Identifier(target.name), _names(columns), newest
            )
        )
        inserted = cursor.rowcount
        merged = _merge_staged(cursor, target, newest) if target.merges else 0
        cursor.execute(sql.SQL("DROP TABLE {}").format(stage))
    return CopyCounts(inserted, merged, len(rows) - inserted - merged)


def _merge_staged(cursor: CursorWrapper, target: _Target, newest: sql.Composed) -> int:
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
        [target.stamp.batch_id, target.stamp.install_id, first, last],
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
        [target.stamp.install_id, first, last],
    )
    return int(cursor.rowcount)


def _insert_sqlite(target: _Target, rows: Sequence[Row]) -> CopyCounts:
    """Step 2 and 3 on SQLite; the transaction is IMMEDIATE, so nobody writes in between."""
    newest = _newest(target, rows) if target.merges else rows
    records = [_adapt(record) for record in target.records(newest)]
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
        merged = _merge_sqlite(cursor, target, records) if target.merges else 0
    return CopyCounts(inserted, merged, len(rows) - inserted - merged)


def _merge_sqlite(
    cursor: CursorWrapper, target: _Target, records: Sequence[tuple[Stored, ...]]
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
        [(target.stamp.batch_id.hex, *place) for place in places],
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
