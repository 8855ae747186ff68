"""The hourly cells that pages still read, made again for each touched hour."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db.models import Model

from telemetry.models import CELL_MODELS, FillState
from telemetry.rollup.hourly_stats import STATS, Part, Stat, count_hour

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


def fill_hours(hours: Iterable[datetime]) -> None:
    """Make the old cells of these hours again, as long as pages read them."""
    expired = FillState.objects.filter(state=FillState.State.EXPIRED)
    for hour in set(hours) - set(expired.values_list("hour", flat=True)):
        for model, cells in count_cells(hour).items():
            _replace(model, hour, cells)


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
