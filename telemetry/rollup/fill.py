"""fill_pending(): brings the cells up to date, in bounded steps under one lock."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from fleet.lib.clock import now
from fleet.lib.sql import session_lock
from telemetry.models import FillState, TouchedHour
from telemetry.rollup.engine import HOUR, day_of
from telemetry.rollup.fold import LOCK, REFUSALS, fold_touched, retry_failed
from telemetry.rollup.refill import refill_hours

RETRY_AFTER: Final = timedelta(hours=1)
"""What the database refused may go after an upgrade; each attempt costs a few vain folds."""
FOLDS_A_ROUND: Final = 50
"""A backfill of months must not hold a worker for minutes; the next round goes on."""

logger = logging.getLogger(__name__)


def pending_hours() -> list[datetime]:
    """Hours whose cells do not hold all of their rows yet, oldest touch first."""
    touched = TouchedHour.objects.order_by("id").values_list("hour", flat=True)
    return list(dict.fromkeys([*touched, *_started()]))


def hours_to_refill() -> list[datetime]:
    """Hours to be made again as a whole: asked for, or left by a worker that died."""
    asked = TouchedHour.objects.filter(batch_id=None).order_by("id").values_list("hour", flat=True)
    return list(dict.fromkeys([*asked, *_started()]))


def _started() -> Iterable[datetime]:
    return FillState.objects.filter(state=FillState.State.STARTED).values_list("hour", flat=True)


def fill_pending() -> int:
    """Refill and fold all that waits now, what failed before too; how many hours that were."""
    with session_lock(LOCK):
        retry_failed(now())
        return fill_round(folds=None)


def refill_all(hours: Iterable[datetime]) -> Iterator[list[datetime]]:
    """Make hours again, a day at a time; those that were. Folds go on between the days."""
    for day in by_day(hours):
        with session_lock(LOCK):
            yield refill_hours(day)


def hours_between(since: datetime, until: datetime) -> list[datetime]:
    """Every UTC hour in ``[since, until)``."""
    count = max(0, math.ceil((until - since) / HOUR))
    return [since + HOUR * number for number in range(count)]


def fill_hour(hour: datetime) -> bool:
    """Make one hour again from its rows; False when it is expired."""
    with session_lock(LOCK):
        return bool(refill_hours([hour]))


def fill_round(*, folds: int | None = FOLDS_A_ROUND) -> int:
    """Refill the hours that ask for it, then fold, at most ``folds`` times; how many hours waited.

    The caller holds the lock.
    """
    retry_failed(now() - RETRY_AFTER)
    waiting = pending_hours()
    for hours in by_day(hours_to_refill()):
        try:
            refill_hours(hours)
        except REFUSALS as error:
            # It stays STARTED and is tried again; what is to be folded must not wait for it.
            kind = type(error).__name__
            logger.error("A day cannot be summed up again: %s", kind)  # noqa: TRY400 -- it would quote rows
    done = 0
    while (folds is None or done < folds) and fold_touched():
        done += 1
    return len(waiting)


def by_day(hours: Iterable[datetime]) -> list[list[datetime]]:
    """Hours day by day: those of one day are refilled together."""
    days: dict[datetime, list[datetime]] = defaultdict(list)
    for hour in hours:
        days[day_of(hour)].append(hour)
    return [sorted(found) for _, found in sorted(days.items())]
