"""The rows that feed entries brought, in one settled order; and runs that never ended.

Rows are found by the hours that the ledger keeps of each batch, so that only those day partitions
are opened. A query reads each table once for all entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Q

from agent_client.contract.tables import (
    EVENT_TABLES,
    MODEL_CALLS,
    RUNS,
    SPANS,
    TOOL_CALLS,
    Table,
)
from telemetry.models import FeedEntry, IngestBatch
from telemetry.models.events import MODEL_OF

TRACE_TABLES: Final = (RUNS, MODEL_CALLS, TOOL_CALLS, SPANS)
LOG_TABLES: Final = tuple(table for table in EVENT_TABLES if table not in TRACE_TABLES)
_AHEAD: Final = timedelta(days=2)
"""Ingest takes no row that begins more than a day after it came in."""
_HOUR: Final = timedelta(hours=1)

type Row = tuple[Any, ...]
"""A row's columns in the contract's storage order."""


class Place(NamedTuple):
    """Where a row stands in the order in which rows are sent: to go on behind it."""

    position: int
    table_no: int
    start_ns: int
    key: str


@dataclass(frozen=True, slots=True)
class EntryRows:
    """What one feed entry brought: ``rows`` by table, each in the order of its begin and its key.

    ``group_id``: the install's group when the rows came in, 0 for none.
    """

    position: int
    install_id: UUID
    received_at: datetime
    group_id: int = 0
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def count(self) -> int:
        """How many rows it brought."""
        return sum(map(len, self.rows.values()))


def read_entries(entries: Sequence[FeedEntry], tables: Sequence[Table]) -> list[EntryRows]:
    """What each entry brought to some tables, in the order of the entries; 1 query a table.

    A run's row belongs to the batch of its latest copy: an entry that was read before may bring
    less when it is read again, never more.
    """
    found = [EntryRows(entry.pk, entry.install_id, entry.received_at) for entry in entries]
    if not entries:
        return found
    wanted = _wanted(entries)
    groups: dict[int, int] = {}
    for table in tables:
        for place, group_id, *values in _read(table, wanted):
            groups[place] = group_id
            found[place].rows.setdefault(table.name, []).append(tuple(values))
        by = itemgetter(*_order_of(table))
        for entry in found:
            if table.name in entry.rows:
                entry.rows[table.name].sort(key=by)
    return [
        EntryRows(
            entry.position, entry.install_id, entry.received_at, groups.get(at, 0), entry.rows
        )
        for at, entry in enumerate(found)
    ]


def place_of(entry: EntryRows, table_no: int, table: Table, row: Row) -> Place:
    """The place of a row of an entry."""
    start_at, key = _order_of(table)
    return Place(entry.position, table_no, row[start_at], row[key])


def _order_of(table: Table) -> tuple[int, int]:
    names = table.column_names()
    return names.index(table.time), names.index(table.key)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Where the rows of an entry are: ``received_at`` is their stamp, not always the batch's."""

    place: int
    install_id: UUID
    batch_id: UUID
    received_at: datetime
    begins: datetime
    ends: datetime


def _wanted(entries: Sequence[FeedEntry]) -> list[_Wanted]:
    ids = {(entry.install_id, entry.batch_id) for entry in entries}
    known = {
        (install_id, batch_id): (drained_at or received_at, first, last)
        for install_id, batch_id, received_at, drained_at, first, last in (
            IngestBatch.objects.filter(
                Q(batch_id__in={batch_id for _, batch_id in ids})
                & Q(install_id__in={install_id for install_id, _ in ids})
            ).values_list(
                *("install_id", "batch_id", "received_at", "drained_at"),
                *("first_hour", "last_hour"),
            )
        )
    }
    oldest = timedelta(days=settings.FLEET_RETENTION_DAYS + 2)
    made: dict[tuple[UUID, UUID], _Wanted] = {}
    for place, entry in enumerate(entries):
        key = (entry.install_id, entry.batch_id)
        stamp, first, last = known.get(key, (entry.received_at, None, None))
        begins = first or stamp - oldest
        ends = last + _HOUR if last else stamp + _AHEAD
        made.setdefault(key, _Wanted(place, *key, stamp, begins, ends))
    return list(made.values())


def _read(table: Table, wanted: Sequence[_Wanted]) -> Iterable[Sequence[Any]]:
    names = ("install_id", "batch_id", "received_at", "begins", "ends")
    types = ("uuid", "uuid", "timestamptz", "timestamptz", "timestamptz")
    rows = [
        (one.place, one.install_id, one.batch_id, one.received_at, one.begins, one.ends)
        for one in wanted
    ]
    relation, params = relation_of(("place", *names), ("integer", *types), rows)
    columns = ", ".join(f"r.{name}" for name in table.column_names())
    bounds = (
        *(min(one.begins for one in wanted), max(one.ends for one in wanted)),
        *(min(one.received_at for one in wanted), max(one.received_at for one in wanted)),
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT t.place, r.group_id, {columns} FROM {relation} t "  # noqa: S608 -- names of the contract
            f"JOIN {MODEL_OF[table.name].table_name()} r ON r.install_id = t.install_id "
            "AND r.batch_id = t.batch_id AND r.received_at = t.received_at "
            "AND r.start_at >= t.begins AND r.start_at < t.ends "
            # The constants let the planner open only the days that are asked for.
            "WHERE r.start_at >= %s AND r.start_at < %s "
            "AND r.received_at >= %s AND r.received_at <= %s",
            [*params, *map(_moment, bounds)],
        )
        found: list[Sequence[Any]] = cursor.fetchall()
    return found


def relation_of(
    names: Sequence[str], types: Sequence[str], rows: Sequence[Sequence[Any]]
) -> tuple[str, list[Any]]:
    """Values as a relation to join with, and its parameters; ``types`` are PostgreSQL's."""
    if connection.vendor == "postgresql":
        arrays = ", ".join(f"%s::{kind}[]" for kind in types)
        text = f"(SELECT * FROM UNNEST({arrays}) AS u({', '.join(names)}))"  # noqa: S608 -- names of our own
        return text, [list(column) for column in zip(*rows, strict=True)]
    picked = ", ".join(f"JSON_EXTRACT(value, '$[{at}]') AS {name}" for at, name in enumerate(names))
    packed = json.dumps([[_adapted(value) for value in row] for row in rows])
    return f"(SELECT {picked} FROM JSON_EACH(%s))", [packed]  # noqa: S608 -- names of our own


def _moment(value: datetime) -> Any:  # noqa: ANN401 -- whatever the driver adapts
    return connection.ops.adapt_datetimefield_value(value)


def _adapted(value: object) -> object:
    """A value as SQLite holds it."""
    if isinstance(value, UUID):
        return value.hex
    return str(_moment(value)) if isinstance(value, datetime) else value
