"""refill_hours(): makes the cells of whole hours again from the rows there are.

For repair, after rows were erased, and where a touch names no batch. STARTED is committed first;
cells, DONE and the removal of the touches are one transaction, so a killed refill leaves nothing
but its STARTED, which the next round takes up. The caller holds the fold's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from django.db import OperationalError, connection
from django.db.models import F

from fleet.lib.clock import now
from telemetry.models import FillState, HistogramCell, InstallCell, ReplacedRun, TouchedHour
from telemetry.rollup.engine import DAY, HOUR, day_of, hours_of, latest_sql, moment, total_sql
from telemetry.rollup.fold import daily_hours, is_conflict, snapshot
from telemetry.rollup.histograms import add_to_histograms, deltas_of, sum_day
from telemetry.rollup.statements import (
    ONLY_DAYS,
    ONLY_HOURS,
    Levels,
    Part,
    number_columns,
    of_hours,
    run_source,
)
from telemetry.rollup.stats import SOURCES, Target

TRIES: Final = 3
"""An erasure commits a day at a time, and each commit may cost a refill of that day one."""


def refill_hours(hours: Sequence[datetime]) -> list[datetime]:
    """Make the cells of hours of one day again; those that were. An expired hour is left as it is.

    One transaction for all of them, since the day's cells are their sum. A day whose hours have no
    cells of their own any more is made again as a whole.
    """
    started = [hour for hour in hours if _start(hour)]
    TouchedHour.objects.filter(hour__in=set(hours) - set(started), batch_id=None).delete()
    if started:
        assert len({day_of(hour) for hour in started}) == 1  # noqa: S101 -- the caller's promise
        for tries_left in reversed(range(TRIES)):
            try:
                return started if _refill(started) else []
            except OperationalError as error:  # somebody erased rows meanwhile: look again
                if not tries_left or not is_conflict(error):
                    raise
    return started


def _refill(started: Sequence[datetime]) -> bool:
    """The one transaction of ``refill_hours``; False when the day's rows have gone meanwhile."""
    with snapshot():
        whole = hours_of(day_of(started[0]))
        # On SQLite no lock keeps retention away between STARTED and here.
        if FillState.objects.filter(hour__in=whole, state=FillState.State.EXPIRED).exists():
            return False
        if daily_hours(whole):
            _make(whole, ONLY_DAYS)
        else:
            _make(started, ONLY_HOURS)
            _sum_hours(day_of(started[0]))
    return True


def _start(hour: datetime) -> bool:
    """Commit STARTED; False when the day is expired."""
    begun = now()
    expired = FillState.objects.filter(state=FillState.State.EXPIRED)
    if expired.filter(hour__in=hours_of(day_of(hour))).exists():
        return False
    state, is_new = FillState.objects.get_or_create(
        hour=hour, defaults={"state": FillState.State.STARTED, "started_at": begun}
    )
    if is_new:
        return True
    others = FillState.objects.filter(pk=state.pk).exclude(state=FillState.State.EXPIRED)
    return bool(others.update(state=FillState.State.STARTED, started_at=begun))


def _make(hours: Sequence[datetime], levels: Levels) -> None:
    """Cells of these levels from all rows of the hours; what waits for them is done with that."""
    times = {hour if "h" in levels.units else day_of(hour) for hour in hours}
    for model in _ALL_CELLS:
        cells = model._default_manager.filter(unit__in=levels.units, at__in=times)  # noqa: SLF001 -- the documented way from a model class
        cells.delete()
    parts: list[Part] = []
    for source in SOURCES:
        parts += run_source(source, of_hours(source, hours), levels)
    add_to_histograms(deltas_of(parts, levels))
    TouchedHour.objects.filter(hour__in=hours).delete()
    for hour in hours:
        ReplacedRun.objects.filter(start_at__gte=hour, start_at__lt=hour + HOUR).delete()
    FillState.objects.filter(hour__in=hours, state=FillState.State.STARTED).update(
        state=FillState.State.DONE, filled_at=now(), fill_count=F("fill_count") + 1
    )


def _sum_hours(day: datetime) -> None:
    """Make every cell of the day anew, as the sum of its hours'."""
    for source in SOURCES:
        for target in source.targets:
            _sum_day(target, day)
    _sum_installs(day)
    sum_day(day)


_ALL_CELLS = (
    *(target.cell for source in SOURCES for target in source.targets),
    InstallCell,
    HistogramCell,
)


def _sum_day(target: Target, day: datetime) -> None:
    """Make the day's cells anew, as the sum of its hours'."""
    table = target.cell._meta.db_table
    keys = ", ".join(("group_id", *target.dimensions))
    numbers = number_columns(target.cell)
    totals = ", ".join(total_sql(name) for name in numbers)
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE unit = 'd' AND at = %s", [moment(day)])  # noqa: S608 -- names of our own models
        cursor.execute(
            f"INSERT INTO {table} (unit, at, {keys}, {', '.join(numbers)}) "  # noqa: S608 -- names of our own models
            f"SELECT 'd', {_day_sql()}, {keys}, {totals} FROM {table} "
            f"WHERE unit = 'h' AND at >= %s AND at < %s GROUP BY {keys}",
            [moment(day), moment(day), moment(day + DAY)],
        )


def _sum_installs(day: datetime) -> None:
    """The same for installs; the group is that of the day's last hour."""
    table = InstallCell._meta.db_table
    numbers = number_columns(InstallCell)
    names = ", ".join(numbers)
    totals = ", ".join(f"{total_sql(name)} AS {name}" for name in numbers)
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE unit = 'd' AND at = %s", [moment(day)])  # noqa: S608 -- names of our own models
        cursor.execute(
            f"INSERT INTO {table} (unit, at, install_id, group_id, {names}) "  # noqa: S608 -- names of our own models
            f"SELECT 'd', {_day_sql()}, i.install_id, i.latest, {names} FROM "
            f"(SELECT install_id, {latest_sql('group_id', 'at')}, {totals} FROM {table} "
            "WHERE unit = 'h' AND at >= %s AND at < %s GROUP BY install_id) i",
            [moment(day), moment(day), moment(day + DAY)],
        )


def _day_sql() -> str:
    return "CAST(%s AS timestamptz)" if connection.vendor == "postgresql" else "%s"
