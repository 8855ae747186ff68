"""Sums of rollup cells over slices of time, by any of their dimensions, in one statement.

One index range a slice, joined by UNION ALL: whatever the planner knows of a table, it reads the
cells of a question and no others. Names come from the models, values are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, IntegerField, Model, UUIDField

from fleet.lib.replica import from_replica, reading_alias
from telemetry.models import ALL_GROUPS, HistogramCell, Unit

PART: Final = "part"
"""A key of every question: the index of the slice's window."""
SIGN: Final = "sign"
_EXTRA_KEYS: Final = frozenset({PART, SIGN})


@dataclass(frozen=True, slots=True)
class Slice:
    """Cells of one unit with ``at`` in ``[start, end)``; ``part`` says which window they are of.

    ``is_taken_out``: they are subtracted, from a day cell that another slice brings in. Cells are
    integers and a day's is the sum of its hours', so nothing is left behind.
    """

    unit: Unit
    start: datetime
    end: datetime
    part: int = 0
    is_taken_out: bool = False


@dataclass(frozen=True, slots=True)
class Cells:
    """Which cells: of these slices, of a group level, and with one of the values given by field.

    ``group_id`` None: of any level.
    """

    slices: Sequence[Slice]
    group_id: int | None = ALL_GROUPS
    among: Mapping[str, Sequence[object]] = field(default_factory=dict)


type Key = tuple[object, ...]
_is_reading: ContextVar[bool] = ContextVar("is_reading", default=False)


@contextmanager
def reading() -> Iterator[None]:
    """Reads that see one state of the cells, each in one process of the database.

    PostgreSQL would start workers for a sum of a few thousand cells: 10 ms to save 2. And numbers
    of one page that were read before and after a fill would contradict each other. A replica is
    asked where there is one. Inside another
    transaction it is that one's state that is seen. May be nested.
    """
    if _is_reading.get():
        yield
        return
    token = _is_reading.set(True)
    try:
        with from_replica() as alias:
            is_outermost = not connections[alias].in_atomic_block
            with transaction.atomic(using=alias, savepoint=False):
                if connections[alias].vendor == "postgresql":
                    with connections[alias].cursor() as cursor:
                        cursor.execute((_ONE_STATE if is_outermost else "") + _ONE_PROCESS)
                yield
    finally:
        _is_reading.reset(token)


def _connection() -> BaseDatabaseWrapper:
    """The database that this question is asked of."""
    return connections[reading_alias()]


_ONE_STATE: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; "
_ONE_PROCESS: Final = "SET LOCAL max_parallel_workers_per_gather = 0"


def sum_cells(
    model: type[Model], cells: Cells, *, keys: Sequence[str], sums: Sequence[str]
) -> list[tuple[Key, tuple[int, ...]]]:
    """The sums by key, in the order of ``keys`` and ``sums``; no key: one row, zeros when empty.

    ``keys``: PART or fields of the model. Errors: FieldDoesNotExist for any other name.
    """
    if not cells.slices:
        return []
    found = _rows(model, cells, keys, sums)
    size = len(keys)
    convert = [_converter(model, name) for name in keys]
    return [
        (
            tuple(read(value) for read, value in zip(convert, row, strict=False)),
            tuple(int(value or 0) for value in row[size:]),
        )
        for row in found
    ]


def histogram_texts(
    cells: Cells, kind: HistogramCell.Kind
) -> list[tuple[int, int, str, str, str | bytes]]:
    """Part, sign, name, detail and the JSON text of every histogram cell of a kind.

    Sign is -1 for what is taken out again, else 1.
    """
    if not cells.slices:
        return []
    wanted = Cells(cells.slices, cells.group_id, {**cells.among, "kind": [kind.value]})
    query, values = _union(HistogramCell, wanted, (SIGN, "name", "detail", "counts"), ())
    with reading(), _connection().cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())


def _rows(
    model: type[Model], cells: Cells, keys: Sequence[str], sums: Sequence[str]
) -> list[tuple[Any, ...]]:  # Any: whatever the driver makes of a column
    quote = _connection().ops.quote_name
    inner, values = _union(model, cells, [name for name in keys if name != PART], sums)
    picked = [quote(_column(model, name)) for name in keys]
    summed = [f"SUM({quote(_column(model, name))})" for name in sums]
    grouped = f" GROUP BY {', '.join(picked)}" if picked else ""
    with reading(), _connection().cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(picked + summed)} FROM ({inner}) c{grouped}",  # noqa: S608 -- names of our own models
            values,
        )
        return list(cursor.fetchall())


def _union(
    model: type[Model], cells: Cells, columns: Sequence[str], sums: Sequence[str]
) -> tuple[str, list[Any]]:
    """The cells of every slice, PART first; the statement and its values."""
    quote = _connection().ops.quote_name
    table = quote(model._meta.db_table)
    conditions, chosen = _conditions(model, cells)
    parts, values = [], list[Any]()
    for piece in cells.slices:
        minus = "-" if piece.is_taken_out else ""
        listed = "".join(
            f", {minus}1 AS {SIGN}" if name == SIGN else f", {quote(_column(model, name))}"
            for name in columns
        ) + "".join(
            f", {minus}{column} AS {column}"
            for column in (quote(_column(model, name)) for name in sums)
        )
        parts.append(
            f"SELECT {piece.part:d} AS {PART}{listed} FROM {table} "  # noqa: S608 -- as above
            f"WHERE {quote('unit')} = %s AND {quote('at')} >= %s AND {quote('at')} < %s{conditions}"
        )
        bounds = map(_connection().ops.adapt_datetimefield_value, (piece.start, piece.end))
        values += [piece.unit.value, *bounds, *chosen]
    return " UNION ALL ".join(parts), values


def _conditions(model: type[Model], cells: Cells) -> tuple[str, list[Any]]:
    quote = _connection().ops.quote_name
    text, values = "", list[Any]()
    if cells.group_id is not None:
        text, values = f" AND {quote('group_id')} = %s", [cells.group_id]
    for name, allowed in cells.among.items():
        spec = model._meta.get_field(name)
        marks = ", ".join(["%s"] * len(allowed)) or "NULL"
        text += f" AND {quote(_column(model, name))} IN ({marks})"
        values += [spec.get_db_prep_value(value, _connection()) for value in allowed]  # type: ignore[union-attr]  # no relation in a cell
    return text, values


def _column(model: type[Model], name: str) -> str:
    return name if name in _EXTRA_KEYS else str(model._meta.get_field(name).column)  # type: ignore[union-attr]  # no relation in a cell


def _converter(model: type[Model], name: str) -> Callable[[Any], object]:  # Any: the driver's
    if name in _EXTRA_KEYS:
        return int
    spec = model._meta.get_field(name)
    if isinstance(spec, DateTimeField):
        return _moment
    if isinstance(spec, UUIDField):
        return _uuid
    return int if isinstance(spec, IntegerField) else str


def _moment(value: datetime | str) -> datetime:
    """SQLite keeps UTC without saying so, as text."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)
