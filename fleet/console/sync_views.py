"""Where every install stands with its policy: counts, and each straggler by name."""

from __future__ import annotations

from typing import Final

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from fleet.console.attention import state_counts
from fleet.console.rendering import page
from fleet.models import Install, PolicyRevision, SyncState

PAGE_ROWS: Final = 100


def sync_state(request: HttpRequest) -> HttpResponse:
    """Every active install that is not in sync, by name, the longest-standing first."""
    counts = state_counts()
    wanted = request.GET.get("state", "")
    stragglers = (
        Install.objects.active()
        .exclude(sync_state=SyncState.IN_SYNC)
        .select_related("group", "policy__bundle__revision")
        .defer(
            "policy__envelope",
            "policy__bundle__payload",
            "policy__bundle__revision__document",
        )
        .order_by("sync_at", "pk")
    )
    if wanted in SyncState.values:
        stragglers = stragglers.filter(sync_state=wanted)
    total = sum(counts.values())
    states = [
        {
            "code": state,
            "number": counts[state],
            "share": counts[state] / total,
            "is_current": state == wanted,
        }
        for state in SyncState.values
        if counts.get(state)
    ]
    context: dict[str, object] = {
        "states": states,
        "total": total,
        "in_sync": counts.get(SyncState.IN_SYNC, 0),
        "wanted": wanted,
        "page_of": Paginator(stragglers, PAGE_ROWS).get_page(request.GET.get("page")),
        "latest": PolicyRevision.objects.defer("document").order_by("-version").first(),
    }
    return page(request, "fleet/sync.html", _("Sync state"), context)
