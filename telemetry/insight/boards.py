"""Active and top installs: counted from install cells, and kept as boards for the usual windows.

``keep_boards`` runs after each round of filling. A board is used when its window is the one asked
about; for any other the same count is made on the spot, at a row for each install and day.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import Max

from fleet.lib.clock import now
from fleet.lib.sql import try_session_lock
from telemetry.insight.window import HOUR, Window
from telemetry.models import ALL_GROUPS, FillState, InstallBoard, InstallCell
from telemetry.store.cell_sums import Cells, Slice, sum_cells

BOARD_HOURS: Final = (24, 7 * 24, 30 * 24)
"""The windows of the console's range picker."""
TOP_LINES: Final = 25
REST_SHARE: Final = 20
"""A board rests this many times as long as its counting took: at most 5 % of a core."""
REST_MAX: Final = timedelta(minutes=5)
LINE_FIELDS: Final = (
    "run_count",
    "failed_run_count",
    "tool_call_count",
    "tool_failure_count",
    "error_count",
    "token_count",
    "cost_nusd",
    "priced_run_count",
)
ACTIVITY_FIELDS: Final = ("run_count", "model_call_count", "tool_call_count", "error_count")
_SUMS: Final = (*LINE_FIELDS, "model_call_count")

type Line = dict[str, int]
type Lines = dict[UUID, Line]


@dataclass(frozen=True, slots=True)
class Board:
    """Active and top installs of a window; ``tops`` by order: install and its sums."""

    active_count: int
    previous_active_count: int
    tops: Mapping[str, tuple[tuple[UUID, Line], ...]]
    counted_at: datetime


_ORDERS: Final[Mapping[str, Callable[[Line], int]]] = {
    "runs": lambda line: line["run_count"],
    "cost": lambda line: line["cost_nusd"],
    "failures": lambda line: line["failed_run_count"],
}


def board_of(window: Window, group_id: int | None) -> Board:
    """The board of a window: the kept one, or counted now; 1 query, or 2 more."""
    level = ALL_GROUPS if group_id is None else group_id
    kept = {
        board.group_id: board
        for board in InstallBoard.objects.filter(
            window_hours=window.length // HOUR,
            end_at=window.end,
            group_id__in={ALL_GROUPS, level},
        )
    }
    if ALL_GROUPS not in kept:
        moment = now()
        return count_boards(window, group_id).get(level, Board(0, 0, {}, moment))
    if level not in kept:  # the group did nothing, then or before
        return Board(0, 0, {}, kept[ALL_GROUPS].counted_at)
    return _from_row(kept[level])


def count_boards(window: Window, group_id: int | None = None) -> dict[int, Board]:
    """The boards of every group level that did anything, or of one group; 2 queries."""
    moment = now()
    current = _lines(window.slices(), group_id, _SUMS)
    previous = _lines(window.previous.slices(), group_id, ACTIVITY_FIELDS)
    return {
        level: Board(
            len(current.get(level, ())),
            len(previous.get(level, ())),
            {name: _top(current.get(level, {}), key) for name, key in _ORDERS.items()},
            moment,
        )
        for level in current.keys() | previous.keys()
    }


def keep_boards() -> int:
    """Count the boards that are due; how many windows. A second worker goes home."""
    with try_session_lock("telemetry-boards") as is_ours:
        return refresh_boards() if is_ours else 0


def refresh_boards(*, is_forced: bool = False, at: datetime | None = None) -> int:
    """Count the boards that are not of this hour or older than the cells; how many windows.

    ``at``: the end of the windows, else that of the running hour.
    Safe to kill and to run twice: a window's boards are replaced in one transaction.
    """
    kept = {board.window_hours: board for board in InstallBoard.objects.filter(group_id=ALL_GROUPS)}
    filled_at = FillState.objects.aggregate(last=Max("filled_at"))["last"]
    refreshed = 0
    for hours in BOARD_HOURS:
        window = Window.last(hours=hours)
        if at is not None:
            window = Window(at - window.length, at)
        if is_forced or _is_due(kept.get(hours), window, filled_at):
            _refresh(hours, window)
            refreshed += 1
    return refreshed


def _is_due(board: InstallBoard | None, window: Window, filled_at: datetime | None) -> bool:
    if board is None or board.end_at != window.end:
        return True
    if filled_at is None or filled_at < board.counted_at:
        return False
    rest = min(timedelta(milliseconds=board.took_ms * REST_SHARE), REST_MAX)
    return now() - board.counted_at >= rest


def _refresh(hours: int, window: Window) -> None:
    began = time.perf_counter()
    boards = count_boards(window)
    # Kept also when nothing happened: then nobody has to count to learn it.
    boards.setdefault(ALL_GROUPS, Board(0, 0, {}, now()))
    took_ms = round((time.perf_counter() - began) * 1000)
    with transaction.atomic():
        InstallBoard.objects.filter(window_hours=hours).delete()
        InstallBoard.objects.bulk_create(
            InstallBoard(
                window_hours=hours,
                group_id=level,
                end_at=window.end,
                counted_at=board.counted_at,
                took_ms=took_ms,
                active_count=board.active_count,
                previous_active_count=board.previous_active_count,
                tops={
                    name: [[str(install_id), *line.values()] for install_id, line in lines]
                    for name, lines in board.tops.items()
                },
            )
            for level, board in boards.items()
        )


def _lines(
    slices: Iterable[Slice], group_id: int | None, names: tuple[str, ...]
) -> dict[int, Lines]:
    """The sums of every active install, by group level."""
    found: defaultdict[int, Lines] = defaultdict(dict)
    moved: set[UUID] = set()
    rows = sum_cells(
        InstallCell, Cells(tuple(slices), group_id), keys=("install_id", "group_id"), sums=names
    )
    for (install_id, level), values in rows:
        assert isinstance(install_id, UUID)  # noqa: S101 -- the reader converts it
        assert isinstance(level, int)  # noqa: S101 -- the reader converts it
        line = dict(zip(names, values, strict=True))
        if not any(line[name] for name in ACTIVITY_FIELDS):
            continue
        found[level][install_id] = line
        if any(line[name] < 0 for name in ACTIVITY_FIELDS):
            moved.add(install_id)
        # An install that changed its group has a line in each, and one in all of them together.
        whole = found[ALL_GROUPS].get(install_id)
        found[ALL_GROUPS][install_id] = (
            line if whole is None else {name: whole[name] + line[name] for name in names}
        )
    # Its day is of its last group, the hours that are taken out of it of the one before.
    for install_id in moved:
        for lines in found.values():
            if install_id in lines and all(
                lines[install_id][name] <= 0 for name in ACTIVITY_FIELDS
            ):
                del lines[install_id]
    return found


def _top(lines: Lines, key: Callable[[Line], int]) -> tuple[tuple[UUID, Line], ...]:
    """The first TOP_LINES with more than nothing; equal ones by id, so that an order is stable."""
    candidates = ((install_id, line) for install_id, line in lines.items() if key(line) > 0)
    first = heapq.nsmallest(TOP_LINES, candidates, key=lambda item: (-key(item[1]), item[0]))
    return tuple(
        (install_id, {name: line[name] for name in LINE_FIELDS}) for install_id, line in first
    )


def _from_row(row: InstallBoard) -> Board:
    return Board(
        row.active_count,
        row.previous_active_count,
        {
            name: tuple(
                (UUID(line[0]), dict(zip(LINE_FIELDS, line[1:], strict=True))) for line in lines
            )
            for name, lines in row.tops.items()
        },
        row.counted_at,
    )
