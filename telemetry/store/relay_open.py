"""Runs that nobody ended: an agent that was lost with its machine closes no run.

They are handed out as rows that have ended with their last child, ``end_reason`` unknown, when
nothing of them came in for a while. Should such a run end after all, its span is sent again under
the same id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db.models import Count, Exists, Min, OuterRef, Q

from agent_client.contract.tables import ERRORS, MODEL_CALLS, RUNS, SPANS, TOOL_CALLS
from fleet.lib.clock import now
from telemetry.models import FeedEntry, IngestBatch, Run
from telemetry.store.relay_facts import Asked, ask
from telemetry.store.relay_rows import EntryRows

UNFINISHED_AFTER: Final = timedelta(hours=24)
"""Without anything of a run for so long nobody will end it; gateways are quiet over a night."""
UNKNOWN: Final = "unknown"
MAX_RUNS: Final = 2_000
_HOUR: Final = timedelta(hours=1)
_COLUMNS: Final = RUNS.column_names()
_NAMES: Final = ("received_at", "install_id", "start_at", "group_id", *_COLUMNS)
_START: Final = _COLUMNS.index("start_ns")
_END: Final = _COLUMNS.index("end_ns")
_REASON: Final = _COLUMNS.index("end_reason")


class OpenRun(NamedTuple):
    """A run that has not ended."""

    install_id: UUID
    start_at: datetime
    run_id: str

    def to_json(self) -> list[str]:
        """For whoever keeps it."""
        return [str(self.install_id), self.start_at.isoformat(), self.run_id]

    @classmethod
    def from_json(cls, data: Sequence[str]) -> OpenRun:
        """The same again."""
        return cls(UUID(data[0]), datetime.fromisoformat(data[1]), data[2])


@dataclass(frozen=True, slots=True)
class Unfinished:
    """``due``: what nobody will end, in a settled order. ``alive``: pass them the next time.

    ``until``: pass it as ``after`` the next time; runs received up to then are accounted for.
    """

    due: list[OpenRun]
    alive: list[OpenRun]
    until: datetime


def find_unfinished(
    after: datetime,
    until: datetime,
    *,
    quiet_since: datetime | None = None,
    alive: Iterable[OpenRun] = (),
    limit: int = MAX_RUNS,
) -> Unfinished:
    """Open runs whose last copy came in within ``(after, until]``, and those still alive before.

    Nothing of a run that is due came in after ``quiet_since`` (None: ``until``), usually now less
    UNFINISHED_AFTER. At most ``limit`` at once, or a batch's. At most 9 queries.
    """
    quiet_since = quiet_since or until
    first = _first_hour(after, until)
    within = Run.objects.in_window(first, until + timedelta(days=2)).filter(end_ns=None)
    found = list(
        within.filter(received_at__gt=after, received_at__lte=until)
        .order_by("received_at", "install_id", "start_at", "run_id")
        .values_list(*_NAMES)[:limit]
    )
    # A batch's rows have one stamp: those of the last one may have been cut in two.
    upto = until
    if len(found) == limit:
        last = found[-1][0]
        whole = [row for row in found if row[0] < last]
        upto = whole[-1][0] if whole else last
        found = whole or list(within.filter(received_at=last).values_list(*_NAMES))
    seen = {(row[1], row[4]) for row in found}
    # Of a run that has ended meanwhile, its own entry in the feed was sent.
    found += [row for row in _open_rows(list(alive)) if (row[1], row[4]) not in seen]
    last_news = _last_children(found, quiet_since)
    due: list[OpenRun] = []
    still: list[OpenRun] = []
    for received_at, install_id, start_at, _group, run_id, *_ in found:
        _, came_at = last_news.get((install_id, run_id), (0, received_at))
        is_quiet = max(came_at, received_at) <= quiet_since
        (due if is_quiet else still).append(OpenRun(install_id, start_at, run_id))
    return Unfinished(due, still, upto)


def _first_hour(after: datetime, until: datetime) -> datetime:
    """The hour before which no run begins that came in within ``(after, until]``, by the ledger."""
    margin = after - timedelta(days=settings.FLEET_RETENTION_DAYS + 2)
    came = FeedEntry.objects.filter(received_at__gt=after, received_at__lte=until)
    batches = IngestBatch.objects.filter(
        Exists(came.filter(install_id=OuterRef("install_id"), batch_id=OuterRef("batch_id")))
    )
    said = batches.aggregate(
        first=Min("first_hour"), unknown=Count("id", filter=Q(first_hour=None)), all=Count("id")
    )
    # The ledger forgets batches sooner than rows are forgotten.
    first: datetime | None = said["first"]
    if first is None or said["unknown"] or said["all"] < came.count():
        return margin
    return max(margin, first)


def read_open(runs: Sequence[OpenRun]) -> list[EntryRows]:
    """Open runs as rows that have ended with their last child; of each its own entry.

    Its position is its place among ``runs``, from 1. Those that have ended meanwhile are left out.
    """
    places = {(one.install_id, one.run_id): at for at, one in enumerate(runs, 1)}
    found = _open_rows(runs)
    last = _last_children(found, now())
    made: list[EntryRows] = []
    for received_at, install_id, _start_at, group_id, *values in found:
        start_ns = values[_START]
        end_ns, _ = last.get((install_id, values[0]), (start_ns, received_at))
        values[_END], values[_REASON] = max(end_ns, start_ns), UNKNOWN
        place = places[install_id, values[0]]
        made.append(
            EntryRows(place, install_id, received_at, group_id, {RUNS.name: [tuple(values)]})
        )
    return sorted(made, key=lambda entry: entry.position)


def _open_rows(runs: Sequence[OpenRun]) -> list[tuple[Any, ...]]:
    if not runs:
        return []
    known = set(runs)
    begins, ends = min(one.start_at for one in runs), max(one.start_at for one in runs)
    found = Run.objects.in_window(begins, ends + _HOUR).filter(
        end_ns=None,
        install_id__in={one.install_id for one in runs},
        run_id__in={one.run_id for one in runs},
    )
    return [row for row in found.values_list(*_NAMES) if OpenRun(row[1], row[2], row[4]) in known]


def _last_children(
    found: Sequence[tuple[Any, ...]], quiet_since: datetime
) -> dict[tuple[UUID, str], tuple[int, datetime]]:
    """When each run's last child ended, and when the last of them came in."""
    asked: list[Asked] = [
        (row[1], row[4], row[2] - _HOUR, quiet_since + timedelta(days=3)) for row in found
    ]
    last: dict[tuple[UUID, str], tuple[int, datetime]] = {}
    for table in (MODEL_CALLS, TOOL_CALLS, SPANS, ERRORS):
        columns = f"MAX(COALESCE(r.end_ns, r.{table.time})), MAX(r.received_at)"
        for install_id, run_id, end_ns, came_at in ask(
            table, "run_id", columns, asked, "GROUP BY 1, 2"
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
