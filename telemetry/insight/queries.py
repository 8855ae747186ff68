"""The questions in one place, and the overview that asks them together.

Each reads cells only, names what it costs in queries, and answers with its window, the filters it
could not follow, and the age and coverage of its numbers.
"""

from __future__ import annotations

from telemetry.insight.answers import Overview
from telemetry.insight.calls import errors, models, tools
from telemetry.insight.filters import Filters
from telemetry.insight.installs import (
    first_seen,
    install_activity,
    install_days,
    install_rhythm,
    installs,
    silence,
)
from telemetry.insight.read import freshness, scope_of
from telemetry.insight.runs import compare_groups, compare_versions, costs, heat, runs
from telemetry.insight.window import Window
from telemetry.store.cell_sums import reading

__all__ = [
    "compare_groups",
    "compare_versions",
    "costs",
    "errors",
    "first_seen",
    "freshness",
    "heat",
    "install_activity",
    "install_days",
    "install_rhythm",
    "installs",
    "models",
    "overview",
    "runs",
    "scope_of",
    "silence",
    "tools",
]


def overview(window: Window, filters: Filters | None = None) -> Overview:
    """Everything the overview page shows; 18 queries while boards are kept, else 2 more."""
    with reading():
        scope = scope_of(window, filters)
        return Overview(
            scope=scope,
            runs=runs(scope),
            costs=costs(scope),
            models=models(scope),
            tools=tools(scope),
            errors=errors(scope),
            installs=installs(scope),
            heat=heat(scope),
            first_seen=first_seen(scope),
        )
