"""The window of a question, and what an answer says about its own age."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, Self

from fleet.lib.clock import floor_hour, now

type BucketUnit = Literal["hour", "day"]

DAILY_FROM: Final = timedelta(days=4)
"""96 hours on a chart are the most that a reader tells apart."""
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Whole UTC hours ``[start, end)``. Errors: ValueError when empty or not on the hour."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError("an empty window")
        if floor_hour(self.start) != self.start or floor_hour(self.end) != self.end:
            raise ValueError("a window is made of whole hours")

    @classmethod
    def last(cls, *, hours: int = 0, days: int = 0) -> Self:
        """The last hours or days, the running hour included."""
        end = floor_hour(now()) + _HOUR
        return cls(end - timedelta(hours=hours, days=days), end)

    @property
    def previous(self) -> Window:
        """The window of the same length just before."""
        return Window(self.start - (self.end - self.start), self.start)

    @property
    def unit(self) -> BucketUnit:
        """What one bucket of a series is."""
        return "day" if self.end - self.start >= DAILY_FROM else "hour"

    def bucket_of(self, hour: datetime) -> datetime:
        """The start of the bucket an hour belongs to: the hour, or its UTC day."""
        return hour if self.unit == "hour" else hour.replace(hour=0)

    def buckets(self) -> tuple[datetime, ...]:
        """The starts of all buckets, oldest first; the first day may begin before the window."""
        step = _HOUR if self.unit == "hour" else _DAY
        starts = [self.bucket_of(self.start)]
        while starts[-1] + step < self.end:
            starts.append(starts[-1] + step)
        return tuple(starts)


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an answer is. ``pending_hours``: hours of the window that wait to be re-made."""

    last_filled_at: datetime | None
    pending_hours: int


@dataclass(frozen=True, slots=True)
class Compared[Number]:
    """A value, and what it was in the window before; None is unknown and not zero."""

    value: Number
    previous: Number
