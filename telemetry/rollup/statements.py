"""SQL over one source: which rows, how they are grouped, and what of them goes into which cells.

A statement begins with the rows of a scope (``of_batches``, ``of_hours``, ``settled``), which have
a ``sign``: -1 takes a replaced run out again. On PostgreSQL one statement with writing CTEs scans
the rows once for all cells; SQLite runs the same pieces one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db import connection
from django.db.models import BigIntegerField, Model

from telemetry.models import ALL_GROUPS, FirstSeen, HistogramCell, InstallCell, ReplacedRun
from telemetry.rollup.engine import (
    HOUR,
    NS_PER_HOUR,
    Param,
    Sql,
    added_sql,
    at_sql,
    hour_number,
    hour_of,
    is_postgres,
    latest_sql,
    moment,
    total_sql,
    touched_table,
)
from telemetry.rollup.stats import DIMENSION_CHARS, Source, Target, bucket_sql

UNITS: Final = ("h", "d")
_COLUMN: Final = re.compile(r"\br\.(\w+)")

type Touched = tuple[UUID, UUID, datetime, int]
"""install_id, batch_id, received_at, hour number."""
type Scope = tuple[str, int, tuple[Param, ...]]
"""What follows FROM, the sign of its rows, its parameters."""


@dataclass(frozen=True, slots=True)
class Part:
    """A count for one bucket of one histogram, of one hour and group."""

    hour_no: int
    group_id: int
    kind: HistogramCell.Kind
    name: str
    detail: str
    bucket: int
    count: int


# ------------------------------------------------------------------------------- which rows


def of_batches(source: Source, touched: Sequence[Touched]) -> Sql:
    """What these touches bring: their rows, and both sides of the runs they replaced."""
    table = touched_table(touched)
    times = [received for _, _, received, _ in touched]
    numbers = [number for _, _, _, number in touched]
    days = (moment(hour_of(min(numbers))), moment(hour_of(max(numbers) + 1)))
    join = f"JOIN touched t ON t.hour_no = {_hour_no(source)} AND"
    within = "WHERE r.start_at >= %s AND r.start_at < %s"
    newly = f"{within} AND r.received_at >= %s AND r.received_at <= %s"
    scopes: list[Scope] = [
        (f"{join} {_IS_OWN} {newly}", 1, (*days, moment(min(times)), moment(max(times))))
    ]
    if source.is_replaceable:
        scopes += [(f"{join} {_IS_OWN} {within}", 1, days)]
        scopes += [(f"{join} {_IS_REPLACER} {within}", -1, days)]
    return _rows(source, scopes, table)


def of_hours(source: Source, hours: Sequence[datetime]) -> Sql:
    """Every row there is of these hours."""
    return _rows(source, [(_in_hours(source, hours), 1, _bounds(hours))])


def settled(source: Source, hours: Sequence[datetime], touched: Sequence[Touched]) -> Sql:
    """What the cells of these hours hold when they are exact and these touches still wait."""
    bounds = _bounds(hours)
    where = f"{_in_hours(source, hours)} AND NOT EXISTS (SELECT 1 FROM touched t"  # noqa: S608 -- names of our own models
    hour = f"WHERE t.hour_no = {_hour_no(source)} AND"
    scopes: list[Scope] = [(f"{where} {hour} {_IS_OWN})", 1, bounds)]
    if source.is_replaceable:
        scopes += [(f"{where} {hour} {_IS_OWN})", 1, bounds)]
        scopes += [(f"{where} {hour} {_IS_REPLACER})", -1, bounds)]
    return _rows(source, scopes, touched_table(touched))


# A batch id is its sender's choice: another install may have used it, or this one long ago.
_IS_OWN: Final = (
    "t.install_id = r.install_id AND t.batch_id = r.batch_id AND t.received_at = r.received_at"
)
_IS_REPLACER: Final = "t.install_id = r.install_id AND t.batch_id = r.replaced_by"


def _bounds(hours: Sequence[datetime]) -> tuple[Param, ...]:
    return moment(min(hours)), moment(max(hours) + HOUR)


def _in_hours(source: Source, hours: Sequence[datetime]) -> str:
    numbers = ", ".join(str(hour_number(hour)) for hour in hours)
    return f"WHERE r.start_at >= %s AND r.start_at < %s AND {_hour_no(source)} IN ({numbers})"


def _hour_no(source: Source) -> str:
    return f"(r.{source.model.CONTRACT.time} / {NS_PER_HOUR})"


def _rows(
    source: Source,
    scopes: Sequence[Scope],
    touched: Sql | None = None,
) -> Sql:
    """``src``: the rows of each scope; the first is of the event table, others of ReplacedRun."""
    measured = [*source.amounts.values(), *(measure.ms for measure in source.measures)]
    used = [name for text in measured for name in _COLUMN.findall(text)]
    columns = dict.fromkeys(("install_id", "group_id", "start_at", "received_at", *source.keys))
    names = ", ".join(f"r.{name}" for name in (columns | dict.fromkeys(used)))
    picked: list[str] = []
    params: list[Param] = []
    for at, (scope, sign, values) in enumerate(scopes):
        table = ReplacedRun._meta.db_table if at else source.model.table_name()
        picked.append(
            f"SELECT {names}, {_hour_no(source)} AS hour_no, {sign} AS sign FROM {table} r {scope}"  # noqa: S608 -- names of our own models
        )
        params += values
    before = f"touched AS ({touched.text}), " if touched else ""
    given = touched.params if touched else ()
    return Sql(f"{before}src AS ({' UNION ALL '.join(picked)})", (*given, *params))


# ------------------------------------------------------------------------------- how grouped


def grouped(source: Source) -> str:
    """``g``: the rows by hour, group, install and the source's keys, with the sums of amounts."""
    keys = ("hour_no", "group_id", "install_id", *source.keys)
    names = ", ".join(f"r.{name}" for name in keys)
    sign = "r.sign * " if source.is_replaceable else ""
    rows = "SUM(r.sign)" if source.is_replaceable else "COUNT(*)"
    amounts = "".join(
        f", {total_sql(f'{sign}({amount})')} AS {name}" for name, amount in source.amounts.items()
    )
    first = "CASE WHEN r.sign > 0 THEN r.start_at END" if source.is_replaceable else "r.start_at"
    return (
        f"g AS (SELECT {names}, {rows} AS n{amounts}, MIN({first}) AS first_at, "  # noqa: S608 -- names of our own models
        f"MAX(r.received_at) AS last_at FROM src r GROUP BY {names})"
    )


def _cut(column: str) -> str:
    return f"SUBSTR(COALESCE({column}, ''), 1, {DIMENSION_CHARS})"


def _levels(units: Sequence[str]) -> str:
    pairs = [(unit, level) for unit in units for level in (0, 1)]
    return " UNION ALL ".join(
        f"SELECT '{unit}' AS unit, {level} AS is_all" for unit, level in pairs
    )


@dataclass(frozen=True, slots=True)
class Cells:
    """A select of cells: the columns of their key, those that are set, those that are added."""

    model: type[Model]
    keys: tuple[str, ...]
    fixed: tuple[str, ...]
    numbers: tuple[str, ...]
    text: str


def group_cells(target: Target, units: Sequence[str] = UNITS) -> Cells:
    """Cells of ``g`` by hour and day, for each group and for all together."""
    cut = "".join(f", {_cut(f'g.{name}')} AS {name}" for name in target.dimensions)
    sums = "".join(f", {total_sql(number)} AS {name}" for name, number in target.numbers.items())
    inner = ", ".join(str(at + 1) for at in range(2 + len(target.dimensions)))
    names = "".join(f", a.{name}" for name in target.dimensions)
    totals = "".join(f", {total_sql(f'a.{name}')} AS {name}" for name in target.numbers)
    outer = ", ".join(str(at + 1) for at in range(3 + len(target.dimensions)))
    return Cells(
        target.cell,
        ("unit", "group_id", "at", *target.dimensions),
        (),
        tuple(target.numbers),
        f"SELECT l.unit, {at_sql('l.unit', 'a.hour_no')} AS at, "  # noqa: S608 -- names of our own models
        f"CASE l.is_all WHEN 1 THEN {ALL_GROUPS} ELSE a.group_id END AS group_id{names}{totals} "
        f"FROM (SELECT g.hour_no, g.group_id{cut}{sums} FROM g GROUP BY {inner}) a "
        f"CROSS JOIN ({_levels(units)}) l GROUP BY {outer}",
    )


def install_cells(source: Source, units: Sequence[str] = UNITS) -> Cells:
    """Cells of ``g`` by install, hour and day."""
    totals = "".join(
        f", {total_sql(number)} AS {name}" for name, number in source.install_numbers.items()
    )
    names = "".join(f", i.{name}" for name in source.install_numbers)
    levels = " UNION ALL ".join(f"SELECT '{unit}' AS unit" for unit in units)
    return Cells(
        InstallCell,
        ("install_id", "unit", "at"),
        ("group_id",),
        tuple(source.install_numbers),
        f"SELECT i.install_id, i.unit, i.at, i.latest AS group_id{names} FROM ("  # noqa: S608 -- names of our own models
        f"SELECT g.install_id, l.unit, {at_sql('l.unit', 'g.hour_no')} AS at, "
        f"{latest_sql('g.group_id', 'g.last_at')}{totals} "
        f"FROM g CROSS JOIN ({levels}) l GROUP BY 1, 2, 3) i",
    )


def all_cells(source: Source, units: Sequence[str] = UNITS) -> tuple[Cells, ...]:
    """Everything but histograms that a source goes into."""
    targets = (group_cells(target, units) for target in source.targets)
    return (*targets, install_cells(source, units))


def parts_select(source: Source) -> str:
    """measure, hour, group, the measure's columns, bucket, count."""
    picked = []
    for at, measure in enumerate(source.measures):
        columns = "".join(f", {_cut(f'r.{name}')}" for name in measure.columns())
        positions = ", ".join(str(place + 1) for place in range(4 + len(measure.columns())))
        picked.append(
            f"SELECT {at}, r.hour_no, r.group_id{columns}, {bucket_sql(measure.ms)}, SUM(r.sign) "  # noqa: S608 -- names of our own models
            f"FROM src r WHERE ({measure.ms}) IS NOT NULL GROUP BY {positions} "
            "HAVING SUM(r.sign) <> 0"
        )
    return " UNION ALL ".join(picked) or "SELECT 0 WHERE 1 = 0"


def read_parts(source: Source, rows: Iterable[Sequence[object]]) -> Iterator[Part]:
    """The rows of ``parts_select`` as counts of each kind of histogram."""
    for row in rows:
        at, hour_no, group_id, *texts, bucket, count = row
        measure = source.measures[int(str(at))]
        named = dict(zip(measure.columns(), texts, strict=True))
        for kind, columns in measure.kinds.items():
            name, detail = (*(str(named[column]) for column in columns), "", "")[:2]
            yield Part(
                int(str(hour_no)),
                int(str(group_id)),
                kind,
                name,
                detail,
                int(str(bucket)),
                int(str(count)),
            )


# ------------------------------------------------------------------------------- into cells


def number_columns(model: type[Model]) -> tuple[str, ...]:
    """The columns of a cell that are counts and sums."""
    return tuple(
        spec.attname
        for spec in model._meta.concrete_fields
        if isinstance(spec, BigIntegerField) and spec.attname not in {"id", "group_id"}
    )


def add_cells(cells: Cells) -> str:
    """An upsert that adds a select of cells to what is there."""
    table = cells.model._meta.db_table
    zeros = [name for name in number_columns(cells.model) if name not in cells.numbers]
    columns = (*cells.keys, *cells.fixed, *cells.numbers)
    sets = [f"{name} = excluded.{name}" for name in cells.fixed]
    sets += [
        f"{name} = {added_sql(f'{table}.{name}', f'excluded.{name}')}" for name in cells.numbers
    ]
    return (
        f"INSERT INTO {table} ({', '.join((*columns, *zeros))}) "  # noqa: S608 -- names of our own models
        f"SELECT {', '.join(f's.{name}' for name in columns)}{', 0' * len(zeros)} "
        f"FROM ({cells.text}) s WHERE 1 = 1 "
        f"ON CONFLICT ({', '.join(cells.keys)}) DO UPDATE SET {', '.join(sets)}"
    )


def note_first_seen(source: Source) -> str:
    """An upsert of what was not seen before, or not as early."""
    table = FirstSeen._meta.db_table
    found = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, {_cut(f'g.{column}')} AS value, g.first_at, g.install_id FROM g"  # noqa: S608 -- names of our own models
        for kind, column in source.seen.items()
    )
    return (
        f"INSERT INTO {table} (kind, value, first_at, install_id) "  # noqa: S608 -- names of our own models
        "SELECT w.kind, w.value, w.first_at, w.install_id FROM (SELECT f.*, ROW_NUMBER() OVER "
        "(PARTITION BY f.kind, f.value ORDER BY f.first_at, f.install_id) AS place "
        f"FROM ({found}) f WHERE f.value <> '' AND f.first_at IS NOT NULL) w WHERE w.place = 1 "
        f"AND NOT EXISTS (SELECT 1 FROM {table} k WHERE k.kind = w.kind AND k.value = w.value "
        "AND k.first_at <= w.first_at) "
        "ON CONFLICT (kind, value) DO UPDATE SET first_at = excluded.first_at, "
        f"install_id = excluded.install_id WHERE excluded.first_at < {table}.first_at"
    )


def run_source(source: Source, rows: Sql, units: Sequence[str] = UNITS) -> list[Part]:
    """Add the rows of a scope to every cell but histograms; what histograms are to get."""
    start = f"WITH {rows.text}, {grouped(source)}"
    writes = [add_cells(cells) for cells in all_cells(source, units)]
    if source.seen:
        writes.append(note_first_seen(source))
    last = parts_select(source)
    with connection.cursor() as cursor:
        if is_postgres():
            named = "".join(f", w{at} AS ({write})" for at, write in enumerate(writes))
            cursor.execute(f"{start}{named} {last}", rows.params)
        else:
            for write in writes:
                cursor.execute(f"{start} {write}", rows.params)
            cursor.execute(f"{start} {last}", rows.params)
        return list(read_parts(source, cursor.fetchall()))
