"""Questions about runs: how many, how they ended, how long they took, what they cost, when."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Final

from telemetry.insight import read
from telemetry.insight.answers import (
    CohortLine,
    Comparison,
    Cost,
    CostLine,
    Costs,
    Heat,
    Percentiles,
    Point,
    Runs,
    RunTotals,
    Scope,
    ShareLine,
)
from telemetry.insight.filters import Filters, stored
from telemetry.insight.window import CURRENT, PREVIOUS, Compared, Window
from telemetry.models import CostsCell, HistogramCell, RunsCell
from telemetry.rollup.histogram import Histogram
from telemetry.store.cell_sums import PART, Cells, Slice

RUN_FIELDS: Final = tuple(spec.name for spec in fields(RunTotals))
COST_FIELDS: Final = ("cost_nusd", "priced_count", "run_count")
_SHARE_FIELDS: Final = (
    "run_count",
    "completed_count",
    "failed_count",
    "timeout_count",
    "max_iterations_count",
)
_SHARED: Final = ("entrypoint", "platform", "agent_version")
_Kind: Final = HistogramCell.Kind


def runs(scope: Scope) -> Runs:
    """Runs with their series, durations and shares; 3 queries."""
    window, filters = scope.window, scope.filters
    slots = read.sums_of(RunsCell, _cells(window.both(), filters), (PART, "at"), RUN_FIELDS)
    current = [(read.at_of(key[1]), sums) for key, sums in slots if key[0] == CURRENT]
    previous = [(read.at_of(key[1]), sums) for key, sums in slots if key[0] == PREVIOUS]
    totals = Compared(_totals(current), _totals(previous))
    shares = read.sums_of(RunsCell, _cells(window.slices(), filters), _SHARED, _SHARE_FIELDS)
    entrypoints, platforms, versions = (_shares(shares, at) for at in range(len(_SHARED)))
    return Runs(
        scope=read.about(scope, RunsCell),
        totals=totals,
        duration=run_durations(scope, totals),
        series=_series(window, current),
        previous_runs=_shifted(window, previous),
        entrypoints=entrypoints,
        platforms=platforms,
        versions=versions,
    )


def run_durations(scope: Scope, totals: Compared[RunTotals]) -> Compared[Percentiles] | None:
    """Durations of the runs counted in ``totals``; None when no histogram follows the filters."""
    filters, level = scope.filters, scope.filters.level
    if filters.entrypoint or filters.platform:
        return None
    kind, among = _Kind.RUN, {}
    if filters.agent_version:
        kind, among = _Kind.RUN_VERSION, {"name": stored(filters.agent_version)}
    found = read.histograms(scope.window.both(), level, kind, among=among)
    parts = [
        [histogram for key, histogram in found.items() if key[0] == part]
        for part in (CURRENT, PREVIOUS)
    ]
    return Compared(
        read.percentiles(read.merged(parts[CURRENT]), totals.value.run_count),
        read.percentiles(read.merged(parts[PREVIOUS]), totals.previous.run_count),
    )


def costs(scope: Scope) -> Costs:
    """Cost by how it is known; 1 query."""
    cells = Cells(scope.window.both(), scope.filters.level)
    found = read.sums_of(CostsCell, cells, (PART, "cost_status"), COST_FIELDS)
    parts: list[list[tuple[str, read.Sums]]] = [[], []]
    for (part, status), sums in found:
        parts[int(str(part))].append((read.named(status), sums))
    lines = [CostLine(status, _cost(sums)) for status, sums in parts[CURRENT] if sums["run_count"]]
    return Costs(
        scope=read.about(scope, CostsCell),
        total=Compared(
            *(_cost(read.added((sums for _, sums in part), COST_FIELDS)) for part in parts)
        ),
        lines=tuple(
            sorted(lines, key=lambda line: (-line.cost.nusd, -line.cost.count, line.cost_status))
        ),
    )


def heat(scope: Scope) -> Heat:
    """Runs by weekday and hour of the day; 1 query.

    The cost cells have the same runs in fewer cells than the run cells, unless a filter that only
    these carry is set.
    """
    filters = scope.filters
    hours = scope.window.hours()
    if filters.on(RunsCell):
        found = read.sums_of(RunsCell, _cells(hours, filters), ("at",), ("run_count",))
    else:
        found = read.sums_of(CostsCell, Cells(hours, filters.level), ("at",), ("run_count",))
    grid = [[0] * 24 for _ in range(7)]
    for (moment,), sums in found:
        at = read.at_of(moment)
        grid[at.weekday()][at.hour] += sums["run_count"]
    return Heat(read.about(scope, RunsCell), tuple(map(tuple, grid)))


def compare_versions(scope: Scope) -> Comparison:
    """Agent versions side by side; 2 queries."""
    filters = scope.filters
    cells = _cells(scope.window.slices(), filters)
    found = read.sums_of(RunsCell, cells, ("agent_version",), RUN_FIELDS)
    among = {"name": stored(filters.agent_version)} if filters.agent_version else {}
    durations = read.histograms(
        scope.window.slices(), filters.level, _Kind.RUN_VERSION, among=among
    )
    is_split = filters.entrypoint or filters.platform
    return _comparison(
        scope,
        "agent_version",
        [(str(key[0]), sums) for key, sums in found],
        {} if is_split else {name: value for (_, name, _), value in durations.items()},
    )


def compare_groups(scope: Scope, group_ids: Sequence[int]) -> Comparison:
    """Install groups side by side, 0 being those without one; 1 query and 1 a group."""
    cells = Cells(
        scope.window.slices(),
        None,
        among={**scope.filters.on(RunsCell), "group_id": list(group_ids)},
    )
    found = read.sums_of(RunsCell, cells, ("group_id",), RUN_FIELDS)
    durations: dict[str, Histogram | None] = {}
    if not scope.filters.on(RunsCell):
        for key, _sums in found:
            group_id = int(str(key[0]))
            merged = read.histograms(scope.window.slices(), group_id, _Kind.RUN)
            durations[str(group_id)] = read.merged(merged.values())
    return _comparison(scope, "group", [(str(key[0]), sums) for key, sums in found], durations)


def _comparison(
    scope: Scope,
    dimension: str,
    found: Iterable[tuple[str, read.Sums]],
    durations: Mapping[str, Histogram | None],
) -> Comparison:
    lines = [
        CohortLine(
            read.named(name),
            RunTotals(**sums),
            read.percentiles(durations.get(name), sums["run_count"]),
        )
        for name, sums in found
        if sums["run_count"]
    ]
    ordered = sorted(lines, key=lambda line: (-line.totals.run_count, line.name))
    return Comparison(read.about(scope, RunsCell), dimension, tuple(ordered))


def _cells(slices: Sequence[Slice], filters: Filters) -> Cells:
    return Cells(slices, filters.level, among=filters.on(RunsCell))


def _totals(slots: Iterable[tuple[datetime, read.Sums]]) -> RunTotals:
    return RunTotals(**read.added((sums for _, sums in slots), RUN_FIELDS))


def _cost(sums: read.Sums) -> Cost:
    return Cost(sums["cost_nusd"], sums["priced_count"], sums["run_count"])


def _shares(
    found: Iterable[tuple[tuple[object, ...], read.Sums]], at: int
) -> tuple[ShareLine, ...]:
    groups: defaultdict[str, list[read.Sums]] = defaultdict(list)
    for key, sums in found:
        groups[read.named(key[at])].append(sums)
    lines = []
    for name, parts in groups.items():
        totals = RunTotals(**read.added(parts, _SHARE_FIELDS))
        if totals.run_count:
            lines.append(ShareLine(name, totals.run_count, totals.success, totals.failure))
    return tuple(sorted(lines, key=lambda line: (-line.runs, line.name)))


def _series(window: Window, slots: Iterable[tuple[datetime, read.Sums]]) -> tuple[Point, ...]:
    buckets: defaultdict[datetime, list[read.Sums]] = defaultdict(list)
    for at, sums in slots:
        buckets[window.bucket_of(at)].append(sums)
    points = []
    for start in window.buckets():
        totals = RunTotals(**read.added(buckets.get(start, ()), RUN_FIELDS))
        points.append(Point(start, totals.run_count, totals.bad_count, totals.cost.usd))
    return tuple(points)


def _shifted(window: Window, slots: Iterable[tuple[datetime, read.Sums]]) -> tuple[int, ...]:
    """Runs of the window before, each cell counted where it would be one window later."""
    counts: Counter[datetime] = Counter()
    for at, sums in slots:
        counts[window.bucket_of(at + window.length)] += sums["run_count"]
    return tuple(counts[start] for start in window.buckets())
