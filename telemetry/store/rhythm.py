"""How installs come and go: their active days and the gaps between them, in one statement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db import connection

from telemetry.models import InstallCell, Unit

_DAY_NUMBER: Final = {
    "postgresql": "EXTRACT(EPOCH FROM at) / 86400",
    "sqlite": "julianday(at) - 2440587.5",
}
"""Days since the epoch; a gap is a difference of two."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """One install's days with any activity; gaps are between neighbours, 1 is every day."""

    install_id: UUID
    active_days: int
    first_day: int
    last_day: int
    longest_gap_days: int


def read_rhythms(
    start: datetime,
    end: datetime,
    *,
    group_id: int | None = None,
    install_id: UUID | None = None,
) -> list[Rhythm]:
    """Every install, or one, that was active on a day in ``[start, end)``, from day cells."""
    quote = connection.ops.quote_name
    bounds = [connection.ops.adapt_datetimefield_value(moment) for moment in (start, end)]
    chosen, values = "", []
    if group_id is not None:
        chosen, values = " AND group_id = %s", [group_id]
    if install_id is not None:
        spec = InstallCell._meta.get_field("install_id")
        chosen += " AND install_id = %s"
        values.append(spec.get_db_prep_value(install_id, connection))
    gap = "day - LAG(day) OVER (PARTITION BY install_id ORDER BY day)"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT install_id, COUNT(*), MIN(day), MAX(day), COALESCE(MAX(gap), 0) FROM ("  # noqa: S608 -- names of our own model
            f"SELECT install_id, day, {gap} AS gap FROM ("
            f"SELECT install_id, CAST({_DAY_NUMBER[connection.vendor]} AS integer) AS day "
            f"FROM {quote(InstallCell._meta.db_table)} "
            f"WHERE unit = %s AND at >= %s AND at < %s{chosen} "
            "AND run_count + model_call_count + tool_call_count + error_count > 0"
            ") d) g GROUP BY install_id",
            [Unit.DAY.value, *bounds, *values],
        )
        return [
            Rhythm(row[0] if isinstance(row[0], UUID) else UUID(row[0]), *map(int, row[1:]))
            for row in cursor.fetchall()
        ]
