"""Old cells: a day's hours go when the day is enough, the day when nobody looks back so far.

An hour without cells of its own is marked, and from then on only the day is added to: a late batch
must not make an hour that holds nothing but itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.conf import settings

from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from telemetry.models import CELL_MODELS, FillState, FirstSeen, TouchedHour, Unit
from telemetry.store.locks import ROLLUP_LOCK

DAY: Final = timedelta(days=1)
HOURS: Final = tuple(timedelta(hours=number) for number in range(24))
SEEN_A_KIND: Final = 20_000
"""Names that are kept of one kind: an install that makes up names must not fill the disk."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many days lost the cells of their hours, and how many all of them."""

    hours_of_days: int = 0
    days: int = 0


def drop_old_cells() -> Dropped:
    """Let cells go that are past FLEET_HOURLY_DAYS and FLEET_DAILY_DAYS, a day at a time."""
    today = now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    hourly_from = today - DAY * settings.FLEET_HOURLY_DAYS
    # A day that still has rows can be asked for again, and is made from them.
    kept_days = max(settings.FLEET_DAILY_DAYS, settings.FLEET_RETENTION_DAYS + 2)
    daily_from = today - DAY * kept_days
    dropped = sum(_drop_hours(day) for day in _days_with_hours(hourly_from))
    gone = _drop_days(daily_from)
    _bound_first_seen()
    return Dropped(dropped, gone)


def _days_with_hours(before: datetime) -> list[datetime]:
    """Days before a time of which hours may still have cells."""
    states = FillState.objects.filter(hour__lt=before, is_daily=False)
    days = {hour.astimezone(UTC).replace(hour=0) for hour in states.values_list("hour", flat=True)}
    return sorted(days)


def _drop_hours(day: datetime) -> bool:
    """Drop the cells of a day's hours, unless something waits to be added to them."""
    hours = [day + step for step in HOURS]
    with transaction_lock(ROLLUP_LOCK):
        if TouchedHour.objects.filter(hour__in=hours).exists():
            return False
        states = FillState.objects.filter(hour__in=hours)
        if states.filter(state=FillState.State.STARTED).exists():
            return False
        moment = now()
        is_expired = states.filter(state=FillState.State.EXPIRED).exists()
        state = FillState.State.EXPIRED if is_expired else FillState.State.DONE
        FillState.objects.bulk_create(
            (FillState(hour=hour, state=state, started_at=moment) for hour in hours),
            ignore_conflicts=True,
        )
        states.update(is_daily=True)
        for model in CELL_MODELS:
            cells = model._default_manager.filter(unit=Unit.HOUR, at__gte=day, at__lt=day + DAY)  # noqa: SLF001 -- the documented way from a model class
            cells.delete()
    return True


def _drop_days(before: datetime) -> int:
    """Drop all cells before a time, and what is known of their hours."""
    with transaction_lock(ROLLUP_LOCK):
        for model in CELL_MODELS:
            model._default_manager.filter(at__lt=before).delete()  # noqa: SLF001 -- the documented way from a model class
        gone, _ = FillState.objects.filter(hour__lt=before).delete()
    return gone // 24


def _bound_first_seen() -> None:
    """Forget the newest names beyond SEEN_A_KIND of a kind."""
    for kind in FirstSeen.Kind.values:
        seen = FirstSeen.objects.filter(kind=kind).order_by("first_at", "id")
        beyond = list(seen.values_list("id", flat=True)[SEEN_A_KIND : SEEN_A_KIND + 100_000])
        if beyond:
            FirstSeen.objects.filter(id__in=beyond).delete()
