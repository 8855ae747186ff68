"""The only place that reads the wall clock, and the only conversions of times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

NS_PER_S: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """The current time, aware, UTC, microseconds."""
    return datetime.now(UTC)


def now_ns() -> int:
    """The current time in nanoseconds since the epoch, at microsecond steps."""
    return datetime_to_ns(now())


def ns_to_datetime(time_ns: int) -> datetime:
    """An aware UTC datetime; nanoseconds below a microsecond are cut.

    Errors: OverflowError beyond the year 9999.
    """
    return _EPOCH + timedelta(microseconds=time_ns // 1000)


def datetime_to_ns(moment: datetime) -> int:
    """Integer nanoseconds since the epoch, exact: no float on the way.

    Errors: TypeError for a naive datetime.
    """
    delta = moment - _EPOCH
    microseconds = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return microseconds * 1000


def floor_hour(moment: datetime) -> datetime:
    """The start of the moment's UTC hour."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
