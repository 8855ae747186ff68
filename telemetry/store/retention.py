"""What is past retention and may go: never a day whose rollups are not DONE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import connection, transaction

from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from telemetry.models import (
    EVENT_MODELS,
    AggregateRecord,
    ContentMessage,
    ContentSession,
    FillState,
    QuarantinedLine,
    TouchedHour,
)
from telemetry.store.bounds import prune_books
from telemetry.store.locks import ROLLUP_LOCK
from telemetry.store.old_cells import drop_old_cells
from telemetry.store.partitions import (
    Partition,
    Plan,
    create_partitions,
    drop_partitions,
    existing_partitions,
    plan_partitions,
)
from telemetry.store.traces import forget_traces

GRACE: Final = timedelta(days=1)
"""Between refusing a time and dropping its day: a batch that passed the check may still commit."""


@dataclass(frozen=True, slots=True)
class Maintained:
    """What one round of maintenance did, in partitions and (SQLite) rows."""

    created: int
    dropped: int
    deleted_rows: int
    held_days: tuple[date, ...]


def accepted_from(moment: datetime) -> datetime:
    """The oldest time that ingest accepts at a moment."""
    return moment - timedelta(days=settings.FLEET_RETENTION_DAYS)


def content_accepted_from(moment: datetime) -> datetime:
    """The oldest time of content that ingest accepts: its own retention, never the longer one."""
    days = min(settings.FLEET_CONTENT_RETENTION_DAYS, settings.FLEET_RETENTION_DAYS)
    return moment - timedelta(days=days)


def content_keep_from(moment: datetime) -> date:
    """The oldest day of content that is kept at a moment."""
    return (content_accepted_from(moment) - GRACE).astimezone(UTC).date()


def keep_from(moment: datetime) -> date:
    """The oldest day that is kept whole at a moment."""
    return (accepted_from(moment) - GRACE).astimezone(UTC).date()


def unfinished_days() -> frozenset[date]:
    """Days with an hour whose cells are not made from all of its rows yet."""
    touched = TouchedHour.objects.values_list("hour", flat=True).distinct()
    started = FillState.objects.filter(state=FillState.State.STARTED).values_list("hour", flat=True)
    return frozenset(hour.astimezone(UTC).date() for hour in [*touched, *started])


def current_plan() -> Plan:
    """The plan for now, from the catalogue and the rollups' state; empty on SQLite."""
    if connection.vendor != "postgresql":
        return Plan()
    moment = now()
    return plan_partitions(
        today=moment.date(),
        existing=existing_partitions(),
        keep_from=keep_from(moment),
        unfinished=unfinished_days(),
        content_keep_from=content_keep_from(moment),
    )


def maintain() -> Maintained:
    """Make the days ahead and let the expired ones go; safe to run twice and in parallel."""
    plan = current_plan()
    created = create_partitions(plan.create) if plan.create else 0
    dropped = 0
    for day in sorted({partition.day for partition in plan.drop}):
        dropped += _drop_day(day, [part for part in plan.drop if part.day == day])
    deleted = 0 if connection.vendor == "postgresql" else _delete_expired_rows()
    QuarantinedLine.objects.filter(received_at__lt=accepted_from(now())).delete()
    forget_traces(now())
    AggregateRecord.objects.filter(occurred_at__lt=_midnight(keep_from(now()))).delete()
    drop_old_cells()
    deleted += prune_books(unfinished_days())
    held = tuple(sorted({partition.day for partition in plan.held}))
    return Maintained(created, dropped, deleted, held)


def _drop_day(day: date, parts: Sequence[Partition]) -> int:
    """Drop a day's partitions and freeze its cells; how many.

    Nothing when a batch of that day committed since the plan was made: only under the locks of
    the drop it is sure that none can follow. No cells are made meanwhile: a dropped partition is
    gone for snapshots of before too, and a refill would find no rows to make the cells from.
    """
    start, end = _midnight(day), _midnight(day + timedelta(days=1))
    with transaction_lock(ROLLUP_LOCK):
        if day >= keep_from(now()):  # a day of content, whose rows make no cells
            return drop_partitions(parts)
        _expire_hours(day, end.date())
        dropped = drop_partitions(parts)
        if TouchedHour.objects.filter(hour__gte=start, hour__lt=end).exists():
            transaction.set_rollback(True)
            return 0
    return dropped


def _delete_expired_rows() -> int:
    """SQLite's twin: rows before the oldest day that is kept or unfinished."""
    moment = now()
    content_before = _midnight(content_keep_from(moment))
    with transaction.atomic():
        # Read inside: nobody else writes from here on, so no batch of these days can follow.
        before = min([keep_from(moment), *unfinished_days()])
        ContentMessage.objects.filter(start_at__lt=content_before).delete()
        ContentSession.objects.filter(start_at__lt=content_before).delete()
        _expire_hours(date(1970, 1, 1), before)
        return sum(
            model.objects.filter(start_at__lt=_midnight(before)).delete()[0]
            for model in EVENT_MODELS
        )


def _expire_hours(first: date, before: date) -> None:
    """Freeze the cells of ``[first, before)``: without rows they could only become empty."""
    FillState.objects.filter(hour__gte=_midnight(first), hour__lt=_midnight(before)).exclude(
        state=FillState.State.EXPIRED
    ).update(state=FillState.State.EXPIRED)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
