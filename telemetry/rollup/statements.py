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
from typing import Any, Final
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
    bucket_sql,
    hour_number,
    hour_of,
    is_postgres,
    latest_sql,
    listed_sql,
    moment,
    total_sql,
    touched_table,
)
from telemetry.rollup.stats import DIMENSION_CHARS, Source, Target

UNITS: Final = ("h", "d")
_COLUMN: Final = re.compile(r"\br\.(\w+)")

type Touched = tuple[UUID, UUID, datetime, int]
"""install_id, batch_id, received_at, hour number."""
type Scope = tuple[str, int, tuple[Param, ...]]
"""What follows FROM, the sign of its rows, its parameters."""


@dataclass(frozen=True, slots=True)
class Levels:
    """For which times cells are made; ``daily``: numbers of hours that only the day keeps."""

    units: tuple[str, ...] = UNITS
    daily: frozenset[int] = frozenset()

    def units_of(self, hour_no: int) -> tuple[str, ...]:
        """The units whose cells an hour goes into."""
        return tuple(unit for unit in self.units if unit == "d" or hour_no not in self.daily)

    def where(self) -> str:
        """The same, over ``l`` and ``a``."""
        if not self.daily:
            return ""
        numbers = ", ".join(map(str, sorted(self.daily)))
        return f"WHERE l.unit = 'd' OR a.hour_no NOT IN ({numbers}) "


BOTH: Final = Levels()
ONLY_HOURS: Final = Levels(("h",))
ONLY_DAYS: Final = Levels(("d",))


@dataclass(frozen=True, slots=True)
class Part:
    """What one kind of histogram gets, of one hour and group: a bucket a row, as "1,1,7"."""

    hour_no: int
    group_id: int
    kind: HistogramCell.Kind
    name: str
    detail: str
    buckets: str
    sign: int


# ------------------------------------------------------------------------------- which rows


def of_batches(source: Source, touched: Sequence[Touched]) -> Sql:
    """What these touches bring: their rows, and both sides of the runs they replaced."""
    table = touched_table(touched)
    times = [received for _, _, received, _ in touched]
    numbers = [number for _, _, _, number in touched]
    days = (moment(hour_of(min(numbers))), moment(hour_of(max(numbers) + 1)))
    # The hour twice: its number can be hashed, its bounds can be looked up in the table's key.
    join = (
        f"JOIN touched t ON t.hour_no = {_hour_no(source)} "
        "AND r.start_at >= t.begins AND r.start_at < t.ends AND"
    )
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
    used = [name for text in source.amounts.values() for name in _COLUMN.findall(text)]
    columns = dict.fromkeys(("install_id", "group_id", "start_at", "received_at", *source.keys))
    names = ", ".join(f"r.{name}" for name in (columns | dict.fromkeys(used)))
    names += "".join(f", {measure.ms} AS ms_{at}" for at, measure in enumerate(source.measures))
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
    """``g``: the rows by hour, group, install and the source's keys, with the sums of amounts.

    The buckets of its measures are lists: to count them here costs less than to group once more.
    """
    keys = ("hour_no", "group_id", "install_id", *source.keys)
    names = ", ".join(f"r.{name}" for name in keys)
    sign = "r.sign * " if source.is_replaceable else ""
    rows = "SUM(r.sign)" if source.is_replaceable else "COUNT(*)"
    amounts = "".join(
        f", {total_sql(f'{sign}({amount})')} AS {name}" for name, amount in source.amounts.items()
    )
    first = "CASE WHEN r.sign > 0 THEN r.start_at END" if source.is_replaceable else "r.start_at"
    lists = "".join(
        f", {listed_sql(bucket_sql(f'r.ms_{at}'), f'r.ms_{at} IS NOT NULL AND r.sign = {sign}')} "
        f"AS {name}"
        for at, sign, name in _lists(source)
    )
    return (
        f"g AS (SELECT {names}, {rows} AS n{amounts}, MIN({first}) AS first_at, "  # noqa: S608 -- names of our own models
        f"MAX(r.received_at) AS last_at{lists} FROM src r GROUP BY {names})"
    )


def _lists(source: Source) -> list[tuple[int, int, str]]:
    """Measure, sign and name of each list of buckets in ``g``."""
    signs = (1, -1) if source.is_replaceable else (1,)
    names = {1: "more", -1: "less"}
    return [
        (at, sign, f"{names[sign]}_{at}") for at in range(len(source.measures)) for sign in signs
    ]


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


def group_cells(target: Target, levels: Levels = BOTH) -> Cells:
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
        f"CROSS JOIN ({_levels(levels.units)}) l {levels.where()}GROUP BY {outer}",
    )


def install_cells(source: Source, levels: Levels = BOTH) -> Cells:
    """Cells of ``g`` by install, hour and day."""
    names = tuple(source.install_numbers)
    sums = "".join(
        f", {total_sql(text)} AS {name}" for name, text in source.install_numbers.items()
    )
    totals = "".join(f", {total_sql(f'a.{name}')} AS {name}" for name in names)
    units = " UNION ALL ".join(f"SELECT '{unit}' AS unit" for unit in levels.units)
    return Cells(
        InstallCell,
        ("install_id", "unit", "at"),
        ("group_id",),
        names,
        f"SELECT i.install_id, i.unit, i.at, i.latest AS group_id"  # noqa: S608 -- names of our own models
        f"{''.join(f', i.{name}' for name in names)} FROM ("
        f"SELECT a.install_id, l.unit, {at_sql('l.unit', 'a.hour_no')} AS at, "
        f"{latest_sql('a.group_id', 'a.last_at')}{totals} FROM ("
        f"SELECT g.hour_no, g.install_id, g.group_id, MAX(g.last_at) AS last_at{sums} "
        f"FROM g GROUP BY 1, 2, 3) a CROSS JOIN ({units}) l "
        f"{levels.where()}GROUP BY 1, 2, 3) i",
    )


def all_cells(source: Source, levels: Levels = BOTH) -> tuple[Cells, ...]:
    """Everything but histograms that a source goes into."""
    targets = (group_cells(target, levels) for target in source.targets)
    return (*targets, install_cells(source, levels))


def parts_select(source: Source) -> str:
    """hour, group, the measures' columns, lists of buckets."""
    if not source.measures:
        return "SELECT 0 WHERE 1 = 0"
    names = ("hour_no", "group_id", *source.measured(), *(name for _, _, name in _lists(source)))
    return f"SELECT {', '.join(f'g.{name}' for name in names)} FROM g"  # noqa: S608 -- names of this module


def read_parts(source: Source, rows: Iterable[Sequence[Any]]) -> Iterator[Part]:
    """The rows of ``parts_select`` as what each kind of histogram gets."""
    columns, lists = source.measured(), _lists(source)
    for hour_no, group_id, *values in rows:
        named = {name: _cut_text(text) for name, text in zip(columns, values, strict=False)}
        for (at, sign, _), buckets in zip(lists, values[len(columns) :], strict=True):
            if not buckets:
                continue
            for kind, names in source.measures[at].kinds.items():
                name, detail = (*(named[column] for column in names), "", "")[:2]
                yield Part(hour_no, group_id, kind, name, detail, buckets, sign)


def _cut_text(value: object) -> str:
    return str(value)[:DIMENSION_CHARS] if value is not None else ""


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
    """An upsert of what was not seen before, or not as early.

    Which install it was is only asked of what is new, which is next to nothing.
    """
    table = FirstSeen._meta.db_table
    found = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, w.value, w.first_at, (SELECT g.install_id FROM g "  # noqa: S608 -- names of our own models
        f"WHERE g.{column} = w.whole AND g.first_at = w.first_at ORDER BY 1 LIMIT 1) AS install_id "
        f"FROM (SELECT g.{column} AS whole, {_cut(f'g.{column}')} AS value, MIN(g.first_at) AS "
        f"first_at FROM g WHERE g.{column} <> '' GROUP BY 1, 2) w WHERE w.first_at IS NOT NULL "
        f"AND NOT EXISTS (SELECT 1 FROM {table} k WHERE k.kind = '{kind}' AND k.value = w.value "
        "AND k.first_at <= w.first_at)"
        for kind, column in source.seen.items()
    )
    # Two texts that were cut may be one value: the first of both is taken.
    return (
        f"INSERT INTO {table} (kind, value, first_at, install_id) "  # noqa: S608 -- names of our own models
        "SELECT p.kind, p.value, p.first_at, p.install_id FROM (SELECT f.*, ROW_NUMBER() OVER "
        "(PARTITION BY f.kind, f.value ORDER BY f.first_at, f.install_id) AS place "
        f"FROM ({found}) f) p WHERE p.place = 1 "
        "ON CONFLICT (kind, value) DO UPDATE SET first_at = excluded.first_at, "
        f"install_id = excluded.install_id WHERE excluded.first_at < {table}.first_at"
    )


def run_source(source: Source, rows: Sql, levels: Levels = BOTH) -> list[Part]:
    """Add the rows of a scope to every cell but histograms; what histograms are to get."""
    start = f"WITH {rows.text}, {grouped(source)}"
    writes = [add_cells(cells) for cells in all_cells(source, levels)]
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
