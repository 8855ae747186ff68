"""fold_touched(): adds what is new to the cells, each batch exactly once.

A fold takes the oldest touches. In one transaction with one snapshot it adds to the cells the rows
of these batches as they are now, and those that were replaced since; takes away the runs they
replaced; and removes the touches. So the cells always hold every row, now or once there, whose
batch waits no more, less every replaced run whose replacing batch waits no more: when nothing
waits, that is the rows there are. Killed anywhere, it leaves everything as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    connection,
    transaction,
)
from django.db.models import F

from fleet.lib.clock import now
from telemetry.models import (
    ALL_GROUPS,
    CostsCell,
    FillState,
    InstallCell,
    ReplacedRun,
    RunsCell,
    TouchedHour,
)
from telemetry.rollup.engine import day_of, hour_number, hour_of, is_postgres
from telemetry.rollup.histograms import add_to_histograms, deltas_of
from telemetry.rollup.statements import (
    UNITS,
    Levels,
    Part,
    Touched,
    number_columns,
    of_batches,
    run_source,
)
from telemetry.rollup.stats import SOURCES
from telemetry.store.locks import ROLLUP_LOCK

LOCK: Final = ROLLUP_LOCK
TOUCHES_A_FOLD: Final = 1000
"""Bounds a fold's time and memory; a batch touches few hours, and has at most 10,000 rows."""
TIME_A_FOLD: Final = timedelta(hours=1)

REFUSALS: Final = (DataError, IntegrityError, InternalError, ValueError)
"""What the database, or what reads it, says to rows that cannot be summed up."""
WORK_MEM_MIB: Final = 64
"""The groups of 200,000 rows, their buckets listed, stay below it; one fold runs at a time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """The touches of one fold: their ids, and what they say."""

    ids: tuple[int, ...]
    touched: tuple[Touched, ...]

    def hours(self) -> list[datetime]:
        """The hours that are touched, each once."""
        return sorted({hour_of(number) for _, _, _, number in self.touched})


@contextmanager
def snapshot() -> Iterator[None]:
    """A transaction that sees the database as it was at its first query.

    SQLite's are so, and IMMEDIATE. Inside another transaction it sees what that one sees.
    """
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        if is_outermost and is_postgres():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def fold_touched(*, limit: int = TOUCHES_A_FOLD) -> int:
    """Fold the oldest touches, at most ``limit``; how many were dealt with. The caller holds LOCK.

    When the database refuses what they bring, half of them are tried, down to the one that is at
    fault: it is set aside with what the database said, and everything else goes on.
    """
    taken = Taken((), ())
    try:
        with snapshot():
            taken = take(limit)
            if taken.ids:
                plan_for_many_rows()
                _fold(taken)
    except OperationalError as error:
        if not is_conflict(error):
            raise
        return 0  # somebody erased rows meanwhile: the next round sees what is left
    except REFUSALS as error:
        if len(taken.ids) > 1:
            return fold_touched(limit=len(taken.ids) // 2)
        if not taken.ids:
            raise
        set_aside(taken, error)
    return len(taken.ids)


def plan_for_many_rows() -> None:
    """Have this transaction's statements hash the rows they group, compile nothing, stay in memory.

    The partition that is written to has no statistics yet: the planner takes a batch for one row
    and would sort tens of thousands by seven columns, in files. Sorting costs more than a quarter
    of the whole fold. The cost that stands for "no sorts" would have it compile, too.
    """
    if not is_postgres():
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('enable_sort', 'off', true), set_config('jit', 'off', true), "
            "set_config('work_mem', %s, true)",
            [f"{WORK_MEM_MIB}MB"],
        )


def is_conflict(error: OperationalError) -> bool:
    """Whether a snapshot met what another transaction had changed since, or locked."""
    state = getattr(error.__cause__, "sqlstate", None)
    return state in {"40001", "40P01"}


def take(limit: int) -> Taken:
    """The oldest touches whose batch is known, in the order in which they came.

    Not those of much later: rows are found by when they came in, and one old touch among new ones
    would have everything in between read.
    """
    rows = TouchedHour.objects.filter(batch_id__isnull=False, failed_at=None).order_by("id")
    ids: list[int] = []
    touched: list[Touched] = []
    first: datetime | None = None
    for touch_id, install_id, batch_id, touched_at, hour in rows.values_list(
        "id", "install_id", "batch_id", "touched_at", "hour"
    )[:limit]:
        assert isinstance(install_id, UUID)  # noqa: S101 -- stamped together with the batch
        assert isinstance(batch_id, UUID)  # noqa: S101 -- the filter above
        first = first or touched_at
        if touched_at - first > TIME_A_FOLD:
            break
        ids.append(touch_id)
        touched.append((install_id, batch_id, touched_at, hour_number(hour)))
    return Taken(tuple(ids), tuple(dict.fromkeys(touched)))


def _fold(taken: Taken) -> None:
    """Everything a fold changes, inside the caller's transaction."""
    hours = taken.hours()
    levels = Levels(UNITS, daily_hours(hours))
    parts: list[Part] = []
    has_replaced = ReplacedRun.objects.exists()
    for source in SOURCES:
        needed = source if has_replaced else source.plain()
        parts += run_source(needed, of_batches(needed, taken.touched), levels)
    add_to_histograms(deltas_of(parts, levels))
    _drop_empty(hours)
    TouchedHour.objects.filter(id__in=taken.ids).delete()
    forget_replaced()
    _note_filled(hours)


def daily_hours(hours: Sequence[datetime]) -> frozenset[int]:
    """The numbers of those hours that have no cells of their own any more."""
    daily = FillState.objects.filter(hour__in=hours, is_daily=True).values_list("hour", flat=True)
    return frozenset(map(hour_number, daily))


def set_aside(taken: Taken, error: Exception) -> None:
    """Mark touches that cannot be folded; ``retry_failed`` gives them another chance."""
    fault = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    TouchedHour.objects.filter(id__in=taken.ids).update(failed_at=now(), fault=fault)
    logger.error("A batch cannot be folded into the sums: %s", type(error).__name__)


def retry_failed(before: datetime) -> int:
    """Have what failed before a time tried again; how many touches."""
    return TouchedHour.objects.filter(failed_at__lt=before).update(failed_at=None)


def _drop_empty(hours: Sequence[datetime]) -> None:
    """Remove cells in which nothing is left: only a replaced run takes anything away."""
    groups = set(ReplacedRun.objects.values_list("group_id", flat=True).distinct())
    if not groups:
        return
    times = {*hours, *map(day_of, hours)}
    for model in (RunsCell, CostsCell):
        nothing = dict.fromkeys(number_columns(model), 0)
        model._default_manager.filter(  # noqa: SLF001 -- the documented way from a model class
            unit__in=UNITS, group_id__in={*groups, ALL_GROUPS}, at__in=times, **nothing
        ).delete()
    nothing = dict.fromkeys(number_columns(InstallCell), 0)
    InstallCell.objects.filter(unit__in=UNITS, at__in=times, **nothing).delete()


def forget_replaced() -> None:
    """Remove the replaced runs of which the cells know both batches."""
    replaced, touches = ReplacedRun._meta.db_table, TouchedHour._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {replaced} WHERE NOT EXISTS (SELECT 1 FROM {touches} t "  # noqa: S608 -- names of our own models
            f"WHERE t.install_id = {replaced}.install_id AND t.batch_id = {replaced}.batch_id) "
            f"AND NOT EXISTS (SELECT 1 FROM {touches} t "
            f"WHERE t.install_id = {replaced}.install_id AND t.batch_id = {replaced}.replaced_by)"
        )


def _note_filled(hours: Sequence[datetime]) -> None:
    """Say of each hour that it was filled; one that is started or expired stays so."""
    moment = now()
    FillState.objects.bulk_create(
        (FillState(hour=hour, state=FillState.State.DONE, started_at=moment) for hour in hours),
        ignore_conflicts=True,
    )
    FillState.objects.filter(hour__in=hours).update(
        filled_at=moment, fill_count=F("fill_count") + 1
    )
