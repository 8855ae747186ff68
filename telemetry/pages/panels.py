"""The overview's panels and the install page's, registered with the console; what feeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from django.http import HttpRequest
from django.utils.translation import gettext as _

from agent_client.contract.aggregate import Heartbeat, WorkflowCompleted
from fleet.console import registry
from fleet.console.heat import heat_map
from fleet.console.registry import Filter, InstallPanel, Page, Panel, PanelRequest
from fleet.models import Install
from fleet.templatetags.fleet_format import words
from telemetry.insight import queries
from telemetry.insight.answers import InstallLine, Overview, Scope
from telemetry.insight.choices import choices
from telemetry.insight.window import Window
from telemetry.models import (
    AggregateRecord,
    ClosedPlane,
    ErrorEvent,
    IngestBatch,
    InstallIntake,
    Run,
)
from telemetry.pages import content_panel, erase, figures, insights
from telemetry.pages.figures import rate_tone
from telemetry.pages.filtering import ON_MODELS, ON_RUNS, filters_of, page_filters
from telemetry.pages.tiles import tiles_of
from telemetry.pages.views import run_page, runs_page
from telemetry.store.clocks import significant_skews

MAX_TOOL_ROWS: Final = 8
MAX_ERROR_ROWS: Final = 8
MAX_MODEL_ROWS: Final = 8
MAX_RECENT_ROWS: Final = 10
MAX_COST_ROWS: Final = 6
MAX_NEW_ROWS: Final = 8
MAX_TOP_ROWS: Final = 8


def overview_of(wanted: PanelRequest) -> Overview:
    """The numbers of the page, asked once and shared by all panels."""
    held = wanted.memo.get("overview")
    if not isinstance(held, Overview):
        window = Window(wanted.window.start, wanted.window.end)
        asked = filters_of(wanted.request, (*ON_RUNS, *ON_MODELS))
        held = queries.overview(window, replace(asked, group_id=wanted.group_id))
        wanted.memo["overview"] = held
    return held


def overview_filters(wanted: PanelRequest) -> list[Filter]:
    """What the overview can be narrowed to; 2 queries."""
    if not wanted.request.user.has_perm(_SEES_RUNS):
        return []
    scope = overview_of(wanted).scope
    return page_filters(scope.filters, choices(scope, (*ON_RUNS, *ON_MODELS)))


def _besides(scope: Scope) -> str:
    """Which filters a panel does not follow, since its cells do not carry them."""
    if not scope.ignored:
        return ""
    listed = ", ".join(words(name).lower() for name in scope.ignored)
    return _("not narrowed by %s") % listed


def numbers(wanted: PanelRequest) -> Mapping[str, object]:
    """The tiles and the age of the data."""
    data = overview_of(wanted)
    enrolled = Install.objects.active()
    if wanted.group_id is not None:
        enrolled = enrolled.filter(group_id=wanted.group_id)
    return {
        "tiles": tiles_of(data, enrolled.count()),
        "scope": data.scope,
        "notes": _filter_notes(data.scope),
    }


def _filter_notes(scope: Scope) -> list[str]:
    """Which numbers the chosen filters narrow, and which they leave whole."""
    chosen = scope.filters.chosen()
    notes = []
    if any(name in chosen for name in ON_RUNS):
        notes.append(
            _("Entrypoint, platform and version narrow runs, success, duration and their cost.")
        )
    if any(name in chosen for name in ON_MODELS):
        notes.append(_("Provider and model narrow tokens and models."))
    if notes:
        notes.append(_("The other numbers are of all."))
    return notes


def activity(wanted: PanelRequest) -> Mapping[str, object]:
    """Runs and failures over time, with the window before."""
    data = overview_of(wanted)
    chart = figures.runs_over_time(data.runs)
    return {
        "chart": chart,
        "unit": data.scope.unit,
        "is_empty": not _run_count(data),
        "ignored": _besides(data.runs.scope),
    }


def tokens(wanted: PanelRequest) -> Mapping[str, object]:
    """Tokens by model over time."""
    data = overview_of(wanted)
    chart = figures.tokens_over_time(data.models)
    return {
        "chart": chart,
        "unit": data.scope.unit,
        "is_empty": not data.models.series,
        "ignored": _besides(data.models.scope),
    }


def heat(wanted: PanelRequest) -> Mapping[str, object]:
    """When the fleet works."""
    data = overview_of(wanted)
    title = _("Runs by weekday and hour (UTC)")
    chart = heat_map("heat", title, data.heat.runs, _("runs"))
    return {"chart": chart, "is_empty": not _run_count(data), "ignored": _besides(data.heat.scope)}


def _run_count(data: Overview) -> int:
    return data.runs.totals.value.run_count


def tools(wanted: PanelRequest) -> Mapping[str, object]:
    """Tools with calls, failure rate and p95."""
    found = overview_of(wanted).tools
    lines = found.lines
    shown = lines[:MAX_TOOL_ROWS]
    highest = max((line.failure_rate or 0 for line in shown), default=0) or 1
    rows = [
        {
            "line": line,
            "share": (line.failure_rate or 0) / highest,
            "tone": rate_tone(line.failure_rate),
        }
        for line in shown
    ]
    return {"rows": rows, "more": len(lines) - len(rows), "ignored": _besides(found.scope)}


def errors(wanted: PanelRequest) -> Mapping[str, object]:
    """Classes of errors with how many were given up."""
    found = overview_of(wanted).errors
    lines = found.lines
    highest = max((line.errors for line in lines), default=0) or 1
    rows = [{"line": line, "share": line.errors / highest} for line in lines[:MAX_ERROR_ROWS]]
    return {"rows": rows, "more": len(lines) - len(rows), "ignored": _besides(found.scope)}


def models(wanted: PanelRequest) -> Mapping[str, object]:
    """Models with calls, tokens, known cost and latency."""
    found = overview_of(wanted).models
    return {
        "rows": found.lines[:MAX_MODEL_ROWS],
        "more": max(0, len(found.lines) - MAX_MODEL_ROWS),
        "ignored": _besides(found.scope),
    }


def costs(wanted: PanelRequest) -> Mapping[str, object]:
    """Cost by how it is known, and versions with what they complete."""
    data = overview_of(wanted)
    total = data.costs.total.value
    rows = [
        {"line": line, "share": line.cost.count / total.count if total.count else 0}
        for line in data.costs.lines[:MAX_COST_ROWS]
    ]
    return {
        "rows": rows,
        "totals": data.runs.totals.value,
        "ignored": _besides(data.costs.scope),
    }


def novelties(wanted: PanelRequest) -> Mapping[str, object]:
    """What the fleet had for the first time."""
    data = overview_of(wanted)
    lines = data.first_seen
    known = Install.objects.in_bulk({line.install_id for line in lines[:MAX_NEW_ROWS]})
    rows = [{"line": line, "install": known.get(line.install_id)} for line in lines[:MAX_NEW_ROWS]]
    return {
        "rows": rows,
        "more": len(lines) - len(rows),
        "is_grouped": wanted.group_id is not None,
    }


def top_installs(wanted: PanelRequest) -> Mapping[str, object]:
    """The first installs by runs, known cost or failed runs, by name; the order is in the URL."""
    found = overview_of(wanted).installs
    query = wanted.request.GET.copy()
    order = query.get("top", "")
    orders = {"runs": found.by_runs, "cost": found.by_cost, "failures": found.by_failures}
    order = order if order in orders else "runs"
    lines = orders[order][:MAX_TOP_ROWS]
    known = Install.objects.select_related("group").in_bulk([line.install_id for line in lines])
    highest = max((_weight(line, order) for line in lines), default=0) or 1
    links = []
    for name, text in (("runs", _("Runs")), ("cost", _("Cost")), ("failures", _("Failures"))):
        query["top"] = name
        links.append(
            {"text": text, "url": f"?{query.urlencode()}#top-installs", "is_current": name == order}
        )
    return {
        "rows": [
            {
                "line": line,
                "install": known.get(line.install_id),
                "share": _weight(line, order) / highest,
            }
            for line in lines
        ],
        "links": links,
        "order": order,
        "counted_at": found.counted_at,
        "ignored": _besides(found.scope),
    }


def _weight(line: InstallLine, order: str) -> float:
    return {"cost": line.cost_usd or 0, "failures": line.failed_runs}.get(order, line.runs)


def run_counts(install_ids: Sequence[UUID]) -> Mapping[UUID, int]:
    """Runs of 7 days for the install list."""
    activity_of = queries.install_activity(install_ids, Window.last(days=7))
    return {install_id: line.runs for install_id, line in activity_of.items()}


def install_activity(_request: HttpRequest, install_id: UUID) -> Mapping[str, object]:
    """What one install did in 30 days, from its cells, with its place in its own rhythm."""
    window = Window.last(days=30)
    days = queries.install_days(install_id, window)
    return {
        "chart": figures.install_over_time(days),
        "total": queries.install_activity([install_id], window).get(install_id),
        "rhythm": queries.install_rhythm(install_id),
        "install_id": install_id,
    }


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
    Panel("costs", "telemetry/panels/costs.html", costs, "half", 65, _SEES_RUNS),
    Panel("new", "telemetry/panels/novelties.html", novelties, "half", 80, _SEES_RUNS),
    Panel("installs", "telemetry/panels/installs.html", top_installs, "half", 50, _SEES_RUNS),
):
    registry.register_panel(_panel)
registry.register_install_panel(
    InstallPanel(
        "activity", "telemetry/panels/install_activity.html", install_activity, 5, _SEES_RUNS
    )
)
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
registry.register_filters(overview_filters)
registry.register_run_counts(run_counts)
registry.register_clock_skews(significant_skews)
for _section, _route in zip(
    insights.SECTIONS, ("models", "tools", "errors", "versions", "installs"), strict=True
):
    registry.register_page(
        Page(f"insights/{_route}/", _section.view, insights.section_view(_section), _SEES_RUNS)
    )
registry.register_page(Page("runs/", "insight-runs", runs_page, _SEES_RUNS))
registry.register_page(Page("runs/<uuid:install_id>/", "insight-run", run_page, _SEES_RUNS))
content_panel.register()
erase.register()
