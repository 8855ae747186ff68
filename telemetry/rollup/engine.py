"""What the two engines spell differently in the SQL of rollups, behind one set of names."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connection

from telemetry.rollup.histogram import BUCKETS_PER_DOUBLING, MAX_MS, ZERO_THRESHOLD_MS
from telemetry.rollup.stats import SUM_MAX

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
NS_PER_HOUR: Final = 3_600_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SPLIT: Final = 10**9
"""SQLite's SUM raises when it overflows: it sums billions and the rest apart."""


type Param = Any
"""Whatever the driver adapts."""


@dataclass(frozen=True, slots=True)
class Sql:
    """A piece of SQL with its parameters, in order."""

    text: str
    params: tuple[Param, ...] = ()


def is_postgres() -> bool:
    """Which of the two spellings holds."""
    return connection.vendor == "postgresql"


def hour_number(hour: datetime) -> int:
    """Hours since the epoch: how SQL here names an hour."""
    return (hour - _EPOCH) // HOUR


def hour_of(number: int) -> datetime:
    """The start of an hour by its number."""
    return _EPOCH + number * HOUR


def day_of(hour: datetime) -> datetime:
    """The start of an hour's UTC day."""
    return hour.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def hours_of(day: datetime) -> list[datetime]:
    """The hours of a UTC day."""
    return [day + HOUR * number for number in range(24)]


def moment(value: datetime) -> Param:
    """A time as a parameter."""
    return connection.ops.adapt_datetimefield_value(value)


def at_sql(unit: str, number: str) -> str:
    """The start of the hour or day (SQL ``unit``) that an hour number lies in."""
    seconds = f"CASE {unit} WHEN 'd' THEN {number} / 24 * 86400 ELSE {number} * 3600 END"
    if is_postgres():
        return f"TO_TIMESTAMP({seconds})"
    return f"DATETIME({seconds}, 'unixepoch')"


def total_sql(value: str) -> str:
    """The sum of an integer expression, 0 for no rows, kept within SUM_MAX on both sides."""
    if is_postgres():
        return f"CAST(LEAST(GREATEST(COALESCE(SUM({value}), 0), -{SUM_MAX}), {SUM_MAX}) AS bigint)"
    whole = f"COALESCE(SUM(({value}) / {_SPLIT}), 0)"
    rest = f"COALESCE(SUM(({value}) % {_SPLIT}), 0)"
    most = SUM_MAX // _SPLIT
    return (
        f"CASE WHEN {whole} >= {most} THEN {SUM_MAX} WHEN {whole} <= -{most} THEN -{SUM_MAX} "
        f"ELSE {whole} * {_SPLIT} + {rest} END"
    )


def added_sql(held: str, more: str) -> str:
    """Two sums together. One that has reached SUM_MAX says "at least this" from then on."""
    least, most = ("GREATEST", "LEAST") if is_postgres() else ("MAX", "MIN")
    return (
        f"CASE WHEN {held} >= {SUM_MAX} THEN {held} "
        f"ELSE {least}({most}({held} + {more}, {SUM_MAX}), -{SUM_MAX}) END"
    )


ZERO_BUCKET: Final = "-9999"
"""Stands for the zero bucket in SQL, below every index of the grid."""


def bucket_sql(ms: str) -> str:
    """``histogram.bucket_of`` in SQL, of a value that is not NULL."""
    least = "LEAST" if is_postgres() else "MIN"
    factor = repr(BUCKETS_PER_DOUBLING / math.log(2))
    return (
        f"CASE WHEN {ms} > {ZERO_THRESHOLD_MS} "
        f"THEN CAST(CEILING(LN({least}({ms}, {MAX_MS:.1f})) * {factor}) AS integer) - 1 "
        f"ELSE {ZERO_BUCKET} END"
    )


def listed_sql(value: str, where: str) -> str:
    """The values of a group's rows that meet a condition as one text, "1,1,7"; NULL for none."""
    if is_postgres():
        return f"ARRAY_TO_STRING(ARRAY_AGG({value}) FILTER (WHERE {where}), ',')"
    return f"GROUP_CONCAT({value}) FILTER (WHERE {where})"


def latest_sql(value: str, at: str) -> str:
    """The value of the row with the latest ``at`` in a group, then that ``at``: two columns."""
    if is_postgres():
        return f"(ARRAY_AGG({value} ORDER BY {at} DESC))[1] AS latest, MAX({at}) AS latest_at"
    return f"{value} AS latest, MAX({at}) AS latest_at"  # SQLite: bare columns follow the MAX


def touched_table(rows: Sequence[tuple[UUID, UUID, datetime, int]]) -> Sql:
    """A relation of install_id, batch_id, received_at, hour_no, and the hour's begins and ends."""
    if is_postgres():
        columns: list[Param] = [[row[at] for row in rows] for at in range(4)]
        return Sql(
            "SELECT t.*, TO_TIMESTAMP(t.hour_no * 3600) AS begins, "
            "TO_TIMESTAMP(t.hour_no * 3600 + 3600) AS ends "
            "FROM UNNEST(%s::uuid[], %s::uuid[], %s::timestamptz[], %s::bigint[]) "
            "AS t(install_id, batch_id, received_at, hour_no)",
            tuple(columns),
        )
    packed = [
        [row[0].hex, row[1].hex, str(moment(row[2])), row[3], *map(str, bounds)]
        for row in rows
        for bounds in [(moment(hour_of(row[3])), moment(hour_of(row[3] + 1)))]
    ]
    picked = ", ".join(
        f"JSON_EXTRACT(value, '$[{at}]') AS {name}"
        for at, name in enumerate(
            ("install_id", "batch_id", "received_at", "hour_no", "begins", "ends")
        )
    )
    return Sql(f"SELECT {picked} FROM JSON_EACH(%s)", (json.dumps(packed),))  # noqa: S608 -- names of this module
