"""Erasing an install from its page: counted first, named by typing, with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _

from fleet.admin.base import reason_of
from fleet.console import registry
from fleet.console.people import person_of
from fleet.console.registry import InstallPanel, Page
from fleet.console.rendering import page
from fleet.enroll.erasure import fleet_counts
from fleet.models import Install
from telemetry.store.erase import count_rows, run_erasure, set_tombstone

MAY_ERASE: Final = "fleet.add_erasure"
AT_ONCE_ROWS: Final = 20_000
"""Erased within the request, in about a second; more is a worker's work."""


def erase_page(request: HttpRequest, install_id: UUID) -> HttpResponse:
    """Show what would go; erase it once its name is typed and a reason given."""
    install = Install.objects.filter(pk=install_id).first()
    if install is None:
        raise Http404
    counts = count_rows(install_id) | fleet_counts(install_id)
    total, name = sum(counts.values()), str(install)
    typed, reason = request.POST.get("name", "").strip(), reason_of(request)
    errors = {} if request.method != "POST" else _errors(typed, name, reason)
    if request.method == "POST" and not errors:
        erasure = set_tombstone(install_id, actor=person_of(request), reason=reason)
        if total <= AT_ONCE_ROWS:
            erasure = run_erasure(erasure)
        text = _("Erased.") if erasure.is_done else _("Being erased; a worker goes on with it.")
        messages.success(request, text)
        return HttpResponseRedirect(_next_url(request, install_id))
    context: dict[str, object] = {
        "install": install,
        "name": name,
        "rows": sorted((table, count) for table, count in counts.items() if count),
        "total": total,
        "typed": typed,
        "reason": reason,
        "errors": errors,
    }
    return page(request, "telemetry/erase.html", _("Erase install"), context)


def _errors(typed: str, name: str, reason: str) -> dict[str, str]:
    errors = {}
    if typed != name:
        errors["name"] = _("This is not its name.")
    if not reason:
        errors["reason"] = _("Say why; the audit log and the report keep it.")
    return errors


def _next_url(request: HttpRequest, install_id: UUID) -> str:
    if request.user.has_perm("fleet.view_erasure"):
        return reverse("admin:fleet_erasure_change", args=(install_id,))
    return reverse("admin:fleet_install_changelist")


def erase_panel(_request: HttpRequest, install_id: UUID) -> Mapping[str, object]:
    """The way there, at the end of the install's page."""
    return {"install_id": install_id}


def register() -> None:
    """Put page and panel on the console, for those who may erase."""
    registry.register_page(Page("erase/<uuid:install_id>/", "console-erase", erase_page, MAY_ERASE))
    registry.register_install_panel(
        InstallPanel("erase", "telemetry/panels/install_erase.html", erase_panel, 900, MAY_ERASE)
    )
