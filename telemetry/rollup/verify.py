"""verify_cells(): every cell of hours and days against the rows, in one snapshot.

What waits to be folded is left out on both sides, so a busy console can be verified too. Hours are
counted from rows; days are summed here from these hours, and from the stored hours whose rows are
gone. A sum that has reached SUM_MAX says "at least this" and is not compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from django.db import connection
from django.db.models import Model

from telemetry.models import (
    CELL_MODELS,
    FillState,
    HistogramCell,
    InstallCell,
    TouchedHour,
)
from telemetry.rollup.engine import DAY, HOUR, Sql, day_of, hour_number, hours_of
from telemetry.rollup.fold import snapshot
from telemetry.rollup.histograms import deltas_of
from telemetry.rollup.statements import (
    ONLY_HOURS,
    Cells,
    Part,
    Touched,
    all_cells,
    grouped,
    number_columns,
    parts_select,
    read_parts,
    settled,
)
from telemetry.rollup.stats import SOURCES, SUM_MAX, Source

MAX_LISTED: Final = 1000
"""Differences kept to be shown; they are all counted."""

type Key = tuple[object, ...]
"""Unit, at, then what else tells a cell of its kind apart."""
type Numbers = Mapping[str, int]
type Progress = Callable[[datetime, int, int], None]
"""Told of each day: which, how many are done, how many there are."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A cell that is not what its rows say; ``stored`` or ``counted`` None: it is missing."""

    cell: str
    key: Key
    stored: Numbers | None
    counted: Numbers | None


@dataclass(slots=True)
class Report:
    """What a verification found. ``skipped_hours``: expired, or to be made again as a whole."""

    hour_count: int = 0
    day_count: int = 0
    cell_count: int = 0
    skipped_hours: int = 0
    waiting_touches: int = 0
    saturated_count: int = 0
    difference_count: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, found: Difference) -> None:
        """Count a difference, and keep it to be shown if there are not too many."""
        self.difference_count += 1
        if len(self.differences) < MAX_LISTED:
            self.differences.append(found)


def verify_cells(
    since: datetime, until: datetime, *, progress: Progress = lambda *_: None
) -> Report:
    """Compare the cells of every day that ``[since, until)`` touches."""
    report = Report()
    first, count = day_of(since), -((day_of(since) - until) // DAY)
    with snapshot():
        for done, day in enumerate(first + DAY * number for number in range(count)):
            progress(day, done, count)
            _verify_day(report, day)
    return report


def _verify_day(report: Report, day: datetime) -> None:
    within = {"hour__gte": day, "hour__lt": day + DAY}
    waiting = TouchedHour.objects.filter(**within)
    frozen = set(
        FillState.objects.filter(**within)
        .exclude(state=FillState.State.DONE)
        .values_list("hour", flat=True)
    ) | set(waiting.filter(batch_id=None).values_list("hour", flat=True))
    touched = [
        (install_id, batch_id, at, hour_number(hour))
        for install_id, batch_id, at, hour in waiting.values_list(
            "install_id", "batch_id", "touched_at", "hour"
        )
        if install_id and batch_id
    ]
    hours = [hour for hour in hours_of(day) if hour not in frozen]
    is_daily = FillState.objects.filter(**within, is_daily=True).exists()
    if is_daily and frozen:  # neither rows nor hours say what the day is to hold
        report.skipped_hours += 24
        return
    counted = _count(hours, touched) if hours else {}
    report.day_count += 1
    report.skipped_hours += len(frozen)
    report.waiting_touches += len(touched)
    seen: set[object] = set()
    for model in CELL_MODELS:
        held = _stored(model, day)
        wanted = counted.get(model, {})
        seen |= {key[1] for key in held.keys() | wanted.keys() if key[0] == "h"}
        # Hours that cannot be counted stand for themselves, so that the day's sum can be made.
        wanted |= {key: cell for key, cell in held.items() if key[0] == "h" and key[1] in frozen}
        days = _days_of(wanted, day)
        _compare(report, model, held, days if is_daily else wanted | days)
    report.hour_count += len(seen - frozen)


def _count(
    hours: Sequence[datetime], touched: Sequence[Touched]
) -> dict[type[Model], dict[Key, Counter[str]]]:
    """The hours' cells, from rows."""
    counted: dict[type[Model], dict[Key, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    parts: list[Part] = []
    for source in SOURCES:
        rows = settled(source, hours, touched)
        for cells in all_cells(source, ONLY_HOURS):
            for key, numbers in _select(source, rows, cells):
                counted[cells.model][key].update(numbers)
        parts += read_parts(
            source, _fetch(Sql(_with(source, rows, parts_select(source)), rows.params))
        )
    for (unit, at, group_id, *rest), counts in deltas_of(parts, ONLY_HOURS).items():
        counted[HistogramCell][(unit, at, group_id, *rest)].update(counts)
    return counted


def _with(source: Source, rows: Sql, select: str) -> str:
    return f"WITH {rows.text}, {grouped(source)} {select}"


def _fetch(sql: Sql) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql.text, sql.params)
        return list(cursor.fetchall())


def _select(source: Source, rows: Sql, cells: Cells) -> Iterator[tuple[Key, dict[str, int]]]:
    names = (*key_columns(cells.model), *cells.numbers)
    size = len(names) - len(cells.numbers)
    text = f"SELECT {', '.join(f's.{name}' for name in names)} FROM ({cells.text}) s"  # noqa: S608 -- names of our own models
    for row in _fetch(Sql(_with(source, rows, text), rows.params)):
        yield _key(row[:size]), dict(zip(cells.numbers, map(_integer, row[size:]), strict=True))


def key_columns(model: type[Model]) -> tuple[str, ...]:
    """The columns of a cell's key: unit and at, then the others."""
    if model is InstallCell:
        return ("unit", "at", "install_id")
    if model is HistogramCell:
        return ("unit", "at", "group_id", "kind", "name", "detail")
    dimensions = {target.cell: target.dimensions for source in SOURCES for target in source.targets}
    return ("unit", "at", "group_id", *next(d for cell, d in dimensions.items() if cell is model))


def _key(values: Sequence[object]) -> Key:
    """A key as both ways of reading give it: SQLite's raw rows have times and UUIDs as text."""
    unit, at, third, *rest = values
    if isinstance(at, str):
        at = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert isinstance(at, datetime)  # noqa: S101 -- a column of the key
    if isinstance(third, str):
        third = UUID(third)
    return (str(unit), at.astimezone(UTC), third, *rest)


def _integer(value: object) -> int:
    assert isinstance(value, int)  # noqa: S101 -- numbers of cells are integers
    return value


def _stored(model: type[Model], day: datetime) -> dict[Key, Counter[str]]:
    """The stored cells of a day and its hours."""
    names = key_columns(model)
    numbers = ("counts",) if model is HistogramCell else number_columns(model)
    rows = model._default_manager.filter(unit__in=("h", "d"), at__gte=day, at__lt=day + DAY)  # noqa: SLF001 -- the documented way from a model class
    found: dict[Key, Counter[str]] = {}
    for row in rows.values_list(*names, *numbers).iterator():
        key, values = _key(row[: len(names)]), row[len(names) :]
        counts = values[0] if model is HistogramCell else zip(numbers, values, strict=True)
        found[key] = Counter(dict(counts))
    return found


def _days_of(hours: Mapping[Key, Counter[str]], day: datetime) -> dict[Key, Counter[str]]:
    days: dict[Key, Counter[str]] = defaultdict(Counter)
    for (_, _, *rest), numbers in hours.items():
        days[("d", day, *rest)].update(numbers)
    return days


def _plain(numbers: Counter[str] | None) -> Numbers | None:
    return None if numbers is None else dict(numbers)


def _compare(
    report: Report,
    model: type[Model],
    held: Mapping[Key, Counter[str]],
    wanted: Mapping[Key, Counter[str]],
) -> None:
    for key in sorted(held.keys() | wanted.keys(), key=str):
        stored, counted = held.get(key), wanted.get(key)
        report.cell_count += 1
        names = (stored or Counter()).keys() | (counted or Counter()).keys()
        differing = {
            name for name in names if (stored or Counter())[name] != (counted or Counter())[name]
        }
        full = {name for name in differing if stored and stored[name] >= SUM_MAX}
        report.saturated_count += bool(full)
        is_empty = counted is None or not any(counted.values())
        if differing - full or (stored is not None and is_empty):
            report.add(Difference(model.__name__, key, _plain(stored), _plain(counted)))


def verify_hour(hour: datetime) -> list[Difference]:
    """Where the cells of the hour's day differ from its rows; [] when they are exact."""
    return verify_cells(hour, hour + HOUR).differences
