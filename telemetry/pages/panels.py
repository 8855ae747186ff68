"""The overview's panels and the install page's, registered with the console; what feeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from django.http import HttpRequest
from django.utils.translation import gettext as _

from agent_client.contract.aggregate import Heartbeat, WorkflowCompleted
from fleet.console import charts, registry
from fleet.console.heat import heat_map
from fleet.console.registry import InstallPanel, Page, Panel, PanelRequest
from fleet.models import Install
from telemetry.insight import queries
from telemetry.insight.answers import Overview
from telemetry.insight.window import Window
from telemetry.models import (
    AggregateRecord,
    ClosedPlane,
    ErrorEvent,
    IngestBatch,
    InstallIntake,
    Run,
)
from telemetry.pages import content_panel, erase
from telemetry.pages.tiles import tiles_of
from telemetry.pages.views import run_page, runs_page
from telemetry.store.clocks import significant_skews

MAX_TOOL_ROWS: Final = 10
MAX_ERROR_ROWS: Final = 8
MAX_MODEL_ROWS: Final = 8
MAX_RECENT_ROWS: Final = 10
WARN_RATE: Final = 0.03
BAD_RATE: Final = 0.06
"""Failure rates of a tool that are coloured; most tools of a healthy fleet stay below 2 %."""


def overview_of(wanted: PanelRequest) -> Overview:
    """The numbers of the page, asked once and shared by all panels."""
    held = wanted.memo.get("overview")
    if not isinstance(held, Overview):
        held = queries.overview(_window(wanted), group_id=wanted.group_id)
        wanted.memo["overview"] = held
    return held


def _window(wanted: PanelRequest) -> Window:
    return Window(wanted.window.start, wanted.window.end)


def _skip(data: Overview) -> int:
    """1 when the first day began before the window: a part of a day misleads on a chart."""
    is_cut = data.window.bucket_of(data.window.start) != data.window.start
    return 1 if is_cut and len(data.series) > 2 else 0


def _moments(data: Overview) -> tuple[datetime, ...]:
    return tuple(point.start for point in data.series[_skip(data) :])


def numbers(wanted: PanelRequest) -> Mapping[str, object]:
    """The tiles and the age of the data."""
    data = overview_of(wanted)
    installs = Install.objects.active()
    if wanted.group_id is not None:
        installs = installs.filter(group_id=wanted.group_id)
    return {"tiles": tiles_of(data, installs.count()), "freshness": data.freshness}


def activity(wanted: PanelRequest) -> Mapping[str, object]:
    """Runs and failures over time, with the window before."""
    data = overview_of(wanted)
    skip = _skip(data)
    earlier = tuple(map(float, data.previous_runs[skip:]))
    runs = tuple(float(point.runs) for point in data.series[skip:])
    failed = tuple(float(point.failed_runs) for point in data.series[skip:])
    series = [
        charts.Series(_("Runs"), runs, "1", "area"),
        charts.Series(_("Failed runs"), failed, "bad"),
    ]
    if len(earlier) == len(runs) and any(earlier):
        series.insert(0, charts.Series(_("Runs, window before"), earlier, "previous", "dashed"))
    chart = charts.TimeChart("activity", _("Runs and failures"), _moments(data), tuple(series))
    return {"chart": charts.line_chart(chart), "unit": data.unit, "is_empty": not data.runs.value}


def tokens(wanted: PanelRequest) -> Mapping[str, object]:
    """Tokens by model over time."""
    data = overview_of(wanted)
    skip = _skip(data)
    tones: tuple[charts.Tone, ...] = ("1", "2", "3", "4", "5", "6")
    series = tuple(
        charts.Series(line.model, tuple(map(float, line.tokens[skip:])), tones[index % 6])
        for index, line in enumerate(data.tokens_by_model)
    )
    chart = charts.TimeChart("tokens", _("Tokens by model"), _moments(data), series)
    return {"chart": charts.stacked_bars(chart), "unit": data.unit, "is_empty": not series}


def heat(wanted: PanelRequest) -> Mapping[str, object]:
    """When the fleet works."""
    data = overview_of(wanted)
    title = _("Runs by weekday and hour (UTC)")
    return {
        "chart": heat_map("heat", title, data.heat, _("runs")),
        "is_empty": not data.runs.value,
    }


def tools(wanted: PanelRequest) -> Mapping[str, object]:
    """Tools with calls, failure rate and p95."""
    lines = overview_of(wanted).tools
    highest = max((line.failure_rate or 0 for line in lines[:MAX_TOOL_ROWS]), default=0) or 1
    rows = [
        {
            "line": line,
            "share": (line.failure_rate or 0) / highest,
            "tone": rate_tone(line.failure_rate),
        }
        for line in lines[:MAX_TOOL_ROWS]
    ]
    return {"rows": rows, "more": len(lines) - len(rows)}


def rate_tone(rate: float | None) -> charts.Tone:
    """The colour of a failure rate."""
    if rate is None or rate < WARN_RATE:
        return "1"
    return "bad" if rate >= BAD_RATE else "warn"


def errors(wanted: PanelRequest) -> Mapping[str, object]:
    """Classes of errors with how many were given up."""
    lines = overview_of(wanted).error_lines
    highest = max((line.errors for line in lines), default=0) or 1
    rows = [{"line": line, "share": line.errors / highest} for line in lines[:MAX_ERROR_ROWS]]
    return {"rows": rows, "more": len(lines) - len(rows)}


def models(wanted: PanelRequest) -> Mapping[str, object]:
    """Models with calls, tokens, known cost and latency."""
    lines = overview_of(wanted).models
    return {"rows": lines[:MAX_MODEL_ROWS], "more": max(0, len(lines) - MAX_MODEL_ROWS)}


def top_installs(wanted: PanelRequest) -> Mapping[str, object]:
    """Installs with the most runs, by name."""
    lines = overview_of(wanted).top_installs
    known = Install.objects.select_related("group").in_bulk([line.install_id for line in lines])
    highest = max((line.runs for line in lines), default=0) or 1
    rows = [
        {"line": line, "install": known.get(line.install_id), "share": line.runs / highest}
        for line in lines
    ]
    return {"rows": rows}


def run_counts(install_ids: Sequence[UUID]) -> Mapping[UUID, int]:
    """Runs of 7 days for the install list."""
    activity_of = queries.install_activity(install_ids, Window.last(days=7))
    return {install_id: line.runs for install_id, line in activity_of.items()}


def install_intake(_request: HttpRequest, install_id: UUID) -> Mapping[str, object]:
    """What came in from one install, what it lost, its last batches."""
    return {
        "intake": InstallIntake.objects.filter(pk=install_id).first(),
        "batches": IngestBatch.objects.filter(install_id=install_id).defer("receipt", "consent")[
            :MAX_RECENT_ROWS
        ],
        "install_id": install_id,
    }


def install_summaries(_request: HttpRequest, install_id: UUID) -> Mapping[str, object]:
    """The aggregate plane of one install: the last consent, summaries, heartbeat."""
    known = AggregateRecord.objects.of_install(install_id)
    # Every push says the consent, whatever its plane: after a withdrawal only the local one does.
    batches = IngestBatch.objects.of_install(install_id).filter(source=IngestBatch.Source.PUSH)
    refused = ClosedPlane.objects.filter(install_id=install_id, plane="aggregate")
    return {
        "batch": batches.defer("receipt").first(),
        "summary_count": known.of_kind(WorkflowCompleted.KIND).count(),
        "last_summary": known.of_kind(WorkflowCompleted.KIND).first(),
        "heartbeat": known.of_kind(Heartbeat.KIND).first(),
        "refused": refused.first(),
        "install_id": install_id,
    }


def install_runs(_request: HttpRequest, install_id: UUID) -> Mapping[str, object]:
    """The last runs and errors of one install, of 30 days at most."""
    window = Window.last(days=30)
    runs = Run.objects.of_install(install_id).filter(start_at__gte=window.start)
    faults = ErrorEvent.objects.of_install(install_id).filter(start_at__gte=window.start)
    return {
        "runs": runs[:MAX_RECENT_ROWS],
        "errors": faults[:MAX_RECENT_ROWS],
        "install_id": install_id,
    }


_SEES_RUNS: Final = "telemetry.view_run"
_SEES_BATCHES: Final = "telemetry.view_ingestbatch"
_SEES_SUMMARIES: Final = "telemetry.view_aggregaterecord"

for _panel in (
    Panel("numbers", "telemetry/panels/numbers.html", numbers, "top", 10, _SEES_RUNS),
    Panel("activity", "telemetry/panels/activity.html", activity, "wide", 20, _SEES_RUNS),
    Panel("tokens", "telemetry/panels/tokens.html", tokens, "half", 30, _SEES_RUNS),
    Panel("tools", "telemetry/panels/tools.html", tools, "half", 40, _SEES_RUNS),
    Panel("heat", "telemetry/panels/heat.html", heat, "half", 35, _SEES_RUNS),
    Panel("errors", "telemetry/panels/errors.html", errors, "half", 70, _SEES_RUNS),
    Panel("models", "telemetry/panels/models.html", models, "half", 60, _SEES_RUNS),
    Panel("installs", "telemetry/panels/installs.html", top_installs, "half", 50, _SEES_RUNS),
):
    registry.register_panel(_panel)
registry.register_install_panel(
    InstallPanel("runs", "telemetry/panels/install_runs.html", install_runs, 10, _SEES_RUNS)
)
registry.register_install_panel(
    InstallPanel(
        "intake", "telemetry/panels/install_intake.html", install_intake, 20, _SEES_BATCHES
    )
)
registry.register_install_panel(
    InstallPanel(
        "summaries",
        "telemetry/panels/install_summaries.html",
        install_summaries,
        15,
        _SEES_SUMMARIES,
    )
)
registry.register_run_counts(run_counts)
registry.register_clock_skews(significant_skews)
registry.register_page(Page("runs/", "insight-runs", runs_page, _SEES_RUNS))
registry.register_page(Page("runs/<uuid:install_id>/", "insight-run", run_page, _SEES_RUNS))
content_panel.register()
erase.register()
