"""Runs that nobody ended: an agent that was lost with its machine closes no run.

They are handed out as rows that have ended with their last child, ``end_reason`` unknown, when
nothing of them came in for a while. Should such a run end after all, its span is sent again under
the same id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db.models import Q

from agent_client.contract.tables import ERRORS, MODEL_CALLS, RUNS, SPANS, TOOL_CALLS
from telemetry.models import Run
from telemetry.store.relay_facts import Asked, ask
from telemetry.store.relay_rows import EntryRows

UNFINISHED_AFTER: Final = timedelta(hours=24)
"""Without anything of a run for so long nobody will end it; gateways are quiet over a night."""
UNKNOWN: Final = "unknown"
MAX_RUNS: Final = 2_000
_HOUR: Final = timedelta(hours=1)
_COLUMNS: Final = RUNS.column_names()
_END: Final = _COLUMNS.index("end_ns")
_REASON: Final = _COLUMNS.index("end_reason")


class OpenRun(NamedTuple):
    """A run that has not ended, and still gets children: to be looked at again."""

    install_id: UUID
    start_at: datetime
    run_id: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """``entries``: what can be sent, as ended rows. ``alive``: pass them the next time.

    ``until``: pass it as ``after`` the next time; runs received up to then are accounted for.
    """

    entries: list[EntryRows]
    alive: list[OpenRun]
    until: datetime


def read_unfinished(
    after: datetime, until: datetime, *, alive: Iterable[OpenRun] = (), limit: int = MAX_RUNS
) -> Unfinished:
    """Open runs whose last copy came in within ``(after, until]``, and those still alive before.

    ``until``: usually now less UNFINISHED_AFTER; nothing of a run that is handed out came in later.
    At most 7 queries.
    """
    margin = timedelta(days=settings.FLEET_RETENTION_DAYS + 2)
    fresh = Q(received_at__gt=after, received_at__lte=until)
    within = Run.objects.in_window(after - margin, until + timedelta(days=2))
    names = ("received_at", "install_id", "start_at", "group_id", *_COLUMNS)
    found = list(
        within.filter(fresh, end_ns=None)
        .order_by("received_at", "install_id", "start_at", "run_id")
        .values_list(*names)[:limit]
    )
    # A batch's rows have one stamp: those of the last one may have been cut in two.
    upto = until
    if len(found) == limit:
        last = found[-1][0]
        whole = [row for row in found if row[0] < last]
        upto = whole[-1][0] if whole else last
        found = whole or found
    again = list(alive)
    if again:
        # Of a run that has ended meanwhile, its own entry in the feed was sent.
        known = Run.objects.in_window(
            min(one.start_at for one in again), max(one.start_at for one in again) + _HOUR
        ).filter(
            end_ns=None,
            install_id__in={one.install_id for one in again},
            run_id__in={one.run_id for one in again},
        )
        seen = {(row[1], row[4]) for row in found}
        found += [row for row in known.values_list(*names) if (row[1], row[4]) not in seen]
    return _settle(found, until, upto)


def _settle(
    found: Sequence[tuple[object, ...]], quiet_since: datetime, upto: datetime
) -> Unfinished:
    last = _last_children(found, quiet_since)
    by_install: dict[UUID, EntryRows] = {}
    alive: list[OpenRun] = []
    for received_at, install_id, start_at, group_id, *values in found:
        assert isinstance(install_id, UUID)  # noqa: S101 -- as the model has them
        assert isinstance(start_at, datetime)  # noqa: S101
        assert isinstance(received_at, datetime)  # noqa: S101
        assert isinstance(group_id, int)  # noqa: S101
        run_id, start_ns = str(values[0]), int(str(values[_COLUMNS.index("start_ns")]))
        end_ns, came_at = last.get((install_id, run_id), (start_ns, received_at))
        if max(came_at, received_at) > quiet_since:
            alive.append(OpenRun(install_id, start_at, run_id))
            continue
        values[_END], values[_REASON] = max(end_ns, start_ns), UNKNOWN
        entry = by_install.setdefault(
            install_id, EntryRows(0, install_id, received_at, group_id, {RUNS.name: []})
        )
        entry.rows[RUNS.name].append(tuple(values))
    return Unfinished(list(by_install.values()), alive, upto)


def _last_children(
    found: Sequence[tuple[object, ...]], quiet_since: datetime
) -> dict[tuple[UUID, str], tuple[int, datetime]]:
    """When each run's last child ended, and when the last of them came in."""
    asked: list[Asked] = [
        (row[1], str(row[4]), row[2] - _HOUR, quiet_since + timedelta(days=3))  # type: ignore[misc, operator]  # as the model has them
        for row in found
    ]
    last: dict[tuple[UUID, str], tuple[int, datetime]] = {}
    for table in (MODEL_CALLS, TOOL_CALLS, SPANS, ERRORS):
        columns = f"MAX(COALESCE(r.end_ns, r.{table.time})), MAX(r.received_at)"
        for install_id, run_id, end_ns, came_at in ask(
            table, "run_id", columns, asked, "GROUP BY 1"
        ):
            key = (install_id, run_id)
            held = last.get(key, (end_ns, _moment(came_at)))
            last[key] = (max(held[0], end_ns), max(held[1], _moment(came_at)))
    return last


def _moment(value: object) -> datetime:
    """A time as the driver gives it; SQLite's is text without a zone."""
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(f"{value}+00:00")
