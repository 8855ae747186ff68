"""Rows of one table page by page, each page a short read that begins where the last one ended.

A page is found by the key of the row before it, never by counting: it costs the same at the
millionth row as at the first, holds no transaction open and survives a restart. Names come from the
models, values are parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from django.db import connection, transaction

type Key = tuple[object, ...]
type PageRow = tuple[Any, ...]  # Any: what the column holds

UUIDS: Final = "uuid"
TIMES: Final = "time"
FLAGS: Final = "flag"
JSONS: Final = "json"


@dataclass(frozen=True, slots=True)
class Pages:
    """What to read. ``columns``: name and kind; of a kind only those above matter.

    ``order``: columns that together are unique, in an index of the table. ``time`` lies in
    ``[start, end)``; ``arrived`` is at most ``by``; ``among``: a column has one of some values,
    None standing for NULL.
    """

    table: str
    columns: tuple[tuple[str, str], ...]
    order: tuple[str, ...]
    time: str = ""
    start: datetime | None = None
    end: datetime | None = None
    arrived: str = ""
    by: datetime | None = None
    among: Mapping[str, Sequence[object]] = field(default_factory=dict)

    def within(self, start: datetime, end: datetime) -> Pages:
        """The same in another stretch of time."""
        return replace(self, start=start, end=end)


def read_page(pages: Pages, after: Key | None, row_count: int) -> list[PageRow]:
    """At most so many rows after a key, in order; UUIDs as text, times aware, in UTC.

    Errors: whatever the database raises.
    """
    where, values = _where(pages)
    if after is not None:
        names = ", ".join(_quoted(name) for name in pages.order)
        marks = ", ".join("%s" for _ in pages.order)
        where.append(f"({names}) > ({marks})")
        kinds = dict(pages.columns)
        key = [_of_key(value, kinds[name]) for name, value in zip(pages.order, after, strict=True)]
        values += key
        if connection.vendor == "sqlite":  # its planner takes a bound from this, not from the pair
            where.append(f"{_quoted(pages.order[0])} >= %s")
            values.append(key[0])
    selected = ", ".join(_selected(name, kind) for name, kind in pages.columns)
    table = _quoted(pages.table)
    # With the table's name: alone it would be the selected text of a UUID, which no index orders.
    order = ", ".join(f"{table}.{_quoted(name)}" for name in pages.order)
    query = f"SELECT {selected} FROM {table} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT %s"  # noqa: S608 -- names of models
    if connection.vendor == "postgresql":
        return _fetch_binary(query, [*values, row_count])
    with connection.cursor() as cursor:
        cursor.execute(query, [*values, row_count])
        return _read_back(pages, cursor.fetchall())


def _fetch_binary(query: str, values: Sequence[Any]) -> list[PageRow]:  # Any: as in _where
    """The rows, sent by PostgreSQL in its binary form: to read it takes half of what texts take."""
    connection.ensure_connection()
    plain = psycopg.Cursor(connection.connection)
    plain.format = psycopg.pq.Format.BINARY
    wrap = connection.make_debug_cursor if connection.queries_logged else connection.make_cursor
    with wrap(plain) as cursor:  # type: ignore[arg-type]  # the stubs name the wrapper itself
        cursor.execute(query, values)
        rows: list[PageRow] = cursor.fetchall()
        return rows


@contextmanager
def one_state() -> Iterator[None]:
    """A block in which every page is read from one snapshot of the database, and nothing written.

    Keep it short: what it sees cannot be cleaned up meanwhile. Inside a transaction it is that
    one's state.
    """
    is_outermost = not connection.in_atomic_block
    with transaction.atomic(savepoint=False):
        if is_outermost and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def estimate(pages: Pages) -> int:
    """About how many rows there are: the planner's guess on PostgreSQL, exact on SQLite."""
    where, values = _where(pages)
    query = f"FROM {_quoted(pages.table)} WHERE {' AND '.join(where)}"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"EXPLAIN (FORMAT JSON) SELECT 1 {query}", values)
            plan = cursor.fetchone()[0]
            found = json.loads(plan) if isinstance(plan, str) else plan
            return int(found[0]["Plan"]["Plan Rows"])
        cursor.execute(f"SELECT count(*) {query}", values)
        return int(cursor.fetchone()[0])


def count_up_to(pages: Pages, most: int) -> int:
    """How many rows there are, counted by looking, and no further than ``most``."""
    where, values = _where(pages)
    inner = f"FROM {_quoted(pages.table)} WHERE {' AND '.join(where)} LIMIT %s"
    with connection.cursor() as cursor:
        query = f"SELECT count(*) FROM (SELECT 1 {inner}) AS found"  # noqa: S608 -- quoted names
        cursor.execute(query, [*values, most])
        return int(cursor.fetchone()[0])


def _where(pages: Pages) -> tuple[list[str], list[Any]]:  # Any: whatever the driver adapts
    where: list[str] = ["TRUE"]
    values: list[Any] = []  # Any: as above
    if pages.time and pages.start is not None and pages.end is not None:
        where.append(f"{_quoted(pages.time)} >= %s AND {_quoted(pages.time)} < %s")
        values += [_stored(pages.start), _stored(pages.end)]
    if pages.arrived and pages.by is not None:
        where.append(f"{_quoted(pages.arrived)} <= %s")
        values.append(_stored(pages.by))
    for name, some in pages.among.items():
        given = [_stored(value) for value in some if value is not None]
        choices = [f"{_quoted(name)} IS NULL"] if None in some else []
        if given and connection.vendor == "postgresql":
            choices.append(f"{_quoted(name)} = ANY(%s)")
            values.append(given)
        elif given:
            choices.append(f"{_quoted(name)} IN ({', '.join('%s' for _ in given)})")
            values += given
        where.append(f"({' OR '.join(choices)})")
    return where, values


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)


def _selected(name: str, kind: str) -> str:
    # A text costs a tenth of what an object costs to make, and leaves as a text anyway.
    cast = "::text" if kind in {UUIDS, JSONS} and connection.vendor == "postgresql" else ""
    return _quoted(name) + cast


def _stored(value: object) -> object:
    if connection.vendor == "postgresql":
        return value
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    return value


def _of_key(value: object, kind: str) -> object:
    """A value that was read, as it is stored."""
    return _stored(UUID(value)) if kind == UUIDS and isinstance(value, str) else _stored(value)


def _read_back(pages: Pages, rows: Sequence[PageRow]) -> list[PageRow]:
    """What SQLite keeps as text and numbers, as what it stands for."""
    if not rows:
        return []
    columns = [list(column) for column in zip(*rows, strict=True)]
    for at, (_name, kind) in enumerate(pages.columns):
        if kind == UUIDS:
            made = {value: value and str(UUID(value)) for value in set(columns[at])}
            columns[at] = [made[value] for value in columns[at]]
        elif kind == TIMES:
            columns[at] = [value and _moment(value) for value in columns[at]]
        elif kind == FLAGS:
            columns[at] = [None if value is None else bool(value) for value in columns[at]]
    return list(zip(*columns, strict=True))


def _moment(value: str | datetime) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found if found.tzinfo else found.replace(tzinfo=UTC)
