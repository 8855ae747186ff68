"""The insight pages: models and cost, tools, errors, versions and groups, installs.

Each is its address: range, group and filters are in the URL, and ``csv`` names a table to download.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.console.heat import heat_map
from fleet.console.registry import RANGES, ConsoleWindow, window_of
from fleet.console.rendering import page
from fleet.lib.clock import now
from fleet.models import Install, InstallGroup
from fleet.templatetags.fleet_format import count, exact, money, percent
from telemetry.insight import queries
from telemetry.insight.answers import Scope
from telemetry.insight.choices import choices
from telemetry.insight.filters import Filters
from telemetry.insight.window import Window
from telemetry.pages import figures
from telemetry.pages import insight_tables as made
from telemetry.pages.filtering import ON_MODELS, ON_RUNS, filters_of, page_filters
from telemetry.pages.tables import Table, csv_response
from telemetry.store.cell_sums import reading

MAX_GROUPS: Final = 50
"""Groups side by side: more are not compared by eye."""
ALL_TIMED: Final = made.MAX_ROWS


@dataclass(frozen=True, slots=True)
class Fact:
    """One number on top of a page."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart with its heading."""

    title: str
    note: str
    chart: SafeString


@dataclass(frozen=True, slots=True)
class Content:
    """What a page shows, in this order: numbers, charts, tables."""

    scope: Scope
    facts: tuple[Fact, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One page of the insights: its name, heading, the filters it follows, what fills it."""

    view: str
    title: str | Promise
    filters: tuple[str, ...]
    fill: Callable[[Scope], Content]


def models_content(scope: Scope) -> Content:
    """Models and cost; about 11 queries."""
    found = queries.models(scope, timed=ALL_TIMED, is_with_first_token=True)
    all_runs = queries.runs(Scope(scope.window, Filters(scope.filters.group_id), scope.freshness))
    totals, tokens = all_runs.totals.value, found.tokens.value
    return Content(
        scope,
        (
            Fact(
                _("Known cost, USD"),
                money(totals.cost.usd),
                _("known for %(share)s of %(runs)s runs")
                % {"share": percent(totals.cost.coverage), "runs": exact(totals.run_count)},
            ),
            Fact(
                _("A successful run, USD"),
                money(totals.usd_per_success),
                _("the cost of the others included"),
            ),
            Fact(
                _("Spent on failed runs, USD"),
                money(totals.failed_usd),
                _("%(share)s of the known cost; %(runs)s runs")
                % {"share": percent(totals.failed_cost_share), "runs": exact(totals.bad_count)},
            ),
            Fact(
                _("Prompt from cache"),
                percent(tokens.cache_hit_rate),
                _("%(read)s of %(all)s prompt tokens")
                % {
                    "read": count(tokens.cache_read_tokens),
                    "all": count(tokens.cache_read_tokens + tokens.input_tokens),
                },
            ),
        ),
        (
            Figure(_("Tokens by model"), _unit(scope), figures.tokens_over_time(found)),
            Figure(_("Known cost, USD"), _unit(scope), figures.cost_over_time(all_runs)),
        ),
        (
            made.models_table(found),
            made.tokens_table(found),
            made.costs_table(queries.costs(scope)),
        ),
    )


def tools_content(scope: Scope) -> Content:
    """Tools; 3 queries."""
    found = queries.tools(scope, timed=ALL_TIMED)
    calls, lines = found.calls.value, found.lines

    def of_calls(number: int) -> str:
        return percent(number / calls if calls else None)

    timeouts, blocked, denied = (
        sum(getattr(line, name) for line in lines) for name in ("timeouts", "blocked", "denied")
    )
    return Content(
        found.scope,
        (
            Fact(_("Tool calls"), count(calls), _("%s tools") % exact(len(lines))),
            Fact(
                _("Failure rate"),
                percent(found.failure.value.value),
                _("95 %% sure between %(low)s and %(high)s")
                % {
                    "low": percent(found.failure.value.low),
                    "high": percent(found.failure.value.high),
                },
            ),
            Fact(_("Timed out"), of_calls(timeouts), _("%s calls") % exact(timeouts)),
            Fact(
                _("Blocked"),
                of_calls(blocked),
                _("%(blocked)s calls; %(denied)s were denied by a person or a rule")
                % {"blocked": exact(blocked), "denied": exact(denied)},
            ),
        ),
        (
            Figure(_("Tool calls"), _unit(scope), figures.calls_over_time(found)),
            Figure(_("Failed tool calls"), _unit(scope), figures.tool_failures_over_time(found)),
        ),
        (made.tools_table(found),),
    )


def errors_content(scope: Scope) -> Content:
    """Errors, beside the runs that failed; 5 queries."""
    found, all_runs = queries.errors(scope), queries.runs(scope)
    total, given_up = found.total.value, found.given_up.value
    return Content(
        found.scope,
        (
            Fact(_("Errors"), count(total), _("%s classes") % exact(len(found.lines))),
            Fact(
                _("Given up"),
                percent(given_up / total if total else None),
                _("%s errors were not retried with success") % exact(given_up),
            ),
            Fact(
                _("Failed runs"),
                percent(all_runs.totals.value.failure.value),
                _("%(bad)s of %(all)s runs")
                % {
                    "bad": exact(all_runs.totals.value.bad_count),
                    "all": exact(all_runs.totals.value.run_count),
                },
            ),
        ),
        (
            Figure(_("Errors by class"), _unit(scope), figures.errors_over_time(found)),
            Figure(_("Failed runs"), _unit(scope), figures.failed_runs_over_time(all_runs)),
        ),
        (made.errors_table(found),),
    )


def versions_content(scope: Scope) -> Content:
    """Versions and groups side by side; about 7 queries and 1 a group."""
    found, hours = queries.runs(scope), queries.heat(scope)
    names = {"0": _("No group")} | {
        str(pk): name for pk, name in InstallGroup.objects.values_list("pk", "name")[:MAX_GROUPS]
    }
    shown = (
        [int(pk) for pk in names] if scope.filters.group_id is None else [scope.filters.group_id]
    )
    totals = found.totals.value
    versions = made.cohorts_table(
        queries.compare_versions(scope),
        ident="versions",
        title=_("Agent versions"),
        column=_("Version"),
        names={},
    )
    groups = made.cohorts_table(
        queries.compare_groups(scope, shown),
        ident="groups",
        title=_("Groups"),
        column=_("Group"),
        names=names,
    )
    return Content(
        found.scope,
        (
            Fact(
                _("Runs"),
                count(totals.run_count),
                _("%s versions") % exact(len(found.versions)),
            ),
            Fact(
                _("Success rate"),
                percent(totals.success.value),
                _("95 %% sure between %(low)s and %(high)s")
                % {"low": percent(totals.success.low), "high": percent(totals.success.high)},
            ),
        ),
        (
            Figure(_("Runs and failures"), _unit(scope), figures.runs_over_time(found)),
            Figure(
                _("When the fleet works"),
                _("runs by weekday and hour, UTC"),
                heat_map("heat", _("Runs by weekday and hour (UTC)"), hours.runs, _("runs")),
            ),
        ),
        (versions, groups),
    )


def installs_content(scope: Scope) -> Content:
    """Top, silent and new; about 7 queries."""
    found = queries.installs(scope, limit=10)
    quiet = queries.silence(scope)
    new = queries.first_seen(scope)
    ids = {
        line.install_id
        for lines in (found.by_runs, found.by_cost, found.by_failures, quiet.silent, new)
        for line in lines
    }
    known = Install.objects.select_related("group").in_bulk(ids)
    return Content(
        found.scope,
        (
            Fact(
                _("Active installs"),
                count(found.active.value),
                _("in the window before %s") % exact(found.active.previous)
                if scope.has_earlier
                else _("no whole window before"),
            ),
            Fact(
                _("Silent installs"),
                count(quiet.silent_count),
                _("of %(judged)s with a rhythm; %(rest)s have too few days")
                % {"judged": exact(quiet.judged_count), "rest": exact(quiet.unjudged_count)},
            ),
        ),
        (),
        (
            made.silence_table(quiet, known),
            made.new_table(new, known),
            made.installs_table(found.by_runs, known, ident="top-runs", title=_("Most runs")),
            made.installs_table(found.by_cost, known, ident="top-cost", title=_("Highest cost")),
            made.installs_table(
                found.by_failures, known, ident="top-failures", title=_("Most failed runs")
            ),
        ),
    )


SECTIONS: Final = (
    Section("insight-models", gettext_lazy("Models and cost"), ON_MODELS, models_content),
    Section("insight-tools", gettext_lazy("Tools"), ("tool_name",), tools_content),
    Section("insight-errors", gettext_lazy("Errors"), (), errors_content),
    Section("insight-versions", gettext_lazy("Versions and groups"), ON_RUNS, versions_content),
    Section("insight-installs", gettext_lazy("Installs"), (), installs_content),
)


def section_view(section: Section) -> Callable[[HttpRequest], HttpResponse]:
    """The view of one page."""

    def view(request: HttpRequest) -> HttpResponse:
        return _respond(request, section)

    return view


def _respond(request: HttpRequest, section: Section) -> HttpResponse:
    shown = window_of(request.GET.get("range", "7d"), at=now())
    filters = filters_of(request, section.filters)
    with reading():
        scope = queries.scope_of(Window(shown.start, shown.end), filters)
        content = section.fill(scope)
        options = choices(scope, section.filters)
    wanted = request.GET.get("csv", "")
    if wanted:
        table = next((table for table in content.tables if table.ident == wanted), None)
        if table is None:
            raise Http404
        return csv_response(table, f"{shown.name}-{shown.end:%Y%m%dT%H}")
    context: dict[str, object] = {
        "content": content,
        "scope": scope,
        "window": shown,
        "section": section,
        "sections": _tabs(section, shown, filters),
        "ranges": _ranges(shown, filters),
        "groups": list(InstallGroup.objects.values_list("pk", "name")),
        "filters": filters,
        "selects": page_filters(filters, options),
        "is_filtered": bool(filters.chosen()),
        "query": _query(shown.name, filters),
    }
    return page(request, "telemetry/insights.html", str(section.title), context)


def _query(range_name: str, filters: Filters) -> str:
    query = {"range": range_name, "group": "" if filters.group_id is None else filters.group_id}
    chosen = query | filters.chosen()
    return urlencode({name: value for name, value in chosen.items() if value != ""})


def _tabs(section: Section, shown: ConsoleWindow, filters: Filters) -> list[dict[str, object]]:
    kept = Filters(group_id=filters.group_id)
    return [
        {
            "text": other.title,
            "url": f"{reverse(f'admin:{other.view}')}?{_query(shown.name, kept)}",
            "is_current": other is section,
        }
        for other in SECTIONS
    ]


def _ranges(shown: ConsoleWindow, filters: Filters) -> list[dict[str, object]]:
    return [
        {
            "text": window_of(name, at=shown.start).label,
            "url": f"?{_query(name, filters)}",
            "is_current": name == shown.name,
        }
        for name in RANGES
    ]


def _unit(scope: Scope) -> str:
    return _("per hour, UTC") if scope.unit == "hour" else _("per day, UTC")
