"""What a filter can be set to: the values that the cells of a window have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from django.db.models import Model

from telemetry.insight import read
from telemetry.insight.answers import Scope
from telemetry.insight.filters import DIMENSIONS
from telemetry.models import ModelCallsCell, RunsCell, ToolCallsCell
from telemetry.store.cell_sums import Cells

MAX_VALUES: Final = 500
_COUNTS: Final[tuple[tuple[type[Model], str], ...]] = (
    (RunsCell, "run_count"),
    (ModelCallsCell, "call_count"),
    (ToolCallsCell, "call_count"),
)


def choices(scope: Scope, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The shown values of some dimensions, at most MAX_VALUES each; 1 query a kind of cell."""
    found: dict[str, tuple[str, ...]] = {}
    for model, count in _COUNTS:
        asked = [name for name in names if name in DIMENSIONS[model]]
        if not asked:
            continue
        cells = Cells(scope.window.slices(), scope.filters.level)
        keys = [key for key, _ in read.sums_of(model, cells, asked, (count,))]
        for at, name in enumerate(asked):
            found[name] = tuple(sorted({read.named(key[at]) for key in keys})[:MAX_VALUES])
    return found
