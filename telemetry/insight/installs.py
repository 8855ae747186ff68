"""Questions about installs: active ones, the first by what they did, silent ones, new values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import Max

from fleet.lib.clock import floor_hour, now
from telemetry.insight import boards
from telemetry.insight.answers import (
    NUSD_PER_USD,
    FirstLine,
    InstallLine,
    Installs,
    QuietInstall,
    Scope,
    Silence,
)
from telemetry.insight.window import DAY, HOUR, Compared, Window
from telemetry.models import FirstSeen, InstallCell, Unit
from telemetry.store.cell_sums import Cells, sum_cells
from telemetry.store.rhythm import Rhythm, read_rhythms

TOP_INSTALLS: Final = 10
RHYTHM: Final = timedelta(days=30)
RHYTHM_DAYS_MIN: Final = 3
"""Fewer active days are no rhythm."""
SILENT_LINES: Final = 50
SILENT_AFTER: Final = 1.5
"""Longest gaps of its own: a weekend off makes nobody silent on Monday."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def installs(scope: Scope, *, limit: int = TOP_INSTALLS) -> Installs:
    """Active and top installs; 1 query when their board is kept, else 2 more."""
    board = boards.board_of(scope.window, scope.filters.group_id)
    tops = {
        name: tuple(_line(install_id, sums) for install_id, sums in lines[:limit])
        for name, lines in board.tops.items()
    }
    ignored = tuple(scope.filters.chosen())
    return Installs(
        scope=Scope(scope.window, scope.filters, scope.freshness, ignored),
        active=Compared(board.active_count, board.previous_active_count),
        by_runs=tops.get("runs", ()),
        by_cost=tops.get("cost", ()),
        by_failures=tops.get("failures", ()),
        counted_at=board.counted_at,
    )


def install_activity(
    install_ids: Iterable[UUID], window: Window, *, limit: int = 1000
) -> dict[UUID, InstallLine]:
    """The sums of some installs, by id, for a list page; 1 query. Quiet installs are left out."""
    wanted = list(install_ids)[:limit]
    if not wanted:
        return {}
    cells = Cells(window.slices(), None, among={"install_id": wanted})
    found = sum_cells(InstallCell, cells, keys=("install_id",), sums=boards.LINE_FIELDS)
    lines = {}
    for (install_id,), values in found:
        assert isinstance(install_id, UUID)  # noqa: S101 -- the reader converts it
        lines[install_id] = _line(install_id, dict(zip(boards.LINE_FIELDS, values, strict=True)))
    return lines


def install_days(install_id: UUID, window: Window) -> tuple[tuple[datetime, InstallLine], ...]:
    """One install's buckets, oldest first, the quiet ones too; 1 query."""
    cells = Cells(window.slices(), None, among={"install_id": [install_id]})
    found = sum_cells(InstallCell, cells, keys=("at",), sums=boards.LINE_FIELDS)
    buckets = {start: dict.fromkeys(boards.LINE_FIELDS, 0) for start in window.buckets()}
    for (at,), values in found:
        assert isinstance(at, datetime)  # noqa: S101 -- the reader converts it
        total = buckets[window.bucket_of(at)]
        for name, value in zip(boards.LINE_FIELDS, values, strict=True):
            total[name] += value
    return tuple((start, _line(install_id, total)) for start, total in buckets.items())


def silence(scope: Scope, *, limit: int = SILENT_LINES) -> Silence:
    """Installs quieter than ever in the last 30 days, judged by the day; 2 queries."""
    end = scope.window.end
    moment = min(now(), end)
    rhythms = read_rhythms((end - RHYTHM).replace(hour=0), end, group_id=scope.filters.group_id)
    judged = [rhythm for rhythm in rhythms if rhythm.active_days >= RHYTHM_DAYS_MIN]
    today = (moment - _EPOCH) // DAY
    quiet = sorted(
        (rhythm for rhythm in judged if _is_silent(rhythm, today)),
        key=lambda rhythm: (
            -(today - rhythm.last_day) / rhythm.longest_gap_days,
            rhythm.install_id,
        ),
    )
    shown = quiet[:limit]
    last_seen = _last_hours(shown)
    return Silence(
        scope=scope,
        silent=tuple(_quiet_install(rhythm, last_seen, moment) for rhythm in shown),
        silent_count=len(quiet),
        judged_count=len(judged),
        unjudged_count=len(rhythms) - len(judged),
    )


def install_rhythm(install_id: UUID) -> QuietInstall | None:
    """One install's own rhythm over 30 days; None with too few days for one; 2 queries."""
    moment = now()
    end = floor_hour(moment) + HOUR
    found = read_rhythms((end - RHYTHM).replace(hour=0), end, install_id=install_id)
    if not found or found[0].active_days < RHYTHM_DAYS_MIN:
        return None
    return _quiet_install(found[0], _last_hours(found), moment)


def first_seen(scope: Scope, *, limit: int = 50) -> tuple[FirstLine, ...]:
    """What the fleet had for the first time in the window, newest first; 1 query."""
    found = FirstSeen.objects.filter(
        first_at__gte=scope.window.start, first_at__lt=scope.window.end
    ).order_by("-first_at", "kind", "value")
    return tuple(
        FirstLine(line.kind, line.value, line.first_at, line.install_id) for line in found[:limit]
    )


def _is_silent(rhythm: Rhythm, today: int) -> bool:
    """More than a day quiet, and for half as long again as ever."""
    quiet_days = today - rhythm.last_day
    return quiet_days > 1 and quiet_days > rhythm.longest_gap_days * SILENT_AFTER


def _last_hours(rhythms: Iterable[Rhythm]) -> dict[UUID, datetime]:
    """The last active hour of each."""
    wanted = {rhythm.install_id: rhythm for rhythm in rhythms}
    if not wanted:
        return {}
    since = _EPOCH + min(rhythm.last_day for rhythm in wanted.values()) * DAY
    found = (
        InstallCell.objects.filter(install_id__in=wanted, unit=Unit.HOUR, at__gte=since)
        .values_list("install_id")
        .annotate(last=Max("at"))
    )
    return dict(found)


def _quiet_install(
    rhythm: Rhythm, last_seen: dict[UUID, datetime], moment: datetime
) -> QuietInstall:
    gaps = rhythm.active_days - 1
    # Without hour cells the end of the last active day is what is known.
    last = last_seen.get(rhythm.install_id, _EPOCH + (rhythm.last_day + 1) * DAY - HOUR)
    return QuietInstall(
        install_id=rhythm.install_id,
        last_seen_at=last,
        quiet=moment - last,
        usual_gap=(rhythm.last_day - rhythm.first_day) * DAY / gaps,
        longest_gap=rhythm.longest_gap_days * DAY,
        active_days=rhythm.active_days,
        is_silent=_is_silent(rhythm, (moment - _EPOCH) // DAY),
    )


def _line(install_id: UUID, sums: boards.Line) -> InstallLine:
    return InstallLine(
        install_id=install_id,
        runs=sums["run_count"],
        failed_runs=sums["failed_run_count"],
        tool_calls=sums["tool_call_count"],
        tool_failures=sums["tool_failure_count"],
        errors=sums["error_count"],
        tokens=sums["token_count"],
        cost_usd=sums["cost_nusd"] / NUSD_PER_USD if sums["priced_run_count"] else None,
    )
