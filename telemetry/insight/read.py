"""What the questions share: sums as records, histograms as percentiles, names, the scope."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from django.db.models import Max, Min, Model

from fleet.lib.clock import now
from telemetry.insight.answers import Freshness, Percentiles, Scope
from telemetry.insight.filters import NONE, Filters
from telemetry.insight.window import CURRENT, Compared, Window
from telemetry.models import ALL_GROUPS, FillState, HistogramCell, RunsCell, TouchedHour, Unit
from telemetry.rollup.histogram import ZERO_KEY, Histogram
from telemetry.store.cell_sums import PART, Cells, Slice, histogram_texts, sum_cells

WAITING_MAX: Final = 1000
"""More waiting hours are not counted: the number is read by people, and a backlog may be large."""

type Sums = dict[str, int]
type HistogramKey = tuple[int, str, str]
_decode: Final = msgspec.json.Decoder(dict[int, int]).decode
_decode_named: Final = msgspec.json.Decoder(dict[str, int]).decode
_INDEXES: Final = 1024
"""More than there are buckets between a microsecond (-160) and MAX_MS (638)."""
_HIGHEST: Final = 700


def scope_of(window: Window, filters: Filters | None = None) -> Scope:
    """The scope of a question asked now; 3 queries."""
    return Scope(window, filters or Filters(), freshness())


def about(scope: Scope, *models: type[Model]) -> Scope:
    """The scope of an answer made from these kinds of cells."""
    return Scope(scope.window, scope.filters, scope.freshness, scope.filters.beyond(*models))


def freshness() -> Freshness:
    """How old the cells are; 3 queries."""
    last = FillState.objects.aggregate(last=Max("filled_at"))["last"]
    waiting = list(TouchedHour.objects.order_by("id").values_list("touched_at")[:WAITING_MAX])
    lag_s = (now() - waiting[0][0]).total_seconds() if waiting else 0.0
    days = RunsCell.objects.filter(unit=Unit.DAY, group_id=ALL_GROUPS)
    first_day = days.aggregate(first=Min("at"))["first"]
    return Freshness(last, len(waiting), max(lag_s, 0.0), first_day)


def sums_of(
    model: type[Model], cells: Cells, keys: Sequence[str], names: Sequence[str]
) -> list[tuple[tuple[object, ...], Sums]]:
    """Sums by key, by name."""
    return [
        (key, dict(zip(names, values, strict=True)))
        for key, values in sum_cells(model, cells, keys=keys, sums=names)
    ]


def added(parts: Iterable[Mapping[str, int]], names: Sequence[str]) -> Sums:
    """The sums of many as one."""
    total = dict.fromkeys(names, 0)
    for part in parts:
        for name in names:
            total[name] += part[name]
    return total


def by_part(model: type[Model], cells: Cells, names: Sequence[str]) -> Compared[Sums]:
    """The sums of a window and of the one before; 1 query."""
    found = {key[0]: sums for key, sums in sums_of(model, cells, (PART,), names)}
    nothing = dict.fromkeys(names, 0)
    return Compared(found.get(CURRENT, nothing), found.get(1, nothing))


def histograms(
    slices: Sequence[Slice],
    level: int,
    kind: HistogramCell.Kind,
    *,
    among: Mapping[str, Sequence[object]] | None = None,
) -> dict[HistogramKey, Histogram]:
    """Merged histograms by part, name and detail; 1 query."""
    totals: dict[HistogramKey, list[int]] = {}
    zeros: Counter[HistogramKey] = Counter()
    cells = Cells(slices, level, among=among or {})
    for part, sign, name, detail, text in histogram_texts(cells, kind):
        key = (part, name, detail)
        try:
            counts = _decode(text)
        except msgspec.ValidationError:  # it has a bucket for zero, which is no index
            named_counts = _decode_named(text)
            zeros[key] += sign * named_counts.pop(ZERO_KEY, 0)
            counts = {int(index): count for index, count in named_counts.items()}
        total = totals.get(key)
        if total is None:
            total = totals[key] = [0] * _INDEXES
        # Plain loops over a list: this is the dear part of a page, and Counter takes twice as long.
        # Indexes below zero find their place at the list's end.
        if sign > 0:
            for index, count in counts.items():
                total[index] += count
        else:
            for index, count in counts.items():
                total[index] -= count
    return {
        key: Histogram(
            {
                index if index < _HIGHEST else index - _INDEXES: count
                for index, count in enumerate(total)
                if count
            },
            zeros[key],
        )
        for key, total in totals.items()
    }


def percentiles(histogram: Histogram | None, count: int) -> Percentiles:
    """Three ranks of a histogram that holds some of ``count`` values."""
    if histogram is None:
        return Percentiles(None, None, None, 0, count)
    return Percentiles(
        histogram.quantile_ms(0.5),
        histogram.quantile_ms(0.95),
        histogram.quantile_ms(0.99),
        histogram.count,
        count,
    )


def named(value: object) -> str:
    """A dimension's value as it is shown."""
    return str(value) or NONE


def at_of(value: object) -> datetime:
    """A cell's time, UTC."""
    assert isinstance(value, datetime)  # noqa: S101 -- the reader converts it
    return value.astimezone(UTC)


def merged(parts: Iterable[Histogram]) -> Histogram | None:
    """Many histograms as one; None when there is none."""
    total: Histogram | None = None
    for part in parts:
        total = part if total is None else total.merged(part)
    return total
