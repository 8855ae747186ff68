"""The window of a question: which cells it is made of, and how it falls into buckets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, Self

from fleet.lib.clock import floor_hour, now
from telemetry.models import Unit
from telemetry.store.cell_sums import Slice

type BucketUnit = Literal["hour", "day"]

DAILY_FROM: Final = timedelta(days=4)
"""96 hours on a chart are the most that a reader tells apart."""
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
CURRENT: Final = 0
NOON: Final = 12
PREVIOUS: Final = 1
"""``Slice.part`` of the window before."""


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
        end = floor_hour(now()) + HOUR
        return cls(end - timedelta(hours=hours, days=days), end)

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return self.end - self.start

    @property
    def previous(self) -> Window:
        """The window of the same length just before."""
        return Window(self.start - self.length, self.start)

    @property
    def unit(self) -> BucketUnit:
        """What one bucket of a series is."""
        return "day" if self.length >= DAILY_FROM else "hour"

    def bucket_of(self, moment: datetime) -> datetime:
        """The start of the bucket a cell belongs to: its hour, or its UTC day."""
        return moment if self.unit == "hour" else moment.replace(hour=0)

    def buckets(self) -> tuple[datetime, ...]:
        """The starts of all buckets, oldest first; the first day may begin before the window."""
        step = HOUR if self.unit == "hour" else DAY
        starts = [self.bucket_of(self.start)]
        while starts[-1] + step < self.end:
            starts.append(starts[-1] + step)
        return tuple(starts)

    def slices(self, part: int = CURRENT) -> tuple[Slice, ...]:
        """The cells it is made of: whole days from day cells, hours only at the edges.

        An edge of more than half a day is that day less the hours outside: a window never reads
        more than 12 hours at an edge, and none at an end that is still to come.
        """
        if self.unit == "hour":
            return (Slice(Unit.HOUR, self.start, self.end, part),)
        first, last = self.start.replace(hour=0), self.end.replace(hour=0)
        pieces: list[Slice] = []
        if self.start.hour > NOON:
            first += DAY
            pieces.append(Slice(Unit.HOUR, self.start, first, part))
        else:
            pieces.append(Slice(Unit.HOUR, first, self.start, part, is_taken_out=True))
        if self.end > last and (self.end.hour > NOON or self.end > now()):
            last += DAY
            pieces.append(Slice(Unit.HOUR, self.end, last, part, is_taken_out=True))
        else:
            pieces.append(Slice(Unit.HOUR, last, self.end, part))
        pieces.append(Slice(Unit.DAY, first, last, part))
        return tuple(piece for piece in pieces if piece.start < piece.end)

    def hours(self) -> tuple[Slice, ...]:
        """The window from hour cells alone, for what depends on the hour of the day."""
        return (Slice(Unit.HOUR, self.start, self.end),)

    def both(self) -> tuple[Slice, ...]:
        """Its slices and those of the window before."""
        return (*self.slices(), *self.previous.slices(PREVIOUS))


@dataclass(frozen=True, slots=True)
class Compared[Number]:
    """A value, and what it was in the window before; None is unknown and not zero."""

    value: Number
    previous: Number
