"""What retention would take, and what it would leave: per partition and table, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

from django.conf import settings
from django.db import connection
from django.db.models import Min, QuerySet
from psycopg import sql

from fleet.lib.clock import now
from telemetry.models import (
    CELL_MODELS,
    EVENT_MODELS,
    AggregateRecord,
    FeedEntry,
    IngestBatch,
    QuarantinedLine,
    RelayCursor,
    SpooledBatch,
    Unit,
)
from telemetry.models.content import CONTENT_MODELS
from telemetry.store.bounds import ledger_kept_from
from telemetry.store.partitions import (
    CONTENT_PARENTS,
    Partition,
    existing_partitions,
    plan_partitions,
)
from telemetry.store.retention import (
    GRACE,
    accepted_from,
    content_keep_from,
    keep_from,
    unfinished_days,
)

Fate = Literal["goes", "held"]
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Item:
    """Rows that go or are held. ``size_bytes`` is None where the engine cannot say."""

    table: str
    what: str
    fate: Fate
    due_on: date
    row_count: int
    size_bytes: int | None
    why: str


def report(*, ahead_days: int = 0) -> list[Item]:
    """What would go at a moment so many days from now, as the maintenance decides it. Read only."""
    moment = now() + DAY * ahead_days
    unfinished = unfinished_days()
    rows = _partitions(moment, unfinished) if _is_postgres() else _event_rows(moment, unfinished)
    return [*rows, *_books(moment, unfinished), *_cells(moment), *_feed()]


def _is_postgres() -> bool:
    return connection.vendor == "postgresql"


def _partitions(moment: datetime, unfinished: frozenset[date]) -> Iterator[Item]:
    plan = plan_partitions(
        today=moment.date(),
        existing=existing_partitions(),
        keep_from=keep_from(moment),
        unfinished=unfinished,
        content_keep_from=content_keep_from(moment),
    )
    for partition in plan.drop:
        count, size = _measured(partition)
        why = f"{_setting(partition.parent)} and a day of grace after its day"
        yield Item(partition.parent, partition.name, "goes", _due(partition), count, size, why)
    for partition in plan.held:
        count, size = _measured(partition)
        yield Item(
            partition.parent,
            partition.name,
            "held",
            _due(partition),
            count,
            size,
            "its rollups are not done: run `manage.py telemetry_rollup`",
        )


def _setting(parent: str) -> str:
    return "FLEET_CONTENT_RETENTION_DAYS" if parent in CONTENT_PARENTS else "FLEET_RETENTION_DAYS"


def _due(partition: Partition) -> date:
    """The first day on which it may go."""
    days = settings.FLEET_RETENTION_DAYS
    if partition.parent in CONTENT_PARENTS:
        days = min(days, settings.FLEET_CONTENT_RETENTION_DAYS)
    return partition.day + timedelta(days=days + 1) + GRACE


def _measured(partition: Partition) -> tuple[int, int]:
    """Rows and bytes of a partition, indexes with it."""
    query = sql.SQL("SELECT count(*), pg_total_relation_size({name}) FROM {table}").format(
        name=sql.Literal(partition.name), table=sql.Identifier(partition.name)
    )
    with connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _event_rows(moment: datetime, unfinished: frozenset[date]) -> Iterator[Item]:
    """SQLite's twin: no day after the oldest unfinished one goes."""
    wanted = keep_from(moment)
    before = min([wanted, *unfinished])
    due = moment.date()
    for kind in CONTENT_MODELS:
        content = kind._default_manager.filter(start_at__lt=_midnight(content_keep_from(moment)))  # noqa: SLF001 -- the documented way from a model class
        yield from _counted(
            content, f"before {content_keep_from(moment)}", due, _setting_of_content()
        )
    for model in EVENT_MODELS:
        rows = model._default_manager.filter(start_at__lt=_midnight(before))  # noqa: SLF001 -- the documented way from a model class
        yield from _counted(rows, f"before {before}", due, "FLEET_RETENTION_DAYS")
        if before < wanted:
            held = model._default_manager.filter(  # noqa: SLF001 -- the documented way from a model class
                start_at__gte=_midnight(before), start_at__lt=_midnight(wanted)
            )
            yield from _counted(
                held,
                f"{before} to {wanted}",
                due,
                f"the rollups of {before} are not done: run `manage.py telemetry_rollup`",
                fate="held",
            )


def _setting_of_content() -> str:
    return "FLEET_CONTENT_RETENTION_DAYS"


def _books(moment: datetime, unfinished: frozenset[date]) -> Iterator[Item]:
    """Ledger, quarantine and sums of runs."""
    due, before = moment.date(), ledger_kept_from(moment, unfinished)
    waiting = SpooledBatch.objects.values("batch_id")
    old = IngestBatch.objects.filter(received_at__lt=before)
    why = "no row of these batches could be taken in again"
    yield from _counted(old.exclude(batch_id__in=waiting), f"before {before:%Y-%m-%d}", due, why)
    held = "their rows still wait in the spool: run `manage.py telemetry_spool drain`"
    yield from _counted(
        old.filter(batch_id__in=waiting), f"before {before:%Y-%m-%d}", due, held, fate="held"
    )
    oldest = accepted_from(moment)
    lines = QuarantinedLine.objects.filter(received_at__lt=oldest)
    yield from _counted(lines, f"before {oldest:%Y-%m-%d}", due, "FLEET_RETENTION_DAYS")
    kept = _midnight(keep_from(moment))
    records = AggregateRecord.objects.filter(occurred_at__lt=kept)
    yield from _counted(records, f"before {kept:%Y-%m-%d}", due, "FLEET_RETENTION_DAYS")


def _cells(moment: datetime) -> Iterator[Item]:
    """Sums of hours, then of days."""
    today = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    hourly = today - DAY * settings.FLEET_HOURLY_DAYS
    daily = today - DAY * max(settings.FLEET_DAILY_DAYS, settings.FLEET_RETENTION_DAYS + 2)
    for model in CELL_MODELS:
        hours = model._default_manager.filter(unit=Unit.HOUR, at__lt=hourly)  # noqa: SLF001 -- the documented way from a model class
        yield from _counted(
            hours, f"hours before {hourly:%Y-%m-%d}", moment.date(), "FLEET_HOURLY_DAYS"
        )
        days = model._default_manager.filter(at__lt=daily).exclude(unit=Unit.HOUR)  # noqa: SLF001 -- the documented way from a model class
        yield from _counted(
            days, f"days before {daily:%Y-%m-%d}", moment.date(), "FLEET_DAILY_DAYS"
        )


def _feed() -> Iterator[Item]:
    """What a collector has still to be sent stays, whatever its age."""
    cursors = RelayCursor.objects.filter(destination__is_enabled=True).exclude(signal="metrics")
    position = cursors.aggregate(least=Min("position"))["least"]
    if position is not None:
        waiting = FeedEntry.objects.filter(pk__gt=position)
        why = "a relay has not passed them yet: see Exports → Collectors"
        yield from _counted(waiting, f"after {position}", now().date(), why, fate="held")


def _counted(
    rows: QuerySet[object],  # type: ignore[type-var]  # of any model
    what: str,
    due: date,
    why: str,
    fate: Fate = "goes",
) -> Iterator[Item]:
    count = rows.count()
    if count:
        yield Item(rows.model._meta.db_table, what, fate, due, count, None, why)  # type: ignore[attr-defined]  # a model has it


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
