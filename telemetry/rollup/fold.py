"""fold_touched(): adds what is new to the cells, each batch exactly once.

A fold takes the oldest touches. In one transaction with one snapshot it adds to the cells the rows
of these batches as they are now, and those that were replaced since; takes away the runs they
replaced; and removes the touches. So the cells always hold every row, now or once there, whose
batch waits no more, less every replaced run whose replacing batch waits no more: when nothing
waits, that is the rows there are. Killed anywhere, it leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db import connection, transaction
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
    Part,
    Touched,
    number_columns,
    of_batches,
    run_source,
)
from telemetry.rollup.stats import SOURCES

LOCK: Final = "telemetry-rollup"
"""Whoever writes cells holds it: the snapshot that is taken after it sees all that others wrote."""
TOUCHES_A_FOLD: Final = 1000
"""Bounds a fold's time and memory; a batch touches few hours, and has at most 10,000 rows."""


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
    """Fold the oldest touches, at most ``limit``; how many. The caller holds LOCK."""
    with snapshot():
        taken = take(limit)
        if taken.ids:
            _fold(taken)
    return len(taken.ids)


def take(limit: int) -> Taken:
    """The oldest touches whose batch is known, in the order in which they came."""
    rows = TouchedHour.objects.filter(batch_id__isnull=False).order_by("id")
    ids: list[int] = []
    touched: list[Touched] = []
    for touch_id, install_id, batch_id, touched_at, hour in rows.values_list(
        "id", "install_id", "batch_id", "touched_at", "hour"
    )[:limit]:
        assert isinstance(install_id, UUID)  # noqa: S101 -- stamped together with the batch
        assert isinstance(batch_id, UUID)  # noqa: S101 -- the filter above
        ids.append(touch_id)
        touched.append((install_id, batch_id, touched_at, hour_number(hour)))
    return Taken(tuple(ids), tuple(dict.fromkeys(touched)))


def _fold(taken: Taken) -> None:
    """Everything a fold changes, inside the caller's transaction."""
    parts: list[Part] = []
    for source in SOURCES:
        parts += run_source(source, of_batches(source, taken.touched))
    add_to_histograms(deltas_of(parts))
    _drop_empty(taken.hours())
    TouchedHour.objects.filter(id__in=taken.ids).delete()
    forget_replaced()
    _note_filled(taken.hours())


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
