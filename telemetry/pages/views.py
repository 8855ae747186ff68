"""Runs: a list with filters and keyset paging, and the page of one run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from agent_client.contract.events import END_REASONS, ENTRYPOINTS
from fleet.console.registry import RANGES, ConsoleWindow, window_of
from fleet.console.rendering import page
from fleet.lib.clock import now
from fleet.models import Install
from telemetry.models import Run
from telemetry.models.events import EventQuerySet
from telemetry.pages.content import has_content
from telemetry.pages.run_spans import spans_of
from telemetry.pages.waterfall import waterfall_of

PAGE_ROWS: Final = 50
MAX_SUBAGENTS: Final = 50
OPEN: Final = "open"


def runs_page(request: HttpRequest) -> HttpResponse:
    """Runs of a window, newest first; everything that narrows the list is in the URL."""
    window = window_of(request.GET.get("range", "7d"), at=now())
    chosen = {
        name: request.GET.get(name, "").strip()[:200]
        for name in ("end", "entry", "install", "search", "before")
    }
    runs = _filtered(Run.objects.in_window(window.start, window.end), chosen)
    before = _moment(chosen["before"])
    if before is not None:
        runs = runs.filter(start_at__lt=before)
    rows = list(runs.order_by("-start_at", "run_id")[: PAGE_ROWS + 1])
    has_more, rows = len(rows) > PAGE_ROWS, rows[:PAGE_ROWS]
    context: dict[str, object] = {
        "rows": named(rows),
        "window": window,
        "chosen": chosen,
        "ranges": _range_links(window, chosen),
        "end_reasons": (*END_REASONS, OPEN),
        "entrypoints": ENTRYPOINTS,
        "is_filtered": any(chosen[name] for name in ("end", "entry", "install", "search")),
        "older": _query(window, chosen, before=rows[-1].start_at.isoformat()) if has_more else "",
        "newest": _query(window, chosen) if before else "",
    }
    return page(request, "telemetry/runs.html", _("Runs"), context)


def run_page(request: HttpRequest, install_id: UUID) -> HttpResponse:
    """One run: its facts, its waterfall, its subagents."""
    run_id = request.GET.get("run", "")
    known = Run.objects.of_install(install_id)
    run = known.filter(run_id=run_id).first() if run_id else None
    if run is None:
        raise Http404
    children = known.filter(parent_run_id=run_id, start_at__gte=run.start_at)[:MAX_SUBAGENTS]
    context: dict[str, object] = {
        "run": run,
        "install": Install.objects.select_related("group").filter(pk=install_id).first(),
        "waterfall": waterfall_of(run.start_ns, run.end_ns, spans_of(run)),
        "children": children,
        "has_content": has_content(request, run),
        "parent": known.filter(run_id=run.parent_run_id).first() if run.parent_run_id else None,
    }
    return page(request, "telemetry/run.html", _("Run"), context)


def named(runs: Iterable[Run]) -> list[Run]:
    """The runs with ``install_name``; one query for all."""
    rows = list(runs)
    known = Install.objects.in_bulk({run.install_id for run in rows})
    for run in rows:
        install = known.get(run.install_id)
        run.install_name = str(install) if install else str(run.install_id)[:8]  # type: ignore[attr-defined]  # read by the template only
    return rows


def _filtered(runs: EventQuerySet[Run], chosen: dict[str, str]) -> EventQuerySet[Run]:
    if chosen["end"] == OPEN:
        runs = runs.filter(end_reason=None)
    elif chosen["end"]:
        runs = runs.filter(end_reason=chosen["end"])
    if chosen["entry"]:
        runs = runs.filter(entrypoint=chosen["entry"])
    if chosen["install"]:
        runs = runs.filter(install_id__in=_installs(chosen["install"]))
    if chosen["search"]:
        word = chosen["search"]
        runs = runs.filter(Q(run_id=word) | Q(session_id=word) | Q(trace_id=word))
    return runs


def _installs(word: str) -> list[UUID]:
    """An id, or part of a host name or label."""
    try:
        return [UUID(word)]
    except ValueError:
        named_so = Q(hostname__icontains=word) | Q(label__icontains=word)
        return list(Install.objects.filter(named_so).values_list("pk", flat=True)[:200])


def _moment(text: str) -> datetime | None:
    try:
        moment = parse_datetime(text)
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def _query(window: ConsoleWindow, chosen: dict[str, str], *, before: str = "") -> str:
    query = {"range": window.name} | chosen | {"before": before}
    return "?" + urlencode({name: value for name, value in query.items() if value})


def _range_links(window: ConsoleWindow, chosen: dict[str, str]) -> list[dict[str, object]]:
    links = []
    for name in RANGES:
        other = window_of(name, at=window.start)
        links.append(
            {
                "text": other.label,
                "url": _query(other, chosen),
                "is_current": name == window.name,
            }
        )
    return links
