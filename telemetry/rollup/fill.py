"""Filling hours: STARTED, then cells from raw rows, then DONE.

Safe to kill: STARTED is committed first; cells, DONE and the removal of the touches are one
transaction, so a killed fill leaves nothing but its STARTED, which the next round takes up. Safe
to run twice and in parallel: an hour has a lock, and the second makes the same cells or none.
Source of the pattern: zulip's analytics counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import F, Model

from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from telemetry.models import CELL_MODELS, FillState, TouchedHour
from telemetry.rollup.stats import STATS, Part, Stat, count_hour

REL_TOLERANCE: Final = 1e-9
"""Sums of floats depend on the order of their rows; anything coarser is a wrong cell."""
BATCH_SIZE: Final = 1000

type Key = tuple[object, ...]
type Numbers = dict[str, int | float | dict[str, int]]
type Cells = dict[Key, Numbers]


@dataclass(frozen=True, slots=True)
class Difference:
    """A cell that is not what its raw rows say; ``stored`` or ``counted`` None: it is missing."""

    cell: str
    key: Key
    stored: Mapping[str, int | float | dict[str, int]] | None
    counted: Mapping[str, int | float | dict[str, int]] | None


def pending_hours() -> list[datetime]:
    """Hours whose cells are not made from all rows yet, oldest touch first."""
    touched = TouchedHour.objects.order_by("id").values_list("hour", flat=True)
    started = FillState.objects.filter(state=FillState.State.STARTED).values_list("hour", flat=True)
    return list(dict.fromkeys([*touched, *started]))


def fill_pending(*, limit: int | None = None) -> int:
    """Fill what is pending, at most ``limit`` hours; how many were filled."""
    return sum(fill_hour(hour) for hour in pending_hours()[:limit])


def fill_hour(hour: datetime, *, is_forced: bool = False) -> bool:
    """Make the cells of one UTC hour from its raw rows; whether there was anything to do.

    ``is_forced``: also when no touch waits. An expired hour is left as it is, whatever is asked.
    """
    if not _start(hour):
        TouchedHour.objects.filter(hour=hour).delete()
        return False
    with transaction_lock(f"telemetry-hour-{hour.timestamp():.0f}"):
        state = FillState.objects.get(hour=hour)
        # Read before the rows are: a batch that commits in between is counted now and once more.
        touches = list(TouchedHour.objects.filter(hour=hour).values_list("id", flat=True))
        if state.state == FillState.State.DONE and not touches and not is_forced:
            return False
        if state.state == FillState.State.EXPIRED:
            return False
        for model, cells in count_cells(hour).items():
            _replace(model, hour, cells)
        TouchedHour.objects.filter(id__in=touches).delete()
        FillState.objects.filter(pk=state.pk).update(
            state=FillState.State.DONE, filled_at=now(), fill_count=F("fill_count") + 1
        )
    return True


def _start(hour: datetime) -> bool:
    """Commit STARTED; False when the hour is expired."""
    moment = now()
    state, is_new = FillState.objects.get_or_create(
        hour=hour, defaults={"state": FillState.State.STARTED, "started_at": moment}
    )
    if is_new:
        return True
    open_states = [FillState.State.STARTED, FillState.State.DONE]
    return bool(
        FillState.objects.filter(pk=state.pk, state__in=open_states).update(
            state=FillState.State.STARTED, started_at=moment
        )
    )


def count_cells(hour: datetime) -> dict[type[Model], Cells]:
    """Every cell of an hour, counted from the raw rows."""
    counted: dict[type[Model], Cells] = {model: {} for model in CELL_MODELS}
    for stat in STATS:
        for part in count_hour(stat, hour):
            _fold(stat, part, counted[stat.cell])
    return counted


def _fold(stat: Stat, part: Part, cells: Cells) -> None:
    """Add one part to its cell; its buckets become the cell's histogram."""
    key = part.key
    if stat.is_by_install:
        group_id, install_id = key
        key = (install_id if isinstance(install_id, UUID) else UUID(str(install_id)),)
        # A field and no key: an install may change its group between two of the queries.
        assert isinstance(group_id, int)  # noqa: S101 -- COALESCE gives an integer
        cells.setdefault(key, {})["group_id"] = group_id
    cell = cells.setdefault(key, {})
    for name, number in part.numbers.items():
        held = cell.get(name, 0)
        assert not isinstance(held, dict)  # noqa: S101 -- histograms have names of their own
        cell[name] = held + number
    if stat.measure_hist:
        histogram = cell.setdefault(stat.measure_hist, {})
        assert isinstance(histogram, dict)  # noqa: S101 -- made by the line above
        if part.bucket is not None:
            histogram[part.bucket] = histogram.get(part.bucket, 0) + part.row_count


def key_fields(model: type[Model]) -> tuple[str, ...]:
    """The fields of a cell's key, its hour left out, in the order of the parts' keys."""
    for stat in STATS:
        if stat.cell is model:
            return ("install_id",) if stat.is_by_install else ("group_id", *stat.dimensions)
    raise LookupError(model.__name__)


def _replace(model: type[Model], hour: datetime, cells: Cells) -> None:
    names = key_fields(model)
    model._default_manager.filter(hour=hour).delete()  # noqa: SLF001 -- the documented way from a model class
    model._default_manager.bulk_create(  # noqa: SLF001 -- the documented way from a model class
        (
            model(hour=hour, **dict(zip(names, key, strict=True)), **numbers)
            for key, numbers in cells.items()
        ),
        batch_size=BATCH_SIZE,
    )


def verify_hour(hour: datetime) -> list[Difference]:
    """Where the stored cells of an hour differ from its raw rows; [] when they are exact.

    Groups are summed up: an install that changed its group since the fill is no difference.
    """
    differences: list[Difference] = []
    for model, cells in count_cells(hour).items():
        names, numbers = key_fields(model), _number_fields(model)
        rows = model._default_manager.filter(hour=hour).values()  # noqa: SLF001 -- the documented way from a model class
        stored = _without_group(
            names,
            (
                (tuple(row[name] for name in names), {name: row[name] for name in numbers})
                for row in rows
            ),
        )
        counted = _without_group(names, cells.items())
        for key in stored.keys() | counted.keys():
            held, wanted = stored.get(key), counted.get(key)
            if held is None or wanted is None or not _are_equal(held, wanted):
                differences.append(Difference(model.__name__, key, held, wanted))
    return differences


def _number_fields(model: type[Model]) -> set[str]:
    keys = {"id", "hour", "group_id", *key_fields(model)}
    return {spec.attname for spec in model._meta.concrete_fields} - keys


def _without_group(names: tuple[str, ...], cells: Iterable[tuple[Key, Numbers]]) -> Cells:
    merged: Cells = {}
    for key, numbers in cells:
        short = key[1:] if names[0] == "group_id" else key
        total = merged.setdefault(short, {})
        for name, value in numbers.items():
            if name != "group_id":
                total[name] = _added(total.get(name), value)
    return merged


def _added(
    held: float | dict[str, int] | None, value: float | dict[str, int]
) -> float | dict[str, int]:
    if isinstance(value, dict):
        assert held is None or isinstance(held, dict)  # noqa: S101 -- one name, one type
        return dict(Counter(held or {}) + Counter(value))
    assert not isinstance(held, dict)  # noqa: S101 -- one name, one type
    return value if held is None else held + value


def _are_equal(stored: Numbers, counted: Numbers) -> bool:
    for name, held in stored.items():
        value = counted.get(name, 0)
        if isinstance(held, dict) or isinstance(value, dict):
            if held != value:
                return False
        elif not math.isclose(held, value, rel_tol=REL_TOLERANCE, abs_tol=1e-9):
            return False
    return True


def verifiable_hours(since: datetime, until: datetime) -> Iterable[datetime]:
    """Filled hours in ``[since, until)`` whose raw rows are still there and that nothing awaits."""
    waiting = set(pending_hours())
    done = FillState.objects.filter(
        state=FillState.State.DONE, hour__gte=since, hour__lt=until
    ).values_list("hour", flat=True)
    return sorted(hour.astimezone(UTC) for hour in done if hour not in waiting)


def hours_between(since: datetime, until: datetime) -> list[datetime]:
    """Every UTC hour in ``[since, until)``."""
    count = max(0, math.ceil((until - since) / timedelta(hours=1)))
    return [since + timedelta(hours=number) for number in range(count)]
