"""The rows that feed entries brought, in one settled order; and runs that never ended.

Rows are found by the hours that the ledger keeps of each batch, so that only those day partitions
are opened. A query reads each table once for all entries, and no row of it twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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
        for place, group_id, row in _read(table, wanted):
            groups[place] = group_id
            found[place].rows.setdefault(table.name, []).append(row)
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
    received_at: datetime
    begins: datetime
    ends: datetime


def _wanted(entries: Sequence[FeedEntry]) -> dict[tuple[UUID, UUID], _Wanted]:
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
        made.setdefault(key, _Wanted(place, stamp, begins, ends))
    return made


def _read(
    table: Table, wanted: Mapping[tuple[UUID, UUID], _Wanted]
) -> Iterator[tuple[int, int, Row]]:
    is_postgres = connection.vendor == "postgresql"
    # Four values of few kinds, in each row: as texts they are looked up and not made anew.
    cast = "::text" if is_postgres else ""
    stamps = ", ".join(f"r.{name}{cast}" for name in ("install_id", "batch_id", "received_at"))
    columns = ", ".join(f"r.{name}" for name in table.column_names())
    found = read_stretches(
        table,
        f"{stamps}, r.group_id, {columns}",
        [(install_id, one.begins, one.ends) for (install_id, _), one in wanted.items()],
        {"batch_id": [batch_id for _, batch_id in wanted]},
    )
    known: dict[tuple[Any, ...], _Wanted | None] = {}
    for install_id, batch_id, received_at, group_id, *values in found:
        key = (install_id, batch_id, received_at)
        try:
            one = known[key]
        except KeyError:
            one = known[key] = _of_stamp(wanted, key)
        if one is not None:
            yield one.place, group_id, tuple(values)


def _of_stamp(wanted: Mapping[tuple[UUID, UUID], _Wanted], key: tuple[Any, ...]) -> _Wanted | None:
    """Which entry a row with these stamps is of: install, batch and time of receipt."""
    install_id, batch_id, received_at = key
    one = wanted.get((UUID(install_id), UUID(batch_id)))
    # PostgreSQL's text has its zone, SQLite's value is UTC and does not say so.
    stamp = (
        datetime.fromisoformat(received_at)
        if isinstance(received_at, str)
        else received_at.replace(tzinfo=UTC)
    )
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    return one if one is not None and stamp == one.received_at else None


type Stretch = tuple[UUID, datetime, datetime]
"""An install, and from when to when its rows are looked at."""


def read_stretches(
    table: Table,
    columns: str,
    stretches: Iterable[Stretch],
    among: Mapping[str, Sequence[str | UUID]],
    more: str = "",
) -> list[tuple[Any, ...]]:
    """Some columns of the rows of installs within stretches of time whose ids are ``among`` some.

    The statement leaves the planner one way that is good and none that is bad, so it needs no
    statistics of the table: each row of a stretch is read once, by the primary key (install, time),
    whatever is asked about it; ids are compared with a hashed list and not joined.
    """
    united = _united(stretches)
    if not united:
        return []
    relation, params = relation_of(
        ("install_id", "begins", "ends"), ("uuid", "timestamptz", "timestamptz"), united
    )
    bounds = [_moment(min(one[1] for one in united)), _moment(max(one[2] for one in united))]
    is_postgres = connection.vendor == "postgresql"
    tests = ""
    for name, ids in among.items():
        distinct = list(dict.fromkeys(ids))
        if is_postgres:
            kind = "uuid" if isinstance(distinct[0], UUID) else "text"
            tests += f" AND r.{name} = ANY(%s::{kind}[])"
            bounds.append(distinct)
        else:
            tests += f" AND r.{name} IN (SELECT value FROM JSON_EACH(%s))"  # noqa: S608 -- names of the contract
            bounds.append(json.dumps([_adapted(one) for one in distinct]))
    source = MODEL_OF[table.name].table_name()
    test = (
        "r.install_id = t.install_id AND r.start_at >= t.begins AND r.start_at < t.ends "
        # The constants let the planner open only the days that are asked for.
        f"AND r.start_at >= %s AND r.start_at < %s{tests}"
    )
    if is_postgres:  # OFFSET 0 and CROSS JOIN fix the order: the stretches lead
        rows = f"CROSS JOIN LATERAL (SELECT * FROM {source} r WHERE {test} OFFSET 0) r"  # noqa: S608 -- as above
    else:
        rows = f"CROSS JOIN {source} r ON {test}"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {relation} t {rows} {more}", [*params, *bounds])  # noqa: S608 -- as above
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def _united(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same stretches where none of an install overlaps with another."""
    made: list[Stretch] = []
    for install_id, begins, ends in sorted(stretches):
        if made and made[-1][0] == install_id and begins <= made[-1][2]:
            made[-1] = (install_id, made[-1][1], max(made[-1][2], ends))
        else:
            made.append((install_id, begins, ends))
    return made


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
