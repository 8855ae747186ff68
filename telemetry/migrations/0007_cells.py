"""Cells of hours and days from the hourly cells there were; room for folds that fail, and days."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

import telemetry.models.cells
from fleet.lib.clock import now
from fleet.lib.sql import apply_sql

ALL_GROUPS = -1
SUM_MAX = 2**62 - 1
CHUNK = 1000

type Key = tuple[str, tuple[tuple[str, object], ...]]
"""A model's name, and the fields of a cell's key."""
type Cells = dict[Key, Counter[str]]


def tune(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        apply_sql(schema_editor, __file__, "0007_cells")


def untune(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        apply_sql(schema_editor, __file__, "0007_cells_down")


def move_cells(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Day by day, so that memory holds one day. A day that has new cells already is left alone."""
    state = apps.get_model("telemetry", "FillState")
    days = {_day(hour) for hour in state.objects.values_list("hour", flat=True).iterator()}
    made = set(apps.get_model("telemetry", "InstallCell").objects.values_list("at", flat=True))
    for day in sorted(days - {_day(at) for at in made}):
        cells: Cells = defaultdict(Counter)
        groups: dict[tuple[object, ...], int] = {}
        for row in _old(apps, "InstallHour", day):
            _add_install(cells, groups, row)
        for name, add in (("RunCell", _add_runs), ("ModelCell", _add_models)):
            for row in _old(apps, name, day):
                add(cells, row)
        for name, add in (("ToolCell", _add_tools), ("ErrorCell", _add_errors)):
            for row in _old(apps, name, day):
                add(cells, row)
        _store(apps, cells, groups)
        # Their rows do not know their group, so a verification would find other cells than these.
        state.objects.filter(hour__gte=day, hour__lt=day + timedelta(days=1), state="done").update(
            state="moved"
        )


def _day(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _old(apps: StateApps, name: str, day: datetime) -> Iterator[dict[str, Any]]:
    model = apps.get_model("telemetry", name)
    within = model.objects.filter(hour__gte=day, hour__lt=day + timedelta(days=1))
    return iter(within.order_by("hour").values().iterator())


def _whole(value: float, factor: int) -> int:
    return max(0, min(math.floor(value * factor + 0.5), SUM_MAX))


def _add(
    cells: Cells, kind: str, row: Mapping[str, Any], numbers: Mapping[str, int], /, **key: object
) -> None:
    """To the hour and the day, of the group and of all."""
    for unit, at in (("h", row["hour"]), ("d", _day(row["hour"]))):
        for group_id in (row["group_id"], ALL_GROUPS):
            place = {"unit": unit, "at": at, "group_id": group_id, **key}
            cells[(kind, tuple(place.items()))].update(numbers)


def _add_runs(cells: Cells, row: Mapping[str, Any]) -> None:
    ends = ("completed", "interrupted", "failed", "max_iterations", "timeout", "abandoned")
    names = ("run_count", *(f"{end}_count" for end in (*ends, "open", "other")), "priced_count")
    counts = {name: row[name] for name in names}
    cost_nusd, version = _whole(row["cost_usd"], 10**9), row["agent_version"]
    histogram = row["duration_hist"]
    more = {
        "timed_count": sum(histogram.values()),
        "cost_nusd": cost_nusd,
        "duration_sum_us": _whole(row["duration_sum_ms"], 1000),
    }
    key = {"entrypoint": row["entrypoint"], "platform": "", "agent_version": version}
    _add(cells, "RunsCell", row, counts | more, **key)
    costs = {name: counts[name] for name in ("run_count", "priced_count")}
    _add(cells, "CostsCell", row, costs | {"cost_nusd": cost_nusd}, cost_status="")
    _add_histogram(cells, row, histogram, "run")
    _add_histogram(cells, row, histogram, "run_version", version)


def _add_models(cells: Cells, row: Mapping[str, Any]) -> None:
    tokens = ("input", "output", "cache_read", "cache_write", "reasoning")
    names = ("call_count", "failed_count", "priced_count", "retry_count")
    numbers = {name: row[name] for name in (*names, *(f"{kind}_tokens" for kind in tokens))}
    histogram, provider, model = row["latency_hist"], row["provider"], row["model"]
    numbers["timed_count"] = sum(histogram.values())
    numbers["cost_nusd"] = _whole(row["cost_usd"], 10**9)
    numbers["latency_sum_us"] = _whole(row["latency_sum_ms"], 1000)
    _add(cells, "ModelCallsCell", row, numbers, provider=provider, model=model)
    _add_histogram(cells, row, histogram, "model", provider, model)


def _add_tools(cells: Cells, row: Mapping[str, Any]) -> None:
    kinds = ("call", "ok", "error", "timeout", "blocked", "other", "denied")
    numbers = {f"{kind}_count": row[f"{kind}_count"] for kind in kinds}
    histogram, name = row["duration_hist"], row["tool_name"]
    numbers["timed_count"] = sum(histogram.values())
    numbers["duration_sum_us"] = _whole(row["duration_sum_ms"], 1000)
    _add(cells, "ToolCallsCell", row, numbers, tool_name=name)
    _add_histogram(cells, row, histogram, "tool", name)


def _add_errors(cells: Cells, row: Mapping[str, Any]) -> None:
    numbers = {name: row[name] for name in ("error_count", "given_up_count")}
    key = {"error_class": row["error_class"], "subsystem": row["subsystem"]}
    _add(cells, "ErrorsCell", row, numbers, **key)


def _add_histogram(
    cells: Cells, row: Mapping[str, Any], counts: Mapping[str, int], kind: str, *names: str
) -> None:
    if counts:
        name, detail = (*names, "", "")[:2]
        _add(cells, "HistogramCell", row, counts, kind=kind, name=name, detail=detail)


def _add_install(
    cells: Cells, groups: dict[tuple[object, ...], int], row: Mapping[str, Any]
) -> None:
    names = ("run_count", "failed_run_count", "priced_run_count", "model_call_count")
    more = ("tool_call_count", "tool_failure_count", "error_count")
    numbers = {name: row[name] for name in (*names, *more)}
    numbers["cost_nusd"] = _whole(row["cost_usd"], 10**9)
    for unit, at in (("h", row["hour"]), ("d", _day(row["hour"]))):
        place = (("unit", unit), ("at", at), ("install_id", row["install_id"]))
        cells[("InstallCell", place)].update(numbers)
        groups[place] = row["group_id"]  # hours come in order: the last one's stays


def _store(apps: StateApps, cells: Cells, groups: Mapping[tuple[object, ...], int]) -> None:
    rows: dict[str, list[dict[str, object]]] = defaultdict(list)
    for (name, place), numbers in cells.items():
        if name == "HistogramCell":
            values: dict[str, object] = {"counts": dict(numbers)}
        else:
            values = {field: min(number, SUM_MAX) for field, number in numbers.items()}
        if name == "InstallCell":
            values["group_id"] = groups[place]
        rows[name].append(dict(place) | values)
    for name, found in rows.items():
        model = apps.get_model("telemetry", name)
        model.objects.bulk_create((model(**values) for values in found), batch_size=CHUNK)


def back_to_done(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """The new cells are emptied, and what still has rows is made from them again, by either release.

    The old cells are empty when 0010 was undone before; those of expired hours are lost with it.
    """
    state = apps.get_model("telemetry", "FillState")
    state.objects.filter(state="moved").update(state="done")
    touched = apps.get_model("telemetry", "TouchedHour")
    moment = now()
    hours = state.objects.exclude(state="expired").values_list("hour", flat=True)
    touched.objects.bulk_create(
        (touched(hour=hour, touched_at=moment) for hour in hours), batch_size=CHUNK
    )
    names = ("RunsCell", "CostsCell", "ModelCallsCell", "ToolCallsCell", "ErrorsCell")
    for name in (*names, "HistogramCell", "InstallCell"):
        apps.get_model("telemetry", name).objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0006_content"),
    ]

    operations = [
        migrations.AddField(
            model_name="fillstate",
            name="is_daily",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="touchedhour",
            name="failed_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="touchedhour",
            name="fault",
            field=models.CharField(blank=True, db_default="", default="", max_length=200),
        ),
        migrations.AlterField(
            model_name="fillstate",
            name="state",
            field=models.CharField(
                choices=[
                    ("started", "Started"),
                    ("done", "Done"),
                    ("expired", "Expired"),
                    ("moved", "Moved"),
                ],
                max_length=8,
            ),
        ),
        migrations.AlterField(
            model_name="histogramcell",
            name="counts",
            field=telemetry.models.cells.CountsField(default=dict),
        ),
        migrations.RunPython(tune, untune),
        migrations.RunPython(move_cells, back_to_done),
    ]
