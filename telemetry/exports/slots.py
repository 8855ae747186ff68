"""The times at which a schedule is due: local times of a zone as moments in UTC. Pure.

How it deals with the changes of clocks:

- A local time that does not exist runs at the next that does: 02:30 in a night that leaps from
  02:00 to 03:00 runs at 03:00.
- A local time that happens twice runs the first time, and once. An hourly schedule then has one
  time less in that night, and its next window is longer.
- The 29th to the 31st of a month that has no such day is its last day.

Times that come to the same moment are one slot. A window reaches from a slot to the next, so
windows leave nothing out and hold nothing twice, however the clocks change.
"""

from __future__ import annotations

import itertools
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from telemetry.models.exports import ExportSchedule

Every: Final = ExportSchedule.Every
_MARGIN: Final = timedelta(days=2)
"""More than any zone's distance from UTC, and than any leap: Apia once left out a day."""
_STEP: Final = {
    Every.HOUR: timedelta(days=2),
    Every.DAY: timedelta(days=4),
    Every.WEEK: timedelta(days=10),
    Every.MONTH: timedelta(days=64),
}
"""How far back the slot before lies at most."""


class Rhythm(Protocol):
    """When something is due; an ExportSchedule has all of it.

    ``weekday``: Monday is 0. ``at_hour`` does not count for hourly ones, and so on.
    """

    every: str
    at_minute: int
    at_hour: int
    weekday: int
    day_of_month: int
    time_zone: str


def slots_after(schedule: Rhythm, after: datetime) -> Iterator[datetime]:
    """The slots later than a moment, in UTC, without end.

    Errors: ZoneInfoNotFoundError or ValueError for a zone that is none.
    """
    zone = ZoneInfo(schedule.time_zone)
    start = after.astimezone(zone).replace(tzinfo=None) - _MARGIN
    last = after
    for wall in _walls(schedule, start):
        slot = moment_of(wall, zone)
        if slot > last:
            yield slot
            last = slot


def slots_between(schedule: Rhythm, after: datetime, until: datetime) -> Iterator[datetime]:
    """The slots later than ``after`` and not later than ``until``, in UTC and in order."""
    return itertools.takewhile(lambda slot: slot <= until, slots_after(schedule, after))


def slot_before(schedule: Rhythm, moment: datetime) -> datetime:
    """The last slot earlier than a moment."""
    end = moment - timedelta(microseconds=1)
    slots = slots_between(schedule, moment - _STEP[Every(schedule.every)], end)
    return max(slots)


def window_of(schedule: Rhythm, slot: datetime) -> tuple[datetime, datetime]:
    """What a slot's job covers: from the slot before to this one, which is not part of it."""
    return slot_before(schedule, slot), slot


def moment_of(wall: datetime, zone: tzinfo) -> datetime:
    """A local time as a moment in UTC: of two the first, of none the next that exists."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    # In a gap: fold=0 reckons with the offset before the leap, fold=1 with the one after it, so
    # the leap lies between the two moments.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _leap_between(before, first, zone)


def _leap_between(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The first moment of the offset that holds at ``after``; leaps lie on whole seconds."""
    offset = after.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return before + timedelta(seconds=high)


def _walls(schedule: Rhythm, start: datetime) -> Iterator[datetime]:
    """The local times in order, from the first on that may be due at ``start`` or before."""
    every = Every(schedule.every)
    if every == Every.HOUR:
        at = start.replace(minute=schedule.at_minute, second=0, microsecond=0)
        yield from (at + timedelta(hours=count) for count in itertools.count())
    elif every == Every.MONTH:
        yield from (_at(schedule, day) for day in _month_days(schedule, start))
    else:
        step = timedelta(days=7 if every == Every.WEEK else 1)
        day = start.date()
        if every == Every.WEEK:
            day -= timedelta(days=(day.weekday() - schedule.weekday) % 7)
        yield from (_at(schedule, day + step * count) for count in itertools.count())


def _month_days(schedule: Rhythm, start: datetime) -> Iterator[date]:
    for number in itertools.count(start.year * 12 + start.month - 1):
        year, month = divmod(number, 12)
        last = monthrange(year, month + 1)[1]
        yield date(year, month + 1, min(schedule.day_of_month, last))


def _at(schedule: Rhythm, day: date) -> datetime:
    return datetime(day.year, day.month, day.day, schedule.at_hour, schedule.at_minute)  # noqa: DTZ001 -- local
