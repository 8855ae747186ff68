"""The overview: the landing page, built from registered panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console import attention
from fleet.console.commands import enroll_url
from fleet.console.registry import (
    RANGES,
    Filter,
    PanelRequest,
    filters_for,
    panels_for,
    window_of,
)
from fleet.console.rendering import page
from fleet.lib.clock import now
from fleet.models import Install, InstallGroup

SLOTS = ("top", "wide", "side", "half")


def overview(request: HttpRequest, extra: Mapping[str, object] | None = None) -> HttpResponse:
    """The fleet in one page; range and group come from the URL, so that it can be shared."""
    window = window_of(request.GET.get("range", ""), at=now())
    groups = list(InstallGroup.objects.values_list("pk", "name"))
    group_id = _known_group(request.GET.get("group", ""), groups)
    context: dict[str, object] = {
        "window": window,
        "now": now(),
        "ranges": _range_links(window.name, group_id, ()),
        "groups": groups,
        "group_id": group_id,
        "may_see_installs": request.user.has_perm("fleet.view_install"),
        "may_enroll": request.user.has_perm("fleet.add_enrollmenttoken"),
        **(extra or {}),
    }
    if not Install.objects.exists():
        return page(
            request,
            "fleet/overview_empty.html",
            _("Overview"),
            {**context, "console_url": enroll_url()},
        )
    if context["may_see_installs"]:
        context["notices"] = attention.notices(group_id)
    wanted = PanelRequest(request, window, group_id)
    context["filters"] = filters = filters_for(wanted)
    context["ranges"] = _range_links(window.name, group_id, filters)
    context["slots"] = _render_panels(wanted)
    return page(request, "fleet/overview.html", _("Overview"), context)


def _render_panels(wanted: PanelRequest) -> dict[str, list[SafeString]]:
    slots: dict[str, list[SafeString]] = {slot: [] for slot in SLOTS}
    for panel in panels_for(wanted.request):
        filled = panel.context(wanted)
        if filled is not None:
            html = render_to_string(
                panel.template,
                {"window": wanted.window, "panel": panel, **filled},
                request=wanted.request,
            )
            slots[panel.slot].append(html)
    return slots


def _known_group(text: str, groups: list[tuple[int, str]]) -> int | None:
    return next((pk for pk, _name in groups if str(pk) == text), None)


def _range_links(
    current: str, group_id: int | None, filters: Sequence[Filter]
) -> list[dict[str, object]]:
    links = []
    for name in RANGES:
        query = {"range": name} | ({"group": str(group_id)} if group_id is not None else {})
        query |= {chosen.name: chosen.value for chosen in filters if chosen.value}
        text = f"{name[:-1]}\u202f{name[-1]}"
        links.append({"text": text, "url": f"?{urlencode(query)}", "is_current": name == current})
    return links
